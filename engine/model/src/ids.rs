//! Identifiers. Newtypes, so that a partition index is never taken for a shard.

use std::fmt;

/// The 128-bit id of a topic (KIP-516). A topic that is deleted and created again has a new one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct TopicId(pub [u8; 16]);

impl TopicId {
    /// The id that stands for "no topic id" on the wire.
    pub const ZERO: TopicId = TopicId([0; 16]);

    /// Builds a version-4 UUID from 128 random bits.
    pub fn from_random(high: u64, low: u64) -> TopicId {
        let mut b = [0u8; 16];
        b[..8].copy_from_slice(&high.to_be_bytes());
        b[8..].copy_from_slice(&low.to_be_bytes());
        b[6] = (b[6] & 0x0f) | 0x40;
        b[8] = (b[8] & 0x3f) | 0x80;
        TopicId(b)
    }

    /// Kafka's way to print a UUID: URL-safe base 64 without padding, 22 characters.
    pub fn to_base64(self) -> String {
        base64_url(&self.0)
    }

    /// Reads what [`TopicId::to_base64`] printed; `None` if it is not 22 such characters.
    pub fn from_base64(text: &str) -> Option<TopicId> {
        let text = text.as_bytes();
        if text.len() != 22 {
            return None;
        }
        let mut out = [0u8; 16];
        let (mut acc, mut bits, mut at) = (0u32, 0u32, 0usize);
        for &c in text {
            let v = B64.iter().position(|&x| x == c)? as u32;
            acc = (acc << 6) | v;
            bits += 6;
            if bits >= 8 {
                bits -= 8;
                if at < 16 {
                    out[at] = (acc >> bits) as u8;
                    at += 1;
                }
                acc &= (1 << bits) - 1;
            }
        }
        (at == 16 && acc == 0).then_some(TopicId(out))
    }
}

const B64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// URL-safe base 64 without padding.
pub fn base64_url(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let mut word = [0u8; 3];
        word[..chunk.len()].copy_from_slice(chunk);
        let v = u32::from_be_bytes([0, word[0], word[1], word[2]]);
        for i in 0..=chunk.len() {
            out.push(B64[(v >> (18 - 6 * i)) as usize & 63] as char);
        }
    }
    out
}

impl fmt::Debug for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_base64())
    }
}

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_base64())
    }
}

/// A partition of a topic: the topic's id and the index in it (0-based).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PartitionId {
    /// The topic.
    pub topic: TopicId,
    /// The index of the partition in the topic, from 0.
    pub index: i32,
}

/// A broker of the cluster (Kafka's `node.id`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub i32);

/// A shard of this node: the index of its executor, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShardId(pub u16);

/// The id of an idempotent producer; -1 on the wire means "not idempotent".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProducerId(pub i64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_round_trip() {
        for seed in 0..1000u64 {
            let id = TopicId::from_random(
                seed.wrapping_mul(0x9e37_79b9_7f4a_7c15),
                seed.wrapping_mul(0xc2b2_ae3d_27d4_eb4f) ^ 77,
            );
            let text = id.to_base64();
            assert_eq!(text.len(), 22);
            assert_eq!(TopicId::from_base64(&text), Some(id));
        }
        assert_eq!(TopicId::ZERO.to_base64(), "AAAAAAAAAAAAAAAAAAAAAA");
        assert_eq!(TopicId::from_base64("short"), None);
        assert_eq!(TopicId::from_base64("AAAAAAAAAAAAAAAAAAAAA!"), None);
    }
}
