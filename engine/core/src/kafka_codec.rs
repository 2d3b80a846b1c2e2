//! The encoding of what Kafka keeps in its internal topics: big-endian integers, texts behind
//! 16-bit lengths; in the flexible versions compact ones behind varints, and tagged fields.
//!
//! Invariant: decoding never panics, and reserves no more than the bytes can bear out.

use crate::codec::Damaged;

/// Appends values to bytes. What is encoded was bounded when it came in.
#[derive(Default)]
pub(crate) struct Out(pub Vec<u8>);

impl Out {
    pub fn raw(&mut self, v: &[u8]) {
        self.0.extend_from_slice(v);
    }

    pub fn i16(&mut self, v: i16) {
        self.raw(&v.to_be_bytes());
    }

    pub fn i32(&mut self, v: i32) {
        self.raw(&v.to_be_bytes());
    }

    pub fn i64(&mut self, v: i64) {
        self.raw(&v.to_be_bytes());
    }

    /// Lengths are 16-bit here; a longer text, which no request can carry, is cut.
    pub fn str(&mut self, s: &str) {
        let mut end = s.len().min(i16::MAX as usize);
        while !s.is_char_boundary(end) {
            end -= 1;
        }
        self.i16(end as i16);
        self.raw(&s.as_bytes()[..end]);
    }

    pub fn nullable(&mut self, s: Option<&str>) {
        match s {
            Some(s) => self.str(s),
            None => self.i16(-1),
        }
    }

    pub fn bytes(&mut self, b: &[u8]) {
        self.i32(b.len() as i32);
        self.raw(b);
    }

    pub fn uvarint(&mut self, mut v: usize) {
        while v >= 0x80 {
            self.0.push(v as u8 | 0x80);
            v >>= 7;
        }
        self.0.push(v as u8);
    }
}

/// Takes values from bytes.
pub(crate) struct In<'a>(pub &'a [u8]);

impl<'a> In<'a> {
    pub fn damaged(&self, what: &'static str) -> Damaged {
        let left = self.0.len();
        Damaged { what, left }
    }

    pub fn take(&mut self, n: usize, what: &'static str) -> Result<&'a [u8], Damaged> {
        if n > self.0.len() {
            return Err(self.damaged(what));
        }
        let (head, rest) = self.0.split_at(n);
        self.0 = rest;
        Ok(head)
    }

    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Damaged> {
        let (head, rest) = self.0.split_first_chunk().ok_or(self.damaged(what))?;
        self.0 = rest;
        Ok(*head)
    }

    pub fn i16(&mut self, what: &'static str) -> Result<i16, Damaged> {
        self.array(what).map(i16::from_be_bytes)
    }

    pub fn i32(&mut self, what: &'static str) -> Result<i32, Damaged> {
        self.array(what).map(i32::from_be_bytes)
    }

    pub fn i64(&mut self, what: &'static str) -> Result<i64, Damaged> {
        self.array(what).map(i64::from_be_bytes)
    }

    pub fn uvarint(&mut self, what: &'static str) -> Result<usize, Damaged> {
        let mut value = 0u64;
        for shift in (0..35).step_by(7) {
            let [b] = self.array::<1>(what)?;
            value |= u64::from(b & 0x7f) << shift;
            if b & 0x80 == 0 {
                return Ok(value as usize);
            }
        }
        Err(self.damaged(what))
    }

    pub fn utf8(&self, bytes: &'a [u8], what: &'static str) -> Result<&'a str, Damaged> {
        std::str::from_utf8(bytes).map_err(|_| self.damaged(what))
    }

    pub fn str(&mut self, what: &'static str) -> Result<&'a str, Damaged> {
        self.text(false, what)
    }

    pub fn text(&mut self, flexible: bool, what: &'static str) -> Result<&'a str, Damaged> {
        let text = self.optional(flexible, what)?;
        text.ok_or(self.damaged(what))
    }

    pub fn optional(
        &mut self,
        flexible: bool,
        what: &'static str,
    ) -> Result<Option<&'a str>, Damaged> {
        let length = match flexible {
            true => self.uvarint(what)?.checked_sub(1),
            false => match self.i16(what)? {
                -1 => None,
                n => Some(usize::try_from(n).map_err(|_| self.damaged(what))?),
            },
        };
        let Some(n) = length else { return Ok(None) };
        let bytes = self.take(n, what)?;
        self.utf8(bytes, what).map(Some)
    }

    pub fn blob(&mut self, flexible: bool, what: &'static str) -> Result<&'a [u8], Damaged> {
        let length = match flexible {
            true => self.uvarint(what)?.checked_sub(1),
            false => usize::try_from(self.i32(what)?).ok(),
        };
        self.take(length.unwrap_or(0), what)
    }

    /// Gives each tagged field's tag and bytes.
    pub fn tags(&mut self, each: &mut dyn FnMut(usize, &[u8])) -> Result<(), Damaged> {
        for _ in 0..self.uvarint("tagged fields")? {
            let tag = self.uvarint("a tag")?;
            let size = self.uvarint("a tagged field's size")?;
            each(tag, self.take(size, "a tagged field")?);
        }
        Ok(())
    }
}
