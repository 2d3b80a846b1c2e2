//! What kind of machine and which source a result belongs to. No names of hosts or people.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Result};
use crate::sys;

/// Where and of what a result was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Day, UTC: YYYY-MM-DD.
    pub date: String,
    /// Git's short name of the source, with `+` if there were changes; empty if unknown.
    pub commit: String,
    /// Cores that may be used.
    pub cores: usize,
    /// The processor's model.
    pub cpu: String,
    /// Memory in GiB.
    pub memory_gib: u64,
    /// Linux's version, without the vendor's part.
    pub kernel: String,
    /// The file system that was written to.
    pub file_system: String,
}

impl Origin {
    /// Looks at the machine, the clock and the repository; `data` is where data is written.
    pub fn here(root: Option<&Path>, data: &Path) -> Origin {
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Origin {
            date: date(since.map_or(0, |since| since.as_secs() / 86_400)),
            commit: root.map(commit).unwrap_or_default(),
            cores,
            cpu: value(&read("/proc/cpuinfo"), "model name"),
            memory_gib: kib(&value(&read("/proc/meminfo"), "MemTotal")).div_ceil(1 << 20),
            kernel: short_version(&read("/proc/sys/kernel/osrelease")),
            file_system: sys::file_system(data).unwrap_or("unknown").into(),
        }
    }

    /// In a line for a person.
    pub fn text(&self) -> String {
        format!(
            "{} cores ({}), {} GiB, Linux {}, {}",
            self.cores, self.cpu, self.memory_gib, self.kernel, self.file_system
        )
    }
}

fn value(text: &str, name: &str) -> String {
    let found = text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    });
    found.unwrap_or_else(|| "unknown".into())
}

fn kib(text: &str) -> u64 {
    let number = text.split_ascii_whitespace().next();
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// Major and minor version.
fn short_version(release: &str) -> String {
    let parts: Vec<_> = release.trim().split(['.', '-']).take(2).collect();
    parts.join(".")
}

fn git(root: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git")
        .arg("-C")
        .arg(root)
        .args(arguments)
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

fn commit(root: &Path) -> String {
    let Some(name) = git(root, &["rev-parse", "--short", "HEAD"]) else {
        return String::new();
    };
    // What the runs themselves write does not change what was measured.
    let sources = [
        "status",
        "--porcelain",
        "--",
        ".",
        ":!bench/RESULTS.md",
        ":!bench/CLUSTER.md",
        ":!bench/history",
    ];
    let changed = git(root, &sources).is_some_and(|changes| !changes.is_empty());
    name + if changed { "+" } else { "" }
}

/// The time, UTC, to the second: YYYY-MM-DDTHH:MM:SSZ.
pub fn now_utc() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let seconds = since.map_or(0, |since| since.as_secs());
    let (day, rest) = (date(seconds / 86_400), seconds % 86_400);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{day}T{hour:02}:{minute:02}:{second:02}Z")
}

/// The day with a number of days since 1970-01-01 (Gregorian calendar).
fn date(days: u64) -> String {
    // Years begin in March here, so that the leap day is the last of its year; 719,468 days lie
    // between 0000-03-01 and 1970-01-01.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day_of_month = day - (153 * month + 2) / 5 + 1;
    let (month, turn) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    format!("{}-{month:02}-{day_of_month:02}", year + era * 400 + turn)
}

/// The repository that this program was built in: the nearest directory above it with
/// `bench/kafka.sh`.
///
/// # Errors
/// There is none.
pub fn root(given: Option<&Path>) -> Result<PathBuf> {
    let is_root = |path: &&Path| path.join("bench/kafka.sh").is_file();
    if let Some(given) = given {
        return Some(given)
            .filter(is_root)
            .map(Path::to_path_buf)
            .ok_or_else(|| {
                Failure::new(format!(
                    "--root {}: it has no bench/kafka.sh",
                    given.display()
                ))
            });
    }
    let own = std::env::current_exe()?;
    let found = own.ancestors().find(is_root).map(Path::to_path_buf);
    found.ok_or_else(|| {
        Failure::new("the repository was not found above this program: give --root DIR")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_become_dates() {
        let cases = [
            (0, "1970-01-01"),
            (59, "1970-03-01"),
            (11_016, "2000-02-29"),
            (19_723, "2024-01-01"),
            (20_088, "2024-12-31"),
            (47_541, "2100-03-01"),
        ];
        for (days, day) in cases {
            assert_eq!(date(days), day, "{days}");
        }
    }

    #[test]
    fn a_kernel_is_told_without_the_vendors_part() {
        assert_eq!(short_version("6.18.44-vendor-v1\n"), "6.18");
        assert_eq!(short_version("6.1-rc1"), "6.1");
    }

    #[test]
    fn the_machine_is_described() {
        let origin = Origin::here(None, Path::new("/"));
        assert!(origin.cores > 0 && origin.memory_gib > 0, "{origin:?}");
        assert!(
            origin.kernel.contains('.') && origin.date.len() == 10,
            "{origin:?}"
        );
    }
}
