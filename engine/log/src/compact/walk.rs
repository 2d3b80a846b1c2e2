//! The records of a batch, compressed or not, as a stream of pieces: nobody ever holds a batch
//! inflated, or a record, in memory. [`Feed`] inflates through a small window; [`Walk`] is pushed
//! what comes out, of any length, and says to a [`Sink`] what it is. Between two pieces the shard
//! can do something else.

use crate::batch::{BatchError, BatchHeader, HEADER};
use crate::compress::{INFLATED_MAX, Inflate, Window};

/// So many bytes of records are handed out at once.
const PIECE: usize = 32 << 10;

/// The records part of a batch, inflated, piece by piece.
pub struct Feed<'a> {
    inflate: Inflate<'a>,
    window: Window,
    /// What is in the window and was not handed out.
    from: usize,
    to: usize,
    before: u64,
}

impl<'a> Feed<'a> {
    /// The records of `batch`, one whole batch with its header.
    pub fn new(batch: &'a [u8], header: &BatchHeader) -> Result<Feed<'a>, BatchError> {
        let codec = header.codec().ok_or_else(|| {
            BatchError::invalid(format!(
                "unknown compression type {}",
                header.attributes & 7
            ))
        })?;
        let inflate = Inflate::new(codec, &batch[HEADER..])
            .map_err(|e| BatchError::invalid(format!("cannot decompress: {e}")))?;
        Ok(Feed {
            inflate,
            window: Window::take(),
            from: 0,
            to: 0,
            before: 0,
        })
    }

    /// What comes next; empty at the end.
    pub fn next_piece(&mut self) -> Result<&[u8], BatchError> {
        if self.from == self.to {
            let filled = self.inflate.next(&mut self.window);
            self.to = filled.map_err(|e| BatchError::invalid(format!("cannot decompress: {e}")))?;
            self.from = 0;
            self.before += self.to as u64;
            if self.before > INFLATED_MAX {
                return Err(BatchError::invalid(format!(
                    "the batch inflates to more than {INFLATED_MAX} bytes"
                )));
            }
        }
        let from = self.from;
        self.from = self.to.min(from + PIECE);
        Ok(&self.window[from..self.from])
    }
}

/// The front of a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// No attribute is in use today.
    pub attributes: u8,
    /// Timestamp less the batch's base timestamp, ms.
    pub timestamp_delta: i64,
    /// Offset less the batch's base offset.
    pub offset_delta: i32,
    /// Bytes of the record after the offset delta.
    pub rest: u64,
}

/// Who is told what a record holds. The pieces of a field come one after another.
pub trait Sink {
    /// A record begins.
    fn head(&mut self, head: &Head) -> Result<(), BatchError>;
    /// Bytes of the key.
    fn key(&mut self, _bytes: &[u8]) {}
    /// What is known of key and value when the key is over.
    fn nulls(&mut self, _key: bool, _value: bool) {}
    /// Bytes of what nobody looks into: all after the head, or all after the value's length.
    fn rest(&mut self, _bytes: &[u8]) -> Result<(), BatchError> {
        Ok(())
    }
    /// The record ends.
    fn end(&mut self) -> Result<(), BatchError>;
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Size,
    Attributes,
    Timestamp,
    Offset,
    KeyLength,
    Key,
    ValueLength,
    Rest,
}

/// Where in the records of a batch the walk is.
pub struct Walk {
    /// Whether the sink wants to see keys.
    keys: bool,
    state: State,
    /// The varint that was begun.
    value: u64,
    shift: u32,
    /// Bytes of the record to come.
    left: u64,
    /// Bytes of the key to come.
    field: u64,
    head: Head,
    null_key: bool,
    records: i32,
}

fn cut() -> BatchError {
    BatchError::invalid("the records end in the middle of a record")
}

fn too_long() -> BatchError {
    BatchError::invalid("a record takes more bytes than it states")
}

impl Walk {
    /// A walk over as many records as a batch's header counts.
    pub fn new(records: i32, keys: bool) -> Walk {
        Walk {
            keys,
            state: State::Size,
            value: 0,
            shift: 0,
            left: 0,
            field: 0,
            head: Head::default(),
            null_key: false,
            records,
        }
    }

