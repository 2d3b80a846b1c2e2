//! Records that look like events: JSON with repeating names and changing values.
//!
//! The same for the same seed and size. LZ4 takes them to about 55 % of their size, as it does
//! with real event streams; random bytes would not compress, and repeated ones to nothing.

/// A small random generator (xorshift64*), for data only.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator; the same seed gives the same numbers.
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number from 0 to below 1.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A number below `n`, which must not be 0.
    pub fn below(&mut self, n: u64) -> u64 {
        (self.bits() >> 16) % n
    }
}

const WORDS: usize = 320;

/// Makes records of one size.
#[derive(Debug)]
pub struct Payload {
    random: Random,
    words: Vec<String>,
    size: usize,
    made: u64,
}

impl Payload {
    /// A maker of records of exactly `size` bytes.
    pub fn new(size: usize, seed: u64) -> Payload {
        let mut random = Random::new(seed);
        let word = |random: &mut Random| {
            let len = 3 + random.below(7);
            (0..len)
                .map(|_| char::from(b'a' + random.below(26) as u8))
                .collect()
        };
        let words = (0..WORDS).map(|_| word(&mut random)).collect();
        Payload {
            random,
            words,
            size,
            made: 0,
        }
    }

    fn word(&mut self) -> &str {
        let at = self.random.below(WORDS as u64) as usize;
        &self.words[at]
    }

    /// The next record.
    pub fn record(&mut self) -> Vec<u8> {
        self.made += 1;
        let (id, at) = (1_000_000 + self.made, 1_790_000_000_000 + self.made * 41);
        let user = self.random.bits();
        let at = at + self.random.below(1 << 24);
        let mut text = format!("{{\"id\":{id},\"at\":{at},\"user\":\"{user:016x}\",\"kind\":\"");
        text.push_str(self.word());
        text.push('"');
        while text.len() < self.size {
            let name = self.word().to_owned();
            let value = match self.random.below(5) {
                0 | 1 => format!("\"{} ", self.word()) + self.word() + "\"",
                2 => (self.random.bits() >> 40).to_string(),
                3 => "true".to_owned(),
                _ => format!("\"{:x}\"", self.random.bits() >> 24),
            };
            text.push_str(&format!(",\"{name}\":{value}"));
        }
        let mut record = text.into_bytes();
        record.truncate(self.size);
        // Cut to size it is no whole JSON any more; its end at least looks like one.
        if let [.., a, b] = &mut record[..] {
            (*a, *b) = (b'"', b'}');
        }
        record
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{Codec, Record, encode};

    #[test]
    fn records_have_their_size_and_repeat_with_the_seed() {
        for size in [1, 2, 10, 100, 1024] {
            let (mut a, mut b) = (Payload::new(size, 3), Payload::new(size, 3));
            for _ in 0..50 {
                let record = a.record();
                assert_eq!(record.len(), size);
                assert_eq!(record, b.record());
            }
        }
        assert_ne!(Payload::new(100, 3).record(), Payload::new(100, 4).record());
    }

    #[test]
    fn lz4_takes_a_batch_to_about_55_percent() {
        for size in [100, 1024] {
            let mut payload = Payload::new(size, 7);
            let records: Vec<_> = (0..64 * 1024 / size)
                .map(|_| Record::of(payload.record()))
                .collect();
            let (plain, packed) = (
                encode(&records, Codec::None, 0).len(),
                encode(&records, Codec::Lz4, 0).len(),
            );
            let percent = packed * 100 / plain;
            assert!((52..=58).contains(&percent), "{size} B: {percent} %");
        }
    }
}
