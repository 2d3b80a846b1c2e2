//! The coordinator of the groups of one partition of `__consumer_offsets`.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ops::Bound;
use std::sync::Arc;

use streamd_model::{ErrorCode, Mono, TopicId};

use super::classic::{Group, refuse_join};
use super::context::{Context, Effects, GROUPS_MAX, Limits, Timer};
use super::record::GroupRecord;
use super::request::{Commit, FetchTopic, Fetched, Listed, Reply, Request};
use crate::codec::{Damaged, In, Out};
use crate::machine::{Machine, Now, Record, Token};
use crate::meta::ClusterImage;

/// Groups that one tick looks through for old offsets.
const EXPIRE_AT_ONCE: usize = 200;

/// See the module of groups.
pub struct Coordinator {
    pub(super) groups: BTreeMap<Arc<str>, Group>,
    pub(super) ctx: Context,
}

impl Coordinator {
    /// A coordinator without groups.
    pub fn new(limits: Limits) -> Coordinator {
        Coordinator {
            groups: BTreeMap::new(),
            ctx: Context::new(limits),
        }
    }

    /// Takes new settings.
    pub fn set_limits(&mut self, limits: Limits) {
        self.ctx.limits = limits;
    }

    /// Tells it the topics before it starts; later [`Coordinator::follow`] does.
    pub fn set_image(&mut self, image: Arc<ClusterImage>) {
        self.ctx.image = Some(image);
    }

    /// The group, made if the request makes groups.
    fn find(&mut self, name: &str, request: &Request) -> Result<Arc<str>, ErrorCode> {
        if let Request::Join(join) = request {
            let limits = &self.ctx.limits;
            if join.session_ms < limits.session_min_ms || join.session_ms > limits.session_max_ms {
                return Err(ErrorCode::InvalidSessionTimeout);
            }
        }
        if let Some((name, _)) = self.groups.get_key_value(name) {
            return Ok(name.clone());
        }
        let makes = match request {
            Request::Join(join) => join.who.id.is_empty(),
            Request::Commit(commit) => commit.generation < 0,
            Request::Beat(beat) => beat.epoch == 0,
            Request::TxnCommit(txn) => txn.commit.generation < 0,
            _ => false,
        };
        if !makes {
            return Err(ErrorCode::GroupIdNotFound);
        }
        if self.groups.len() >= GROUPS_MAX {
            return Err(ErrorCode::CoordinatorNotAvailable);
        }
        let name: Arc<str> = name.into();
        self.groups.insert(name.clone(), Group::new(name.clone()));
        Ok(name)
    }

    fn dispatch(&mut self, now: Now, name: &Arc<str>, token: Token, request: Request) {
        let Some(group) = self.groups.get_mut(name) else {
            return;
        };
        let ctx = &mut self.ctx;
        let request = match request {
            Request::FetchAs(id, epoch, topics) => match group.check_fetch(&id, epoch) {
                Ok(()) => Request::Fetch(topics),
                Err(code) => return ctx.reply(token, Reply::Code(code)),
            },
            other => other,
        };
        match request {
            Request::Beat(beat) => group.beat(ctx, now, token, &beat),
            Request::DescribeConsumer => group.describe_modern(ctx, token),
            Request::Join(join) if group.modern.is_some() => {
                group.join_modern(ctx, now, token, *join);
            }
            Request::Sync(sync) if group.modern.is_some() => {
                group.sync_modern(ctx, now, token, &sync);
            }
            Request::Heartbeat { who, generation } if group.modern.is_some() => {
                let code = group.heartbeat_modern(ctx, now, &who, generation);
                ctx.reply(token, Reply::Code(code));
            }
            Request::Leave(leavers) if group.modern.is_some() => {
                group.leave_modern(ctx, now, token, leavers);
            }
            Request::Describe if group.modern.is_some() => {
                // It is not of the kind that this shows.
                ctx.reply(token, Reply::Code(ErrorCode::GroupIdNotFound));
            }
            Request::Join(join) => group.join(ctx, now, token, *join),
            Request::Sync(sync) => group.sync(ctx, now, token, sync),
            Request::Heartbeat { who, generation } => {
                let code = group.heartbeat(ctx, now, &who, generation);
                ctx.reply(token, Reply::Code(code));
            }
            Request::Leave(leavers) => group.leave(ctx, now, token, leavers),
            Request::Commit(commit) => group.commit(ctx, now, token, commit),
            Request::TxnCommit(txn) => group.txn_commit(ctx, now, token, txn),
            Request::Fetch(topics) | Request::FetchAs(_, _, topics) => {
                let mut found = group.offsets.fetch(topics.as_deref());
                if group.offsets.pending > 0 {
                    ctx.pending.mark(name, &mut found);
                }
                ctx.reply_after(group.written, token, Reply::Fetch(found));
            }
            Request::DeleteOffsets(topics) => group.delete_offsets(ctx, token, topics),
            Request::Describe => {
                let description = Reply::Describe(Box::new(group.describe()));
                ctx.reply_after(group.written, token, description);
            }
            Request::Delete => group.delete(ctx, token),
        }
        self.sweep(name);
    }

