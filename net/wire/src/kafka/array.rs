//! An array of a message: either bytes of a frame that were walked over once, or values.
//!
//! Invariant: the wire form is only made by a decoder that read every element, so iterating it
//! cannot fail. It holds no element: iterating decodes each anew, and allocates nothing.

use std::fmt;

use super::error::{DecodeError, EncodeError};
use super::read::{Decode, Reader, non_null};
use super::write::{Encode, Writer};

/// An array field. Decoded: a view of the frame. To encode: `vec.into()` or `slice.into()`.
#[derive(Clone)]
pub struct Array<'a, T>(Repr<'a, T>);

#[derive(Clone)]
enum Repr<'a, T> {
    Wire { reader: Reader<'a>, len: usize },
    Slice(&'a [T]),
    Owned(Vec<T>),
}

impl<'a, T> Array<'a, T> {
    /// The number of elements.
    pub fn len(&self) -> usize {
        match &self.0 {
            Repr::Wire { len, .. } => *len,
            Repr::Slice(items) => items.len(),
            Repr::Owned(items) => items.len(),
        }
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements, by value: a decoded array makes each one from the frame, one that was built
    /// from values clones them.
    pub fn iter(&self) -> Iter<'_, 'a, T> {
        match &self.0 {
            Repr::Wire { reader, len } => Iter(Source::Wire {
                reader: *reader,
                left: *len,
            }),
            Repr::Slice(items) => Iter(Source::Slice(items.iter())),
            Repr::Owned(items) => Iter(Source::Slice(items.iter())),
        }
    }

    /// The elements as a `Vec`.
    pub fn to_vec(&self) -> Vec<T>
    where
        T: Decode<'a> + Clone,
    {
        self.iter().collect()
    }
}

impl<'a, T: Decode<'a>> Array<'a, T> {
    #[inline]
    fn from_wire(r: &mut Reader<'a>, len: usize) -> Result<Self, DecodeError> {
        Ok(Array(Repr::Wire {
            reader: r.validated::<T>(len)?,
            len,
        }))
    }
}

impl<'a, T: Decode<'a>> Decode<'a> for Array<'a, T> {
    #[inline]
    fn decode(r: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let at = r.at();
        let len = non_null(at, r.array_len()?)?;
        Array::from_wire(r, len)
    }

    #[inline]
    fn decode_nullable(r: &mut Reader<'a>) -> Result<Option<Self>, DecodeError> {
        r.array_len()?
            .map(|len| Array::from_wire(r, len))
            .transpose()
    }
}

impl<'a, T: Encode + Decode<'a> + Clone> Encode for Array<'a, T> {
    fn encode(&self, w: &mut Writer) -> Result<(), EncodeError> {
        w.array_len(Some(self.len()))?;
        match &self.0 {
            Repr::Wire { .. } => self.iter().try_for_each(|item| item.encode(w)),
            Repr::Slice(items) => items.iter().try_for_each(|item| item.encode(w)),
            Repr::Owned(items) => items.iter().try_for_each(|item| item.encode(w)),
        }
    }

    fn encode_nullable(value: Option<&Self>, w: &mut Writer) -> Result<(), EncodeError> {
        match value {
            Some(array) => array.encode(w),
            None => w.array_len(None),
        }
    }
}

impl<T> Default for Array<'_, T> {
    fn default() -> Self {
        Array(Repr::Slice(&[]))
    }
}

impl<T> From<Vec<T>> for Array<'_, T> {
    fn from(items: Vec<T>) -> Self {
        Array(Repr::Owned(items))
    }
}

impl<'a, T> From<&'a [T]> for Array<'a, T> {
    fn from(items: &'a [T]) -> Self {
        Array(Repr::Slice(items))
    }
}

impl<T> FromIterator<T> for Array<'_, T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        Array(Repr::Owned(items.into_iter().collect()))
    }
}

impl<'a, T: Decode<'a> + Clone + PartialEq> PartialEq for Array<'a, T> {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl<'a, T: Decode<'a> + Clone + fmt::Debug> fmt::Debug for Array<'a, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<'i, 'a, T: Decode<'a> + Clone> IntoIterator for &'i Array<'a, T> {
    type Item = T;
    type IntoIter = Iter<'i, 'a, T>;

    fn into_iter(self) -> Iter<'i, 'a, T> {
        self.iter()
    }
}

/// The elements of an [`Array`], by value.
#[derive(Clone, Debug)]
pub struct Iter<'i, 'a, T>(Source<'i, 'a, T>);

#[derive(Clone, Debug)]
enum Source<'i, 'a, T> {
    Wire { reader: Reader<'a>, left: usize },
    Slice(std::slice::Iter<'i, T>),
}

impl<'a, T: Decode<'a> + Clone> Iterator for Iter<'_, 'a, T> {
    type Item = T;

    #[inline]
    fn next(&mut self) -> Option<T> {
        match &mut self.0 {
            Source::Wire { left: 0, .. } => None,
            Source::Wire { reader, left } => {
                *left -= 1;
                let item = T::decode(reader);
                debug_assert!(
                    item.is_ok(),
                    "the bytes of an array changed after validation"
                );
                item.ok()
            }
            Source::Slice(items) => items.next().cloned(),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = match &self.0 {
            Source::Wire { left, .. } => *left,
            Source::Slice(items) => items.len(),
        };
        (left, Some(left))
    }
}

impl<'a, T: Decode<'a> + Clone> ExactSizeIterator for Iter<'_, 'a, T> {}
