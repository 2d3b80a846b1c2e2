//! The nodes of a cluster: connections to those that were needed, and who has what.
//!
//! Invariant: a place that is remembered may be wrong, so whoever finds it so has it forgotten and
//! asks again; any node knows. No lock is held while something is waited for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use streamd_model::{ErrorCode, TopicId};
use streamd_wire::native::{Body, Find, Partition};

use crate::error::{Error, Result};
use crate::link::Link;

/// A node that does not answer for so long is passed over while there are others.
const SLOW: Duration = Duration::from_secs(3);
/// More places than that are not remembered.
const PLACES_MAX: usize = 100_000;

/// What a node has.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// The lead of a partition.
    Partition(TopicId, i32),
    /// A group.
    Group(String),
}

/// The nodes that a client knows.
pub struct Nodes {
    seeds: Vec<String>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// By address.
    links: BTreeMap<String, Arc<Link>>,
    places: BTreeMap<Key, String>,
    /// Addresses that nodes told.
    told: BTreeSet<String>,
}

impl Nodes {
    /// Those that are reached by way of these addresses, `HOST:PORT`, with commas between them.
    pub fn at(addresses: &str) -> Nodes {
        let seeds = addresses.split(',').map(str::trim);
        Nodes {
            seeds: seeds.map(str::to_owned).collect(),
            known: Mutex::default(),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection to any node. Each that is known is tried once, until `until`.
    pub fn any(&self, until: Instant) -> Result<Arc<Link>> {
        let open = self.known().links.values().find(|l| l.is_open()).cloned();
        if let Some(link) = open {
            return Ok(link);
        }
        let told: Vec<String> = self.known().told.iter().cloned().collect();
        let others = told.iter().filter(|at| !self.seeds.contains(at));
        let mut lost = Error::Lost("there is no address to connect to".to_owned());
        for address in self.seeds.iter().chain(others) {
            match self.open(address, until) {
                Err(error @ Error::Lost(_)) => lost = error,
                done => return done,
            }
        }
        Err(lost)
    }

    /// A connection to the node that has this, as far as is known now; gives up at `until`.
    pub fn of(&self, key: &Key, until: Instant) -> Result<Arc<Link>> {
        let place = self.known().places.get(key).cloned();
        let found = match place {
            Some(address) => self.open(&address, until),
            None => self.find(key, until),
        };
        found.inspect_err(|_| self.forget(key))
    }

    /// The node that was thought to have it has not, or is gone.
    pub fn forget(&self, key: &Key) {
        self.known().places.remove(key);
    }

    /// Asks any node who has this.
    fn find(&self, key: &Key, until: Instant) -> Result<Arc<Link>> {
        let asked = self.any(until)?;
        let find = match key {
            Key::Partition(topic, index) => Find::Leader(Partition {
                topic: *topic,
                index: *index,
                epoch: -1,
            }),
            Key::Group(group) => Find::Coordinator(group),
        };
        let soon = until.min(Instant::now() + SLOW);
        let frame = asked.answer(0, &Body::Find(find), soon);
        // It is asleep, or the network is: others are asked then.
        let frame = frame.inspect_err(|error| asked.end(error.clone()))?;
        let place = match frame.body()? {
            Body::Place(place) => place,
            other => return Err(Error::malformed(format!("{other:?} to who has something"))),
        };
        // It may be reached in another way than it knows.
        let address = match place.node == asked.node() {
            true => asked.address().to_owned(),
            false => place.address.to_owned(),
        };
        let link = self.open(&address, until)?;
        let mut known = self.known();
        if known.places.len() >= PLACES_MAX {
            known.places.clear();
        }
        known.told.insert(address.clone());
        known.places.insert(key.clone(), address);
        Ok(link)
    }

    /// The connection to an address that is open, or a new one.
    fn open(&self, address: &str, until: Instant) -> Result<Arc<Link>> {
        let open = |known: &Known| {
            let link = known.links.get(address);
            link.filter(|link| link.is_open()).cloned()
        };
        if let Some(link) = open(&self.known()) {
            return Ok(link);
        }
        let link = Link::open(address, until.min(Instant::now() + SLOW))?;
        let mut known = self.known();
        // Somebody else may have been faster.
        if let Some(other) = open(&known) {
            return Ok(other);
        }
        known.links.retain(|_, link| link.is_open());
        known.links.insert(address.to_owned(), link.clone());
        Ok(link)
    }
}

/// Whether it may be otherwise a moment later, or at another node.
pub fn passes(error: &Error) -> bool {
    let code = match error {
        Error::Lost(_) => return true,
        Error::Malformed(_) => return false,
        Error::Refused(..) => error.code(),
    };
    matches!(
        code,
        Some(
            ErrorCode::LeaderNotAvailable
                | ErrorCode::NotLeaderOrFollower
                | ErrorCode::RequestTimedOut
                | ErrorCode::OffsetNotAvailable
                | ErrorCode::CoordinatorLoadInProgress
                | ErrorCode::CoordinatorNotAvailable
                | ErrorCode::NotCoordinator
                | ErrorCode::NotEnoughReplicas
                | ErrorCode::NotEnoughReplicasAfterAppend
        )
    )
}
