//! A subscription: records as the broker pushes them, under credit, over any number of
//! connections.
//!
//! Invariants: records come in the order of their offsets, each once; credit is given for a frame
//! when all its records were handed out.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use streamd_log::BatchHeader;
use streamd_log::batch::{crc_matches, marker_commits};
use streamd_log::compress::INFLATED_MAX;
use streamd_log::record_view::BatchView;
use streamd_model::Offset;
use streamd_wire::native::{Body, Credit, Data, EARLIEST, LATEST, Partition, Subscribe};

use crate::client::Client;
use crate::error::{Error, Result};
use crate::link::{Frame, Link};
use crate::nodes::{Key, passes};
use crate::record::Record;

/// Credit for little is given when nothing else has come for so long.
const CREDIT_AFTER: Duration = Duration::from_millis(20);

/// Where a subscription begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the first record that there is.
    Earliest,
    /// With what is written from now on.
    Latest,
    /// At an offset.
    At(Offset),
}

/// Records of a partition.
pub struct Subscription {
    client: Client,
    partition: Partition,
    /// The offset to ask for next.
    at: Offset,
    stream: Stream,
    /// Bytes of records that came on this stream.
    came: u64,
    /// How many of them the broker was told of.
    told: u64,
    ready: VecDeque<Record>,
}

/// A stream of one connection.
struct Stream {
    link: Arc<Link>,
    number: u32,
    frames: Receiver<Frame>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.link.forget_stream(self.number);
    }
}

impl Subscription {
    pub(crate) fn begin(client: Client, partition: Partition, from: Start) -> Result<Self> {
        let at = match from {
            Start::Earliest => EARLIEST,
            Start::Latest => LATEST,
            Start::At(offset) => offset,
        };
        let (stream, at) = open(&client, partition, at)?;
        Ok(Subscription {
            client,
            partition,
            at,
            stream,
            came: 0,
            told: 0,
            ready: VecDeque::new(),
        })
    }

    /// The offset behind the last record that was handed out: where another one would go on.
    pub fn position(&self) -> Offset {
        self.ready.front().map_or(self.at, |next| next.offset)
    }

    /// The next record; waits for it.
    ///
    /// # Errors
    /// The topic is gone, the offset is not there any more, or the broker for too long.
    pub fn next_record(&mut self) -> Result<Record> {
        loop {
            if let Some(record) = self.poll(Duration::from_secs(3600))? {
                return Ok(record);
            }
        }
    }

    /// The next record, if it comes in this time.
    ///
    /// # Errors
    /// As [`Subscription::next_record`].
    pub fn poll(&mut self, wait: Duration) -> Result<Option<Record>> {
        let until = Instant::now() + wait;
        loop {
            if let Some(record) = self.ready.pop_front() {
                return Ok(Some(record));
            }
            if self.came - self.told >= self.client.options().window / 4 {
                self.give_credit();
            }
            let mut left = until.saturating_duration_since(Instant::now());
            if self.came > self.told {
                left = left.min(CREDIT_AFTER);
            }
            match self.stream.frames.recv_timeout(left) {
                Ok(frame) => match frame.body() {
                    Ok(Body::Data(data)) => self.take(&data)?,
                    Ok(other) => return Err(Error::malformed(format!("{other:?} on a stream"))),
                    // The lead went elsewhere.
                    Err(error) if passes(&error) => self.resume()?,
                    Err(error) => return Err(error),
                },
                // What waits may be larger than the credit that is left.
                Err(RecvTimeoutError::Timeout) if self.came > self.told => self.give_credit(),
                Err(RecvTimeoutError::Timeout) => return Ok(None),
                Err(RecvTimeoutError::Disconnected) => self.resume()?,
            }
        }
    }

    /// All that came was handed out: the broker may send as much again.
    fn give_credit(&mut self) {
        let body = Body::Credit(Credit { taken: self.came });
        // A connection that broke is found out by who reads.
        let _ = self.stream.link.send((self.stream.number, 0), &body);
        self.told = self.came;
    }

    /// Goes on over a new stream, from whoever leads now.
    fn resume(&mut self) -> Result<()> {
        let key = Key::Partition(self.partition.topic, self.partition.index);
        self.client.nodes().forget(&key);
        (self.stream, self.at) = open(&self.client, self.partition, self.at)?;
        (self.came, self.told) = (0, 0);
        Ok(())
    }

    fn take(&mut self, data: &Data<'_>) -> Result<()> {
        let mut rest = data.records;
        self.came += rest.len() as u64;
        let mut aborted: Vec<_> = data.aborted.iter().collect();
        aborted.sort_unstable_by_key(|a| std::cmp::Reverse(a.first));
        let mut off = BTreeSet::new();
        while !rest.is_empty() {
            let header = BatchHeader::parse(rest).map_err(Error::malformed)?;
            let Some((batch, behind)) = rest.split_at_checked(header.size) else {
                return Err(Error::malformed("a batch that is cut"));
            };
            rest = behind;
            if !crc_matches(batch) {
                let text = format!("the CRC of the batch at offset {}", header.base_offset);
                return Err(Error::malformed(text));
            }
            while let Some(one) = aborted.pop_if(|a| a.first <= header.last_offset()) {
                off.insert(one.producer);
            }
            if header.is_control() {
                if marker_commits(batch) == Some(false) {
                    off.remove(&header.producer_id);
                }
            } else if !(header.is_transactional() && off.contains(&header.producer_id)) {
                self.unpack(batch)?;
            }
            self.at = self.at.max(header.next_offset());
        }
        Ok(())
    }

    fn unpack(&mut self, batch: &[u8]) -> Result<()> {
        let view = BatchView::new(batch, INFLATED_MAX).map_err(Error::malformed)?;
        for record in view.records() {
            let record = record.map_err(Error::malformed)?;
            // The first batch may begin before what was asked for.
            if record.offset >= self.at {
                self.ready.push_back(Record {
                    offset: record.offset,
                    timestamp: record.timestamp,
                    key: record.key.map(<[u8]>::to_vec),
                    value: record.value.map(<[u8]>::to_vec),
                });
            }
        }
        Ok(())
    }
}

impl Iterator for Subscription {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.next_record())
    }
}

/// Opens a stream from the leader; gives the offset that it begins with.
fn open(client: &Client, partition: Partition, from: Offset) -> Result<(Stream, Offset)> {
    let options = client.options();
    let key = Key::Partition(partition.topic, partition.index);
    client.try_for(|until| {
        let link = client.nodes().of(&key, until)?;
        let (number, frames) = link.new_stream();
        let stream = Stream {
            link,
            number,
            frames,
        };
        let ask = Subscribe {
            partition,
            session: (0, 0),
            from,
            last_epoch: -1,
            durable: -1,
            credit: options.window.max(1),
            committed: options.committed,
        };
        let answer = stream.link.answer(number, &Body::Subscribe(ask), until);
        let begun = answer.and_then(|frame| match frame.body()? {
            Body::Subscribed(begun) => Ok(begun.from),
            other => Err(Error::malformed(format!("{other:?} to a subscription"))),
        });
        if begun.as_ref().is_err_and(passes) {
            client.nodes().forget(&key);
        }
        Ok((stream, begun?))
    })
}
