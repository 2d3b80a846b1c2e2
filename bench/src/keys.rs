//! Keys as real streams have them: a few are hot, most are rare; and the partition that stock
//! clients choose for a key.

use crate::payload::Random;

/// Ranks from 0 with the probability of rank k in proportion to 1 / (k + 1)^skew.
///
/// Sampled by rejection from the integral of that curve (Hormann and Derflinger): constant memory
/// and time, whatever the number of keys.
#[derive(Clone, Debug)]
pub struct Zipf {
    keys: f64,
    skew: f64,
    /// The curve's integral from the first bar's left end to the last one's right end.
    low: f64,
    high: f64,
}

impl Zipf {
    /// So many keys (at least 1) with a skew of 0 (all alike) or more.
    pub fn new(keys: u64, skew: f64) -> Zipf {
        let keys = keys.max(1) as f64;
        Zipf {
            keys,
            skew,
            // The first bar is taken whole: its left end is where the area is that of the bar.
            low: integral(1.5, skew) - 1.0,
            high: integral(keys + 0.5, skew),
        }
    }

    /// The next rank, below the number of keys.
    pub fn rank(&self, random: &mut Random) -> u64 {
        loop {
            let area = self.high + random.unit() * (self.low - self.high);
            let x = inverse(area, self.skew);
            let rank = x.round().clamp(1.0, self.keys);
            // The bar of a rank ends where the area under the curve that belongs to it does.
            if area >= integral(rank + 0.5, self.skew) - rank.powf(-self.skew) {
                return rank as u64 - 1;
            }
        }
    }
}

/// The integral of x^-skew, up to a constant.
fn integral(x: f64, skew: f64) -> f64 {
    let log = x.ln();
    let by = (1.0 - skew) * log;
    // (e^by - 1) / (1 - skew), also where skew is 1 and both are 0.
    if by.abs() < 1e-9 {
        log
    } else {
        by.exp_m1() / by * log
    }
}

fn inverse(area: f64, skew: f64) -> f64 {
    let by = area * (1.0 - skew);
    if by.abs() < 1e-9 {
        return area.exp();
    }
    (by.max(-1.0).ln_1p() / by * area).exp()
}

/// The hash by which Kafka's clients choose a partition (murmur2, seed 0x9747b28c).
pub fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ data.len() as u32;
    let mut words = data.chunks_exact(4);
    for word in &mut words {
        let mut k = word
            .iter()
            .rev()
            .fold(0, |k, byte| k << 8 | u32::from(*byte));
        k = k.wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        hash ^= rest
            .iter()
            .rev()
            .fold(0, |k, byte| k << 8 | u32::from(*byte));
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ hash >> 15
}

/// The partition of a key; there must be at least one.
pub fn partition(key: &[u8], partitions: i32) -> i32 {
    (murmur2(key) & 0x7fff_ffff) as i32 % partitions
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values that Kafka's own tests pin.
    #[test]
    fn murmur2_is_javas() {
        let cases: [(&str, i32); 6] = [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            (
                "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
                -58_897_971,
            ),
            ("abc", 479_470_107),
        ];
        for (text, hash) in cases {
            assert_eq!(murmur2(text.as_bytes()) as i32, hash, "{text}");
        }
        assert_eq!(partition(b"21", 12), (-973_932_308i32 & 0x7fff_ffff) % 12);
    }

    #[test]
    fn ranks_come_as_often_as_the_law_says() {
        const KEYS: u64 = 50;
        const DRAWS: u32 = 200_000;
        for skew in [0.0, 0.5, 0.99, 1.0, 1.5] {
            let (zipf, mut random) = (Zipf::new(KEYS, skew), Random::new(5));
            let mut counts = vec![0u32; KEYS as usize];
            for _ in 0..DRAWS {
                counts[zipf.rank(&mut random) as usize] += 1;
            }
            let weight = |rank: usize| ((rank + 1) as f64).powf(-skew);
            let all: f64 = (0..KEYS as usize).map(weight).sum();
            for (rank, count) in counts.iter().enumerate() {
                let expected = weight(rank) / all * f64::from(DRAWS);
                // Five standard deviations.
                let allowed = 5.0 * expected.sqrt() + 1.0;
                let off = (f64::from(*count) - expected).abs();
                assert!(
                    off < allowed,
                    "skew {skew} rank {rank}: {count}, expected {expected}"
                );
            }
        }
    }

    #[test]
    fn a_single_key_and_many_keys_are_within_bounds() {
        let mut random = Random::new(1);
        assert_eq!(Zipf::new(1, 0.99).rank(&mut random), 0);
        let many = Zipf::new(1 << 40, 1.1);
        assert!((0..1000).all(|_| many.rank(&mut random) < 1 << 40));
    }
}
