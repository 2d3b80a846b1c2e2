//! A producer: what it appends is there once, however often it had to be sent.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use streamd_log::batch::Writer;
use streamd_model::{Offset, TopicId};
use streamd_wire::native::{self, Append, Batch, Body, List};

use crate::client::{Client, Topic};
use crate::error::{Error, Result};
use crate::link::Link;
use crate::nodes::{Key, passes};
use crate::record::{Record, pack};

/// Appends to partitions. One frame to each node is under way at a time; several producers of one
/// client share its connections.
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
        let done = self.send(topic, &packed)?;
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

    /// Sends batches, each to its leader, until they are answered. Those that are there already
    /// get the same answer.
    fn send(&self, topic: &Topic, packed: &[(i32, Vec<u8>)]) -> Result<Vec<Result<Offset>>> {
        let mut done: Vec<Option<Result<Offset>>> = vec![None; packed.len()];
        let sent = self.client.try_for(|until| {
            let unsure = |one: &Option<Result<Offset>>| match one {
                None => true,
                Some(one) => one.as_ref().is_err_and(passes),
            };
            let left = (0..packed.len()).filter(|n| unsure(&done[*n]));
            for (n, outcome) in self.round(topic, packed, left.collect(), until) {
                if outcome.as_ref().is_err_and(passes) {
                    let key = Key::Partition(topic.id, packed[n].0);
                    self.client.nodes().forget(&key);
                }
                done[n] = Some(outcome);
            }
            let mut trouble = done.iter().flatten().filter_map(|one| one.as_ref().err());
            match trouble.find(|error| passes(error)) {
                Some(error) => Err(error.clone()),
                None => Ok(()),
            }
        });
        let done: Vec<_> = done.into_iter().flatten().collect();
        match sent {
            Err(error) if done.len() < packed.len() => Err(error),
            // Of those that failed it is said which did.
            _ => Ok(done),
        }
    }

    /// Sends these batches once: one frame to each of their leaders, then all are waited for.
    fn round(
        &self,
        topic: &Topic,
        packed: &[(i32, Vec<u8>)],
        left: Vec<usize>,
        until: Instant,
    ) -> Vec<(usize, Result<Offset>)> {
        let mut done = Vec::with_capacity(left.len());
        let mut frames: Vec<(Arc<Link>, Vec<usize>)> = Vec::new();
        for n in left {
            let key = Key::Partition(topic.id, packed[n].0);
            match self.client.nodes().of(&key, until) {
                Ok(link) => match frames.iter_mut().find(|f| Arc::ptr_eq(&f.0, &link)) {
                    Some(frame) => frame.1.push(n),
                    None => frames.push((link, vec![n])),
                },
                Err(error) => done.push((n, Err(error))),
            }
        }
        let asked: Vec<_> = frames
            .into_iter()
            .map(|(link, batches)| {
                let list = List::encode(batches.iter().map(|n| Batch {
                    partition: topic.partition(packed[*n].0),
                    records: &packed[*n].1,
                }));
                let asked = List::decode(&list).map_err(Error::malformed);
                let asked = asked.and_then(|batches| {
                    let append = Append { acks: -1, batches };
                    link.ask(0, &Body::Append(append))
                });
                (link, batches, asked)
            })
            .collect();
        for (link, batches, asked) in asked {
            let answer = asked.and_then(|asked| link.wait(&asked, until));
            let answer = answer.and_then(|frame| outcomes(&frame.body()?, batches.len()));
            match answer {
                Ok(outcomes) => done.extend(batches.into_iter().zip(outcomes)),
                Err(error) => done.extend(batches.into_iter().map(|n| (n, Err(error.clone())))),
            }
        }
        done
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
