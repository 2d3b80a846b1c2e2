//! Lists of things of one kind at the end of a body.
//!
//! Invariant: a list that was decoded can be read to its end, so what walks it need not fail.

use std::fmt;
use std::marker::PhantomData;

use super::Malformed;
use super::read::In;

/// Something that lists are made of.
pub trait Item<'a>: Sized {
    /// Takes one off the front.
    #[doc(hidden)]
    fn read(r: &mut Bytes<'a>) -> Result<Self, Malformed>;
    /// Appends it.
    #[doc(hidden)]
    fn put(&self, out: &mut Vec<u8>);
}

/// What items are read from.
#[doc(hidden)]
pub struct Bytes<'a>(pub(super) In<'a>);

/// Items back to back, up to the end of a payload.
pub struct List<'a, T> {
    bytes: &'a [u8],
    of: PhantomData<fn() -> T>,
}

impl<'a, T: Item<'a>> List<'a, T> {
    /// The bytes of a list of these.
    pub fn encode(items: impl IntoIterator<Item = T>) -> Vec<u8> {
        let mut out = Vec::new();
        for item in items {
            item.put(&mut out);
        }
        out
    }

    /// A list of the bytes that [`List::encode`] gives.
    ///
    /// # Errors
    /// [`Malformed::Body`] if they are others.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut r = Bytes(In(bytes));
        while !r.0.0.is_empty() {
            T::read(&mut r)?;
        }
        let of = PhantomData;
        Ok(List { bytes, of })
    }

    /// The items, in order.
    pub fn iter(&self) -> impl Iterator<Item = T> + use<'a, T> {
        let mut r = Bytes(In(self.bytes));
        std::iter::from_fn(move || (!r.0.0.is_empty()).then(|| T::read(&mut r).ok()).flatten())
    }

    /// Its bytes.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

impl<T> Clone for List<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for List<'_, T> {}

impl<T> PartialEq for List<'_, T> {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl<T> Eq for List<'_, T> {}

impl<T> fmt::Debug for List<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of {} bytes", self.bytes.len())
    }
}
