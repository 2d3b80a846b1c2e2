//! Writing: a growing buffer with holes, and the trait of everything that can be written to it.
//!
//! A hole stands for record bytes that are sent from elsewhere (a file, a shared buffer): its
//! length is in every length field around it, its bytes are not in the buffer.
//! Invariant: holes are in the order of their positions.

use streamd_model::TopicId;

use super::error::EncodeError;

type Result<T> = std::result::Result<T, EncodeError>;

/// The bytes of a records field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Records<'a> {
    /// They are here. What a decoder gives.
    Bytes(&'a [u8]),
    /// They are elsewhere: the encoder writes this length and notes the place ([`Hole`]).
    Hole(usize),
}

impl<'a> Records<'a> {
    /// The length in bytes.
    pub fn len(&self) -> usize {
        match self {
            Records::Bytes(bytes) => bytes.len(),
            Records::Hole(len) => *len,
        }
    }

    /// Whether there is no byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes; empty for a hole, which no decoder makes.
    pub fn bytes(&self) -> &'a [u8] {
        match self {
            Records::Bytes(bytes) => bytes,
            Records::Hole(_) => &[],
        }
    }
}

/// A place in a [`Writer`]'s bytes where bytes from elsewhere belong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hole {
    /// The position in [`Writer::bytes`] in front of which they are to be sent.
    pub at: usize,
    /// How many they are.
    pub len: usize,
}

/// A piece of what is to be sent, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'w> {
    /// Bytes of the writer.
    Bytes(&'w [u8]),
    /// The hole with this index in [`Writer::holes`].
    Hole(usize),
}

/// Collects encoded messages. Keep one per connection: cleared, it keeps its memory.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    out: Vec<u8>,
    holes: Vec<Hole>,
    version: i16,
    flexible: bool,
}

/// What can be written. Implemented for the same types as [`super::Decode`].
pub trait Encode {
    /// Appends the value.
    ///
    /// # Errors
    /// [`EncodeError`] if the version of the message cannot carry the value.
    fn encode(&self, w: &mut Writer) -> Result<()>;

    /// Appends a value or null. The default is a struct's form: a byte, negative for null.
    ///
    /// # Errors
    /// As [`Encode::encode`].
    fn encode_nullable(value: Option<&Self>, w: &mut Writer) -> Result<()> {
        w.put(&[if value.is_some() { 1 } else { 0xff }]);
        value.map_or(Ok(()), |value| value.encode(w))
    }
}

impl Writer {
    /// An empty writer.
    pub fn new() -> Writer {
        Writer::default()
    }

    /// A writer that appends to `out`.
    pub fn append_to(out: Vec<u8>) -> Writer {
        Writer {
            out,
            ..Writer::default()
        }
    }

    /// Forgets everything but keeps the memory.
    pub fn clear(&mut self) {
        self.out.clear();
        self.holes.clear();
    }

    /// What was written, without the bytes of holes.
    pub fn bytes(&self) -> &[u8] {
        &self.out
    }

    /// The holes, in order.
    pub fn holes(&self) -> &[Hole] {
        &self.holes
    }

    /// The bytes and the holes, to be kept.
    pub fn into_parts(self) -> (Vec<u8>, Vec<Hole>) {
        (self.out, self.holes)
    }

