//! A producer: what it appends is there once, however often it had to be sent.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use streamd_log::batch::Writer;
use streamd_model::{ErrorCode, Offset, TopicId};
use streamd_wire::native::{self, Append, Batch, Body, List};

use crate::client::{Client, Topic};
use crate::error::{Error, Result};
use crate::record::{Record, pack};

/// How long to wait before something is sent again.
const PAUSE: Duration = Duration::from_millis(50);

/// Appends to partitions. One frame is under way at a time; several producers of one client share
/// its connection.
pub struct Producer {
    client: Client,
    id: native::Producer,
    /// The next sequence number of each partition.
    sequences: BTreeMap<(TopicId, i32), i32>,
}

impl Producer {
    pub(crate) fn new(client: Client, id: native::Producer) -> Producer {
        Producer {
            client,
            id,
            sequences: BTreeMap::new(),
        }
    }

    /// Appends records to a partition as one batch, which is durable when this returns; gives the
    /// offset of the first.
    ///
    /// # Errors
    /// The broker refused it: then it is not there. [`Error::Lost`]: time is over, and it may be
    /// there or not; this producer must not append there any more.
    pub fn append(&mut self, topic: &Topic, partition: i32, records: &[Record]) -> Result<Offset> {
        let mut done = self.append_all(topic, &[(partition, records)])?;
        done.pop()
            .unwrap_or_else(|| Err(Error::malformed("an answer without the partition")))
    }

    /// Appends one batch to each of these partitions, which are different ones, in one frame.
    ///
    /// # Errors
    /// As [`Producer::append`]; inside, what became of each.
    pub fn append_all(
        &mut self,
        topic: &Topic,
        batches: &[(i32, &[Record])],
    ) -> Result<Vec<Result<Offset>>> {
        let packed: Vec<(i32, Vec<u8>)> = batches
            .iter()
            .map(|(partition, records)| {
                let writer = Writer {
                    id: self.id.id,
                    epoch: self.id.epoch,
                    sequence: self.next(topic, *partition),
                };
                (*partition, pack(records, writer))
            })
            .collect();
        let list = List::encode(packed.iter().map(|(partition, records)| Batch {
            partition: topic.partition(*partition),
            records,
        }));
        let done = self.send(&list, batches.len())?;
        for ((partition, records), outcome) in batches.iter().zip(&done) {
            if outcome.is_ok() {
                let next = self.next(topic, *partition);
                let next = next.wrapping_add(records.len() as i32) & i32::MAX;
                self.sequences.insert((topic.id, *partition), next);
            }
        }
        Ok(done)
    }

    fn next(&self, topic: &Topic, partition: i32) -> i32 {
        let next = self.sequences.get(&(topic.id, partition));
        next.copied().unwrap_or(0)
    }

    /// Sends batches until they are answered. Those that are there already get the same answer.
    fn send(&self, list: &[u8], count: usize) -> Result<Vec<Result<Offset>>> {
        let batches = List::decode(list).map_err(Error::malformed)?;
        let body = Body::Append(Append { acks: -1, batches });
        let until = Instant::now() + self.client.options().patience;
        loop {
            let late = Instant::now() + PAUSE >= until;
            let link = self.client.link(until)?;
            match link.answer(0, &body, until) {
                Ok(frame) => {
                    let done = outcomes(&frame.body()?, count)?;
                    let again = done.iter().any(passes);
                    if !again || late {
                        return Ok(done);
                    }
                }
                Err(Error::Lost(_)) if !late => {}
                Err(error) => return Err(error),
            }
            thread::sleep(PAUSE);
        }
    }
}

fn outcomes(body: &Body<'_>, count: usize) -> Result<Vec<Result<Offset>>> {
    let Body::Appended(list) = body else {
        return Err(Error::malformed(format!("{body:?} to an append")));
    };
    let done: Vec<_> = list
        .iter()
        .map(|one| match one.code {
            0 => Ok(one.base),
            code => Err(Error::Refused(code, one.text.to_owned())),
        })
        .collect();
    match done.len() == count {
        true => Ok(done),
        false => Err(Error::malformed("an answer to other batches")),
    }
}

/// Whether it may be there when it is sent again.
fn passes(done: &Result<Offset>) -> bool {
    let code = done.as_ref().err().and_then(Error::code);
    matches!(
        code,
        Some(ErrorCode::NotLeaderOrFollower | ErrorCode::RequestTimedOut)
    )
}
