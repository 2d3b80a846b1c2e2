//! A member of the quorum: inputs in, [`Output`]s out.

use std::collections::{BTreeMap, VecDeque};

use ::raft::eraftpb::{
    ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState, Entry, EntryType, Message,
    MessageType, Snapshot,
};
use ::raft::{
    Config, INVALID_ID, ProgressState, RawNode, ReadOnlyOption, Ready, SnapshotStatus, StateRole,
};
use streamd_model::NodeId;

use super::codec::{self, node_id, raft_id};
use super::record::{Record, bootstrap};
use super::store::Store;

/// The most bytes of one message with entries.
const APPEND_BYTES_MAX: u64 = 1 << 20;
/// The most bytes of proposals that are under way.
const UNCOMMITTED_BYTES_MAX: u64 = 64 << 20;
/// The most bytes of committed entries that are applied at one go.
const APPLY_BYTES_MAX: u64 = 16 << 20;
/// Entries that stay behind a snapshot, so that who lags a little needs none.
const KEEP_ENTRIES: u64 = 1_000;

/// A snapshot that did not arrive within so many times the least time until an election is sent
/// again: the library would wait for it for ever.
const SNAPSHOT_ELECTIONS: usize = 4;

/// Ticks from when it is certain that the leader is gone until the first of the others stands for
/// election, and then until the next one does. By then the others know it too: they refuse their
/// votes as long as they take the leader for alive.
const LOST_TICKS: (usize, usize) = (2, 4);

/// What a member is started with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// This node.
    pub node: NodeId,
    /// What election timeouts are derived from, beside the node and the term.
    pub seed: u64,
    /// Ticks without a leader until an election, at least; at most twice as many.
    pub election_ticks: usize,
    /// Ticks between heartbeats.
    pub heartbeat_ticks: usize,
}

/// Who belongs to the quorum.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Members {
    /// They vote.
    pub voters: Vec<NodeId>,
    /// They get the log.
    pub learners: Vec<NodeId>,
    /// A change is half done: the old voters have to agree too.
    pub joint: bool,
}

/// A change of the members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Gets the log, does not vote.
    Learner(NodeId),
    /// Votes.
    Voter(NodeId),
    /// Belongs to it no more.
    Remove(NodeId),
}

/// What a member is at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Role {
    /// The term.
    pub term: u64,
    /// The leader of the term, if it is known.
    pub leader: Option<NodeId>,
    /// Whether it is this node.
    pub leads: bool,
}

/// What the driver has to do, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Send this to a node. It may be lost.
    Send {
        /// To whom.
        to: NodeId,
        /// A message of this quorum.
        bytes: Vec<u8>,
    },
    /// Append this record to the quorum's log, in order, then call [`Quorum::persisted`].
    Persist {
        /// What to call it with.
        number: u64,
        /// The record.
        record: Vec<u8>,
        /// Once it is durable the records before it are not needed any more.
        anew: bool,
    },
    /// A proposal is committed. Each index comes once, in order, from behind the last snapshot.
    Apply {
        /// Its index.
        index: u64,
        /// The term in which it was proposed.
        term: u64,
        /// What was proposed; empty where a leader's term begins.
        data: Vec<u8>,
    },
    /// The state at an index replaces what was applied.
    Restore {
        /// The index.
        index: u64,
        /// What [`Quorum::compact`] was given there.
        data: Vec<u8>,
    },
    /// A read may be answered once `index` is applied.
    Read {
        /// What [`Quorum::read`] was given.
        token: u64,
        /// The index.
        index: u64,
    },
    /// Call [`Quorum::compact`] with the state as of now: somebody needs a snapshot of it.
    Compact,
    /// The members changed.
    Members(Members),
    /// The role changed.
    Role(Role),
    /// This node must not go on: it lacks what it had acknowledged.
    Broken(String),
}

/// Why a proposal was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotTaken {
    /// This node does not lead; perhaps that one does.
    NotLeader(Option<NodeId>),
    /// Too much is under way, or leadership is going over: later.
    Busy,
    /// The change makes no sense: why.
    Refused(String),
}

