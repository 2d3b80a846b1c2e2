//! Says on standard error how far a long run has come; a bar on a terminal, nothing elsewhere.

use indicatif::{ProgressBar, ProgressStyle};

/// Counts steps.
#[derive(Debug)]
pub struct Progress(ProgressBar);

impl Progress {
    /// So many steps are to come.
    pub fn new(steps: usize) -> Progress {
        let bar = ProgressBar::new(steps as u64);
        let style =
            ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} left {eta}  {msg}");
        if let Ok(style) = style {
            bar.set_style(style);
        }
        Progress(bar)
    }

    /// One more is done.
    pub fn step(&self, what: &str) {
        self.0.set_message(what.to_owned());
        self.0.inc(1);
    }

    /// Takes the bar away while something is printed.
    pub fn hide<T>(&self, print: impl FnOnce() -> T) -> T {
        self.0.suspend(print)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
