//! The binary form of commands and snapshots: little-endian integers, strings and lists behind
//! 32-bit counts.
//!
//! Invariant: decoding never panics, and never reserves more memory than the input is long: a
//! count is believed only as far as the bytes behind it can bear it out.

use std::fmt;

/// Why bytes could not be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damaged {
    /// What was being read.
    pub what: &'static str,
    /// How many bytes were left at that point.
    pub left: usize,
}

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} cannot be read ({} bytes before the end)",
            self.what, self.left
        )
    }
}

impl std::error::Error for Damaged {}

/// Appends values to bytes.
#[derive(Default)]
pub(crate) struct Out(pub Vec<u8>);

impl Out {
    pub fn u8(&mut self, v: u8) {
        self.0.push(v);
    }

    pub fn i16(&mut self, v: i16) {
        self.0.extend_from_slice(&v.to_le_bytes());
    }

    pub fn i32(&mut self, v: i32) {
        self.0.extend_from_slice(&v.to_le_bytes());
    }

    pub fn i64(&mut self, v: i64) {
        self.0.extend_from_slice(&v.to_le_bytes());
    }

    pub fn u64(&mut self, v: u64) {
        self.0.extend_from_slice(&v.to_le_bytes());
    }

    pub fn raw(&mut self, v: &[u8]) {
        self.0.extend_from_slice(v);
    }

    /// A count of what follows. What is encoded was bounded when it came in.
    pub fn count(&mut self, n: usize) {
        assert!(n <= u32::MAX as usize, "{n} items in one list");
        self.0.extend_from_slice(&(n as u32).to_le_bytes());
    }

    /// Bytes behind their count.
    pub fn bytes(&mut self, v: &[u8]) {
        self.count(v.len());
        self.raw(v);
    }

    pub fn str(&mut self, s: &str) {
        self.bytes(s.as_bytes());
    }
}

/// Takes values from bytes.
pub(crate) struct In<'a>(pub &'a [u8]);

impl<'a> In<'a> {
    pub fn damaged(&self, what: &'static str) -> Damaged {
        Damaged {
            what,
            left: self.0.len(),
        }
    }

    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Damaged> {
        let (head, rest) = self.0.split_first_chunk().ok_or(self.damaged(what))?;
        self.0 = rest;
        Ok(*head)
    }

    pub fn u8(&mut self, what: &'static str) -> Result<u8, Damaged> {
        Ok(self.array::<1>(what)?[0])
    }

    pub fn i16(&mut self, what: &'static str) -> Result<i16, Damaged> {
        Ok(i16::from_le_bytes(self.array(what)?))
    }

    pub fn i32(&mut self, what: &'static str) -> Result<i32, Damaged> {
        Ok(i32::from_le_bytes(self.array(what)?))
    }

    pub fn i64(&mut self, what: &'static str) -> Result<i64, Damaged> {
        Ok(i64::from_le_bytes(self.array(what)?))
    }

    pub fn u64(&mut self, what: &'static str) -> Result<u64, Damaged> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A yes or a no; any other byte is damage.
    pub fn flag(&mut self, what: &'static str) -> Result<bool, Damaged> {
        match self.u8(what)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.damaged(what)),
        }
    }

    /// A count of items that take at least `item_bytes` each.
    pub fn count(&mut self, item_bytes: usize, what: &'static str) -> Result<usize, Damaged> {
        let n = u32::from_le_bytes(self.array(what)?) as usize;
        if n > self.0.len() / item_bytes.max(1) {
            return Err(self.damaged(what));
        }
        Ok(n)
    }

    /// Bytes behind their count.
    pub fn bytes(&mut self, what: &'static str) -> Result<&'a [u8], Damaged> {
        let n = self.count(1, what)?;
        let (head, rest) = self.0.split_at(n);
        self.0 = rest;
        Ok(head)
    }

    pub fn str(&mut self, what: &'static str) -> Result<&'a str, Damaged> {
        let n = self.count(1, what)?;
        let (head, rest) = self.0.split_at(n);
        let text = std::str::from_utf8(head).map_err(|_| self.damaged(what))?;
        self.0 = rest;
        Ok(text)
    }

    /// Nothing may be left.
    pub fn end(&self, what: &'static str) -> Result<(), Damaged> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(self.damaged(what))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_believed_only_as_far_as_the_bytes_go() {
        let mut out = Out::default();
        out.count(3);
        out.raw(&[0; 6]);
        assert_eq!(In(&out.0).count(2, "x"), Ok(3));
        assert!(In(&out.0).count(3, "x").is_err());
        assert!(In(&[255, 255, 255, 255, 1]).str("x").is_err());
        assert!(In(&[2, 0, 0, 0, 0xff, 0xfe]).str("x").is_err(), "not UTF-8");
    }
}
