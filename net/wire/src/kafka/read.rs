//! Reading: a cursor over borrowed bytes, and the trait of everything that can be read from it.
//!
//! Invariants: a length is compared with the bytes that remain before it is believed; the cursor
//! only moves forward; nothing is allocated.

use streamd_model::TopicId;

use super::error::DecodeError;
use super::write::Records;

type Result<T> = std::result::Result<T, DecodeError>;

/// A cursor over the bytes of one message of a known version.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    buf: &'a [u8],
    /// Position behind the last byte of `buf`, so that errors can say where they are.
    end: usize,
    version: i16,
    flexible: bool,
}

/// What can be read. Implemented for the primitive types, `&str`, `&[u8]`, [`super::Array`],
/// `Option` of those, and every generated struct.
pub trait Decode<'a>: Sized {
    /// The size on the wire in bytes if it is always the same, else 0.
    const FIXED: usize = 0;

    /// Reads one value.
    ///
    /// # Errors
    /// [`DecodeError`] says what is wrong with the bytes, and where.
    fn decode(r: &mut Reader<'a>) -> Result<Self>;

    /// Reads a value or null. The default is a struct's form: a byte, negative for null.
    ///
    /// # Errors
    /// As [`Decode::decode`].
    fn decode_nullable(r: &mut Reader<'a>) -> Result<Option<Self>> {
        if r.read::<i8>()? < 0 {
            Ok(None)
        } else {
            Self::decode(r).map(Some)
        }
    }
}

impl<'a> Reader<'a> {
    /// A reader of `buf`, which holds (the rest of) a message of this version; `flexible` says
    /// whether the version has compact lengths and tagged fields (KIP-482).
    pub fn new(buf: &'a [u8], version: i16, flexible: bool) -> Reader<'a> {
        Reader {
            buf,
            end: buf.len(),
            version,
            flexible,
        }
    }

    /// The version of the message.
    pub fn version(&self) -> i16 {
        self.version
    }

    /// Whether the version of the message is a flexible one.
    pub fn flexible(&self) -> bool {
        self.flexible
    }

    /// The bytes that were not read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.buf
    }

    /// How many bytes were read.
    pub fn at(&self) -> usize {
        self.end - self.buf.len()
    }

    /// Reads a value.
    ///
    /// # Errors
    /// As [`Decode::decode`].
    #[inline]
    pub fn read<T: Decode<'a>>(&mut self) -> Result<T> {
        T::decode(self)
    }

    /// Takes the next `n` bytes.
    ///
    /// # Errors
    /// [`DecodeError::Short`] if there are fewer.
    #[inline]
    pub fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        match self.buf.split_at_checked(n) {
            Some((head, tail)) => {
                self.buf = tail;
                Ok(head)
            }
            None => Err(DecodeError::Short {
                at: self.at(),
                need: n,
                have: self.buf.len(),
            }),
        }
    }

    #[inline]
    fn chunk<const N: usize>(&mut self) -> Result<[u8; N]> {
        match self.buf.split_first_chunk::<N>() {
            Some((head, tail)) => {
                self.buf = tail;
                Ok(*head)
            }
            None => Err(DecodeError::Short {
                at: self.at(),
                need: N,
                have: self.buf.len(),
            }),
        }
    }

    /// Reads an unsigned varint of at most 32 bits.
    ///
    /// # Errors
    /// [`DecodeError::Varint`] if it does not end in time, [`DecodeError::Short`].
    #[inline]
    pub fn uvarint(&mut self) -> Result<u32> {
        let at = self.at();
        let mut value = 0u64;
        for shift in [0, 7, 14, 21, 28] {
            let [byte] = self.chunk::<1>()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return u32::try_from(value).map_err(|_| DecodeError::Varint { at });
            }
        }
        Err(DecodeError::Varint { at })
    }

    /// Reads the count in front of an array; `None` is a null array. Every element takes a byte at
    /// least, so a count beyond the bytes that remain is refused here.
    ///
    /// # Errors
    /// [`DecodeError::Length`] for such a count and for a negative one other than -1.
    #[inline]
    pub(crate) fn array_len(&mut self) -> Result<Option<usize>> {
        let at = self.at();
        let count = if self.flexible {
            i64::from(self.uvarint()?) - 1
        } else {
            self.read::<i32>()?.into()
        };
        self.checked_len(at, count)
    }

    /// The bytes of a string behind a 16-bit length, or a compact one that fits 16 bits, as in
    /// Kafka.
    #[inline]
    fn short_bytes(&mut self) -> Result<Option<&'a [u8]>> {
        let at = self.at();
        let length = if self.flexible {
            i64::from(self.uvarint()?) - 1
        } else {
            self.read::<i16>()?.into()
        };
        if length > i64::from(i16::MAX) {
            return Err(DecodeError::Length {
                at,
                length,
                have: self.buf.len(),
            });
        }
        let length = self.checked_len(at, length)?;
        length.map(|n| self.take(n)).transpose()
    }

    /// The bytes of a byte or record field behind a 32-bit length, or a compact one.
    #[inline]
    fn long_bytes(&mut self) -> Result<Option<&'a [u8]>> {
        let length = self.array_len()?;
        length.map(|n| self.take(n)).transpose()
    }

    #[inline]
    fn checked_len(&self, at: usize, length: i64) -> Result<Option<usize>> {
        let have = self.buf.len();
        match usize::try_from(length) {
            Ok(n) if n <= have => Ok(Some(n)),
            Err(_) if length == -1 => Ok(None),
            _ => Err(DecodeError::Length { at, length, have }),
        }
    }

    /// Reads the tagged fields at the end of a struct of a flexible version, and hands each to
    /// `field`, which answers whether it knows the tag. Unknown ones are skipped.
    ///
    /// # Errors
    /// What `field` answers; [`DecodeError::Tag`] if a known field left bytes unread.
    #[inline]
    pub fn tags(
        &mut self,
        mut field: impl FnMut(u32, &mut Reader<'a>) -> Result<bool>,
    ) -> Result<()> {
        if !self.flexible {
            return Ok(());
        }
        let count = self.uvarint()?;
        for _ in 0..count {
            let tag = self.uvarint()?;
            let size = self.uvarint()? as usize;
            let at = self.at();
            let buf = self.take(size)?;
            let mut inner = Reader {
                buf,
                end: at + size,
                ..*self
            };
            if field(tag, &mut inner)? && !inner.buf.is_empty() {
                return Err(DecodeError::Tag {
                    tag,
                    left: inner.buf.len(),
                });
            }
        }
        Ok(())
    }

    /// Skips the tagged fields at the end of a struct that has none we know.
    ///
    /// # Errors
    /// As [`Reader::tags`].
    #[inline]
    pub fn skip_tags(&mut self) -> Result<()> {
        self.tags(|_, _| Ok(false))
    }

    /// Walks over `count` values of a type, so that reading them again cannot fail, and gives a
    /// reader of just those.
    #[inline]
    pub(crate) fn validated<T: Decode<'a>>(&mut self, count: usize) -> Result<Reader<'a>> {
        let before = *self;
        if T::FIXED > 0 {
            self.take(count.saturating_mul(T::FIXED))?;
        } else {
            for _ in 0..count {
                T::decode(self)?;
            }
        }
        let used = before.buf.len() - self.buf.len();
        Ok(Reader {
            buf: &before.buf[..used],
            end: before.at() + used,
            ..before
        })
    }
}

macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl<'a> Decode<'a> for $number {
            const FIXED: usize = size_of::<$number>();
            #[inline]
            fn decode(r: &mut Reader<'a>) -> Result<Self> {
                r.chunk().map(<$number>::from_be_bytes)
            }
        }
    )*};
}

numbers!(i8, i16, i32, i64, u16, u32, f64);

impl<'a> Decode<'a> for bool {
    const FIXED: usize = 1;
    #[inline]
    fn decode(r: &mut Reader<'a>) -> Result<Self> {
        r.chunk().map(|[byte]| byte != 0)
    }
}

impl<'a> Decode<'a> for [u8; 16] {
    const FIXED: usize = 16;
    #[inline]
    fn decode(r: &mut Reader<'a>) -> Result<Self> {
        r.chunk()
    }
}

impl<'a> Decode<'a> for TopicId {
    const FIXED: usize = 16;
    #[inline]
    fn decode(r: &mut Reader<'a>) -> Result<Self> {
        r.chunk().map(TopicId)
    }
}

/// Turns a null into an error that says where it stood.
#[inline]
pub(crate) fn non_null<T>(at: usize, value: Option<T>) -> Result<T> {
    value.ok_or(DecodeError::Null { at })
}

impl<'a> Decode<'a> for &'a str {
    #[inline]
    fn decode(r: &mut Reader<'a>) -> Result<Self> {
        let at = r.at();
        non_null(at, Self::decode_nullable(r)?)
    }

    #[inline]
    fn decode_nullable(r: &mut Reader<'a>) -> Result<Option<Self>> {
        let at = r.at();
        let text = |bytes| std::str::from_utf8(bytes).map_err(|_| DecodeError::Utf8 { at });
        r.short_bytes()?.map(text).transpose()
    }
}

impl<'a> Decode<'a> for &'a [u8] {
    #[inline]
    fn decode(r: &mut Reader<'a>) -> Result<Self> {
        let at = r.at();
        non_null(at, r.long_bytes()?)
    }

    #[inline]
    fn decode_nullable(r: &mut Reader<'a>) -> Result<Option<Self>> {
        r.long_bytes()
    }
}

impl<'a> Decode<'a> for Records<'a> {
    #[inline]
    fn decode(r: &mut Reader<'a>) -> Result<Self> {
        r.read().map(Records::Bytes)
    }

    #[inline]
    fn decode_nullable(r: &mut Reader<'a>) -> Result<Option<Self>> {
        Ok(r.long_bytes()?.map(Records::Bytes))
    }
}

impl<'a, T: Decode<'a>> Decode<'a> for Option<T> {
    #[inline]
    fn decode(r: &mut Reader<'a>) -> Result<Self> {
        T::decode_nullable(r)
    }
}
