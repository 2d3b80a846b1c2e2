//! What must hold, checked as it happens. A violation panics with its name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use streamd_core::meta::ClusterImage;
use streamd_model::{Epoch, NodeId, Offset, PartitionId};

use crate::disk::{LogDisk, Rec};

/// What is known to be true of one partition.
#[derive(Default)]
pub struct Truth {
    /// What is committed.
    pub log: Vec<Rec>,
    /// The latest leader epoch that committed something.
    pub epoch: Epoch,
    /// What producers were told.
    pub acked: BTreeMap<u64, Offset>,
    /// What was refused, and must never be seen.
    pub refused: BTreeSet<u64>,
    /// What a client was told last: leader epoch and high watermark.
    pub told: (Epoch, Offset),
    /// How far the consumer is.
    pub position: Offset,
    /// The last value of the producer that was read.
    pub last_read: u64,
}

#[derive(Default)]
pub struct Checker {
    pub truth: BTreeMap<PartitionId, Truth>,
    leaders: BTreeMap<(PartitionId, Epoch), NodeId>,
    terms: BTreeMap<u64, NodeId>,
    images: BTreeMap<u64, Vec<u8>>,
    /// The latest image that anybody has.
    pub latest: Option<Arc<ClusterImage>>,
    /// The latest version that an answer rests on.
    pub answered: u64,
    pub checks: u64,
}

impl Checker {
    pub fn of(&mut self, id: PartitionId) -> &mut Truth {
        self.truth.entry(id).or_default()
    }

    /// One leader a term (election safety; a vote counts once).
    pub fn raft_leads(&mut self, node: NodeId, term: u64) {
        let leader = *self.terms.entry(term).or_insert(node);
        assert_eq!(leader, node, "C1 raft: two leaders in term {term}");
        self.checks += 1;
    }

    /// The same log gives the same image everywhere (state machine safety).
    pub fn image(&mut self, image: &Arc<ClusterImage>) -> bool {
        let bytes = image.encode();
        let known = self
            .images
            .entry(image.version())
            .or_insert_with(|| bytes.clone());
        assert!(
            *known == bytes,
            "metadata: two images of version {}",
            image.version()
        );
        self.checks += 1;
        let newer = self
            .latest
            .as_ref()
            .is_none_or(|l| l.version() < image.version());
        let level = image.cluster().level();
        if let Some(low) = image.cluster().lacking(level).next() {
            let node = low.told.node.0;
            panic!("level: node {node} is registered, and does not know level {level}");
        }
        if newer {
            let before = self.latest.as_ref().map_or(1, |l| l.cluster().level());
            assert!(level >= before, "level: it fell from {before} to {level}");
            self.latest = Some(image.clone());
        }
        newer
    }

    /// A replica begins to lead.
    pub fn leads(&mut self, id: PartitionId, node: NodeId, epoch: Epoch, log: &[Rec]) {
        let leader = *self.leaders.entry((id, epoch)).or_insert(node);
        assert_eq!(
            leader, node,
            "C1: two leaders of {} in epoch {epoch}",
            id.index
        );
        let truth = self.of(id);
        if epoch >= truth.epoch {
            let have = log.get(..truth.log.len());
            assert!(
                have == Some(&truth.log[..]),
                "C2: node {} leads partition {} in epoch {epoch} with {} records, and {} are \
                 committed",
                node.0,
                id.index,
                log.len(),
                truth.log.len()
            );
        }
        self.checks += 1;
    }

    /// A node knows that this is committed.
    pub fn high(&mut self, id: PartitionId, node: NodeId, high: Offset, log: &[Rec]) {
        let truth = self.of(id);
        assert!(
            high as usize <= log.len(),
            "L2: high watermark {high} of {}",
            log.len()
        );
        let known = truth.log.len().min(high as usize);
        assert!(
            log[..known] == truth.log[..known],
            "I2: node {} has other records below {high} of partition {}",
            node.0,
            id.index
        );
        for rec in &log[known..high as usize] {
            assert!(
                !truth.refused.contains(&rec.value),
                "I3: a refused record is committed"
            );
            truth.log.push(*rec);
        }
        self.checks += 1;
    }

