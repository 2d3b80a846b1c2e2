//! Raft's messages, entries and snapshots in a binary form of our own.
//!
//! Invariant: decoding is bounded by the bytes that are there, and what it lets through cannot make
//! the library panic: no local messages, indexes dense, terms that do not fall, configurations that
//! make sense. The library's own (protobuf) parser sees only what this node proposed itself.

use ::raft::eraftpb::{
    ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState, Entry, EntryType, Message,
    MessageType, Snapshot,
};
use streamd_model::NodeId;

use crate::codec::{Damaged, In, Out};

const VERSION: u8 = 1;
/// The largest message that is taken, bytes: a snapshot of the metadata is the largest.
pub const MESSAGE_BYTES_MAX: usize = 256 << 20;
/// The most members of a configuration: every voter and learner once in each list.
const MEMBERS_MAX: usize = 1024;

/// The types that go between nodes, with their frozen numbers.
const TYPES: [(u8, MessageType); 13] = [
    (1, MessageType::MsgAppend),
    (2, MessageType::MsgAppendResponse),
    (3, MessageType::MsgRequestVote),
    (4, MessageType::MsgRequestVoteResponse),
    (5, MessageType::MsgSnapshot),
    (6, MessageType::MsgHeartbeat),
    (7, MessageType::MsgHeartbeatResponse),
    (8, MessageType::MsgTimeoutNow),
    (9, MessageType::MsgReadIndex),
    (10, MessageType::MsgReadIndexResp),
    (11, MessageType::MsgRequestPreVote),
    (12, MessageType::MsgRequestPreVoteResponse),
    (13, MessageType::MsgTransferLeader),
];

/// The library's number of a node: it has no node 0.
pub fn raft_id(node: NodeId) -> u64 {
    assert!(node.0 >= 0, "node ids are not negative: {}", node.0);
    node.0 as u64 + 1
}

/// The node behind the library's number.
pub fn node_id(id: u64) -> NodeId {
    NodeId(id.wrapping_sub(1) as i32)
}

fn id_in(r: &mut In<'_>, what: &'static str) -> Result<u64, Damaged> {
    match r.u64(what)? {
        id if (1..=i32::MAX as u64).contains(&id) => Ok(id),
        _ => Err(r.damaged(what)),
    }
}

/// A message in binary form; `None` for one that does not leave this node.
pub fn encode(message: &Message) -> Option<Vec<u8>> {
    let kind = TYPES.iter().find(|t| t.1 == message.get_msg_type())?.0;
    let mut out = Out::default();
    out.u8(VERSION);
    out.u8(kind);
    for v in [
        message.to,
        message.from,
        message.term,
        message.log_term,
        message.index,
        message.commit,
        message.commit_term,
        message.request_snapshot,
        message.reject_hint,
        message.deprecated_priority,
        message.priority as u64,
    ] {
        out.u64(v);
    }
    out.u8(u8::from(message.reject));
    out.bytes(&message.context);
    put_entries(&mut out, message.get_entries());
    let snapshot = message.get_snapshot();
    out.u8(u8::from(!snapshot.is_empty()));
    if !snapshot.is_empty() {
        put_snapshot(&mut out, snapshot);
    }
    Some(out.0)
}

/// Reads a message that another node sent.
///
/// # Errors
/// [`Damaged`] if it is none, or one that the library must not see.
pub fn decode(bytes: &[u8]) -> Result<Message, Damaged> {
    let mut r = In(bytes);
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(r.damaged("a raft message that is too long"));
    }
    if r.u8("the version of a raft message")? != VERSION {
        return Err(r.damaged("a raft message of an unknown version"));
    }
    let kind = r.u8("the type of a raft message")?;
    let kind = TYPES.iter().find(|t| t.0 == kind).map(|t| t.1);
    let kind = kind.ok_or(r.damaged("a raft message of an unknown type"))?;
    let mut message = Message::default();
    message.set_msg_type(kind);
    message.to = id_in(&mut r, "a raft message's target")?;
    message.from = id_in(&mut r, "a raft message's sender")?;
    let what = "a raft message's numbers";
    message.term = r.u64(what)?;
    message.log_term = r.u64(what)?;
    message.index = r.u64(what)?;
    message.commit = r.u64(what)?;
    message.commit_term = r.u64(what)?;
    message.request_snapshot = r.u64(what)?;
    message.reject_hint = r.u64(what)?;
    message.deprecated_priority = r.u64(what)?;
    message.priority = r.u64(what)? as i64;
    message.reject = r.flag("whether a raft message rejects")?;
    message.context = r.bytes("a raft message's context")?.to_vec().into();
    message.set_entries(get_entries(&mut r)?.into());
    if r.flag("whether there is a snapshot")? {
        message.set_snapshot(get_snapshot(&mut r)?);
    }
    r.end("a raft message with bytes behind it")?;
    check(&message, &r)?;
    Ok(message)
}

