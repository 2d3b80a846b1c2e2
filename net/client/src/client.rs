//! A client: an address, and the connection to it that is open now.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use streamd_model::{ErrorCode, Offset, TopicId};
use streamd_wire::native::{Body, List, OfGroup, Partition, ToCommit};

use crate::error::{Error, Result};
use crate::link::{Frame, Link};
use crate::producer::Producer;
use crate::subscription::{Start, Subscription};

/// How long to wait before something is tried again.
const PAUSE: Duration = Duration::from_millis(50);

/// How a client behaves.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long something is tried before it fails, over any number of connections.
    pub patience: Duration,
    /// Bytes that a subscription takes before they were read: its credit.
    pub window: u64,
    /// Subscriptions show only what was committed: nothing of transactions that are open or were
    /// aborted.
    pub committed: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            patience: Duration::from_secs(30),
            window: 1 << 20,
            committed: false,
        }
    }
}

/// A topic, as the broker named it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its id: a topic that is made anew under the same name has another.
    pub id: TopicId,
    /// How many partitions it has.
    pub partitions: i32,
}

impl Topic {
    pub(crate) fn partition(&self, index: i32) -> Partition {
        Partition {
            topic: self.id,
            index,
            epoch: -1,
        }
    }
}

/// A client. Clones share its connection.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    address: String,
    options: Options,
    link: Mutex<Option<Arc<Link>>>,
}

impl Client {
    /// Connects to `HOST:PORT`, where a broker listens for the native protocol.
    ///
    /// # Errors
    /// There is none, or it does not want us.
    pub fn connect(address: &str) -> Result<Client> {
        Client::with(address, Options::default())
    }

    /// Connects, with options.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn with(address: &str, options: Options) -> Result<Client> {
        let link = Link::open(address, Instant::now() + options.patience)?;
        Ok(Client(Arc::new(Inner {
            address: address.to_owned(),
            options,
            link: Mutex::new(Some(link)),
        })))
    }

    /// How it behaves.
    pub fn options(&self) -> Options {
        self.0.options
    }

    /// Looks a topic up.
    ///
    /// # Errors
    /// There is no such topic: [`ErrorCode::UnknownTopicOrPartition`]; time is over.
    pub fn topic(&self, name: &str) -> Result<Topic> {
        let frame = self.ask(&Body::TopicOf(name))?;
        match frame.body()? {
            Body::Topic(topic) => Ok(Topic {
                id: topic.id,
                partitions: topic.partitions.iter().count() as i32,
            }),
            other => Err(Error::malformed(format!(
                "{other:?} to the name of a topic"
            ))),
        }
    }

    /// A producer with an id of its own.
    ///
    /// # Errors
    /// Time is over.
    pub fn producer(&self) -> Result<Producer> {
        let frame = self.ask(&Body::NewProducer)?;
        match frame.body()? {
            Body::Producer(id) => Ok(Producer::new(self.clone(), id)),
            other => Err(Error::malformed(format!("{other:?} for a producer"))),
        }
    }

    /// Subscribes to a partition.
    ///
    /// # Errors
    /// The offset or the partition is not there; time is over.
    pub fn subscribe(&self, topic: &Topic, partition: i32, from: Start) -> Result<Subscription> {
        Subscription::begin(self.clone(), topic.partition(partition), from)
    }

    /// Keeps for a group the offset to read next; durable when it returns.
    ///
    /// # Errors
    /// The broker refused it: the group has members, say; time is over.
    pub fn commit(&self, group: &str, topic: &Topic, partition: i32, next: Offset) -> Result<()> {
        let list = List::encode([ToCommit {
            partition: topic.partition(partition),
            offset: next,
            metadata: "",
        }]);
        let items = List::decode(&list).map_err(Error::malformed)?;
        let frame = self.ask(&Body::Commit(OfGroup { group, items }))?;
        let kept = match frame.body()? {
            Body::Kept(kept) => kept.iter().next(),
            other => return Err(Error::malformed(format!("{other:?} to a commit"))),
        };
        match kept {
            Some(kept) if kept.code == 0 => Ok(()),
            Some(kept) => Err(refused(kept.code)),
            None => Err(Error::malformed("an answer without the partition")),
        }
    }

    /// The offset that a group reads next, if it has one.
    ///
    /// # Errors
    /// The partition is not there; time is over.
    pub fn committed(&self, group: &str, topic: &Topic, partition: i32) -> Result<Option<Offset>> {
        let list = List::encode([topic.partition(partition)]);
        let items = List::decode(&list).map_err(Error::malformed)?;
        let frame = self.ask(&Body::OffsetsOf(OfGroup { group, items }))?;
        let found = match frame.body()? {
            Body::Offsets(found) => found.iter().next(),
            other => return Err(Error::malformed(format!("{other:?} for an offset"))),
        };
        match found {
            Some(one) if one.code != 0 => Err(refused(one.code)),
            Some(one) => Ok(Some(one.offset).filter(|offset| *offset >= 0)),
            None => Err(Error::malformed("an answer without the partition")),
        }
    }

    /// The connection that is open, or a new one; gives up at `until`.
    pub(crate) fn link(&self, until: Instant) -> Result<Arc<Link>> {
        let mut current = self.0.link.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(link) = current.as_ref().filter(|link| link.is_open()) {
            return Ok(link.clone());
        }
        loop {
            match Link::open(&self.0.address, until) {
                Ok(link) => {
                    *current = Some(link.clone());
                    return Ok(link);
                }
                Err(Error::Lost(_)) if Instant::now() + PAUSE < until => thread::sleep(PAUSE),
                Err(error) => return Err(error),
            }
        }
    }

    /// Asks what may be asked twice, over new connections if need be, until time is over.
    pub(crate) fn ask(&self, body: &Body<'_>) -> Result<Frame> {
        let until = Instant::now() + self.0.options.patience;
        loop {
            let answer = self.link(until)?.answer(0, body, until);
            match answer {
                Err(Error::Lost(_)) if Instant::now() + PAUSE < until => thread::sleep(PAUSE),
                Ok(frame) if passes(&frame) && Instant::now() + PAUSE < until => {
                    thread::sleep(PAUSE);
                }
                answer => return answer,
            }
        }
    }
}

/// Whether it is an error that goes away by itself.
fn passes(frame: &Frame) -> bool {
    let code = frame.body().err().and_then(|e| e.code());
    matches!(
        code,
        Some(
            ErrorCode::CoordinatorLoadInProgress
                | ErrorCode::CoordinatorNotAvailable
                | ErrorCode::NotCoordinator
        )
    )
}

fn refused(code: i16) -> Error {
    let text = ErrorCode::from_code(code).map_or("the broker refused it", ErrorCode::message);
    Error::Refused(code, text.to_owned())
}
