//! Says on standard error how far a long run has come; a bar on a terminal, nothing elsewhere.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// How often the bar is drawn; seldom, for that is this program's CPU time.
const TICK: Duration = Duration::from_millis(500);

/// Counts seconds of work.
#[derive(Debug)]
pub struct Progress(ProgressBar);

impl Progress {
    /// About so many seconds of work are to come.
    pub fn new(seconds: f64) -> Progress {
        let bar = ProgressBar::new((seconds * 10.0).ceil().max(1.0) as u64);
        let style =
            ProgressStyle::with_template("{bar:30} {percent:>3}% {elapsed} left {eta}  {msg}");
        if let Ok(style) = style {
            bar.set_style(style);
        }
        if !bar.is_hidden() {
            bar.enable_steady_tick(TICK);
        }
        Progress(bar)
    }

    /// What is being done now.
    pub fn say(&self, what: &str) {
        self.0.set_message(what.to_owned());
    }

    /// About so many seconds of work are done.
    pub fn add(&self, seconds: f64) {
        self.0.inc((seconds * 10.0).round() as u64);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
