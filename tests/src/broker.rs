//! A streamd process in a temporary folder, or a broker that somebody else runs.
//!
//! A process that was started here never outlives its `Broker`, and must end cleanly unless killed.

use std::fs::{self, File};
use std::io::Read;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::clock::Clock;
use crate::net::Place;
use crate::run::{run, source_dir, tail, target_dir};

const START_DEADLINE: Duration = Duration::from_secs(30);
const STOP_DEADLINE: Duration = Duration::from_secs(30);
/// Below the ports that outgoing connections take, so that a port stays free over a restart.
const PORTS: std::ops::Range<u16> = 22_000..23_000;

/// The broker that `STREAMD_TEST_TARGET` names.
#[must_use]
pub fn external() -> Option<String> {
    std::env::var("STREAMD_TEST_TARGET")
        .ok()
        .filter(|s| !s.is_empty())
}

/// A running broker of ours.
pub struct Broker {
    dir: TempDir,
    data: PathBuf,
    port: u16,
    /// Where it runs, if not here.
    place: Option<Place>,
    clock: Option<Clock>,
    options: Vec<String>,
    /// What its starts run.
    program: PathBuf,
    child: Option<Child>,
}

/// What a broker may have instead of what this machine gives every process.
#[derive(Default)]
pub struct Site {
    /// A data folder that outlives it.
    pub data: Option<PathBuf>,
    /// A namespace.
    pub place: Option<Place>,
    /// A wall clock.
    pub clock: Option<Clock>,
    /// Another program than the one under test.
    pub program: Option<PathBuf>,
}

impl Broker {
    /// Starts one on a free port with an empty data folder. `options` are further flags.
    ///
    /// # Panics
    /// When it isn't ready within 30 s; the message holds what it printed.
    #[must_use]
    pub fn start(options: &[&str]) -> Self {
        Self::start_on(Site::default(), options)
    }

    /// As [`Broker::start`], with its data in a folder that outlives it.
    ///
    /// # Panics
    /// As [`Broker::start`].
    #[must_use]
    pub fn start_in(data: &Path, options: &[&str]) -> Self {
        let site = Site {
            data: Some(data.to_owned()),
            ..Site::default()
        };
        Self::start_on(site, options)
    }

    /// As [`Broker::start`], at a place of its own.
    ///
    /// # Panics
    /// As [`Broker::start`].
    #[must_use]
    pub fn start_on(site: Site, options: &[&str]) -> Self {
        let mut broker = Self::idle(site, options);
        broker.start_again();
        broker
    }

    /// One that does not run yet: see [`Broker::start_refused`].
    ///
    /// # Panics
    /// When there is no room for a folder.
    #[must_use]
    pub fn idle(site: Site, options: &[&str]) -> Self {
        let dir = TempDir::with_prefix("streamd-test-").expect("a temporary folder");
        let data = site.data.unwrap_or_else(|| dir.path().join("data"));
        Self {
            dir,
            data,
            port: free_port(),
            place: site.place,
            clock: site.clock,
            options: options.iter().map(|&o| o.to_owned()).collect(),
            program: site.program.unwrap_or_else(|| binary().to_owned()),
            child: None,
        }
    }

    /// The starts from now on are of this program.
    pub fn become_of(&mut self, program: &Path) {
        program.clone_into(&mut self.program);
    }

    /// Starts it, as [`Broker::start_again`], where it is to end by itself with exit code 1; gives
    /// what it says.
    ///
    /// # Panics
    /// When it runs on, or ends otherwise.
    pub fn start_refused(&mut self) -> String {
        let seen = self.spawn();
        let mut child = self.child.take().expect("it was started");
        let status = end_within(&mut child, START_DEADLINE);
        let log = self.log();
        let code = status.and_then(|status| status.code());
        assert_eq!(code, Some(1), "{}", tail(&log));
        log[seen..].to_owned()
    }

    /// Starts it after [`Broker::kill`] or [`Broker::stop`], on the same port and folder.
    ///
    /// # Panics
    /// As [`Broker::start`]; also when it runs.
    pub fn start_again(&mut self) {
        let seen = self.spawn();
        self.await_ready(seen);
    }

    /// Starts it; gives how long its log was before.
    fn spawn(&mut self) -> usize {
        assert!(self.child.is_none(), "the broker runs already");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .expect("a log");
        let seen = log.metadata().expect("a log").len();
        let mut command = match &self.place {
            Some(place) => place.command(&self.program),
            None => Command::new(&self.program),
        };
        if let Some(clock) = &self.clock {
            clock.rule(&mut command);
        }
        let child = command
            .args(["--listen", &self.addr(), "--data-dir"])
            .arg(self.data_dir())
            .args(&self.options)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("streamd starts");
        self.child = Some(child);
        usize::try_from(seen).expect("a small log")
    }

