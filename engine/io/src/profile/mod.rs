//! Where the time goes: profiles of the CPU, and the stacks of tasks that held their shard.
//!
//! - [`record`] samples all threads for a while; [`Profile::folded`] names the frames.
//! - [`stalls()`] shows the last turns of tasks that were longer than the stall limit.
//!
//! Works as an ordinary user, in a container, without hardware counters. While nothing is asked
//! for, it costs three plain stores per turn of a task, and a thread that looks every 10 ms.
//! Names are made by whoever asks, never on a shard.

mod names;
mod sampler;
mod signal;
mod stalls;
#[cfg(test)]
mod tests;
mod walk;

use std::collections::BTreeMap;
use std::time::Duration;

use names::Names;
pub use sampler::record;
pub(crate) use stalls::Watch;
pub use stalls::{Stall, folded_stalls, stall_counts, stalls};
pub use walk::know_stack;

/// What a thread was seen at.
#[derive(Clone, Debug)]
struct Stack {
    thread: String,
    /// Addresses of return, innermost first.
    frames: Vec<usize>,
    /// Samples.
    weight: u64,
}

/// A CPU profile of this process.
#[derive(Clone, Debug)]
pub struct Profile {
    /// For how long it was taken.
    pub took: Duration,
    /// Samples per second of CPU.
    pub hz: u32,
    /// Samples that found no room.
    pub lost: u64,
    stacks: Vec<Stack>,
}

impl Profile {
    /// How many samples there are.
    pub fn samples(&self) -> u64 {
        self.stacks.iter().map(|s| s.weight).sum()
    }

    /// Lines of `thread;outermost;...;innermost samples`, sorted: the form that flame graphs are
    /// drawn from. Reads the program's debug information: takes a moment, and some memory while
    /// it does.
    pub fn folded(&self) -> String {
        let mut names = Names::new();
        let mut lines = BTreeMap::new();
        for stack in &self.stacks {
            let line = names.line(&stack.thread, &stack.frames);
            *lines.entry(line).or_insert(0) += stack.weight;
        }
        text(&lines)
    }
}

fn text(lines: &BTreeMap<String, u64>) -> String {
    lines
        .iter()
        .map(|(line, n)| format!("{line} {n}\n"))
        .collect()
}
