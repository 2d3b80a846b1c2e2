//! Which shard a new connection goes to: the one that has the fewest. The system spreads them
//! among the listeners by a hash, so that a few busy ones often meet on one core.
//!
//! Invariant: a shard's number is what it serves and what is on its way to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The connections of each shard.
pub struct Crowd(Vec<AtomicUsize>);

/// A connection's place, given back when it is dropped.
pub struct Seat {
    /// Not here once it was passed on.
    crowd: Option<Arc<Crowd>>,
    shard: usize,
}

impl Crowd {
    /// Nobody is there yet.
    pub fn new(shards: usize) -> Arc<Crowd> {
        Arc::new(Crowd((0..shards).map(|_| AtomicUsize::new(0)).collect()))
    }

    /// A place for a connection that shard `here` accepted: there, unless another shard has fewer.
    /// `None` when `max` connections are open. Shards that ask at once may all get the last place.
    pub fn seat(self: &Arc<Self>, here: usize, max: usize) -> Option<Seat> {
        let load = |shard: usize| self.0[shard].load(Ordering::Relaxed);
        let shards = 0..self.0.len();
        if shards.clone().map(load).sum::<usize>() >= max {
            return None;
        }
        let shard = shards.min_by_key(|&s| (load(s), s != here))?;
        self.0[shard].fetch_add(1, Ordering::Relaxed);
        Some(self.passed_on(shard))
    }

    /// The place on `shard` that another shard took for a connection and passed on.
    pub fn passed_on(self: &Arc<Self>, shard: usize) -> Seat {
        Seat {
            crowd: Some(self.clone()),
            shard,
        }
    }
}

impl Seat {
    /// Which shard is to serve the connection.
    pub fn shard(&self) -> usize {
        self.shard
    }

    /// A place on another shard in exchange for this one.
    pub fn moved(self, shard: usize) -> Seat {
        let crowd = self.crowd.clone();
        if let Some(crowd) = &crowd {
            crowd.0[shard].fetch_add(1, Ordering::Relaxed);
        }
        Seat { crowd, shard }
    }

    /// Keeps the place for [`Crowd::passed_on`]; gives the shard.
    pub fn pass_on(mut self) -> usize {
        self.crowd = None;
        self.shard
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(crowd) = &self.crowd {
            crowd.0[self.shard].fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_emptiest_shard_gets_the_next() {
        let crowd = Crowd::new(3);
        let mut seats: Vec<Seat> = (0..6).map(|_| crowd.seat(1, 100).unwrap()).collect();
        let mut shards: Vec<usize> = seats.iter().map(Seat::shard).collect();
        assert_eq!(shards[0], 1, "at home when all are alike");
        shards.sort_unstable();
        assert_eq!(shards, [0, 0, 1, 1, 2, 2]);
        seats.retain(|s| s.shard() != 2);
        assert_eq!(crowd.seat(0, 100).unwrap().shard(), 2, "places come back");
    }

    #[test]
    fn a_place_is_exchanged() {
        let crowd = Crowd::new(2);
        let seat = crowd.seat(0, 100).unwrap().moved(1);
        assert_eq!(seat.shard(), 1);
        let next = crowd.seat(1, 100).unwrap();
        assert_eq!(next.shard(), 0, "shard 1 has one more");
        drop((seat, next));
        assert_eq!(crowd.seat(1, 100).unwrap().shard(), 1, "nobody is left");
    }

    #[test]
    fn there_is_a_last_place() {
        let crowd = Crowd::new(2);
        let first = crowd.seat(0, 2).unwrap();
        let to = crowd.seat(0, 2).unwrap().pass_on();
        assert!(crowd.seat(0, 2).is_none(), "passed on is not given back");
        drop(crowd.passed_on(to));
        assert!(crowd.seat(0, 2).is_some());
        drop(first);
    }
}
