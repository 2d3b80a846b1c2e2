//! Fetch sessions (KIP-227): a client sends its partitions once, then only what changes, and gets
//! only the partitions that have something new.
//!
//! Sessions belong to a shard. A client that comes back on another connection may meet another
//! shard, is told that its session is not known, and begins a new one, as after a restart.

use streamd_model::{ErrorCode, Map, Mono, Offset, TopicId};

/// Partitions that all sessions of a shard may hold together; more than that gets none.
const PARTITIONS_MAX: usize = 200_000;

/// How a session names its topics: before version 13 by name, then by id (KIP-516).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TopicKey {
    /// Empty when the client uses ids.
    pub name: String,
    /// Zero when the client uses names.
    pub id: TopicId,
}

/// A partition that a client fetches.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The topic.
    pub topic: TopicKey,
    /// The partition's index.
    pub index: i32,
    /// From where.
    pub offset: Offset,
    /// How many bytes at the most.
    pub bytes_max: i32,
    /// The leader epoch that the client knows, or -1.
    pub leader_epoch: i32,
    /// The epoch of its last batch, or -1.
    pub last_fetched_epoch: i32,
    /// What the client was told last: high watermark, last stable offset, log start.
    pub told: (Offset, Offset, Offset),
}

/// A client's partitions, in the order in which they are served.
#[derive(Debug, Default)]
pub struct Session {
    /// The epoch of the next request.
    epoch: i32,
    used: Mono,
    by_id: bool,
    partitions: Vec<Wanted>,
    places: Map<(TopicKey, i32), usize>,
}

impl Session {
    /// The partitions.
    pub fn partitions(&self) -> &[Wanted] {
        &self.partitions
    }

    /// The partitions, to note what the client was told.
    pub fn partitions_mut(&mut self) -> &mut [Wanted] {
        &mut self.partitions
    }

    fn put(&mut self, wanted: Wanted) {
        let key = (wanted.topic.clone(), wanted.index);
        match self.places.get(&key) {
            Some(&at) => {
                let told = self.partitions[at].told;
                self.partitions[at] = Wanted { told, ..wanted };
            }
            None => {
                self.places.insert(key, self.partitions.len());
                self.partitions.push(wanted);
            }
        }
    }

    fn remove(&mut self, key: &(TopicKey, i32)) {
        if let Some(at) = self.places.remove(key) {
            self.partitions.remove(at);
            for place in self.places.values_mut() {
                if *place > at {
                    *place -= 1;
                }
            }
        }
    }

    /// Puts the first `n` partitions to the end, so that the others get their turn.
    pub fn rotate(&mut self, n: usize) {
        let len = self.partitions.len();
        if n == 0 || n >= len {
            return;
        }
        self.partitions.rotate_left(n);
        for place in self.places.values_mut() {
            *place = (*place + len - n) % len;
        }
    }
}

/// The sessions of one shard.
pub struct Sessions {
    all: Map<i32, Session>,
    max: usize,
    partitions: usize,
}

/// What a request says of its session.
#[derive(Clone, Copy, Debug)]
pub struct SessionAsk {
    /// The session's id, 0 for none.
    pub id: i32,
    /// 0: begin one; -1: none, and end this one; else the next epoch of this one.
    pub epoch: i32,
    /// Whether topics are named by id.
    pub by_id: bool,
}

/// How a request is to be answered.
#[derive(Debug, PartialEq, Eq)]
pub enum Mode {
    /// All of the request's partitions, no session.
    Full,
    /// All partitions; the session has this id from now on.
    Began(i32),
    /// What has changed in this session.
    Incremental(i32),
}

impl Sessions {
    /// At most `max` sessions (`max.incremental.fetch.session.cache.slots`).
    pub fn new(max: usize) -> Sessions {
        Sessions {
            all: Map::default(),
            max,
            partitions: 0,
        }
    }

    /// Takes in a request: `wanted` and `forgotten` are what it lists, `random` draws an id.
    pub fn take(
        &mut self,
        ask: SessionAsk,
        wanted: &mut Vec<Wanted>,
        forgotten: &[(TopicKey, i32)],
        (now, random): (Mono, u64),
    ) -> Result<Mode, ErrorCode> {
        if ask.epoch <= 0 {
            self.remove(ask.id);
            if ask.epoch < 0 || wanted.is_empty() {
                return Ok(Mode::Full);
            }
            return Ok(self.begin(ask.by_id, wanted, (now, random)));
        }
        let session = self
            .all
            .get_mut(&ask.id)
            .ok_or(ErrorCode::FetchSessionIdNotFound)?;
        if session.epoch != ask.epoch {
            return Err(ErrorCode::InvalidFetchSessionEpoch);
        }
        if session.by_id != ask.by_id {
            return Err(ErrorCode::FetchSessionTopicIdError);
        }
        session.epoch = next_epoch(session.epoch);
        session.used = now;
        let before = session.partitions.len();
        for key in forgotten {
            session.remove(key);
        }
        for w in wanted.drain(..) {
            session.put(w);
        }
        let after = session.partitions.len();
        self.partitions = self.partitions + after - before;
        if self.partitions > PARTITIONS_MAX && after > before {
            self.remove(ask.id);
            return Err(ErrorCode::FetchSessionIdNotFound);
        }
        Ok(Mode::Incremental(ask.id))
    }

