//! What consumers of the classic protocol tell each other through the coordinator: subscriptions
//! and assignments in the format of Kafka's Java client, which all clients share.
//!
//! Later versions only add behind what earlier ones have, so what is known is read and the rest
//! is passed over. Invariant: decoding never panics.

use std::collections::BTreeMap;

use super::record::Blob;

/// A consumer's subscription.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Subscribed {
    pub version: i16,
    /// In the order in which they are named.
    pub topics: Vec<String>,
    /// Topics and partitions that it still has: not named by clients that give back everything
    /// before they join.
    pub owned: Vec<(String, Vec<i32>)>,
    /// The generation in which it got them; -1: not said.
    pub generation: i32,
    pub rack: Option<String>,
}

/// Reads a subscription.
pub(super) fn subscription(bytes: &[u8]) -> Option<Subscribed> {
    let mut r = Reader(bytes);
    let mut found = Subscribed {
        version: r.i16()?,
        generation: -1,
        ..Subscribed::default()
    };
    for _ in 0..r.count()? {
        found.topics.push(r.string()??);
    }
    // Some clients leave out what is empty.
    if found.version >= 0 && r.0.is_empty() {
        return Some(found);
    }
    r.bytes()?;
    if found.version >= 1 && !r.0.is_empty() {
        found.owned = r.topics()?;
    }
    if found.version >= 2 && !r.0.is_empty() {
        found.generation = r.i32()?;
    }
    if found.version >= 3 && !r.0.is_empty() {
        found.rack = r.string()?;
    }
    Some(found)
}

/// Reads an assignment: topics and partitions.
pub(super) fn assignment(bytes: &[u8]) -> Option<Vec<(String, Vec<i32>)>> {
    let mut r = Reader(bytes);
    r.i16()?;
    r.topics()
}

/// Writes an assignment for a client that speaks this version.
pub(super) fn put_assignment(version: i16, topics: &BTreeMap<&str, Vec<i32>>) -> Blob {
    let mut out = version.to_be_bytes().to_vec();
    let size = |n: usize| i32::try_from(n).unwrap_or(i32::MAX).to_be_bytes();
    out.extend(size(topics.len()));
    for (name, partitions) in topics {
        out.extend(i16::try_from(name.len()).unwrap_or(i16::MAX).to_be_bytes());
        out.extend(name.as_bytes());
        out.extend(size(partitions.len()));
        out.extend(partitions.iter().flat_map(|p| p.to_be_bytes()));
    }
    // No user data.
    out.extend((-1i32).to_be_bytes());
    out.into()
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*head)
    }

    fn i16(&mut self) -> Option<i16> {
        self.array().map(i16::from_be_bytes)
    }

    fn i32(&mut self) -> Option<i32> {
        self.array().map(i32::from_be_bytes)
    }

    /// A count of items of two bytes or more each.
    fn count(&mut self) -> Option<usize> {
        let n = usize::try_from(self.i32()?).ok()?;
        (n <= self.0.len()).then_some(n)
    }

    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }

    fn string(&mut self) -> Option<Option<String>> {
        let length = match self.i16()? {
            -1 => return Some(None),
            n => usize::try_from(n).ok()?,
        };
        let text = std::str::from_utf8(self.take(length)?).ok()?;
        Some(Some(text.to_owned()))
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        match self.i32()? {
            -1 => Some(&[]),
            n => self.take(usize::try_from(n).ok()?),
        }
    }

    fn topics(&mut self) -> Option<Vec<(String, Vec<i32>)>> {
        let mut topics = Vec::new();
        for _ in 0..self.count()? {
            let name = self.string()??;
            let mut partitions = Vec::new();
            for _ in 0..self.count()? {
                partitions.push(self.i32()?);
            }
            topics.push((name, partitions));
        }
        Some(topics)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscription_of_any_version() {
        let v3: &[u8] = &[
            0, 3, 0, 0, 0, 1, 0, 1, b't', 255, 255, 255, 255, 0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 2,
            0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 7, 0, 1, b'r',
        ];
        let found = subscription(v3).expect("a subscription");
        assert_eq!(found.topics, ["t"]);
        assert_eq!(found.owned, [("t".to_owned(), vec![0, 5])]);
        assert_eq!((found.generation, found.rack.as_deref()), (7, Some("r")));
        for end in 0..v3.len() {
            let _ = subscription(&v3[..end]);
        }
        let v0 = subscription(&[0, 0, 0, 0, 0, 0, 255, 255, 255, 255]).expect("nothing");
        assert_eq!((v0.topics.len(), v0.generation), (0, -1));
        assert_eq!(subscription(&[0, 0, 127, 255, 255, 255]), None);
        assert_eq!(subscription(b""), None);
    }

    #[test]
    fn an_assignment_comes_back() {
        let topics: BTreeMap<&str, Vec<i32>> = [("a", vec![1, 2]), ("b", vec![0])].into();
        let bytes = put_assignment(1, &topics);
        let found = assignment(&bytes).expect("an assignment");
        assert_eq!(
            found,
            [("a".to_owned(), vec![1, 2]), ("b".to_owned(), vec![0])]
        );
        for end in 0..bytes.len() - 4 {
            assert_eq!(assignment(&bytes[..end]), None, "{end}");
        }
    }
}
