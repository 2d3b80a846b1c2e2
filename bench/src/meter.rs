//! What is counted in a run, and from when to when.
//!
//! A run is warm-up, measured interval, drain. Counters of processes and acknowledged work are
//! taken for the measured interval only. Latencies are taken of every request that was *due* in
//! it, whenever its answer comes: so a pause that reaches past the end is not forgotten.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::failure::{Failure, Result};
use crate::outcome::{Histograms, Interval, Outcome, Percentiles, curve};
use crate::procfs::{Usage, machine_busy_ms};
use crate::series::Series;
use crate::sys::{Whose, cpu_time};
use crate::workload::{Target, Workload};

/// Nanoseconds since a run began.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// A clock that stands at 0 now.
    pub fn start() -> Clock {
        Clock(Instant::now())
    }

    /// The time.
    pub fn now(self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}

/// When the measured interval ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Stop {
    /// After so many nanoseconds.
    After(u64),
    /// When so many records are acknowledged.
    Records(u64),
}

#[derive(Clone, Copy, Debug)]
struct Snapshot {
    at: u64,
    client_cpu: Duration,
    machine_ms: f64,
    broker: Option<Usage>,
}

/// Counts a run.
#[derive(Debug)]
pub struct Meter {
    clock: Clock,
    pids: Vec<u32>,
    warm_until: u64,
    stop: Stop,
    start: Option<Snapshot>,
    end: Option<Snapshot>,
    records: u64,
    wire_bytes: u64,
    requests: u64,
    series: Series,
    histogram: Histogram<u64>,
    /// Of acknowledgements, where records are counted when a reader has them.
    acks: Option<Histogram<u64>>,
    acked: u64,
    caught_up: bool,
}

/// The longest latency that is told apart: a minute.
const LATENCY_MAX: u64 = 60_000_000_000;

/// A histogram of nanoseconds with three digits.
pub fn histogram() -> Histogram<u64> {
    match Histogram::new_with_bounds(1, LATENCY_MAX, 3) {
        Ok(histogram) => histogram,
        Err(error) => unreachable!("the bounds are constant: {error}"),
    }
}

impl Meter {
    /// A meter whose warm-up begins now.
    pub fn new(pids: &[u32], warmup: Duration, stop: Stop) -> Meter {
        Meter {
            clock: Clock::start(),
            pids: pids.to_vec(),
            warm_until: warmup.as_nanos() as u64,
            stop,
            start: None,
            end: None,
            records: 0,
            wire_bytes: 0,
            requests: 0,
            series: Series::default(),
            histogram: histogram(),
            acks: None,
            acked: 0,
            caught_up: false,
        }
    }

