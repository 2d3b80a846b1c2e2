//! What every request and response has: its API, its versions, and the way in and out.

use super::error::{DecodeError, EncodeError};
use super::generated::ApiKey;
use super::read::{Decode, Reader};
use super::write::{Encode, Writer};

/// The body of a request or a response.
pub trait Message: Encode {
    /// The API that it belongs to.
    const API: ApiKey;
    /// The name in Kafka's schemas.
    const NAME: &'static str;
    /// The oldest and newest version that the codec knows. What a broker serves is in
    /// [`super::versions`].
    const VERSIONS: (i16, i16);
    /// The first version with compact lengths and tagged fields.
    const FLEXIBLE_FROM: i16;

    /// Decodes the body. Bytes behind it are left alone, as Kafka does.
    ///
    /// # Errors
    /// [`DecodeError`]: the version is not known, or the bytes are not such a message.
    fn decode_body<'a>(body: &'a [u8], version: i16) -> Result<Self, DecodeError>
    where
        Self: Decode<'a>,
    {
        let (min, max) = Self::VERSIONS;
        if version < min || version > max {
            return Err(DecodeError::Version {
                message: Self::NAME,
                version,
                known: (min, max),
            });
        }
        Self::decode(&mut Reader::new(
            body,
            version,
            version >= Self::FLEXIBLE_FROM,
        ))
    }

    /// Appends the body to a writer.
    ///
    /// # Errors
    /// [`EncodeError`]: the version is not known, or cannot carry a value that is set. The writer
    /// then holds a part of the message.
    fn encode_body(&self, version: i16, w: &mut Writer) -> Result<(), EncodeError> {
        let (min, max) = Self::VERSIONS;
        if version < min || version > max {
            return Err(EncodeError::Version {
                api: Self::API,
                version,
            });
        }
        w.set_version(version, version >= Self::FLEXIBLE_FROM);
        self.encode(w)
    }
}

/// The body of a request.
pub trait Request: Message {
    /// The body of the response to it.
    type Response<'r>: Message + Decode<'r>;
}
