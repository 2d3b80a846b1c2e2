//! The state machines that partitions of internal topics keep: made, folded from the log at a
//! start, put into checkpoints.
//!
//! Invariant: a checkpoint's state together with the batches after it is what the machine was.

use std::sync::Arc;

use streamd_core::group::{self, GroupRecord, OFFSETS_TOPIC};
use streamd_core::machine::{Machine, Record};
use streamd_core::meta::ClusterImage;
use streamd_core::producer::ProducerState;
use streamd_core::share::{self, STATE_TOPIC, ShareRecord};
use streamd_core::txn::{self, TXN_TOPIC, TxnRecord};
use streamd_log::BatchHeader;
use streamd_log::batch::marker_commits;
use streamd_log::record_view::BatchView;

/// The most that a batch of an internal topic may inflate to, bytes.
const INFLATED_MAX: u64 = 256 << 20;

/// A state machine that has not begun to serve.
pub(crate) enum Keeper {
    Groups(group::Coordinator),
    Txns(txn::Coordinator),
    Shares(share::Coordinator),
}

/// One step of the fold of a log.
pub(crate) enum Fold {
    Group(GroupRecord),
    /// Part of a transaction of this producer.
    Pending(i64, GroupRecord),
    /// The end of a transaction of this producer: whether it commits.
    Marker(i64, bool),
    Txn(TxnRecord),
    Share(ShareRecord),
}

impl Keeper {
    /// The machine of a topic that has such.
    pub fn of(topic: &str, image: &Arc<ClusterImage>) -> Option<Keeper> {
        let config = image.broker();
        match topic {
            OFFSETS_TOPIC => {
                let limits = group::Limits::of(&config.groups);
                let mut coordinator = group::Coordinator::new(limits);
                coordinator.set_image(image.clone());
                Some(Keeper::Groups(coordinator))
            }
            TXN_TOPIC => {
                let limits = txn::Limits::of(&config.txns);
                Some(Keeper::Txns(txn::Coordinator::new(limits)))
            }
            STATE_TOPIC => Some(Keeper::Shares(share::Coordinator::new(image.clone()))),
            _ => None,
        }
    }

    /// It is about to serve: this is what the topics and the settings of groups are.
    pub fn set_image(&mut self, image: &Arc<ClusterImage>) {
        match self {
            Keeper::Groups(c) => c.set_image(image.clone()),
            Keeper::Shares(c) => c.set_image(image.clone()),
            Keeper::Txns(_) => {}
        }
    }

    /// Reads the records of a batch.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn read(&self, header: &BatchHeader, bytes: &[u8]) -> Result<Vec<Fold>, String> {
        if header.is_control() {
            let marker = marker_commits(bytes).map(|c| Fold::Marker(header.producer_id, c));
            return Ok(marker.into_iter().collect());
        }
        let batch = BatchView::new(bytes, INFLATED_MAX).map_err(|e| e.text)?;
        let mut found = Vec::new();
        for record in batch.records() {
            let record = record.map_err(|e| e.text)?;
            let Some(key) = record.key else { continue };
            let fold = match self {
                Keeper::Txns(_) => TxnRecord::decode(key, record.value)
                    .map_err(|e| e.to_string())?
                    .map(Fold::Txn),
                Keeper::Shares(_) => ShareRecord::decode(key, record.value)
                    .map_err(|e| e.to_string())?
                    .map(Fold::Share),
                Keeper::Groups(_) => GroupRecord::decode(key, record.value)
                    .map_err(|e| e.to_string())?
                    .map(|r| match header.is_transactional() {
                        true => Fold::Pending(header.producer_id, r),
                        false => Fold::Group(r),
                    }),
            };
            found.extend(fold);
        }
        Ok(found)
    }

    /// The state of the machine, for a checkpoint.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Keeper::Groups(c) => c.encode(),
            Keeper::Txns(c) => c.encode(),
            Keeper::Shares(c) => c.encode(),
        }
    }

    fn decode(&mut self, state: &[u8]) -> Result<(), String> {
        let decoded = match self {
            Keeper::Groups(c) => c.decode(state),
            Keeper::Txns(c) => c.decode(state),
            Keeper::Shares(c) => c.decode(state),
        };
        decoded.map_err(|e| e.to_string())
    }

    /// The machine of a topic that has such, with a state that such a machine has encoded.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn with(
        topic: &str,
        image: &Arc<ClusterImage>,
        state: &[u8],
    ) -> Result<Option<Keeper>, String> {
        let mut keeper = Keeper::of(topic, image);
        if let Some(keeper) = &mut keeper {
            keeper.decode(state)?;
        }
        Ok(keeper)
    }

    /// Folds in what was read of a batch that was appended.
    pub fn step(&mut self, fold: &Fold) {
        match (self, fold) {
            (Keeper::Groups(c), Fold::Group(r)) => c.replay(r),
            (Keeper::Groups(c), Fold::Pending(id, r)) => c.replay_txn(*id, r),
            (Keeper::Groups(c), Fold::Marker(id, commit)) => c.replay_marker(*id, *commit),
            (Keeper::Txns(c), Fold::Txn(r)) => c.replay(r),
            (Keeper::Shares(c), Fold::Share(r)) => c.replay(r),
            // Nothing else is read of such a topic.
            (Keeper::Groups(_) | Keeper::Txns(_) | Keeper::Shares(_), _) => {}
        }
    }

    /// Brings the machine to the end of its log: the checkpoint's state, then what came after it.
    /// Gives the part of the state that is about producers.
    pub fn fold<'a>(&mut self, state: &'a [u8], records: &[Fold]) -> Result<&'a [u8], String> {
        let mut producers = state;
        if !state.is_empty() {
            let (first, second) = split_state(state).ok_or("the checkpoint's state is cut")?;
            self.decode(second)?;
            producers = first;
        }
        for record in records {
            self.step(record);
        }
        Ok(producers)
    }
}

/// Whether the partitions of a topic keep a machine.
pub(crate) fn is_kept(topic: &str) -> bool {
    [OFFSETS_TOPIC, TXN_TOPIC, STATE_TOPIC].contains(&topic)
}

/// The state of a partition of an internal topic in a checkpoint: that of its producers behind its
/// length, then that of its machine.
pub(crate) fn join_state(producers: &ProducerState, machine: &[u8]) -> Vec<u8> {
    let producers = producers.encode();
    let mut state = (producers.len() as u64).to_le_bytes().to_vec();
    state.extend_from_slice(&producers);
    state.extend_from_slice(machine);
    state
}

/// Takes apart what [`join_state`] made.
fn split_state(state: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = state.split_first_chunk::<8>()?;
    rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)
}