    /// Forgets a group of which nothing is left.
    pub(super) fn sweep(&mut self, name: &Arc<str>) {
        if let Some(group) = self.groups.get(name)
            && group.is_gone()
        {
            self.ctx.removed_at = self.ctx.removed_at.max(group.written);
            self.groups.remove(name);
        }
    }

    /// Answers about a group that is not there.
    fn absent(&mut self, token: Token, request: Request, code: ErrorCode) {
        if code != ErrorCode::GroupIdNotFound {
            return self.refuse(token, request, code);
        }
        // That it is gone is only sure when its tombstones are durable.
        let after = self.ctx.removed_at;
        match request {
            Request::Fetch(topics) | Request::FetchAs(_, _, topics) => {
                let found = Reply::Fetch(nothing(topics.unwrap_or_default()));
                self.ctx.reply_after(after, token, found);
            }
            Request::Commit(Commit {
                knows_not_found: false,
                ..
            })
            | Request::TxnCommit(_) => self
                .ctx
                .reply(token, Reply::Code(ErrorCode::IllegalGeneration)),
            Request::Leave(leavers) => {
                let unknown = |l: super::Leaver| (l.who, ErrorCode::UnknownMemberId);
                let codes = leavers.into_iter().map(unknown).collect();
                self.ctx.reply(token, Reply::Leave(codes));
            }
            Request::Join(_) | Request::Sync(_) | Request::Heartbeat { .. } => {
                self.refuse(token, request, ErrorCode::UnknownMemberId);
            }
            Request::Commit(_)
            | Request::DeleteOffsets(_)
            | Request::Beat(_)
            | Request::DescribeConsumer
            | Request::Describe
            | Request::Delete => self.ctx.reply_after(after, token, Reply::Code(code)),
        }
    }

    fn refuse(&mut self, token: Token, request: Request, code: ErrorCode) {
        match request {
            Request::Join(join) => refuse_join(&mut self.ctx, Some(token), &join.who.id, code),
            _ => self.ctx.reply(token, Reply::Code(code)),
        }
    }

    /// Whoever would get the answer under `token` is gone.
    pub fn gone(&mut self, now: Now, token: Token) -> Effects {
        if let Some((name, member)) = self.ctx.unpark(token)
            && let Some(group) = self.groups.get_mut(&name)
        {
            group.gone(&mut self.ctx, now, &member, token);
        }
        self.ctx.out.take_effects()
    }

    fn timed(&mut self, name: &Arc<str>, f: impl FnOnce(&mut Group, &mut Context)) {
        if let Some(group) = self.groups.get_mut(name) {
            f(group, &mut self.ctx);
            self.sweep(name);
        }
    }

    fn expire(&mut self, now: Now, from: Option<Arc<str>>) {
        let start = from.map_or(Bound::Unbounded, Bound::Included);
        let names = self.groups.range((start, Bound::Unbounded));
        let mut names: Vec<_> = names
            .map(|g| g.0.clone())
            .take(EXPIRE_AT_ONCE + 1)
            .collect();
        let next = (names.len() > EXPIRE_AT_ONCE)
            .then(|| names.pop())
            .flatten();
        for name in names {
            self.timed(&name, |g, ctx| g.expire(ctx, now));
        }
        let at = match next {
            Some(_) => now.mono,
            None => now.mono + self.ctx.limits.retention_check,
        };
        self.ctx.timers.arm(at, Timer::Expire(next));
    }

    /// Forgets offsets of topics that are gone, or that another has the name of by now. `current`
    /// gives the id of a topic.
    pub fn drop_topics(&mut self, current: &dyn Fn(&str) -> Option<TopicId>) -> Effects {
        let names: Vec<_> = self.groups.keys().cloned().collect();
        for name in names {
            self.timed(&name, |g, ctx| g.drop_topics(ctx, current));
        }
        self.ctx.out.take_effects()
    }

    /// The topics, or settings of groups, are others now. What members subscribe to may have
    /// changed by it.
    pub fn follow(&mut self, now: Now, image: Arc<ClusterImage>) -> Effects {
        if self.ctx.out.failed().is_some() {
            return self.ctx.out.take_effects();
        }
        self.ctx.image = Some(image);
        let modern = self.groups.iter().filter(|(_, g)| g.modern.is_some());
        let names: Vec<_> = modern.map(|(name, _)| name.clone()).collect();
        for name in names {
            self.timed(&name, |g, ctx| g.look(ctx, now, false));
        }
        self.ctx.out.take_effects()
    }

    /// All groups, in order.
    pub fn list(&self) -> Vec<Listed> {
        self.groups.values().map(Group::listed).collect()
    }
}

impl Machine for Coordinator {
    type Record = GroupRecord;
    type Request = Request;
    type Reply = Reply;
    type Order = Infallible;