    /// A leader moved its high watermark: those who are in sync by the metadata have it all on
    /// their disks (C4, I1).
    pub fn leader_high(
        &mut self,
        id: PartitionId,
        (node, epoch): (NodeId, Epoch),
        high: Offset,
        disks: &BTreeMap<NodeId, BTreeMap<PartitionId, LogDisk>>,
    ) {
        let latest = self.latest.clone();
        let truth = self.of(id);
        truth.epoch = truth.epoch.max(epoch);
        let Some(meta) = latest.as_ref().and_then(|l| l.cluster().partition(id)) else {
            return;
        };
        if meta.leader_epoch != epoch {
            return;
        }
        for member in &meta.isr {
            let durable = disks
                .get(member)
                .and_then(|d| d.get(&id))
                .map(|d| &d.durable[..]);
            let durable = durable.unwrap_or(&[]);
            let have = durable.get(..high as usize);
            assert!(
                have == Some(&truth.log[..high as usize]),
                "C4: node {} says that {high} are committed, and node {} of the in-sync set has \
                 {} on its disk",
                node.0,
                member.0,
                durable.len()
            );
        }
        self.checks += 1;
    }

    /// A producer was told that its record is safe.
    pub fn acked(&mut self, id: PartitionId, value: u64, at: Offset) {
        let truth = self.of(id);
        let rec = truth.log.get(at as usize);
        assert!(
            rec.is_some_and(|r| r.value == value),
            "I1: acknowledged at {at} of partition {}, where {rec:?} is committed of {}",
            id.index,
            truth.log.len()
        );
        truth.acked.insert(value, at);
        self.checks += 1;
    }

    /// A client was told how far the log goes. It listens to the newest leader that it knows.
    pub fn told(&mut self, id: PartitionId, epoch: Epoch, high: Offset) {
        let truth = self.of(id);
        if epoch < truth.told.0 {
            return;
        }
        assert!(
            high >= truth.told.1,
            "C3: the high watermark of partition {} fell from {} to {high}",
            id.index,
            truth.told.1
        );
        truth.told = (epoch, high);
        self.checks += 1;
    }

    /// A consumer reads on, at any replica.
    pub fn read(&mut self, id: PartitionId, high: Offset, log: &[Rec]) {
        let truth = self.of(id);
        for at in truth.position..high {
            let rec = log[at as usize];
            assert_eq!(Some(&rec), truth.log.get(at as usize), "I5: read at {at}");
            assert!(
                rec.value > truth.last_read,
                "I4, I6: {} after {}",
                rec.value,
                truth.last_read
            );
            truth.last_read = rec.value;
            truth.position = at + 1;
        }
        self.checks += 1;
    }

    /// At the end: all that was acknowledged is on every replica, and they are the same.
    pub fn end(&self, disks: &BTreeMap<NodeId, BTreeMap<PartitionId, LogDisk>>) {
        let latest = self.latest.as_ref().expect("there is an image");
        for (id, truth) in &self.truth {
            let Some(meta) = latest.cluster().partition(*id) else {
                continue;
            };
            let mut seen = BTreeSet::new();
            for rec in &truth.log {
                assert!(seen.insert(rec.value), "I4: {} is there twice", rec.value);
            }
            for (value, at) in &truth.acked {
                assert_eq!(truth.log[*at as usize].value, *value, "I1: at {at}");
            }
            for node in &meta.replicas {
                let log = &disks[node][id].log;
                assert!(
                    log.get(..truth.log.len()) == Some(&truth.log[..]),
                    "I15: node {} has {} records of partition {}, committed are {}",
                    node.0,
                    log.len(),
                    id.index,
                    truth.log.len()
                );
            }
        }
    }
}