/// A member of the quorum.
pub struct Quorum {
    raw: RawNode<Store>,
    options: Options,
    /// Numbers that are being persisted, and what goes out then. `true`: it needs a write.
    writing: VecDeque<(u64, bool, Vec<Message>)>,
    out: Vec<Output>,
    role: Role,
    conf: ConfState,
    applied: u64,
    broken: bool,
    /// A snapshot that is not durable yet, and its number: it is applied when it is.
    arriving: Option<(u64, Snapshot)>,
    /// Bytes of the record that the log began anew with,
    base: u64,
    /// and of all records since, that one among them.
    bytes: u64,
    anew: bool,
    /// Members that a snapshot is on its way to, and the ticks since.
    sending: BTreeMap<u64, usize>,
    /// Ticks until this member stands for election, because the leader is gone.
    stands: Option<usize>,
}

impl Quorum {
    /// The first record of a new quorum with these voters. `data` is the state that it begins with.
    pub fn bootstrap(voters: &[NodeId], data: Vec<u8>) -> Vec<u8> {
        let voters: Vec<u64> = voters.iter().map(|n| raft_id(*n)).collect();
        bootstrap(&voters, data)
    }

    /// Opens a member with the records that it has, oldest first. Without any it waits until a
    /// leader sends it a snapshot. Outputs begin with the state of the last snapshot; the only
    /// voter of a quorum has all of its log applied at once.
    ///
    /// # Errors
    /// A sentence, if the records are not those that a member wrote.
    pub fn open<'a>(
        options: Options,
        records: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Quorum, String> {
        let mut store = Store::default();
        let (mut base, mut bytes) = (0, 0);
        for record in records {
            let len = record.len() as u64;
            let record = Record::decode(record).map_err(|e| e.to_string())?;
            if record.snapshot.is_some() {
                (base, bytes) = (len, 0);
            }
            bytes += len;
            store.replay(record)?;
        }
        store.commit_alone(raft_id(options.node));
        let snapshot = store.snapshot_now().clone();
        let applied = snapshot.get_metadata().index;
        if applied == 0 && store.last() > 0 {
            return Err("the log of the quorum begins without a snapshot".to_owned());
        }
        let config = Config {
            id: raft_id(options.node),
            election_tick: options.election_ticks,
            heartbeat_tick: options.heartbeat_ticks,
            applied,
            max_size_per_msg: APPEND_BYTES_MAX,
            max_inflight_msgs: 256,
            check_quorum: true,
            pre_vote: true,
            read_only_option: ReadOnlyOption::Safe,
            max_uncommitted_size: UNCOMMITTED_BYTES_MAX,
            max_committed_size_per_ready: APPLY_BYTES_MAX,
            ..Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raw = RawNode::new(&config, store, &logger).map_err(|e| e.to_string())?;
        let mut quorum = Quorum {
            raw,
            options,
            writing: VecDeque::new(),
            out: Vec::new(),
            role: Role::default(),
            conf: snapshot.get_metadata().get_conf_state().clone(),
            applied,
            broken: false,
            arriving: None,
            base,
            bytes,
            anew: false,
            sending: BTreeMap::new(),
            stands: None,
        };
        if applied > 0 {
            quorum.restored(&snapshot);
        }
        quorum.settle();
        Ok(quorum)
    }

    /// What is to be done now. Call it after every input.
    pub fn outputs(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.out)
    }

    /// What this member is.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Who belongs to the quorum, as far as it was applied.
    pub fn members(&self) -> Members {
        members(&self.conf)
    }

    /// The last index that came out.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// Whether a start would have to read much more than what the log began anew with: more than
    /// `more` bytes, and more than that itself. Time for [`Quorum::compact`].
    pub fn is_long(&self, more: u64) -> bool {
        !self.anew && self.bytes - self.base > more.max(self.base)
    }

    /// One record with all that is here, durable or not: the log may go on behind it.
    pub fn whole(&self) -> Vec<u8> {
        self.raw.store().checkpoint().encode()
    }

    /// How far the log of each other member is durable there, for a leader.
    pub fn progress(&self) -> Vec<(NodeId, u64)> {
        let progress = self.raw.raft.prs().iter();
        let mut all: Vec<_> = progress.map(|(id, p)| (node_id(*id), p.matched)).collect();
        all.sort_unstable();
        all
    }

    /// A tick of the clock went by.
    pub fn tick(&mut self) {
        if !self.broken {
            self.raw.tick();
            self.send_again();
            self.settle();
            self.stand();
        }
    }