    fn replay(&mut self, record: &GroupRecord) {
        let name = record.group();
        let group = self.groups.entry(name.clone());
        let group = group.or_insert_with(|| Group::new(name.clone()));
        let before = group.offsets.len();
        let bytes = group.modern_bytes();
        group.replay(record);
        self.ctx.member_bytes =
            (self.ctx.member_bytes + group.modern_bytes()).saturating_sub(bytes);
        self.ctx.offsets = (self.ctx.offsets + group.offsets.len()).saturating_sub(before);
        if group.is_gone() {
            let name = name.clone();
            self.groups.remove(&name);
        }
    }

    fn start(&mut self, now: Now) -> Effects {
        for group in self.groups.values_mut() {
            group.restore(&mut self.ctx, now);
        }
        let at = now.mono + self.ctx.limits.retention_check;
        self.ctx.timers.arm(at, Timer::Expire(None));
        self.ctx.out.take_effects()
    }

    fn handle(&mut self, now: Now, group: &str, token: Token, request: Request) -> Effects {
        if let Some(code) = self.ctx.out.failed() {
            self.ctx.reply(token, Reply::Code(code));
            return self.ctx.out.take_effects();
        }
        if group.is_empty() && !may_be_nameless(&request) {
            let code = match request {
                // Kafka has it among all that is checked of a heartbeat.
                Request::Beat(_) => ErrorCode::InvalidRequest,
                _ => ErrorCode::InvalidGroupId,
            };
            self.refuse(token, request, code);
            return self.ctx.out.take_effects();
        }
        if let Request::Beat(beat) = &request
            && let Err((code, text)) = beat.check()
        {
            self.ctx.reply(token, Reply::Refused(code, text));
            return self.ctx.out.take_effects();
        }
        match self.find(group, &request) {
            Ok(name) => self.dispatch(now, &name, token, request),
            Err(code) => self.absent(token, request, code),
        }
        self.ctx.out.take_effects()
    }

    fn persisted(&mut self, seq: u64) -> Effects {
        self.ctx.out.persisted(seq);
        self.ctx.out.take_effects()
    }

    fn fail(&mut self, code: ErrorCode) -> Effects {
        self.ctx.fail(code);
        self.ctx.out.take_effects()
    }

    fn next_tick(&self) -> Option<Mono> {
        self.ctx.timers.next()
    }

    fn tick(&mut self, now: Now) -> Effects {
        match self.ctx.timers.due(now.mono) {
            Some(Timer::Session(name, member)) => {
                self.timed(&name, |g, ctx| g.session_timeout(ctx, now, &member));
            }
            Some(Timer::Join(name)) => self.timed(&name, |g, ctx| g.join_timeout(ctx, now)),
            Some(Timer::Sync(name)) => self.timed(&name, |g, ctx| g.sync_timeout(ctx, now)),
            Some(Timer::Mate(name, id, watch)) => {
                self.timed(&name, |g, ctx| g.mate_timeout(ctx, now, &id, watch));
            }
            Some(Timer::Expire(from)) => self.expire(now, from),
            None => {}
        }
        self.ctx.out.take_effects()
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Out::default();
        let mut put = |record: &GroupRecord| {
            out.bytes(&record.key());
            out.bytes(&record.value().unwrap_or_default());
        };
        for (name, group) in &self.groups {
            if group.hard.is_some() {
                put(&GroupRecord::Group {
                    group: name.clone(),
                    value: group.hard.clone(),
                });
            }
            for change in group.modern.iter().flat_map(|m| m.changes()) {
                put(&GroupRecord::Consumer {
                    group: name.clone(),
                    change,
                });
            }
            for (topic, partition, value) in group.offsets.iter() {
                put(&GroupRecord::Offset {
                    group: name.clone(),
                    topic: topic.clone(),
                    partition,
                    value: Some(value.clone()),
                });
            }
        }
        self.encode_pending(&mut out);
        out.0
    }

    fn decode(&mut self, bytes: &[u8]) -> Result<(), Damaged> {
        let mut r = In(bytes);
        while !r.0.is_empty() {
            let key = r.bytes("a group record's key")?;
            let value = r.bytes("a group record's value")?;
            if self.decode_pending(key, value)? {
                continue;
            }
            if let Some(record) = GroupRecord::decode(key, Some(value))? {
                self.replay(&record);
            }
        }
        Ok(())
    }
}

/// Offsets can be committed without a group's name: old simple consumers do.
fn may_be_nameless(request: &Request) -> bool {
    match request {
        Request::Commit(_)
        | Request::TxnCommit(_)
        | Request::Fetch(_)
        | Request::FetchAs(..)
        | Request::Describe
        | Request::DescribeConsumer
        | Request::Delete => true,
        Request::DeleteOffsets(_)
        | Request::Join(_)
        | Request::Beat(_)
        | Request::Sync(_)
        | Request::Heartbeat { .. }
        | Request::Leave(_) => false,
    }
}

/// No offset for any of these.
fn nothing(topics: Vec<FetchTopic>) -> Vec<Fetched> {
    let topics = topics.into_iter().map(|topic| Fetched {
        name: topic.name,
        partitions: topic.partitions.into_iter().map(|p| (p, None)).collect(),
        unstable: Vec::new(),
    });
    topics.collect()
}
