//! Faults at random moments, of whatever the arena has to offer, and of the clients.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use streamd_tests::broker::Broker;
use streamd_tests::noise::Noise;

use crate::workers::Worker;

/// Brokers, and what can happen to them.
pub trait Arena {
    /// Where clients find them.
    fn boot(&self) -> String;

    /// Makes a topic.
    fn create_topic(&self, name: &str, partitions: i32);

    /// What can happen, and how often each is chosen.
    fn faults(&self) -> &'static [(&'static str, u64)];

    /// Has it happen; all is well again when this returns.
    fn strike(&mut self, fault: &str, moments: &mut Moments);
}

/// Random moments.
pub struct Moments(Noise);

impl Moments {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0.below(limit)
    }

    pub fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from))
    }

    /// Waits for a random time between these, ms.
    pub fn wait(&mut self, from: u64, to: u64) {
        sleep(self.millis(from, to));
    }
}

/// How often a client stands still, of a hundred: for longer than sessions, sometimes than
/// transactions, last.
const PAUSE_CLIENT: u64 = 8;

pub struct Nemesis {
    moments: Moments,
    pub fired: BTreeMap<String, u64>,
    /// What fired and from when to when, as notes of a history; its clock in seconds.
    pub notes: Vec<String>,
}

/// The clock of the histories, about.
fn uptime() -> String {
    let text = std::fs::read_to_string("/proc/uptime").expect("Linux");
    text.split_whitespace()
        .next()
        .unwrap_or_default()
        .to_owned()
}

impl Nemesis {
    pub fn new(seed: u64) -> Self {
        Self {
            moments: Moments(Noise::new(seed)),
            fired: BTreeMap::new(),
            notes: Vec::new(),
        }
    }

    /// Lets faults happen until then; in the end all is well again.
    pub fn rage(&mut self, until: Instant, arena: &mut dyn Arena, workers: &[Worker]) {
        loop {
            self.moments.wait(300, 3000);
            if Instant::now() >= until {
                return;
            }
            let from = uptime();
            let fault = self.strike(arena, workers);
            self.notes
                .push(format!("# {fault} from {from} to {}", uptime()));
            *self.fired.entry(fault).or_default() += 1;
        }
    }

    fn strike(&mut self, arena: &mut dyn Arena, workers: &[Worker]) -> String {
        if self.moments.below(100) < PAUSE_CLIENT {
            let chosen = self.moments.below(workers.len() as u64) as usize;
            workers[chosen].pause(self.moments.millis(2000, 12_000));
            return "pause a client".to_owned();
        }
        let faults = arena.faults();
        let mut ticket = self.moments.below(faults.iter().map(|f| f.1).sum());
        let chosen = faults.iter().find(|(_, weight)| {
            let here = ticket < *weight;
            ticket = ticket.saturating_sub(*weight);
            here
        });
        let fault = chosen.expect("below the sum of the weights").0;
        arena.strike(fault, &mut self.moments);
        fault.to_owned()
    }
}

/// SIGKILL, and a start after up to a second.
pub fn kill(broker: &mut Broker, moments: &mut Moments) {
    broker.kill();
    moments.wait(0, 1000);
    broker.start_again();
}

/// SIGSTOP, and SIGCONT after a time between these, ms.
pub fn pause(broker: &Broker, moments: &mut Moments, (from, to): (u64, u64)) {
    broker.signal(Signal::STOP);
    moments.wait(from, to);
    broker.signal(Signal::CONT);
}
