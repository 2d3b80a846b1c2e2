//! What the kernel counts of a process and of the machine, read from /proc.
//!
//! CPU time is utime + stime of the whole process: every thread, those that ended included, and
//! io_uring's workers, which are threads of the process that made the ring.

use std::fs;

use serde::{Deserialize, Serialize};

use crate::failure::{Context, Failure, Result};
use crate::sys;

/// Counters of a process since it started, and its memory now.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// User and system time, in milliseconds.
    pub cpu_ms: f64,
    /// Resident memory, in bytes.
    pub rss: u64,
    /// Switches because a thread waited, summed over living threads.
    pub switches_voluntary: u64,
    /// Switches because a thread was pushed off its core, summed over living threads.
    pub switches_involuntary: u64,
    /// Bytes that the process caused to be read from storage.
    pub read_bytes: u64,
    /// Bytes that the process caused to be written to storage (when dirtied, for a page cache).
    pub write_bytes: u64,
}

/// What a process used between two readings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Used {
    /// User and system time, in milliseconds.
    pub cpu_ms: f64,
    /// Resident memory at the end, in bytes.
    pub rss: u64,
    /// Switches because a thread waited.
    pub switches_voluntary: u64,
    /// Switches because a thread was pushed off its core.
    pub switches_involuntary: u64,
    /// Bytes read from storage.
    pub read_bytes: u64,
    /// Bytes written to storage.
    pub write_bytes: u64,
}

impl Usage {
    /// Reads the counters of a process.
    ///
    /// # Errors
    /// There is no such process.
    pub fn of(pid: u32) -> Result<Usage> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context(|| {
            format!("cannot read the CPU time of process {pid}: is it still running?")
        })?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        // Another user's io counters cannot be read; then they count as zero.
        let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
        let (switches_voluntary, switches_involuntary) = switches(pid);
        Ok(Usage {
            cpu_ms: cpu_ms(&stat)
                .ok_or_else(|| Failure::new(format!("/proc/{pid}/stat has no times: {stat}")))?,
            rss: field(&status, "VmRSS:").unwrap_or(0) * 1024,
            switches_voluntary,
            switches_involuntary,
            read_bytes: field(&io, "read_bytes:").unwrap_or(0),
            write_bytes: field(&io, "write_bytes:").unwrap_or(0),
        })
    }

    /// Reads the counters of some processes and adds them up; `None` of none.
    ///
    /// # Errors
    /// One is gone.
    pub fn of_all(pids: &[u32]) -> Result<Option<Usage>> {
        let mut sum: Option<Usage> = None;
        for pid in pids {
            let one = Usage::of(*pid)?;
            let sum = sum.get_or_insert_default();
            sum.cpu_ms += one.cpu_ms;
            sum.rss += one.rss;
            sum.switches_voluntary += one.switches_voluntary;
            sum.switches_involuntary += one.switches_involuntary;
            sum.read_bytes += one.read_bytes;
            sum.write_bytes += one.write_bytes;
        }
        Ok(sum)
    }

    /// What was used since `start`.
    pub fn since(&self, start: &Usage) -> Used {
        let diff = |now: u64, then: u64| now.saturating_sub(then);
        Used {
            cpu_ms: (self.cpu_ms - start.cpu_ms).max(0.0),
            rss: self.rss,
            switches_voluntary: diff(self.switches_voluntary, start.switches_voluntary),
            switches_involuntary: diff(self.switches_involuntary, start.switches_involuntary),
            read_bytes: diff(self.read_bytes, start.read_bytes),
            write_bytes: diff(self.write_bytes, start.write_bytes),
        }
    }
}

fn switches(pid: u32) -> (u64, u64) {
    let mut sum = (0, 0);
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return sum;
    };
    for task in tasks.flatten() {
        // A thread may end between the listing and the reading.
        let Ok(status) = fs::read_to_string(task.path().join("status")) else {
            continue;
        };
        sum.0 += field(&status, "voluntary_ctxt_switches:").unwrap_or(0);
        sum.1 += field(&status, "nonvoluntary_ctxt_switches:").unwrap_or(0);
    }
    sum
}

/// Fields 14 and 15 of a stat line. The name, field 2, may hold blanks and parentheses.
fn cpu_ms(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) as f64 * 1000.0 / sys::ticks_per_second() as f64)
}

fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// CPU time of the whole machine that was not idle, in milliseconds, since it started.
pub fn machine_busy_ms() -> f64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    busy_ticks(&stat).unwrap_or(0) as f64 * 1000.0 / sys::ticks_per_second() as f64
}

/// The first line: user nice system idle iowait irq softirq steal; idle and iowait are not busy,
/// and what the host stole was nobody's here.
fn busy_ticks(stat: &str) -> Option<u64> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = line
        .split_ascii_whitespace()
        .map_while(|word| word.parse().ok())
        .collect();
    let [user, nice, system, _, _, irq, softirq, ..] = ticks[..] else {
        return None;
    };
    Some(user + nice + system + irq + softirq)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn times_are_found_behind_a_name_with_parentheses() {
        let stat = "7 (a (b) c) S 1 7 7 0 -1 4194304 1 0 0 0 150 50 0 0 20 0 3 0 99 1 2";
        let ticks = sys::ticks_per_second() as f64;
        assert_eq!(cpu_ms(stat), Some(200.0 * 1000.0 / ticks));
        assert_eq!(cpu_ms("7 (x) S 1"), None);
    }

    #[test]
    fn the_voluntary_line_is_not_taken_for_the_other() {
        let status = "nonvoluntary_ctxt_switches:\t9\nvoluntary_ctxt_switches:\t4\n";
        assert_eq!(field(status, "voluntary_ctxt_switches:"), Some(4));
        assert_eq!(field(status, "nonvoluntary_ctxt_switches:"), Some(9));
    }

    #[test]
    fn idle_and_waiting_are_not_busy() {
        assert_eq!(busy_ticks("cpu  10 1 5 100 50 2 3 7 0 0\n"), Some(21));
        assert_eq!(busy_ticks("cpu  10 1\n"), None);
    }

    #[test]
    fn the_cpu_time_of_this_process_grows_as_it_works() {
        let start = Usage::of(std::process::id()).unwrap();
        let until = Instant::now() + Duration::from_millis(200);
        while Instant::now() < until {
            std::hint::black_box(until);
        }
        let used = Usage::of(std::process::id()).unwrap().since(&start);
        assert!(used.cpu_ms > 0.0 && used.rss > 100_000, "{used:?}");
    }

    #[test]
    fn a_process_that_is_not_there_is_an_error() {
        let error = Usage::of(u32::MAX).unwrap_err().to_string();
        assert!(error.contains("is it still running"), "{error}");
    }
}
