//! Timers of a machine, each with what it is for.
//!
//! Invariant: they go off by time, and of those with the same time the one that was set first.

use std::collections::BTreeMap;

use streamd_model::Mono;

/// A timer that can be taken back. It begins with the time at which it goes off.
pub(crate) type TimerKey = (Mono, u64);

/// See the module.
pub(crate) struct Timers<T> {
    set: BTreeMap<TimerKey, T>,
    count: u64,
}

impl<T> Default for Timers<T> {
    fn default() -> Self {
        Timers {
            set: BTreeMap::new(),
            count: 0,
        }
    }
}

impl<T> Timers<T> {
    /// Sets a timer.
    pub fn arm(&mut self, at: Mono, timer: T) -> TimerKey {
        self.count += 1;
        let key = (at, self.count);
        self.set.insert(key, timer);
        key
    }

    /// Takes a timer back, if it is still there.
    pub fn disarm(&mut self, key: Option<TimerKey>) {
        if let Some(key) = key {
            self.set.remove(&key);
        }
    }

    /// Takes all timers back.
    pub fn clear(&mut self) {
        self.set.clear();
    }

    /// Whether a timer is set.
    #[cfg(test)]
    pub fn is_set(&self, key: TimerKey) -> bool {
        self.set.contains_key(&key)
    }

    /// When the next timer goes off.
    pub fn next(&self) -> Option<Mono> {
        self.set.keys().next().map(|key| key.0)
    }

    /// A timer that has gone off.
    pub fn due(&mut self, now: Mono) -> Option<T> {
        let entry = self.set.first_entry()?;
        (entry.key().0 <= now).then(|| entry.remove())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_go_off_in_time_and_in_order() {
        let mut timers = Timers::default();
        timers.arm(Mono(20), "late");
        timers.arm(Mono(10), "first");
        timers.arm(Mono(10), "second");
        assert_eq!((timers.next(), timers.due(Mono(9))), (Some(Mono(10)), None));
        assert_eq!(timers.due(Mono(15)), Some("first"));
        assert_eq!(timers.due(Mono(15)), Some("second"));
        assert_eq!(
            (timers.due(Mono(15)), timers.next()),
            (None, Some(Mono(20)))
        );
    }

    #[test]
    fn what_is_taken_back_does_not_go_off() {
        let mut timers = Timers::default();
        let (a, b) = (timers.arm(Mono(1), 'a'), timers.arm(Mono(1), 'b'));
        timers.disarm(None);
        timers.disarm(Some(a));
        assert_eq!((timers.is_set(a), timers.is_set(b)), (false, true));
        assert_eq!(
            (timers.due(Mono(1)), timers.due(Mono(1))),
            (Some('b'), None)
        );
        timers.disarm(Some(b));
        timers.arm(Mono(2), 'c');
        timers.clear();
        assert_eq!(timers.next(), None);
    }
}
