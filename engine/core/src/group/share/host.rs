//! The share groups among the groups of a coordinator: which requests are for them.

use std::sync::Arc;

use streamd_model::ErrorCode;

use super::super::context::GROUPS_MAX;
use super::super::coordinator::Coordinator;
use super::super::record::ShareChange;
use super::super::request::{Fetched, Leaver, Reply, Request};
use super::ShareGroup;
use crate::machine::{Now, Token};

impl Coordinator {
    pub(in super::super) fn replay_share(&mut self, name: &Arc<str>, change: &ShareChange) {
        // What takes away makes nothing.
        if !self.shares.contains_key(name) && change.value().is_none() {
            return;
        }
        let group = self.shares.entry(name.clone());
        let group = group.or_insert_with(|| ShareGroup::new(name.clone()));
        let before = group.bytes;
        group.replay(change);
        let bytes = group.bytes;
        self.ctx.member_bytes = (self.ctx.member_bytes + bytes).saturating_sub(before);
        if !self.shares[name].exists {
            self.shares.remove(name);
        }
    }

    pub(in super::super) fn start_shares(&mut self, now: Now) {
        for group in self.shares.values_mut() {
            group.restore(&mut self.ctx, now);
        }
    }

    pub(in super::super) fn follow_shares(&mut self) {
        let Some(image) = self.ctx.image.clone() else {
            return;
        };
        for group in self.shares.values_mut() {
            group.follow(&mut self.ctx, &image);
        }
    }

    /// Whether a request is for a share group, be it one to come.
    pub(in super::super) fn is_for_share(&self, name: &str, request: &Request) -> bool {
        match request {
            Request::ShareBeat(_) => !self.groups.contains_key(name),
            _ => self.shares.contains_key(name),
        }
    }

    pub(in super::super) fn handle_share(
        &mut self,
        now: Now,
        name: &str,
        token: Token,
        request: Request,
    ) {
        if let Request::ShareBeat(beat) = &request
            && let Err((code, text)) = beat.check()
        {
            return self.ctx.reply(token, Reply::Refused(code, text));
        }
        let known = self.shares.contains_key(name);
        let makes = matches!(&request, Request::ShareBeat(beat) if beat.epoch == 0);
        if !known && makes && self.groups.len() + self.shares.len() >= GROUPS_MAX {
            let code = ErrorCode::CoordinatorNotAvailable;
            return self.ctx.reply(token, Reply::Code(code));
        }
        if !known && !makes {
            let text = format!("Group {name} not found.");
            let reply = Reply::Refused(ErrorCode::GroupIdNotFound, text);
            return self.ctx.reply(token, reply);
        }
        let name: Arc<str> = name.into();
        let group = self.shares.entry(name.clone());
        let group = group.or_insert_with(|| ShareGroup::new(name.clone()));
        let ctx = &mut self.ctx;
        match request {
            Request::ShareBeat(beat) => group.beat(ctx, now, token, &beat),
            Request::DescribeShare => group.describe(ctx, token),
            Request::ShareTopics => group.show_topics(ctx, token),
            Request::SetShareTopics(more, fewer) => group.set_topics(ctx, token, (more, fewer)),
            Request::Delete => group.delete(ctx, token),
            other => ctx.reply(token, not_of_its_kind(&name, other)),
        }
        if !group.exists {
            ctx.removed_at = ctx.removed_at.max(group.written);
            self.shares.remove(&name);
        }
    }

    pub(in super::super) fn hand_timeout(&mut self, now: Now, name: &Arc<str>, id: &Arc<str>) {
        if let Some(group) = self.shares.get_mut(name) {
            group.hand_timeout(&mut self.ctx, now, id);
        }
    }
}

/// What a share group answers to the requests of other groups.
fn not_of_its_kind(name: &str, request: Request) -> Reply {
    let not_found = ErrorCode::GroupIdNotFound;
    match request {
        Request::Join(_) | Request::Sync(_) => Reply::Code(ErrorCode::InconsistentGroupProtocol),
        Request::Heartbeat { .. } => Reply::Code(ErrorCode::UnknownMemberId),
        Request::Leave(leavers) => {
            let unknown = |l: Leaver| (l.who, ErrorCode::UnknownMemberId);
            Reply::Leave(leavers.into_iter().map(unknown).collect())
        }
        Request::Fetch(topics) | Request::FetchAs(_, _, topics) => {
            let none = topics.unwrap_or_default().into_iter().map(|t| Fetched {
                name: t.name,
                partitions: t.partitions.into_iter().map(|p| (p, None)).collect(),
                unstable: Vec::new(),
            });
            Reply::Fetch(none.collect())
        }
        Request::Beat(_) | Request::DescribeConsumer => {
            let text = format!("Group {name} is not a consumer group.");
            Reply::Refused(not_found, text)
        }
        _ => Reply::Code(not_found),
    }
}
