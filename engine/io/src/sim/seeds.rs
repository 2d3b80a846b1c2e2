//! Runs of a test from many seeds.
//!
//! `STREAMD_SEEDS=10000` has that many run; `STREAMD_SEED=n` has that one run alone, outside of any
//! `catch_unwind`, with its own panic.

use std::panic::{AssertUnwindSafe, catch_unwind};

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{name} is {text:?}, which is no number")))
}

/// Runs a test from the seeds 0 to `count` (if the environment says nothing else). Gives what the
/// runs came to; `None` when one seed was run alone, which says nothing about all of them.
///
/// # Panics
/// If a run does; the seed is in the message.
pub fn each_seed<T>(count: u64, run: impl Fn(u64) -> T) -> Option<Vec<T>> {
    if let Some(seed) = number("STREAMD_SEED") {
        run(seed);
        return None;
    }
    let count = number("STREAMD_SEEDS").unwrap_or(count);
    let one = |seed| {
        let done = catch_unwind(AssertUnwindSafe(|| run(seed)));
        done.unwrap_or_else(|_| panic!("seed {seed} failed; STREAMD_SEED={seed} runs it alone"))
    };
    Some((0..count).map(one).collect())
}
