//! Idempotent producers by hand: each knows of every batch whether it was acknowledged, and where.
//!
//! A batch that was sent and not answered stays in `pending`, and is sent again, with its sequence,
//! before anything newer: so a broker that forgets its producers in a crash doubles records here.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use streamd_tests::batch::{Batch, record};
use streamd_tests::wire::{Connection, produce_body, produced};

use streamd_tests::noise::Noise;

pub const PARTITIONS: usize = 4;
/// Requests in flight on one connection: as many as Kafka remembers batches of a producer.
const IN_FLIGHT_MAX: usize = 5;
/// Between two requests of a producer; bounds the load to some MB/s.
const PAUSE: Duration = Duration::from_millis(2);
/// Errors of a broker that has just come back: NOT_LEADER and the like.
const RETRIABLE: [i16; 5] = [3, 5, 6, 7, 14];

/// A batch as sent: records `first..first + count` of this producer in that partition.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    pub partition: usize,
    pub first: u64,
    pub count: u64,
}

/// A batch with the offset that it was acknowledged with.
#[derive(Clone, Copy, Debug)]
pub struct Acked {
    pub sent: Sent,
    pub base: i64,
}

pub struct Producer {
    pub number: u64,
    topic: String,
    id: (i64, i16),
    next: [u64; PARTITIONS],
    pending: VecDeque<Sent>,
    pub acked: Vec<Acked>,
    noise: Noise,
}

impl Producer {
    pub fn new(addr: &str, topic: &str, number: u64, seed: u64) -> Self {
        let id = Connection::open(addr)
            .init_producer()
            .expect("a producer id");
        Self {
            number,
            topic: topic.to_owned(),
            id,
            next: [0; PARTITIONS],
            pending: VecDeque::new(),
            acked: Vec::new(),
            noise: Noise::new(seed ^ number),
        }
    }

    /// Records that were acknowledged.
    pub fn acked(&self) -> u64 {
        self.acked.iter().map(|a| a.sent.count).sum()
    }

    /// Sends until `stop`; a lost connection ends it earlier, with what is open in `pending`.
    pub fn run(&mut self, addr: &str, stop: &AtomicBool) -> io::Result<()> {
        let mut connection = Connection::try_open(addr)?;
        self.resend(&mut connection)?;
        while !stop.load(Ordering::Relaxed) {
            while self.pending.len() >= IN_FLIGHT_MAX {
                self.receive(&mut connection)?;
            }
            let sent = self.make();
            self.pending.push_back(sent);
            self.send(&mut connection, sent)?;
            sleep(PAUSE);
        }
        self.drain(&mut connection)
    }

    /// Settles what is pending and sends nothing new.
    pub fn finish(&mut self, addr: &str) -> io::Result<()> {
        let mut connection = Connection::try_open(addr)?;
        self.resend(&mut connection)?;
        self.drain(&mut connection)
    }

    fn resend(&mut self, connection: &mut Connection) -> io::Result<()> {
        for i in 0..self.pending.len() {
            self.send(connection, self.pending[i])?;
        }
        Ok(())
    }

    fn drain(&mut self, connection: &mut Connection) -> io::Result<()> {
        while !self.pending.is_empty() {
            self.receive(connection)?;
        }
        Ok(())
    }

    fn make(&mut self) -> Sent {
        let partition = self.noise.below(PARTITIONS as u64) as usize;
        let count = 1 + self.noise.below(40);
        let first = self.next[partition];
        self.next[partition] += count;
        Sent {
            partition,
            first,
            count,
        }
    }

    fn send(&self, connection: &mut Connection, sent: Sent) -> io::Result<()> {
        let mut records = Vec::new();
        for i in 0..sent.count {
            let value = value(self.number, sent.partition, sent.first + i);
            record(&mut records, i as i64, None, &value);
        }
        let sequence = i32::try_from(sent.first).expect("fewer than 2 billion records");
        let batch = Batch {
            producer: Some((self.id.0, self.id.1, sequence)),
            records,
            count: sent.count as i32,
            ..Batch::of::<&str>(&[])
        };
        let body = produce_body(&self.topic, sent.partition as i32, &batch.encode());
        connection.send(0, 7, &body)
    }

    fn receive(&mut self, connection: &mut Connection) -> io::Result<()> {
        let (_, mut answer) = connection.receive()?;
        let got = produced(&mut answer);
        if RETRIABLE.contains(&got.error) {
            return Err(io::Error::other(format!("retriable error {}", got.error)));
        }
        let sent = self
            .pending
            .pop_front()
            .expect("an answer to a pending batch");
        assert_eq!(
            got.error, 0,
            "producer {}: {sent:?} was refused",
            self.number
        );
        self.acked.push(Acked {
            sent,
            base: got.base,
        });
        Ok(())
    }
}

/// The value that record `index` of a producer in a partition has: 24 bytes that say so, and noise.
pub fn value(producer: u64, partition: usize, index: u64) -> Vec<u8> {
    let mut out = Vec::new();
    for number in [producer, partition as u64, index] {
        out.extend(number.to_be_bytes());
    }
    let mut noise = Noise::new(producer << 48 ^ (partition as u64) << 40 ^ index);
    let length = noise.below(1000);
    out.extend((0..length).map(|_| noise.below(256) as u8));
    out
}