    /// The run's clock.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    fn snapshot(&self) -> Result<Snapshot> {
        Ok(Snapshot {
            broker: Usage::of_all(&self.pids)?,
            client_cpu: cpu_time(Whose::Process),
            machine_ms: machine_busy_ms(),
            at: self.clock.now(),
        })
    }

    /// Moves from warm-up to measuring and to the drain when it is time.
    ///
    /// # Errors
    /// A process of the broker is gone.
    pub fn tick(&mut self, now: u64) -> Result<()> {
        if self.start.is_none() && now >= self.warm_until {
            self.start = Some(self.snapshot()?);
        }
        let Some(start) = self.start else {
            return Ok(());
        };
        let over = match self.stop {
            Stop::After(time) => now >= start.at + time,
            Stop::Records(records) => self.records >= records,
        } || self.caught_up;
        if over && self.end.is_none() {
            self.end = Some(self.snapshot()?);
        }
        Ok(())
    }

    /// Whether the measured interval is over: nothing more is to be sent.
    pub fn over(&self) -> bool {
        self.end.is_some()
    }

    /// Whether the measured interval has begun.
    pub fn begun(&self) -> bool {
        self.start.is_some()
    }

    /// The reader has caught up: the interval is over.
    ///
    /// # Errors
    /// As [`Meter::tick`].
    pub fn catch_up(&mut self, now: u64) -> Result<()> {
        if self.end.is_none() {
            self.caught_up = true;
            self.tick(now)?;
        }
        Ok(())
    }

    /// When the measured interval ended.
    pub fn ended_at(&self) -> Option<u64> {
        self.end.map(|end| end.at)
    }

    /// When `tick` has something to do next.
    pub fn next_tick(&self) -> Option<u64> {
        match (self.start, self.stop) {
            _ if self.end.is_some() => None,
            (None, _) => Some(self.warm_until),
            (Some(start), Stop::After(time)) => Some(start.at + time),
            (Some(_), Stop::Records(_)) => None,
        }
    }

    /// Counts an answered request.
    pub fn answered(&mut self, due: u64, now: u64, records: u64, wire_bytes: u64) {
        self.count(now, records, wire_bytes);
        if self.due_inside(due) {
            self.histogram.saturating_record(now.saturating_sub(due));
        }
    }

    /// Counts records that came, without a latency.
    pub fn count(&mut self, now: u64, records: u64, wire_bytes: u64) {
        let Some(start) = self.start else { return };
        if self.end.is_none() {
            self.records += records;
            self.wire_bytes += wire_bytes;
            self.requests += 1;
            self.series.add(now.saturating_sub(start.at), records);
        }
    }

    /// Counts an acknowledgement, where records are counted when a reader has them.
    pub fn acknowledged(&mut self, due: u64, now: u64, records: u64) {
        if self.start.is_some() && self.end.is_none() {
            self.acked += records;
        }
        if self.due_inside(due) {
            let acks = self.acks.get_or_insert_with(histogram);
            acks.saturating_record(now.saturating_sub(due));
        }
    }

    fn due_inside(&self, due: u64) -> bool {
        let begun = self.start.is_some_and(|start| due >= start.at);
        begun && self.end.is_none_or(|end| due < end.at)
    }

    /// The run as a result.
    ///
    /// # Errors
    /// As [`Meter::interval`].
    pub fn outcome(self, target: &Target, workload: &Workload) -> Result<Outcome> {
        let interval = self.interval(workload.size)?;
        Ok(Outcome {
            target: target.name.clone(),
            workload: workload.clone(),
            interval,
            rates: self.series.rates((interval.seconds * 1e9) as u64),
            curve: curve(&self.histogram),
            histograms: Histograms {
                latency: Some(self.histogram),
                ack: self.acks,
            },
        })
    }

    /// What was measured; `record_size` is the size of a record's value in bytes.
    ///
    /// # Errors
    /// The run ended before the interval did.
    pub fn interval(&self, record_size: usize) -> Result<Interval> {
        let (Some(start), Some(end)) = (self.start, self.end) else {
            return Err(Failure::new("the run ended before it was measured"));
        };
        let client_cpu_ms = (end.client_cpu - start.client_cpu).as_secs_f64() * 1e3;
        let broker = match (start.broker, end.broker) {
            (Some(start), Some(end)) => Some(end.since(&start)),
            _ => None,
        };
        let known = client_cpu_ms + broker.map_or(0.0, |used| used.cpu_ms);
        Ok(Interval {
            seconds: (end.at - start.at) as f64 / 1e9,
            records: self.records,
            bytes: self.records * record_size as u64,
            wire_bytes: self.wire_bytes,
            requests: self.requests,
            latency: Percentiles::of(&self.histogram),
            acked: self.acked,
            ack: self.acks.as_ref().map(Percentiles::of),
            caught_up: self.caught_up,
            client_cpu_ms,
            broker,
            other_cpu_ms: (end.machine_ms - start.machine_ms - known).max(0.0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_interval_counts_but_late_answers_give_their_latency() {
        let mut meter = Meter::new(&[], Duration::ZERO, Stop::Records(2));
        meter.answered(0, 5, 1, 10); // before the first tick: warm-up
        meter.tick(1).unwrap();
        let due = meter.start.unwrap().at;
        meter.answered(due, due + 1000, 2, 10);
        meter.tick(due + 1).unwrap();
        assert!(meter.over());
        let end = meter.end.unwrap().at;
        meter.answered(end - 1, end + 4_000_000, 1, 10); // due inside, answered after
        meter.answered(end, end + 9_000_000_000, 1, 10); // due after
        let interval = meter.interval(100).unwrap();
        assert_eq!((interval.records, interval.bytes), (2, 200));
        assert_eq!((interval.requests, interval.latency.count), (1, 2));
        assert!((interval.latency.max_us / 4000.0 - 1.0).abs() < 0.01);
    }

    #[test]
    fn acknowledgements_are_apart_and_catching_up_ends_the_interval() {
        let mut meter = Meter::new(&[], Duration::ZERO, Stop::After(1 << 60));
        meter.tick(1).unwrap();
        let now = meter.clock().now();
        meter.acknowledged(now, now + 2_000_000, 3);
        meter.count(now, 7, 70);
        assert!(!meter.over());
        meter.catch_up(now + 1).unwrap();
        assert!(meter.over());
        meter.count(now, 100, 100); // after the end
        let interval = meter.interval(10).unwrap();
        assert_eq!((interval.records, interval.acked), (7, 3));
        assert!(interval.caught_up && interval.latency.count == 0);
        assert_eq!(interval.ack.map(|ack| ack.count), Some(1));
    }

    #[test]
    fn a_run_that_was_cut_short_is_no_result() {
        let meter = Meter::new(&[], Duration::from_secs(1), Stop::Records(1));
        assert!(meter.interval(1).is_err());
    }
}