    fn begin(&mut self, by_id: bool, wanted: &[Wanted], (now, random): (Mono, u64)) -> Mode {
        if self.max == 0 || self.partitions + wanted.len() > PARTITIONS_MAX {
            return Mode::Full;
        }
        if self.all.len() >= self.max && !self.evict(now) {
            return Mode::Full;
        }
        let id = ((random & 0x7fff_ffff) as i32).max(1);
        if self.all.contains_key(&id) {
            return Mode::Full;
        }
        let mut session = Session {
            epoch: 1,
            used: now,
            by_id,
            ..Session::default()
        };
        for w in wanted {
            session.put(w.clone());
        }
        self.partitions += session.partitions.len();
        self.all.insert(id, session);
        Mode::Began(id)
    }

    /// Makes room by ending the session that was idle longest, if that is two minutes or more.
    fn evict(&mut self, now: Mono) -> bool {
        let oldest = self.all.iter().min_by_key(|(id, s)| (s.used, **id));
        let Some((&id, session)) = oldest else {
            return false;
        };
        if (now - session.used).as_secs() < 120 {
            return false;
        }
        self.remove(id);
        true
    }

    fn remove(&mut self, id: i32) {
        if let Some(session) = self.all.remove(&id) {
            self.partitions -= session.partitions.len();
        }
    }

    /// The session with this id.
    pub fn get_mut(&mut self, id: i32) -> Option<&mut Session> {
        self.all.get_mut(&id)
    }
}

fn next_epoch(epoch: i32) -> i32 {
    if epoch == i32::MAX { 1 } else { epoch + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(name: &str, index: i32) -> Wanted {
        Wanted {
            topic: TopicKey {
                name: name.into(),
                id: TopicId::ZERO,
            },
            index,
            offset: 0,
            bytes_max: 1,
            leader_epoch: -1,
            last_fetched_epoch: -1,
            told: (-1, -1, -1),
        }
    }

    fn ask(id: i32, epoch: i32) -> SessionAsk {
        SessionAsk {
            id,
            epoch,
            by_id: false,
        }
    }

    #[test]
    fn a_session_from_first_to_last() {
        let mut s = Sessions::new(2);
        let mut list = vec![wanted("a", 0), wanted("a", 1), wanted("b", 0)];
        let Mode::Began(id) = s.take(ask(0, 0), &mut list, &[], (Mono(0), 77)).unwrap() else {
            panic!("a session was asked for");
        };
        assert_eq!(
            s.take(ask(id, 2), &mut vec![], &[], (Mono(0), 0)),
            Err(ErrorCode::InvalidFetchSessionEpoch)
        );
        let gone = (wanted("a", 0).topic, 0);
        let mode = s.take(ask(id, 1), &mut vec![wanted("c", 5)], &[gone], (Mono(0), 0));
        assert_eq!(mode, Ok(Mode::Incremental(id)));
        let session = s.get_mut(id).unwrap();
        let names = |s: &Session| {
            s.partitions()
                .iter()
                .map(|w| (w.topic.name.clone(), w.index))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            names(session),
            [("a".into(), 1), ("b".into(), 0), ("c".into(), 5)]
        );
        session.rotate(1);
        assert_eq!(
            names(session),
            [("b".into(), 0), ("c".into(), 5), ("a".into(), 1)]
        );
        session.put(Wanted {
            offset: 9,
            ..wanted("a", 1)
        });
        assert_eq!(session.partitions()[2].offset, 9);
        assert_eq!(session.partitions().len(), 3);
        assert_eq!(
            s.take(ask(id, -1), &mut vec![], &[], (Mono(0), 0)),
            Ok(Mode::Full)
        );
        assert_eq!(
            s.take(ask(id, 2), &mut vec![], &[], (Mono(0), 0)),
            Err(ErrorCode::FetchSessionIdNotFound)
        );
        assert_eq!((s.all.len(), s.partitions), (0, 0));
    }

    #[test]
    fn a_full_cache_gives_no_session_until_one_is_old() {
        let mut s = Sessions::new(1);
        let minute = 60_000_000_000;
        let begin = |s: &mut Sessions, t: u64, r: u64| {
            s.take(ask(0, 0), &mut vec![wanted("a", 0)], &[], (Mono(t), r))
                .unwrap()
        };
        assert_eq!(begin(&mut s, 0, 5), Mode::Began(5));
        assert_eq!(begin(&mut s, minute, 6), Mode::Full);
        assert_eq!(begin(&mut s, 3 * minute, 7), Mode::Began(7));
        assert_eq!(s.all.len(), 1);
    }
}