    /// It is certain that the process of a node is gone. If it led, its silence need not be waited
    /// for: the others stand for election soon, one after another.
    pub fn lost(&mut self, node: NodeId) {
        let raft = &mut self.raw.raft;
        let me = raft.id;
        if self.broken || raft.leader_id != raft_id(node) || raft.leader_id == me {
            return;
        }
        let term = raft.term;
        raft.become_follower(term, INVALID_ID);
        let mut voters = self.conf.voters.clone();
        voters.retain(|id| *id != raft_id(node));
        voters.sort_unstable();
        let turn = voters.iter().position(|id| *id == me);
        self.stands = turn.map(|turn| LOST_TICKS.0 + turn * LOST_TICKS.1);
        self.settle();
    }

    fn stand(&mut self) {
        let raft = &self.raw.raft;
        let leaderless = raft.leader_id == INVALID_ID && raft.state == StateRole::Follower;
        let left = self.stands.take().filter(|_| leaderless);
        match left {
            Some(0 | 1) => self.campaign(),
            left => self.stands = left.map(|ticks| ticks - 1),
        }
    }

    fn send_again(&mut self) {
        let progress = self.raw.raft.prs().iter();
        let waits = progress.filter(|(_, p)| p.state == ProgressState::Snapshot);
        let waits: Vec<u64> = waits.map(|(id, _)| *id).collect();
        self.sending.retain(|id, _| waits.contains(id));
        for id in waits {
            let ticks = self.sending.entry(id).or_insert(0);
            *ticks += 1;
            if *ticks >= SNAPSHOT_ELECTIONS * self.options.election_ticks {
                self.sending.remove(&id);
                self.raw.report_snapshot(id, SnapshotStatus::Failure);
            }
        }
    }

    /// Stands for election at once: a quorum of one need not wait.
    pub fn campaign(&mut self) {
        if !self.broken && self.raw.raft.promotable() {
            // Fails only when it leads already.
            let _ = self.raw.campaign();
            self.settle();
        }
    }

    /// A message from another member.
    ///
    /// # Errors
    /// A sentence, if it is none, or not for this node.
    pub fn step(&mut self, bytes: &[u8]) -> Result<(), String> {
        let message = codec::decode(bytes).map_err(|e| e.to_string())?;
        if message.to != self.raw.raft.id || message.from == message.to {
            return Err(format!(
                "a raft message from node {} to node {} came to node {}",
                node_id(message.from).0,
                node_id(message.to).0,
                self.options.node.0
            ));
        }
        if self.broken {
            return Ok(());
        }
        let last = self.raw.raft.raft_log.last_index();
        let current = message.term >= self.raw.raft.term;
        if message.get_msg_type() == MessageType::MsgHeartbeat && current && message.commit > last {
            // A leader tells a follower of no more than the follower has acknowledged.
            self.broken = true;
            self.out.push(Output::Broken(format!(
                "the metadata log of node {} ends at {last}, but it had acknowledged {}: its data \
                 directory was wiped or restored. Remove the node from the cluster, then join it \
                 anew",
                self.options.node.0, message.commit
            )));
            return Ok(());
        }
        // An error says that the message is of no use at the moment; then it's as if it was lost.
        let _ = self.raw.step(message);
        self.settle();
        Ok(())
    }

    /// Proposes an entry. The term and the index that it has if it is committed.
    ///
    /// # Errors
    /// [`NotTaken`].
    pub fn propose(&mut self, data: Vec<u8>) -> Result<(u64, u64), NotTaken> {
        self.leads()?;
        assert!(!data.is_empty(), "an empty entry marks the start of a term");
        self.raw
            .propose(Vec::new(), data)
            .map_err(|_| NotTaken::Busy)?;
        let at = (self.raw.raft.term, self.raw.raft.raft_log.last_index());
        self.settle();
        Ok(at)
    }