/// What a healthy node never sends.
fn check(message: &Message, r: &In<'_>) -> Result<(), Damaged> {
    let kind = message.get_msg_type();
    // The library takes term 0 for "from this node itself".
    let local = matches!(
        kind,
        MessageType::MsgReadIndex | MessageType::MsgTransferLeader
    );
    if (message.term == 0) != local {
        return Err(r.damaged("a raft message of this type with such a term"));
    }
    let entries = message.get_entries();
    match kind {
        MessageType::MsgAppend => {
            let dense = entries
                .first()
                .is_none_or(|e| message.index.checked_add(1) == Some(e.index));
            let newer = entries.last().is_some_and(|e| e.term > message.term);
            if !dense || newer || message.log_term > message.term {
                return Err(r.damaged("a raft message with entries out of order"));
            }
        }
        MessageType::MsgReadIndex | MessageType::MsgReadIndexResp if entries.len() == 1 => {}
        _ if !entries.is_empty() => return Err(r.damaged("entries in such a raft message")),
        _ => {}
    }
    let has = !message.get_snapshot().is_empty();
    if has != (kind == MessageType::MsgSnapshot) {
        return Err(r.damaged("a raft message with or without a snapshot"));
    }
    if has && message.get_snapshot().get_metadata().term > message.term {
        return Err(r.damaged("a snapshot from a later term"));
    }
    Ok(())
}

pub(super) fn put_entries(out: &mut Out, entries: &[Entry]) {
    out.count(entries.len());
    for entry in entries {
        out.u8(match entry.get_entry_type() {
            EntryType::EntryNormal => 0,
            EntryType::EntryConfChange => 1,
            EntryType::EntryConfChangeV2 => 2,
        });
        out.u64(entry.term);
        out.u64(entry.index);
        out.bytes(&entry.data);
        out.bytes(&entry.context);
    }
}

pub(super) fn get_entries(r: &mut In<'_>) -> Result<Vec<Entry>, Damaged> {
    let count = r.count(25, "a number of raft entries")?;
    let mut entries: Vec<Entry> = Vec::with_capacity(count);
    for _ in 0..count {
        let mut entry = Entry::default();
        let kind = match r.u8("the type of a raft entry")? {
            0 => EntryType::EntryNormal,
            2 => EntryType::EntryConfChangeV2,
            _ => return Err(r.damaged("a raft entry of an unknown type")),
        };
        entry.set_entry_type(kind);
        entry.term = r.u64("the term of a raft entry")?;
        entry.index = r.u64("the index of a raft entry")?;
        entry.data = r.bytes("the data of a raft entry")?.to_vec().into();
        entry.context = r.bytes("the context of a raft entry")?.to_vec().into();
        if kind == EntryType::EntryConfChangeV2 {
            conf_change(&entry.data)?;
        }
        let follows = entries
            .last()
            .is_none_or(|e| e.index.checked_add(1) == Some(entry.index) && e.term <= entry.term);
        if !follows {
            return Err(r.damaged("raft entries out of order"));
        }
        entries.push(entry);
    }
    Ok(entries)
}

pub(super) fn put_snapshot(out: &mut Out, snapshot: &Snapshot) {
    let metadata = snapshot.get_metadata();
    out.u64(metadata.index);
    out.u64(metadata.term);
    put_conf_state(out, metadata.get_conf_state());
    out.bytes(&snapshot.data);
}

pub(super) fn get_snapshot(r: &mut In<'_>) -> Result<Snapshot, Damaged> {
    let mut snapshot = Snapshot::default();
    let metadata = snapshot.mut_metadata();
    metadata.index = r.u64("a snapshot's index")?;
    metadata.term = r.u64("a snapshot's term")?;
    if metadata.index == 0 || metadata.term == 0 {
        return Err(r.damaged("a snapshot of nothing"));
    }
    metadata.set_conf_state(get_conf_state(r)?);
    snapshot.data = r.bytes("a snapshot's data")?.to_vec().into();
    Ok(snapshot)
}