    /// The next varint, when all its bytes have come.
    fn varint(&mut self, bytes: &mut &[u8]) -> Result<Option<i64>, BatchError> {
        while let Some((&byte, rest)) = bytes.split_first() {
            *bytes = rest;
            if self.state != State::Size {
                self.left = self.left.checked_sub(1).ok_or_else(too_long)?;
            }
            if self.shift > 63 {
                return Err(BatchError::invalid("a varint of more than 10 bytes"));
            }
            self.value |= u64::from(byte & 0x7f) << self.shift;
            self.shift += 7;
            if byte & 0x80 == 0 {
                let v = self.value;
                (self.value, self.shift) = (0, 0);
                return Ok(Some((v >> 1) as i64 ^ -((v & 1) as i64)));
            }
        }
        Ok(None)
    }

    /// Takes the next piece of the records.
    pub fn push<S: Sink>(&mut self, mut bytes: &[u8], sink: &mut S) -> Result<(), BatchError> {
        while !bytes.is_empty() {
            match self.state {
                State::Key => {
                    let n = (self.field.min(bytes.len() as u64)) as usize;
                    sink.key(&bytes[..n]);
                    bytes = &bytes[n..];
                    self.field -= n as u64;
                    self.left -= n as u64;
                    if self.field == 0 {
                        self.state = State::ValueLength;
                    }
                }
                State::Rest => {
                    let n = (self.left.min(bytes.len() as u64)) as usize;
                    sink.rest(&bytes[..n])?;
                    bytes = &bytes[n..];
                    self.left -= n as u64;
                    self.end_if_over(sink)?;
                }
                State::Attributes => {
                    self.left = self.left.checked_sub(1).ok_or_else(too_long)?;
                    self.head.attributes = bytes[0];
                    bytes = &bytes[1..];
                    self.state = State::Timestamp;
                }
                _ => {
                    let Some(value) = self.varint(&mut bytes)? else {
                        return Ok(());
                    };
                    self.number(value, sink)?;
                }
            }
        }
        Ok(())
    }

    fn number<S: Sink>(&mut self, value: i64, sink: &mut S) -> Result<(), BatchError> {
        let wide = |_| BatchError::invalid(format!("{value} does not fit 32 bits"));
        match self.state {
            State::Size => {
                if self.records == 0 {
                    return Err(BatchError::invalid("more records than the header counts"));
                }
                self.records -= 1;
                self.left = u64::from(u32::try_from(value).map_err(wide)?);
                self.state = State::Attributes;
            }
            State::Timestamp => {
                self.head.timestamp_delta = value;
                self.state = State::Offset;
            }
            State::Offset => {
                self.head.offset_delta = i32::try_from(value).map_err(wide)?;
                self.head.rest = self.left;
                sink.head(&self.head)?;
                self.state = if self.keys {
                    State::KeyLength
                } else {
                    State::Rest
                };
                self.end_if_over(sink)?;
            }
            State::KeyLength => {
                self.null_key = value < 0;
                self.field = value.max(0) as u64;
                if self.field > self.left {
                    return Err(too_long());
                }
                self.state = if self.field == 0 {
                    State::ValueLength
                } else {
                    State::Key
                };
            }
            _ => {
                if value.max(0) as u64 > self.left {
                    return Err(too_long());
                }
                sink.nulls(self.null_key, value < 0);
                self.state = State::Rest;
                self.end_if_over(sink)?;
            }
        }
        Ok(())
    }

    fn end_if_over<S: Sink>(&mut self, sink: &mut S) -> Result<(), BatchError> {
        if self.state == State::Rest && self.left == 0 {
            self.state = State::Size;
            sink.end()?;
        }
        Ok(())
    }

    /// To be called at the end: an error when something is missing.
    pub fn finish(&self) -> Result<(), BatchError> {
        match self.records == 0 && self.state == State::Size && self.shift == 0 {
            true => Ok(()),
            false => Err(cut()),
        }
    }
}
