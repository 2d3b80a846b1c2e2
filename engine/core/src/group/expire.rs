//! Offsets that nobody wants any more, by Kafka's rule (KIP-211): those of a group without members
//! go when it has been so for `offsets.retention.minutes`; those of topics that a group of
//! consumers no longer reads, and those of somebody who only commits, go so long after the last
//! commit. A group without members and offsets goes with them.

use std::sync::Arc;

use streamd_model::TopicId;

use super::classic::{Group, State};
use super::context::Context;
use super::record::Committed;
use crate::machine::Now;

impl Group {
    /// Writes tombstones for what is over.
    pub fn expire(&mut self, ctx: &mut Context, now: Now) {
        let subscribed = match (&self.protocol_type, self.state) {
            _ if self.modern.is_some() => self.subscribed(),
            (None, _) | (Some(_), State::Empty) => None,
            (Some(_), State::Stable) => match self.subscribed() {
                Some(topics) => Some(topics),
                None => return,
            },
            (Some(_), _) => return,
        };
        let retention = ctx.limits.retention_ms;
        let empty_since = match self.protocol_type {
            Some(_) if self.state == State::Empty && self.state_ms >= 0 => Some(self.state_ms),
            _ => None,
        };
        let over = |topic: &Arc<str>, c: &Committed| {
            if subscribed
                .as_ref()
                .is_some_and(|all| all.contains(&**topic))
            {
                return false;
            }
            let since = empty_since.unwrap_or(c.commit_ms);
            let end = c.expire_ms.unwrap_or(since.saturating_add(retention));
            end <= now.wall_ms
        };
        let offsets = self.offsets.iter().filter(|(topic, _, c)| over(topic, c));
        let keys: Vec<_> = offsets.map(|(topic, p, _)| (topic.clone(), p)).collect();
        for (topic, p) in keys {
            self.store_offset(ctx, &topic, p, None);
        }
        let unused = self.state == State::Empty
            && self.pending.is_empty()
            && self.offsets.pending == 0
            && !self.has_mates();
        if unused && self.offsets.is_empty() {
            self.forget(ctx);
        }
    }

    /// Writes tombstones for the offsets of topics that are gone.
    pub fn drop_topics(&mut self, ctx: &mut Context, current: &dyn Fn(&str) -> Option<TopicId>) {
        for (topic, p) in self.offsets.orphans(current) {
            self.store_offset(ctx, &topic, p, None);
        }
    }
}