    /// Changes the members, one change at a time. More than one at once goes by way of a joint
    /// configuration, which is left by itself.
    ///
    /// # Errors
    /// [`NotTaken`].
    pub fn change(&mut self, changes: &[Change]) -> Result<(), NotTaken> {
        self.leads()?;
        let mut voters: Vec<NodeId> = members(&self.conf).voters;
        let mut change = ConfChangeV2::default();
        for one in changes {
            let (kind, node) = match one {
                Change::Learner(n) => (ConfChangeType::AddLearnerNode, *n),
                Change::Voter(n) => (ConfChangeType::AddNode, *n),
                Change::Remove(n) => (ConfChangeType::RemoveNode, *n),
            };
            voters.retain(|v| *v != node);
            if kind == ConfChangeType::AddNode {
                voters.push(node);
            } else if node == self.options.node {
                let text = format!("node {} leads: transfer leadership first", node.0);
                return Err(NotTaken::Refused(text));
            }
            let mut single = ConfChangeSingle::default();
            single.set_change_type(kind);
            single.node_id = raft_id(node);
            change.mut_changes().push(single);
        }
        if voters.is_empty() || changes.is_empty() {
            return Err(NotTaken::Refused("somebody has to vote".to_owned()));
        }
        if self.raw.raft.has_pending_conf() || !self.conf.voters_outgoing.is_empty() {
            return Err(NotTaken::Busy);
        }
        let done = self.raw.propose_conf_change(Vec::new(), change);
        done.map_err(|_| NotTaken::Busy)?;
        self.settle();
        Ok(())
    }

    /// Asks for a read: [`Output::Read`] comes when a majority has confirmed that this node leads.
    /// It may get lost with a leadership; ask again.
    ///
    /// # Errors
    /// [`NotTaken`]; `Busy` until the leader has committed an entry of its term.
    pub fn read(&mut self, token: u64) -> Result<(), NotTaken> {
        self.leads()?;
        if !self.raw.raft.commit_to_current_term() {
            return Err(NotTaken::Busy);
        }
        self.raw.read_index(token.to_le_bytes().to_vec());
        self.settle();
        Ok(())
    }

    /// Hands leadership to another voter, if it follows closely.
    ///
    /// # Errors
    /// [`NotTaken`].
    pub fn transfer(&mut self, to: NodeId) -> Result<(), NotTaken> {
        self.leads()?;
        if !self.conf.voters.contains(&raft_id(to)) {
            return Err(NotTaken::Refused(format!("node {} does not vote", to.0)));
        }
        self.raw.transfer_leader(raft_id(to));
        self.settle();
        Ok(())
    }

    /// What was to be persisted with this number, and all before it, is durable.
    pub fn persisted(&mut self, number: u64) {
        let mut last = None;
        while let Some((n, needs_write, _)) = self.writing.front() {
            if *n > number && (*needs_write || last.is_none()) {
                break;
            }
            last = Some(*n);
            let (_, _, messages) = self.writing.pop_front().expect("there is one in front");
            self.send(messages);
        }
        if let Some(last) = last {
            self.raw.on_persist_ready(last);
            if let Some((n, snapshot)) = self.arriving.take_if(|(n, _)| *n <= last) {
                debug_assert!(n <= number);
                self.conf = snapshot.get_metadata().get_conf_state().clone();
                self.restored(&snapshot);
                self.raw.advance_apply_to(self.applied);
            }
            self.settle();
        }
    }

    /// The state at [`Quorum::applied`]: entries up to there need not be kept. The next record
    /// begins the log anew.
    pub fn compact(&mut self, data: Vec<u8>) {
        let (applied, conf) = (self.applied, self.conf.clone());
        if applied > self.raw.store().snapshot_now().get_metadata().index {
            self.raw
                .mut_store()
                .compact(applied, conf, data, KEEP_ENTRIES);
        }
        self.anew = true;
    }

    fn leads(&self) -> Result<(), NotTaken> {
        match self.role.leads && !self.broken {
            true => Ok(()),
            false => Err(NotTaken::NotLeader(self.role.leader)),
        }
    }

    /// Takes from the library what it has for us, until there is no more.
    fn settle(&mut self) {
        self.fix_timeout();
        while self.raw.has_ready() {
            let ready = self.raw.ready();
            self.take(ready);
            self.fix_timeout();
        }
        if self.raw.store().wants_snapshot() {
            self.out.push(Output::Compact);
        }
        let raft = &self.raw.raft;
        let role = Role {
            term: raft.term,
            leader: (raft.leader_id != INVALID_ID).then(|| node_id(raft.leader_id)),
            leads: raft.state == StateRole::Leader,
        };
        if role != self.role {
            self.role = role;
            self.out.push(Output::Role(role));
        }
    }

