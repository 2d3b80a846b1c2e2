//! Hash maps with a fixed seed: two runs on the same input iterate in the same order, which the
//! simulator needs. Keys that clients choose go through the aHash mixing, so colliding key sets
//! cannot be computed with a pencil; what a client can fill is bounded elsewhere.

use std::hash::BuildHasher;

/// The hasher builder behind [`Map`] and [`Set`].
#[derive(Clone, Copy, Default)]
pub struct FixedSeed;

impl BuildHasher for FixedSeed {
    type Hasher = ahash::AHasher;

    fn build_hasher(&self) -> ahash::AHasher {
        ahash::RandomState::with_seeds(0x5354_524d, 0x6461_7465, 0x7265_616d, 0x6c6f_6773)
            .build_hasher()
    }
}

/// `HashMap` with a fixed seed. Make one with `Map::default()`.
#[allow(clippy::disallowed_types)]
pub type Map<K, V> = std::collections::HashMap<K, V, FixedSeed>;

/// `HashSet` with a fixed seed. Make one with `Set::default()`.
#[allow(clippy::disallowed_types)]
pub type Set<K> = std::collections::HashSet<K, FixedSeed>;