fn put_conf_state(out: &mut Out, conf: &ConfState) {
    let lists = [
        &conf.voters,
        &conf.learners,
        &conf.voters_outgoing,
        &conf.learners_next,
    ];
    for list in lists {
        out.count(list.len());
        for id in list {
            out.u64(*id);
        }
    }
    out.u8(u8::from(conf.auto_leave));
}

fn get_conf_state(r: &mut In<'_>) -> Result<ConfState, Damaged> {
    let mut lists: [Vec<u64>; 4] = Default::default();
    for list in &mut lists {
        let count = r.count(8, "a number of members")?;
        if count > MEMBERS_MAX {
            return Err(r.damaged("a number of members"));
        }
        for _ in 0..count {
            let id = id_in(r, "a member")?;
            if list.contains(&id) {
                return Err(r.damaged("a member that is there twice"));
            }
            list.push(id);
        }
    }
    let [voters, learners, outgoing, next] = lists;
    // A learner is no voter, of either half; who becomes one later is a voter that goes.
    let voters_too = learners
        .iter()
        .any(|l| voters.contains(l) || outgoing.contains(l));
    let next_known = next
        .iter()
        .all(|n| outgoing.contains(n) && !voters.contains(n));
    if voters.is_empty() || voters_too || !next_known {
        return Err(r.damaged("a configuration that makes no sense"));
    }
    let mut conf = ConfState::from((voters, learners));
    conf.voters_outgoing = outgoing;
    conf.learners_next = next;
    conf.auto_leave = r.flag("whether a configuration is left by itself")?;
    Ok(conf)
}

/// Reads the change of a configuration as the library writes it into an entry (protobuf). Bounded:
/// it does not recurse, and has no more changes than bytes.
///
/// # Errors
/// [`Damaged`] if it is none.
pub fn conf_change(bytes: &[u8]) -> Result<ConfChangeV2, Damaged> {
    let mut change = ConfChangeV2::default();
    let mut r = In(bytes);
    while !r.0.is_empty() {
        match varint(&mut r)? {
            0x08 => match varint(&mut r)? {
                0 => change.transition = ::raft::eraftpb::ConfChangeTransition::Auto,
                1 => change.transition = ::raft::eraftpb::ConfChangeTransition::Implicit,
                2 => change.transition = ::raft::eraftpb::ConfChangeTransition::Explicit,
                _ => return Err(r.damaged("a transition between configurations")),
            },
            0x12 => {
                let single = single(field(&mut r)?)?;
                if change.changes.len() >= MEMBERS_MAX {
                    return Err(r.damaged("a change of the configuration"));
                }
                change.changes.push(single);
            }
            0x1a => change.context = field(&mut r)?.to_vec().into(),
            _ => return Err(r.damaged("a change of the configuration")),
        }
    }
    Ok(change)
}

fn single(bytes: &[u8]) -> Result<ConfChangeSingle, Damaged> {
    let mut single = ConfChangeSingle::default();
    let mut r = In(bytes);
    while !r.0.is_empty() {
        match varint(&mut r)? {
            0x08 => match varint(&mut r)? {
                0 => single.set_change_type(ConfChangeType::AddNode),
                1 => single.set_change_type(ConfChangeType::RemoveNode),
                2 => single.set_change_type(ConfChangeType::AddLearnerNode),
                _ => return Err(r.damaged("the change of a member")),
            },
            0x10 => single.node_id = varint(&mut r)?,
            _ => return Err(r.damaged("the change of a member")),
        }
    }
    if !(1..=i32::MAX as u64).contains(&single.node_id) {
        return Err(r.damaged("a member"));
    }
    Ok(single)
}

fn varint(r: &mut In<'_>) -> Result<u64, Damaged> {
    let mut value = 0u64;
    for shift in 0..10 {
        let byte = r.u8("a number in a change of the configuration")?;
        let part = u64::from(byte & 0x7f);
        value |= part.checked_shl(7 * shift).unwrap_or(0);
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(r.damaged("a number in a change of the configuration"))
}

fn field<'a>(r: &mut In<'a>) -> Result<&'a [u8], Damaged> {
    let len = varint(r)?;
    if len > r.0.len() as u64 {
        return Err(r.damaged("a field of a change of the configuration"));
    }
    let (head, rest) = r.0.split_at(len as usize);
    r.0 = rest;
    Ok(head)
}