    fn take(&mut self, mut ready: Ready) {
        let number = ready.number();
        self.send(ready.take_messages());
        let snapshot = ready.snapshot().clone();
        let entries = ready.take_entries();
        let store = self.raw.mut_store();
        if let Some(hard) = ready.hs() {
            store.set_hard(hard.clone());
        }
        let mut record = Record::default();
        if !snapshot.is_empty() {
            store.install(snapshot.clone());
            record.snapshot = Some(snapshot.clone());
        }
        store.append(&entries);
        record.hard = store.hard().clone();
        record.entries = entries;
        // A commit index alone is learnt again.
        let needs_write = ready.must_sync();
        if needs_write {
            self.write(number, record);
        }
        let after = ready.take_persisted_messages();
        let states = ready.take_read_states();
        let committed = ready.take_committed_entries();
        let at_once = !needs_write && self.writing.is_empty();
        if at_once {
            self.send(after);
        } else {
            self.writing.push_back((number, needs_write, after));
        }
        self.raw.advance_append_async(ready);
        if at_once {
            self.raw.on_persist_ready(number);
        }
        if !snapshot.is_empty() {
            self.arriving = Some((number, snapshot));
        }
        self.apply(committed);
        for state in states {
            if let Ok(token) = state.request_ctx.as_slice().try_into() {
                let token = u64::from_le_bytes(token);
                self.out.push(Output::Read {
                    token,
                    index: state.index,
                });
            }
        }
    }

    fn write(&mut self, number: u64, record: Record) {
        let anew = std::mem::take(&mut self.anew) || record.snapshot.is_some();
        // Everything that is here already, this record's entries among it.
        let record = match anew {
            true => self.raw.store().checkpoint(),
            false => record,
        };
        let record = record.encode();
        let len = record.len() as u64;
        if anew {
            (self.base, self.bytes) = (len, 0);
        }
        self.bytes += len;
        self.out.push(Output::Persist {
            number,
            record,
            anew,
        });
    }

    fn apply(&mut self, committed: Vec<Entry>) {
        if committed.is_empty() {
            return;
        }
        for entry in committed {
            assert!(
                entry.index == self.applied + 1,
                "gap: {} after {}",
                entry.index,
                self.applied
            );
            self.applied = entry.index;
            if entry.get_entry_type() == EntryType::EntryNormal {
                self.out.push(Output::Apply {
                    index: entry.index,
                    term: entry.term,
                    data: entry.data.to_vec(),
                });
            } else {
                self.apply_change(&entry);
            }
        }
        self.raw.advance_apply_to(self.applied);
    }

    fn apply_change(&mut self, entry: &Entry) {
        let change = codec::conf_change(&entry.data)
            .unwrap_or_else(|e| panic!("entry {} was checked when it came: {e}", entry.index));
        // The index counts even where the change does not: every member refuses the same ones.
        if let Ok(conf) = self.raw.apply_conf_change(&change) {
            self.conf = conf;
            self.out.push(Output::Members(members(&self.conf)));
        }
        let raft = &mut self.raw.raft;
        if raft.state == StateRole::Leader && !raft.prs().conf().voters().contains(raft.id) {
            // The library would look itself up among the members, and panic.
            let term = raft.term;
            raft.become_follower(term, INVALID_ID);
        }
    }

    fn restored(&mut self, snapshot: &Snapshot) {
        self.applied = snapshot.get_metadata().index;
        self.out.push(Output::Restore {
            index: self.applied,
            data: snapshot.data.to_vec(),
        });
        self.out.push(Output::Members(members(&self.conf)));
    }

    fn send(&mut self, messages: Vec<Message>) {
        for message in messages {
            if let Some(bytes) = codec::encode(&message) {
                let to = node_id(message.to);
                self.out.push(Output::Send { to, bytes });
            }
        }
    }

    /// The library draws the timeout by chance; ours is the same in every run.
    fn fix_timeout(&mut self) {
        let raft = &mut self.raw.raft;
        let mix =
            self.options.seed ^ raft.id.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (raft.term << 17);
        let z = (mix ^ (mix >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let ticks = self.options.election_ticks;
        raft.set_randomized_election_timeout(ticks + ((z ^ (z >> 31)) % ticks as u64) as usize);
    }
}

fn members(conf: &ConfState) -> Members {
    let nodes = |ids: &[u64]| {
        let mut nodes: Vec<NodeId> = ids.iter().map(|id| node_id(*id)).collect();
        nodes.sort_unstable();
        nodes
    };
    Members {
        voters: nodes(&conf.voters),
        learners: nodes(&conf.learners),
        joint: !conf.voters_outgoing.is_empty(),
    }
}
