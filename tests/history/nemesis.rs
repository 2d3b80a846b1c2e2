//! Faults at random moments: kills, pauses, cuts and stalls, of the broker and of its clients.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use streamd_tests::broker::Broker;

use crate::relay::Relay;
use crate::workers::Worker;
use streamd_tests::noise::Noise;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// SIGKILL, and a start after up to a second.
    Kill,
    /// SIGSTOP and SIGCONT.
    Pause,
    /// SIGSTOP, and SIGKILL while it stands.
    PauseAndKill,
    /// SIGKILL while it starts again.
    KillTwice,
    /// All connections end.
    CutAll,
    /// About half of the connections end.
    CutSome,
    /// No byte gets through.
    Stall,
    /// A client stands still for longer than sessions, sometimes than transactions, last.
    PauseClient,
}

/// How often each is chosen, of a hundred.
const WEIGHTS: [(Fault, u64); 8] = [
    (Fault::Kill, 25),
    (Fault::Pause, 12),
    (Fault::PauseAndKill, 8),
    (Fault::KillTwice, 8),
    (Fault::CutAll, 12),
    (Fault::CutSome, 17),
    (Fault::Stall, 10),
    (Fault::PauseClient, 8),
];

pub struct Nemesis {
    noise: Noise,
    pub fired: BTreeMap<Fault, u64>,
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
            noise: Noise::new(seed),
            fired: BTreeMap::new(),
            notes: Vec::new(),
        }
    }

    /// Lets faults happen until then; in the end all is well again.
    pub fn rage(&mut self, until: Instant, broker: &mut Broker, relay: &Relay, workers: &[Worker]) {
        loop {
            sleep(self.millis(300, 3000));
            if Instant::now() >= until {
                return;
            }
            let mut ticket = self.noise.below(100);
            let chosen = WEIGHTS.iter().find(|(_, weight)| {
                let here = ticket < *weight;
                ticket = ticket.saturating_sub(*weight);
                here
            });
            let fault = chosen.expect("weights of a hundred").0;
            let from = uptime();
            self.strike(fault, broker, relay, workers);
            self.notes
                .push(format!("# {fault:?} from {from} to {}", uptime()));
            *self.fired.entry(fault).or_default() += 1;
        }
    }

    fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.noise.below(to - from))
    }

    fn strike(&mut self, fault: Fault, broker: &mut Broker, relay: &Relay, workers: &[Worker]) {
        match fault {
            Fault::Kill => self.kill(broker),
            Fault::Pause => {
                signal(broker, Signal::STOP);
                sleep(self.millis(100, 4000));
                signal(broker, Signal::CONT);
            }
            Fault::PauseAndKill => {
                signal(broker, Signal::STOP);
                sleep(self.millis(10, 1500));
                self.kill(broker);
            }
            Fault::KillTwice => {
                broker.kill();
                broker.start_again();
                sleep(self.millis(0, 200));
                self.kill(broker);
            }
            Fault::CutAll => relay.cut(|| true),
            Fault::CutSome => relay.cut(|| self.noise.below(2) == 0),
            Fault::Stall => {
                let time = self.millis(100, 4000);
                relay.stall(time);
            }
            Fault::PauseClient => {
                let chosen = self.noise.below(workers.len() as u64) as usize;
                let time = self.millis(2000, 12_000);
                workers[chosen].pause(time);
            }
        }
    }

    fn kill(&mut self, broker: &mut Broker) {
        broker.kill();
        sleep(self.millis(0, 1000));
        broker.start_again();
    }
}

fn signal(broker: &Broker, signal: Signal) {
    let pid = broker.pid().expect("a running broker");
    let pid = Pid::from_raw(pid as i32).expect("a process id");
    kill_process(pid, signal).expect("a broker of ours");
}
