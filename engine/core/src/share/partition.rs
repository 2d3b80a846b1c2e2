//! A share-partition: records are acquired, acknowledged, released, given up.
//!
//! Each of these changes `flight` at once and notes in [`Turn`] what has to go on record.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use streamd_model::{ErrorCode, Mono, Offset};

use super::flight::{Flight, Phase};
use super::hard::Hard;
use super::record::{Delivery, StateBatch};
use super::request::{Ack, AckBatch, Acquire, Acquired, Cause};
use crate::config::QueueConfig;
use crate::machine::Token;
use crate::timers::TimerKey;

/// Why something is refused, with a word about it.
pub(super) type Why = (ErrorCode, String);

/// What a step brings about.
pub(super) struct Turn<'a> {
    pub now: Mono,
    pub queue: &'a QueueConfig,
    /// What is to go on record.
    pub changed: Vec<StateBatch>,
    /// What is to go to the dead-letter topic: offsets, count, why.
    pub dead: Vec<(Offset, Offset, i16, Cause)>,
}

impl<'a> Turn<'a> {
    pub fn new(now: Mono, queue: &'a QueueConfig) -> Turn<'a> {
        Turn {
            now,
            queue,
            changed: Vec::new(),
            dead: Vec::new(),
        }
    }

    fn note(&mut self, (first, last): (Offset, Offset), state: Delivery, count: i16) {
        self.changed.push(StateBatch {
            first,
            last,
            state,
            count,
        });
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct SharePartition {
    pub hard: Hard,
    flight: Flight,
    /// Whether `flight` was made from what is on record.
    restored: bool,
    /// Who waits for something to become available; whether it was told that there is no room.
    pub waiters: BTreeMap<Token, bool>,
    pub armed: Option<TimerKey>,
    /// The batch with its newest record.
    pub written: u64,
}

impl SharePartition {
    /// The state is another one, on record: what was under way is void.
    pub fn reset(&mut self) {
        self.restored = false;
    }

    /// Begins anew from what is on record, unless that was done.
    pub fn restore(&mut self, turn: &mut Turn<'_>) {
        if std::mem::replace(&mut self.restored, true) {
            return;
        }
        self.flight = Flight::default();
        let batches: Vec<_> = self.hard.batches().collect();
        for b in batches {
            let span = (b.first, b.last);
            match b.state {
                // As often as may be, or rejected: it was on the way to the dead-letter topic.
                Delivery::Available if b.count >= turn.queue.deliveries_max => {
                    self.give_up(turn, span, b.count, Cause::TooOften);
                }
                Delivery::Available => {
                    let due = turn.now;
                    self.flight.set(span, Phase::Available { due }, b.count);
                }
                done => self.flight.set(span, Phase::Done(done), b.count),
            }
        }
    }

    /// From where a member is to read on; none: as much is under way as may be.
    pub fn next(&self, turn: &Turn<'_>) -> Option<Offset> {
        let at = self.flight.next(self.hard.start, turn.now);
        let is_new = self.flight.pieces(at, at).iter().all(|p| p.2.is_none());
        let full = is_new && self.flight.under_way() >= turn.queue.locks_max;
        (!full).then_some(at)
    }

    /// Those who wait and need not any more: something may be delivered again, or there is room
    /// for new records.
    pub fn wakened(&mut self, turn: &Turn<'_>) -> Vec<Token> {
        if self.waiters.is_empty() {
            return Vec::new();
        }
        let next = self.next(turn);
        let again = next.is_some_and(|at| at < self.flight.end(self.hard.start));
        let woken = |full: bool| again || full && next.is_some();
        let all: Vec<_> = self
            .waiters
            .iter()
            .filter(|w| woken(*w.1))
            .map(|w| *w.0)
            .collect();
        for token in &all {
            self.waiters.remove(token);
        }
        all
    }

    /// Takes back locks that are over.
    pub fn expire(&mut self, turn: &mut Turn<'_>) {
        let over =
            |phase: &Phase| matches!(phase, Phase::Acquired { until, .. } if *until <= turn.now);
        let runs = self.flight.iter().filter(|(_, r)| over(&r.phase));
        let runs: Vec<_> = runs.map(|(first, r)| ((first, r.last), r.count)).collect();
        for (span, count) in runs {
            self.release(turn, span, count);
        }
    }

    fn release(&mut self, turn: &mut Turn<'_>, span: (Offset, Offset), count: i16) {
        if count >= turn.queue.deliveries_max {
            return self.give_up(turn, span, count, Cause::TooOften);
        }
        let due = turn.now + rest(turn.queue, count);
        self.flight.set(span, Phase::Available { due }, count);
        turn.note(span, Delivery::Available, count);
    }

    fn give_up(&mut self, turn: &mut Turn<'_>, span: (Offset, Offset), count: i16, cause: Cause) {
        if turn.queue.dead_topic.is_none() {
            self.flight
                .set(span, Phase::Done(Delivery::Archived), count);
            return turn.note(span, Delivery::Archived, count);
        }
        self.flight.set(span, Phase::Dying, count);
        // On record it is archived only when the dead-letter topic has it. By this count a start
        // knows that it is not to be delivered again.
        let spent = count.max(turn.queue.deliveries_max);
        turn.note(span, Delivery::Available, spent);
        turn.dead.push((span.0, span.1, count, cause));
    }

    /// The dead-letter topic has these offsets.
    pub fn buried(&mut self, turn: &mut Turn<'_>, first: Offset, last: Offset) {
        for (first, last, state) in self.flight.pieces(first, last) {
            if let Some((Phase::Dying, count)) = state {
                let span = (first, last);
                self.flight
                    .set(span, Phase::Done(Delivery::Archived), count);
                turn.note(span, Delivery::Archived, count);
            }
        }
    }

    /// Locks what of the given batches may be delivered.
    pub fn acquire(&mut self, turn: &mut Turn<'_>, wanted: &Acquire) -> Vec<Acquired> {
        let mut got: Vec<Acquired> = Vec::new();
        let mut left = wanted.records_max;
        let mut room = turn.queue.locks_max - self.flight.under_way();
        for batch in &wanted.read {
            let first = batch.first.max(self.hard.start);
            if left <= 0 || first > batch.last {
                continue;
            }
            let mut in_batch = if wanted.strict { left } else { i64::MAX };
            for (first, last, state) in self.flight.pieces(first, batch.last) {
                let count = match &state {
                    None => 0,
                    Some((Phase::Available { due }, count)) if *due <= turn.now => *count,
                    Some(_) => continue,
                };
                let span = (first, last);
                if batch.skip {
                    self.flight
                        .set(span, Phase::Done(Delivery::Archived), count);
                    turn.note(span, Delivery::Archived, count);
                    continue;
                }
                if state.is_some() && count >= turn.queue.deliveries_max {
                    // The limit was lowered meanwhile.
                    self.give_up(turn, span, count, Cause::TooOften);
                    continue;
                }
                let mut n = (last - first + 1).min(in_batch);
                if state.is_none() {
                    n = n.min(room);
                    room -= n.max(0);
                }
                if n <= 0 {
                    continue;
                }
                let count = count.saturating_add(1);
                self.lock(turn, (first, first + n - 1), &wanted.member, count);
                push(&mut got, first, first + n - 1, count);
                in_batch -= n;
                left -= n;
            }
        }
        got
    }

    fn lock(&mut self, turn: &Turn<'_>, span: (Offset, Offset), member: &Arc<str>, count: i16) {
        let phase = Phase::Acquired {
            member: member.clone(),
            until: turn.now + millis(turn.queue.lock_ms),
        };
        self.flight.set(span, phase, count);
    }

    /// Takes what a member says of records: all of it, or nothing.
    pub fn acknowledge(
        &mut self,
        turn: &mut Turn<'_>,
        member: &Arc<str>,
        batches: &[AckBatch],
    ) -> Result<(), Why> {
        let spans = spans(batches)?;
        if !turn.queue.renews && spans.iter().any(|s| s.2 == Ack::Renew) {
            let text = "Renewing acquisition locks is not enabled for the group.".to_owned();
            return Err((ErrorCode::InvalidRequest, text));
        }
        let mut todo = Vec::new();
        for (first, last, ack) in spans {
            // What is before the start is done with, whatever is said of it.
            let first = first.max(self.hard.start);
            if first > last {
                continue;
            }
            for (first, last, state) in self.flight.pieces(first, last) {
                match state {
                    Some((Phase::Acquired { member: holder, .. }, count)) if holder == *member => {
                        todo.push((first, last, count, ack));
                    }
                    _ => {
                        let text = format!(
                            "Offsets {first} to {last} are not acquired by member {member}."
                        );
                        return Err((ErrorCode::InvalidRecordState, text));
                    }
                }
            }
        }
        for (first, last, count, ack) in todo {
            self.settle(turn, (first, last), (member, count), ack);
        }
        Ok(())
    }

    fn settle(
        &mut self,
        turn: &mut Turn<'_>,
        span: (Offset, Offset),
        (member, count): (&Arc<str>, i16),
        ack: Ack,
    ) {
        let done = match ack {
            Ack::Accept => Delivery::Acknowledged,
            Ack::Gap => Delivery::Archived,
            Ack::Release => return self.release(turn, span, count),
            Ack::Reject => return self.give_up(turn, span, count, Cause::Rejected),
            Ack::Renew => return self.lock(turn, span, member, count),
        };
        self.flight.set(span, Phase::Done(done), count);
        turn.note(span, done, count);
    }

    /// A member is gone. `unseen`: it did not look at what it has.
    pub fn drop_member(&mut self, turn: &mut Turn<'_>, member: &Arc<str>, unseen: bool) {
        let its = |p: &Phase| matches!(p, Phase::Acquired { member: m, .. } if m == member);
        let runs = self.flight.iter().filter(|(_, r)| its(&r.phase));
        let runs: Vec<_> = runs.map(|(first, r)| ((first, r.last), r.count)).collect();
        for (span, count) in runs {
            if unseen {
                let (due, count) = (turn.now, count.saturating_sub(1).max(0));
                self.flight.set(span, Phase::Available { due }, count);
                turn.note(span, Delivery::Available, count);
            } else {
                self.release(turn, span, count);
            }
        }
    }

    /// The log starts here now: what was before is gone.
    pub fn cut(&mut self, log_start: Offset) {
        if log_start > self.hard.start {
            self.flight.forget_before(log_start);
        }
    }

    /// The first offset that is not done with, if the log starts there or before.
    pub fn new_start(&mut self, log_start: Offset) -> Offset {
        self.flight.sweep(self.hard.start.max(log_start))
    }

    /// When a lock is over, or a record has rested; the earliest.
    pub fn next_event(&self, now: Mono) -> Option<Mono> {
        let times = self.flight.iter().filter_map(|(_, r)| match r.phase {
            Phase::Acquired { until, .. } => Some(until),
            Phase::Available { due } if due > now => Some(due),
            _ => None,
        });
        times.min()
    }
}

fn push(got: &mut Vec<Acquired>, first: Offset, last: Offset, count: i16) {
    match got.last_mut() {
        Some(before) if before.last + 1 == first && before.count == count => before.last = last,
        _ => got.push(Acquired { first, last, count }),
    }
}

/// How long a record rests after its `count`th delivery.
fn rest(queue: &QueueConfig, count: i16) -> Duration {
    if queue.delay_ms <= 0 {
        return Duration::ZERO;
    }
    let doublings = u32::try_from(count.saturating_sub(1)).unwrap_or(0).min(30);
    let ms = queue.delay_ms.saturating_mul(1 << doublings);
    let ms = ms.min(queue.delay_max_ms.max(queue.delay_ms));
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

fn millis(ms: i32) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

/// Offsets with what is said of them; refuses what is not well formed.
fn spans(batches: &[AckBatch]) -> Result<Vec<(Offset, Offset, Ack)>, Why> {
    let invalid = |text: String| Err((ErrorCode::InvalidRequest, text));
    let mut spans: Vec<(Offset, Offset, Ack)> = Vec::new();
    let mut at = 0;
    for b in batches {
        if b.first < at || b.last < b.first || b.last == Offset::MAX {
            let text = format!(
                "Acknowledgement batch {} to {}: offsets must rise from batch to batch.",
                b.first, b.last
            );
            return invalid(text);
        }
        at = b.last + 1;
        match b.kinds[..] {
            [kind] => spans.push((b.first, b.last, kind)),
            _ if b.kinds.len() as i64 == b.last - b.first + 1 => {
                for (offset, kind) in (b.first..).zip(&b.kinds) {
                    match spans.last_mut() {
                        Some(s) if s.1 + 1 == offset && s.2 == *kind => s.1 = offset,
                        _ => spans.push((offset, offset, *kind)),
                    }
                }
            }
            _ => {
                let text = format!(
                    "Acknowledgement batch {} to {} has {} types: one is expected, or one for \
                     each offset.",
                    b.first,
                    b.last,
                    b.kinds.len()
                );
                return invalid(text);
            }
        }
    }
    Ok(spans)
}
