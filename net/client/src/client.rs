//! A client: what is asked of any node, or of the one that has a group.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use streamd_model::{ErrorCode, Offset, TopicId};
use streamd_wire::native::{Body, List, OfGroup, Partition, ToCommit};

use crate::error::{Error, Result};
use crate::nodes::{Key, Nodes, passes};
use crate::producer::Producer;
use crate::subscription::{Start, Subscription};

/// How long to wait before something is tried again.
const PAUSE: Duration = Duration::from_millis(50);
/// A node that does not answer for so long may be asleep, and another one have what it had.
const ATTEMPT: Duration = Duration::from_secs(10);

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

/// A client. Clones share its connections.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    nodes: Nodes,
    options: Options,
}

impl Client {
    /// Connects to `HOST:PORT`, where a broker listens for the native protocol; or to the first of
    /// several, with commas between them. Of a cluster one is enough: it knows the others.
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
        let nodes = Nodes::at(address);
        let client = Client(Arc::new(Inner { nodes, options }));
        client.try_for(|until| client.nodes().any(until))?;
        Ok(client)
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
        self.ask(&Body::TopicOf(name), |answer| match answer {
            Body::Topic(topic) => Ok(Topic {
                id: topic.id,
                partitions: topic.partitions.iter().count() as i32,
            }),
            other => Err(Error::malformed(format!(
                "{other:?} to the name of a topic"
            ))),
        })
    }

    /// A producer with an id of its own.
    ///
    /// # Errors
    /// Time is over.
    pub fn producer(&self) -> Result<Producer> {
        let id = self.ask(&Body::NewProducer, |answer| match answer {
            Body::Producer(id) => Ok(id),
            other => Err(Error::malformed(format!("{other:?} for a producer"))),
        })?;
        Ok(Producer::new(self.clone(), id))
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
        let ask = Body::Commit(OfGroup { group, items });
        self.ask_group(group, &ask, |answer| {
            let kept = match answer {
                Body::Kept(kept) => kept.iter().next(),
                other => return Err(Error::malformed(format!("{other:?} to a commit"))),
            };
            match kept {
                Some(kept) if kept.code == 0 => Ok(()),
                Some(kept) => Err(refused(kept.code)),
                None => Err(Error::malformed("an answer without the partition")),
            }
        })
    }

    /// The offset that a group reads next, if it has one.
    ///
    /// # Errors
    /// The partition is not there; time is over.
    pub fn committed(&self, group: &str, topic: &Topic, partition: i32) -> Result<Option<Offset>> {
        let list = List::encode([topic.partition(partition)]);
        let items = List::decode(&list).map_err(Error::malformed)?;
        let ask = Body::OffsetsOf(OfGroup { group, items });
        self.ask_group(group, &ask, |answer| {
            let found = match answer {
                Body::Offsets(found) => found.iter().next(),
                other => return Err(Error::malformed(format!("{other:?} for an offset"))),
            };
            match found {
                Some(one) if one.code != 0 => Err(refused(one.code)),
                Some(one) => Ok(Some(one.offset).filter(|offset| *offset >= 0)),
                None => Err(Error::malformed("an answer without the partition")),
            }
        })
    }

    /// The nodes.
    pub(crate) fn nodes(&self) -> &Nodes {
        &self.0.nodes
    }

    /// Asks any node what may be asked twice, until time is over; gives what `read` finds in the
    /// answer.
    fn ask<T>(&self, body: &Body<'_>, read: impl Fn(Body<'_>) -> Result<T>) -> Result<T> {
        self.try_for(|until| {
            let frame = self.0.nodes.any(until)?.answer(0, body, until)?;
            read(frame.body()?)
        })
    }

    /// Asks the coordinator of a group.
    fn ask_group<T>(
        &self,
        group: &str,
        body: &Body<'_>,
        read: impl Fn(Body<'_>) -> Result<T>,
    ) -> Result<T> {
        let key = Key::Group(group.to_owned());
        self.try_for(|until| {
            let frame = self.0.nodes.of(&key, until)?.answer(0, body, until);
            let done = frame.and_then(|frame| read(frame.body()?));
            if done.as_ref().is_err_and(passes) {
                self.0.nodes.forget(&key);
            }
            done
        })
    }

    /// Tries something until it is done, fails for good, or time is over; each attempt is told by
    /// when it is to give up.
    pub(crate) fn try_for<T>(&self, mut attempt: impl FnMut(Instant) -> Result<T>) -> Result<T> {
        let until = Instant::now() + self.0.options.patience;
        loop {
            match attempt(until.min(Instant::now() + ATTEMPT)) {
                Err(error) if passes(&error) && Instant::now() + PAUSE < until => {
                    thread::sleep(PAUSE);
                }
                done => return done,
            }
        }
    }
}

fn refused(code: i16) -> Error {
    let text = ErrorCode::from_code(code).map_or("the broker refused it", ErrorCode::message);
    Error::Refused(code, text.to_owned())
}
