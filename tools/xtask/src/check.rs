//! `cargo xtask check`: the whole gate, in the order that fails soonest.
//!
//! Every step runs even if one before it failed, so that one run shows all there is to mend.

use std::path::Path;
use std::time::Instant;

use crate::{Outcome, tidy};

const FORMAT: &[&str] = &["fmt", "--all", "--", "--check"];
const CLIPPY: &[&str] = &[
    "clippy",
    "--workspace",
    "--all-targets",
    "--",
    "-D",
    "warnings",
];
const DOCS: &[&str] = &["doc", "--workspace", "--no-deps"];
const TESTS: &[&str] = &["test", "--workspace", "--no-fail-fast"];

/// Runs the steps; `fast` leaves out the tests.
///
/// # Errors
/// Names the steps that failed.
pub fn run(root: &Path, fast: bool) -> Outcome {
    let mut failed = Vec::new();
    let mut step = |name: &'static str, run: &dyn Fn() -> Outcome| {
        eprintln!("xtask: {name}");
        let start = Instant::now();
        if let Err(message) = run() {
            eprintln!("xtask: {name} failed: {message}");
            failed.push(name);
        } else {
            eprintln!(
                "xtask: {name} passed, {:.1} s",
                start.elapsed().as_secs_f64()
            );
        }
    };
    step("format", &|| cargo(root, FORMAT));
    step("tidy", &|| tidy::run(root));
    step("clippy", &|| cargo(root, CLIPPY));
    step("docs", &|| cargo(root, DOCS));
    if !fast {
        step("tests", &|| cargo(root, TESTS));
    }
    if failed.is_empty() {
        eprintln!("xtask: all passed");
        return Ok(());
    }
    Err(format!("failed: {}", failed.join(", ")))
}

fn cargo(root: &Path, args: &[&str]) -> Outcome {
    let status = crate::cargo(root, args)
        .env("RUSTDOCFLAGS", "-D warnings")
        .status()
        .map_err(|e| format!("cargo does not start: {e}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("cargo {}", args.join(" ")))
    }
}
