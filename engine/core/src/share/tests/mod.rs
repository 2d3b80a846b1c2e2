//! Tests of share-partitions.

mod cases;
mod sim;

use std::sync::Arc;

use streamd_model::{Mono, NodeId, Offset, TopicId};

use super::*;
use crate::config::Configs;
use crate::machine::{Machine, Now, Record, Token};
use crate::meta::{ClusterImage, Command, ConfigChange, Local};

const TOPIC: TopicId = TopicId([7; 16]);

fn key() -> Key {
    Key {
        group: "g".into(),
        topic: TOPIC,
        partition: 0,
    }
}

/// Metadata with the topic, and these settings of the group.
fn image(settings: &[(&str, &str)]) -> Arc<ClusterImage> {
    let file = [
        ("group.share.min.partition.max.record.locks", "1"),
        (
            "share.coordinator.snapshot.update.records.per.snapshot",
            "3",
        ),
    ];
    let mut image = ClusterImage::new(Local {
        node: NodeId(1),
        configs: file.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
    });
    image.apply(&Command::CreateTopic {
        name: "t".to_owned(),
        id: TOPIC,
        partitions: 1,
        configs: Configs::new(),
        created_ms: 0,
    });
    let change = |(name, value): &(&str, &str)| ConfigChange {
        name: (*name).to_owned(),
        value: Some((*value).to_owned()),
    };
    image.apply(&Command::AlterGroup {
        group: "g".to_owned(),
        changes: settings.iter().map(change).collect(),
    });
    Arc::new(image)
}

/// A coordinator with a log that is durable at once, unless told otherwise.
struct Bench {
    c: Coordinator,
    now: Now,
    log: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// Ends of batches in the log: their numbers and how many records there are up to them.
    batches: Vec<(u64, usize)>,
    replies: Vec<(Token, Reply)>,
    orders: Vec<Bury>,
    /// What may be pruned: up to where, and when so much is durable.
    prunes: Vec<(usize, usize)>,
    /// Where the log begins since it was pruned.
    base: usize,
    tokens: u64,
    hold: bool,
}

impl Bench {
    fn new(settings: &[(&str, &str)]) -> Bench {
        let mut bench = Bench {
            c: Coordinator::new(image(settings)),
            now: Now {
                mono: Mono(1_000_000_000),
                wall_ms: 1_700_000_000_000,
            },
            log: Vec::new(),
            batches: Vec::new(),
            replies: Vec::new(),
            orders: Vec::new(),
            prunes: Vec::new(),
            base: 0,
            tokens: 0,
            hold: false,
        };
        bench.restart(image(settings), 0);
        bench
    }

    /// Begins anew with the first records of the log.
    fn restart(&mut self, image: Arc<ClusterImage>, keep: usize) {
        self.log.truncate(keep);
        self.batches.clear();
        self.prunes.clear();
        self.c = Coordinator::new(image);
        self.c.patience = 3;
        for (k, v) in &self.log[self.base..] {
            let record = ShareRecord::decode(k, v.as_deref()).expect("a record");
            self.c.replay(&record.expect("of a known kind"));
        }
        let effects = self.c.start(self.now);
        self.carry(effects);
    }

    fn carry(&mut self, effects: Effects) {
        self.replies.extend(effects.replies);
        if let Some(batch) = effects.persist {
            self.log
                .extend(batch.records.iter().map(|r| (r.key(), r.value())));
            self.batches.push((batch.seq, self.log.len()));
        }
        self.order(effects.orders);
        if !self.hold {
            self.persist(usize::MAX);
        }
    }

    fn order(&mut self, orders: Vec<Order>) {
        for order in orders {
            match order {
                Order::Bury(bury) => self.orders.push(bury),
                Order::Prune(count) => {
                    let end = self.log.len();
                    self.prunes.push((end - count, end));
                }
            }
        }
    }

    /// The first `n` batches that are on the way are durable.
    fn persist(&mut self, n: usize) {
        let n = n.min(self.batches.len());
        for (seq, end) in self.batches.drain(..n).collect::<Vec<_>>() {
            let due = self.prunes.iter().filter(|p| p.1 <= end);
            self.base = due.map(|p| p.0).max().unwrap_or(0).max(self.base);
            let effects = self.c.persisted(seq);
            assert!(effects.persist.is_none(), "a write that begets a write");
            self.replies.extend(effects.replies);
            self.order(effects.orders);
        }
    }

    fn begin(&mut self, ask: Ask) -> Token {
        self.tokens += 1;
        let token = Token(self.tokens);
        let request = Request { key: key(), ask };
        let effects = self.c.handle(self.now, "g", token, request);
        self.carry(effects);
        token
    }

    fn answer(&mut self, token: Token) -> Option<Reply> {
        let at = self.replies.iter().position(|r| r.0 == token)?;
        Some(self.replies.remove(at).1)
    }

    fn ask(&mut self, ask: Ask) -> Reply {
        let token = self.begin(ask);
        self.answer(token).expect("an answer")
    }

    /// Time passes.
    fn pass(&mut self, ms: u64) {
        self.now.mono = Mono(self.now.mono.0 + ms * 1_000_000);
        self.now.wall_ms += ms as i64;
        while self.c.next_tick().is_some_and(|at| at <= self.now.mono) {
            let effects = self.c.tick(self.now);
            self.carry(effects);
        }
    }

    fn acquire(&mut self, member: &str, read: &[(Offset, Offset)], max: i64) -> Vec<Acquired> {
        let read = read.iter().map(|&(first, last)| ReadBatch {
            first,
            last,
            skip: false,
        });
        let wanted = Acquire {
            member: member.into(),
            read: read.collect(),
            records_max: max,
            strict: false,
            log_start: 0,
        };
        match self.ask(Ask::Acquire(wanted)) {
            Reply::Acquired(got) => got,
            other => panic!("{other:?}"),
        }
    }

    fn ack(&mut self, member: &str, first: Offset, last: Offset, kind: Ack) -> Reply {
        let batch = AckBatch {
            first,
            last,
            kinds: vec![kind],
        };
        self.ask(Ask::Acknowledge(member.into(), vec![batch]))
    }

    fn start(&mut self) -> Offset {
        match self.ask(Ask::Summary) {
            Reply::Summary(Some(s)) => s.start,
            other => panic!("{other:?}"),
        }
    }
}