    fn await_ready(&mut self, seen: usize) {
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            let log = self.log();
            if log[seen..]
                .lines()
                .any(|l| l.contains("ready") && l.contains("listen="))
            {
                return;
            }
            let exited = self
                .child
                .as_mut()
                .and_then(|c| c.try_wait().expect("a child's state"));
            if let Some(status) = exited {
                self.child = None;
                panic!("streamd ended at its start with {status}:\n{}", tail(&log));
            }
            assert!(
                Instant::now() < deadline,
                "streamd isn't ready:\n{}",
                tail(&log)
            );
            sleep(Duration::from_millis(10));
        }
    }

    /// Where clients reach it.
    #[must_use]
    pub fn addr(&self) -> String {
        let here = Ipv4Addr::LOCALHOST;
        let host = self.place.as_ref().map_or(here, Place::address);
        format!("{host}:{}", self.port)
    }

    /// Its data folder.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.data.clone()
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("broker.log")
    }

    /// All that it has printed so far.
    #[must_use]
    pub fn log(&self) -> String {
        let mut text = Vec::new();
        let mut file = File::open(self.log_path()).expect("the broker's log");
        file.read_to_end(&mut text).expect("the broker's log");
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Its process, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Sends its process a signal.
    ///
    /// # Panics
    /// When it doesn't run.
    pub fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("a running broker");
        kill_process(Pid::from_child(child), signal).expect("a broker of ours");
    }

    /// SIGKILL, and waits for the end.
    ///
    /// # Panics
    /// When it had ended by itself.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("a running broker");
        let ended = child.try_wait().expect("a child's state");
        assert!(
            ended.is_none(),
            "streamd ended by itself: {ended:?}\n{}",
            tail(&self.log())
        );
        child.kill().expect("SIGKILL");
        child.wait().expect("the killed process");
    }

    /// SIGTERM, and waits for a clean end.
    ///
    /// # Panics
    /// When it doesn't end within 30 s with exit code 0, or has panicked.
    pub fn stop(&mut self) {
        let mut child = self.child.take().expect("a running broker");
        let pid = Pid::from_child(&child);
        if child.try_wait().expect("a child's state").is_none() {
            kill_process(pid, Signal::TERM).expect("SIGTERM");
        }
        let ended = end_within(&mut child, STOP_DEADLINE);
        let log = self.log();
        let Some(status) = ended else {
            panic!(
                "streamd didn't stop within {STOP_DEADLINE:?} of SIGTERM:\n{}",
                tail(&log)
            );
        };
        assert!(
            status.success(),
            "streamd ended with {status}:\n{}",
            tail(&log)
        );
        assert!(
            !log.contains("panicked at"),
            "streamd panicked:\n{}",
            tail(&log)
        );
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            if self.child.is_some() {
                self.stop();
            }
            return;
        }
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        eprintln!("the broker's log:\n{}", tail(&self.log()));
    }
}

/// Waits for the end of a process. `None`: it ran on for so long, and was killed.
///
/// # Panics
/// When it is no process of ours.
pub fn end_within(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + patience;
    loop {
        let ended = child.try_wait().expect("a child's state");
        if ended.is_some() {
            return ended;
        }
        if Instant::now() > deadline {
            child.kill().expect("SIGKILL");
            child.wait().expect("the killed process");
            return None;
        }
        sleep(Duration::from_millis(10));
    }
}

/// Resident memory of a process in bytes, and its peak.
///
/// # Panics
/// When the process is gone.
#[must_use]
pub fn resident(pid: u32) -> (u64, u64) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a live process");
    let field = |name: &str| {
        let line = status
            .lines()
            .find(|l| l.starts_with(name))
            .expect("a memory field");
        let kib: u64 = line
            .split_whitespace()
            .nth(1)
            .and_then(|n| n.parse().ok())
            .expect("KiB");
        kib * 1024
    };
    (field("VmRSS:"), field("VmHWM:"))
}

/// Lets the peak of a process's resident memory start again from what it has now.
///
/// # Panics
/// When the process isn't ours.
pub fn forget_peak(pid: u32) {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("a process of ours");
}

/// A port that nobody listens on now.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let spread = u16::try_from(std::process::id() % 97).expect("below 97") * 10;
    for _ in 0..PORTS.len() {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = PORTS.start + spread.wrapping_add(step) % (PORTS.end - PORTS.start);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port in {PORTS:?}");
}

/// The binary under test; built first, which takes no time when it is fresh.
fn binary() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| match std::env::var_os("STREAMD_TEST_BIN") {
        Some(given) => given.into(),
        None => build("streamd"),
    })
}

/// The broker's program, for starts that are to fail.
#[must_use]
pub fn streamd() -> &'static Path {
    binary()
}

/// The operator's command, built as the binary under test; beside it if that is given.
#[must_use]
pub fn streamctl() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| match std::env::var_os("STREAMD_TEST_BIN") {
        Some(given) => Path::new(&given).with_file_name("streamctl"),
        None => build("streamctl"),
    })
}

fn build(package: &str) -> PathBuf {
    let target = target_dir();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    run(Command::new(cargo)
        .args([
            "build",
            "--quiet",
            "--release",
            "--package",
            package,
            "--target-dir",
        ])
        .arg(&target)
        .current_dir(source_dir()));
    target.join("release").join(package)
}
