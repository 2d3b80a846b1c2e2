//! Where a record with a key goes: Kafka's murmur2, so that every client finds the same partition.

/// Kafka's `Utils.murmur2`: MurmurHash2 of 32 bits with its seed.
pub fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    const SEED: u32 = 0x9747_b28c;
    let mut h = SEED ^ data.len() as u32;
    let (words, rest) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        h = h.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !rest.is_empty() {
        for (i, &byte) in rest.iter().enumerate() {
            h ^= u32::from(byte) << (8 * i);
        }
        h = h.wrapping_mul(M);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(M);
    h ^ (h >> 15)
}

/// The partition of a key among `count` (at least 1), as Kafka's default partitioner has it.
pub fn partition(key: &[u8], count: usize) -> usize {
    (murmur2(key) & 0x7fff_ffff) as usize % count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_kafka_computes_it() {
        // The values of Kafka's own UtilsTest.
        let known: [(&[u8], i32); 6] = [
            (b"21", -973_932_308),
            (b"foobar", -790_332_482),
            (b"a-little-bit-long-string", -985_981_536),
            (b"a-little-bit-longer-string", -1_486_304_829),
            (
                b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
                -58_897_971,
            ),
            (b"abc", 479_470_107),
        ];
        for (key, hash) in known {
            assert_eq!(
                murmur2(key) as i32,
                hash,
                "{}",
                String::from_utf8_lossy(key)
            );
        }
    }

    #[test]
    fn a_negative_hash_finds_a_partition_too() {
        assert_eq!(
            partition(b"21", 12),
            ((-973_932_308i32 & 0x7fff_ffff) % 12) as usize
        );
        assert!((0..100u32).all(|i| partition(&i.to_be_bytes(), 7) < 7));
    }
}
