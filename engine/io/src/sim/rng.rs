//! The simulator's random numbers (SplitMix64: small, fast, the same everywhere).

use std::ops::Range;

#[derive(Clone)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Rng {
        Rng(seed ^ 0x5bf0_3635_dcd1_d867)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `n` (0 if `n` is 0).
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }

    pub(crate) fn range(&mut self, r: Range<u64>) -> u64 {
        r.start + self.below(r.end.saturating_sub(r.start))
    }

    /// Out of a range so that each power of two is as likely as the next.
    pub(crate) fn log_range(&mut self, r: Range<u64>) -> u64 {
        let top = (r.end - r.start).max(1).ilog2() + 1;
        let bits = self.below(u64::from(top)) as u32 + 1;
        r.start + self.below(1 << bits).min(r.end - r.start - 1)
    }

    /// True `n` times out of `of`.
    pub(crate) fn chance(&mut self, n: u64, of: u64) -> bool {
        self.below(of) < n
    }
}

pub(crate) fn mix(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
