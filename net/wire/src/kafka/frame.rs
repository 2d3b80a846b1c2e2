//! Frames: the four-byte length, the header of a request, the header of a response.
//!
//! Which header an API's version has follows from its first flexible version, with one exception:
//! an ApiVersions response never has tagged fields in its header, so that a client can read it
//! before it knows anything about the broker.

use std::fmt;

use super::error::{DecodeError, EncodeError};
use super::generated::ApiKey;
use super::message::{Message, Request};
use super::read::{Decode, Reader};
use super::versions;
use super::write::Writer;

/// The header of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHeader<'a> {
    /// The API that is called.
    pub api: ApiKey,
    /// The version of the request, and of the response to it.
    pub version: i16,
    /// What the client chose to find the response again.
    pub correlation_id: i32,
    /// The name that the client gives itself.
    pub client_id: Option<&'a str>,
}

/// A request's frame, without its length: header and undecoded body.
///
/// ```
/// use streamd_wire::kafka::{frame::encode_request, *};
///
/// // A client asks for one topic,
/// let topic = metadata_request::MetadataRequestTopic { name: Some("a"), ..Default::default() };
/// let request = MetadataRequest { topics: Some(vec![topic].into()), ..Default::default() };
/// let mut sent = Writer::new();
/// encode_request(&request, 9, 1, Some("me"), &mut sent)?;
///
/// // the broker reads it, without its length, in place,
/// let frame = Frame::parse(&sent.bytes()[4..])?;
/// let request: MetadataRequest = frame.decode()?;
/// for topic in request.topics.iter().flatten() {
///     assert_eq!(topic.name, Some("a"));
/// }
///
/// // and answers.
/// let mut answer = Writer::new();
/// ResponseHeader::from(&frame.header).encode(&MetadataResponse::default(), &mut answer)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// The header.
    pub header: RequestHeader<'a>,
    /// The bytes behind it. Decode them with [`Message::decode_body`] and the header's version.
    pub body: &'a [u8],
}

/// Why a frame cannot be served. Kafka closes the connection in every case but one: an
/// unsupported version of ApiVersions is answered in version 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// The header cannot be read.
    Header(DecodeError),
    /// No API that is served has this key.
    Api {
        /// The key as read.
        key: i16,
        /// The request's correlation id.
        correlation_id: i32,
    },
    /// The API is served, but not in this version.
    Version {
        /// The API.
        api: ApiKey,
        /// The version as read.
        version: i16,
        /// The request's correlation id.
        correlation_id: i32,
    },
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            FrameError::Header(error) => write!(f, "request header: {error}"),
            FrameError::Api { key, .. } => write!(f, "API key {key} is not served"),
            FrameError::Version { api, version, .. } => match versions::served(api) {
                Some(range) => {
                    let (name, min, max) = (api.name(), range.accept_min, range.max);
                    write!(
                        f,
                        "{name} version {version}: versions {min} to {max} are served"
                    )
                }
                None => write!(f, "{} is not served", api.name()),
            },
        }
    }
}

impl std::error::Error for FrameError {}

impl<'a> Frame<'a> {
    /// Parses the header of a request (behind the frame's length) and checks that the API and
    /// version are served.
    ///
    /// # Errors
    /// [`FrameError`] says what to answer.
    pub fn parse(frame: &'a [u8]) -> Result<Frame<'a>, FrameError> {
        let mut r = Reader::new(frame, 0, false);
        let mut fixed = || Ok((r.read::<i16>()?, r.read::<i16>()?, r.read::<i32>()?));
        let (key, version, correlation_id) = fixed().map_err(FrameError::Header)?;
        let served = ApiKey::from_code(key).and_then(|api| Some((api, versions::served(api)?)));
        let Some((api, range)) = served else {
            return Err(FrameError::Api {
                key,
                correlation_id,
            });
        };
        if version < range.accept_min || version > range.max {
            return Err(FrameError::Version {
                api,
                version,
                correlation_id,
            });
        }
        // The client id keeps its 16-bit length in the flexible header.
        let client_id = r.read().map_err(FrameError::Header)?;
        let mut tags = Reader::new(r.rest(), version, api.is_flexible(version));
        tags.skip_tags().map_err(FrameError::Header)?;
        let header = RequestHeader {
            api,
            version,
            correlation_id,
            client_id,
        };
        Ok(Frame {
            header,
            body: tags.rest(),
        })
    }

    /// Decodes the body.
    ///
    /// # Errors
    /// As [`Message::decode_body`].
    pub fn decode<M: Message + Decode<'a>>(&self) -> Result<M, DecodeError> {
        M::decode_body(self.body, self.header.version)
    }
}

/// What a response's header is made of; take it from the request's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseHeader {
    /// The API that was called.
    pub api: ApiKey,
    /// The version of the request.
    pub version: i16,
    /// The request's correlation id.
    pub correlation_id: i32,
}

impl From<&RequestHeader<'_>> for ResponseHeader {
    fn from(request: &RequestHeader<'_>) -> ResponseHeader {
        let RequestHeader {
            api,
            version,
            correlation_id,
            ..
        } = *request;
        ResponseHeader {
            api,
            version,
            correlation_id,
        }
    }
}

impl ResponseHeader {
    fn has_tags(&self) -> bool {
        self.api.is_flexible(self.version) && self.api != ApiKey::ApiVersions
    }

    /// Appends a whole response frame: length, header, body. On error the writer is as before.
    ///
    /// # Errors
    /// As [`Message::encode_body`]; [`EncodeError::TooLong`] if the frame is over 2 GiB.
    pub fn encode<M: Message>(&self, body: &M, w: &mut Writer) -> Result<(), EncodeError> {
        framed(w, |w| {
            w.write(&self.correlation_id)?;
            if self.has_tags() {
                w.put(&[0]);
            }
            body.encode_body(self.version, w)
        })
    }

    /// Reads the header of a response frame (behind its length) and gives the body. The client's
    /// side: `self` says what the response answers.
    ///
    /// # Errors
    /// [`DecodeError`] if the header cannot be read. The correlation id is given for the caller to
    /// compare: `(correlation id, body)`.
    pub fn parse<'a>(&self, frame: &'a [u8]) -> Result<(i32, &'a [u8]), DecodeError> {
        let mut r = Reader::new(frame, self.version, self.has_tags());
        let correlation_id = r.read()?;
        r.skip_tags()?;
        Ok((correlation_id, r.rest()))
    }
}

/// Appends a whole request frame: length, header, body. On error the writer is as before.
///
/// # Errors
/// As [`Message::encode_body`]; [`EncodeError::TooLong`] if the frame is over 2 GiB.
pub fn encode_request<M: Request>(
    body: &M,
    version: i16,
    correlation_id: i32,
    client_id: Option<&str>,
    w: &mut Writer,
) -> Result<(), EncodeError> {
    framed(w, |w| {
        w.set_version(version, false);
        w.write(&M::API.code())?;
        w.write(&version)?;
        w.write(&correlation_id)?;
        w.write(&client_id)?;
        if M::API.is_flexible(version) {
            w.put(&[0]);
        }
        body.encode_body(version, w)
    })
}

fn framed(
    w: &mut Writer,
    encode: impl FnOnce(&mut Writer) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    let start = w.bytes().len();
    w.put(&[0; 4]);
    let length = encode(w).and_then(|()| w.frame_len(start + 4));
    match length {
        Ok(length) => w.patch(start, length),
        Err(_) => w.truncate(start),
    }
    length.map(drop)
}