    /// What is to be sent, piece by piece.
    pub fn parts(&self) -> impl Iterator<Item = Part<'_>> {
        let starts = std::iter::once(0).chain(self.holes.iter().map(|hole| hole.at));
        let ends = self
            .holes
            .iter()
            .map(|hole| hole.at)
            .chain([self.out.len()]);
        starts.zip(ends).enumerate().flat_map(|(i, (start, end))| {
            let bytes = (end > start).then(|| Part::Bytes(&self.out[start..end]));
            bytes
                .into_iter()
                .chain((i < self.holes.len()).then_some(Part::Hole(i)))
        })
    }

    /// The version of the message that is being written.
    pub fn version(&self) -> i16 {
        self.version
    }

    /// Whether that version is a flexible one.
    pub fn flexible(&self) -> bool {
        self.flexible
    }

    /// Says of which version the next values are.
    pub fn set_version(&mut self, version: i16, flexible: bool) {
        self.version = version;
        self.flexible = flexible;
    }

    /// Appends raw bytes.
    #[inline]
    pub fn put(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// Appends a value.
    ///
    /// # Errors
    /// As [`Encode::encode`].
    #[inline]
    pub fn write<T: Encode + ?Sized>(&mut self, value: &T) -> Result<()> {
        value.encode(self)
    }

    /// Appends a value that may be null in other versions, but not in this one.
    ///
    /// # Errors
    /// [`EncodeError::Null`] if it is.
    pub fn write_some<T: Encode>(&mut self, field: &'static str, value: &Option<T>) -> Result<()> {
        match value {
            Some(value) => value.encode(self),
            None => Err(EncodeError::Null {
                field,
                version: self.version,
            }),
        }
    }

    /// Checks that a field that this version lacks has its default.
    ///
    /// # Errors
    /// [`EncodeError::Lacks`] if it is set to something else.
    pub fn lacks(&self, field: &'static str, set: bool) -> Result<()> {
        let version = self.version;
        if set {
            Err(EncodeError::Lacks { field, version })
        } else {
            Ok(())
        }
    }

    /// Appends an unsigned varint.
    #[inline]
    pub fn uvarint(&mut self, value: u32) {
        let (bytes, len) = uvarint_bytes(value);
        self.put(&bytes[..len]);
    }

    /// Appends how many tagged fields follow; nothing in a version that is not flexible.
    pub fn tag_count(&mut self, count: u32) {
        if self.flexible {
            self.uvarint(count);
        }
    }

    /// Appends a tagged field: tag, size, value.
    ///
    /// # Errors
    /// As [`Encode::encode`].
    pub fn tag<T: Encode>(&mut self, tag: u32, value: &T) -> Result<()> {
        self.uvarint(tag);
        let size_at = self.out.len();
        self.out.push(0);
        value.encode(self)?;
        let size = self.out.len() - size_at - 1;
        let (bytes, len) = uvarint_bytes(u32_len(size)?);
        self.out
            .splice(size_at..size_at + 1, bytes.into_iter().take(len));
        Ok(())
    }

    /// Appends the count of an array, or null.
    #[inline]
    pub(crate) fn array_len(&mut self, len: Option<usize>) -> Result<()> {
        if self.flexible {
            self.compact_len(len)
        } else {
            let len = match len {
                Some(n) => i32::try_from(n).map_err(|_| EncodeError::TooLong { length: n })?,
                None => -1,
            };
            self.write(&len)
        }
    }

    #[inline]
    fn compact_len(&mut self, len: Option<usize>) -> Result<()> {
        let n = len.map_or(Ok(0), |n| u32_len(n + 1))?;
        self.uvarint(n);
        Ok(())
    }

    /// The length of a frame that begins at `start`, holes included, as its length field says it.
    pub(crate) fn frame_len(&self, start: usize) -> Result<i32> {
        let holes: usize = self
            .holes
            .iter()
            .filter(|h| h.at > start)
            .map(|h| h.len)
            .sum();
        let length = self.out.len() - start + holes;
        i32::try_from(length).map_err(|_| EncodeError::TooLong { length })
    }

    pub(crate) fn patch(&mut self, at: usize, value: i32) {
        self.out[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }

    pub(crate) fn truncate(&mut self, len: usize) {
        self.out.truncate(len);
        while self.holes.last().is_some_and(|hole| hole.at > len) {
            self.holes.pop();
        }
    }
}

fn uvarint_bytes(mut value: u32) -> ([u8; 5], usize) {
    let mut bytes = [0; 5];
    let mut len = 0;
    while value >= 0x80 {
        bytes[len] = value as u8 | 0x80;
        value >>= 7;
        len += 1;
    }
    bytes[len] = value as u8;
    (bytes, len + 1)
}

fn u32_len(length: usize) -> Result<u32> {
    match u32::try_from(length) {
        Ok(n) if n <= i32::MAX as u32 => Ok(n),
        _ => Err(EncodeError::TooLong { length }),
    }
}

macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl Encode for $number {
            #[inline]
            fn encode(&self, w: &mut Writer) -> Result<()> {
                w.put(&self.to_be_bytes());
                Ok(())
            }
        }
    )*};
}

numbers!(i8, i16, i32, i64, u16, u32, f64);

impl Encode for bool {
    fn encode(&self, w: &mut Writer) -> Result<()> {
        w.put(&[u8::from(*self)]);
        Ok(())
    }
}

impl Encode for [u8; 16] {
    fn encode(&self, w: &mut Writer) -> Result<()> {
        w.put(self);
        Ok(())
    }
}

impl Encode for TopicId {
    fn encode(&self, w: &mut Writer) -> Result<()> {
        w.put(&self.0);
        Ok(())
    }
}

impl Encode for &str {
    fn encode(&self, w: &mut Writer) -> Result<()> {
        Self::encode_nullable(Some(self), w)
    }

    fn encode_nullable(value: Option<&Self>, w: &mut Writer) -> Result<()> {
        let length = value.map(|text| text.len());
        // A string is limited to 16 bits in every version, as in Kafka.
        let short = match length {
            Some(n) => i16::try_from(n).map_err(|_| EncodeError::TooLong { length: n })?,
            None => -1,
        };
        if w.flexible {
            w.compact_len(length)?
        } else {
            w.write(&short)?
        }
        w.put(value.map_or(&[], |text| text.as_bytes()));
        Ok(())
    }
}

impl Encode for &[u8] {
    fn encode(&self, w: &mut Writer) -> Result<()> {
        Self::encode_nullable(Some(self), w)
    }

    fn encode_nullable(value: Option<&Self>, w: &mut Writer) -> Result<()> {
        w.array_len(value.map(|bytes| bytes.len()))?;
        w.put(value.copied().unwrap_or_default());
        Ok(())
    }
}

impl Encode for Records<'_> {
    fn encode(&self, w: &mut Writer) -> Result<()> {
        Self::encode_nullable(Some(self), w)
    }

    fn encode_nullable(value: Option<&Self>, w: &mut Writer) -> Result<()> {
        w.array_len(value.map(Records::len))?;
        match value {
            Some(Records::Bytes(bytes)) => w.put(bytes),
            Some(&Records::Hole(len)) if len > 0 => w.holes.push(Hole {
                at: w.out.len(),
                len,
            }),
            _ => {}
        }
        Ok(())
    }
}

impl<T: Encode> Encode for Option<T> {
    #[inline]
    fn encode(&self, w: &mut Writer) -> Result<()> {
        T::encode_nullable(self.as_ref(), w)
    }
}
