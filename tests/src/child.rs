//! A process that runs beside a test: its lines come as they are printed, it is killed or stopped
//! with all its children, and it never outlives its `Child` nor five minutes.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::run::tail;

/// A running process, started from a command of [`crate::run::command`].
pub struct Child {
    name: String,
    child: std::process::Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    /// What it has printed, as far as somebody took it.
    printed: String,
    ended: bool,
}

impl Child {
    /// Starts it in a process group of its own. Both its streams give lines.
    ///
    /// # Panics
    /// When it can't be started.
    #[must_use]
    pub fn start(name: &str, command: &mut Command) -> Self {
        let mut child = command
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}; see tests/setup.sh"));
        let (say, lines) = channel();
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let from = |pipe: Box<dyn std::io::Read + Send>| {
            let say = say.clone();
            thread::spawn(move || {
                for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                    // The test may be over.
                    let _ = say.send(line);
                }
            });
        };
        from(Box::new(out.expect("a pipe")));
        from(Box::new(err.expect("a pipe")));
        Self {
            name: name.to_owned(),
            input: child.stdin.take(),
            child,
            lines,
            printed: String::new(),
            ended: false,
        }
    }

    /// What it was called at its start.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The next line, unless none comes in time or its output ends.
    pub fn line(&mut self, patience: Duration) -> Option<String> {
        match self.lines.recv_timeout(patience) {
            Ok(line) => {
                self.printed += &line;
                self.printed.push('\n');
                Some(line)
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => None,
        }
    }

    /// Waits for a line that holds `part` and returns it.
    ///
    /// # Panics
    /// When none comes in time; the message holds what was printed.
    pub fn expect(&mut self, part: &str, patience: Duration) -> String {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.line(left) {
                Some(line) if line.contains(part) => return line,
                Some(_) => {}
                None => panic!("no {part:?}: {}", self.printed()),
            }
        }
    }

    /// Writes a line to its input.
    ///
    /// # Panics
    /// When its input is closed.
    pub fn say(&mut self, line: &str) {
        let input = self.input.as_mut().expect("an open input");
        writeln!(input, "{line}").unwrap_or_else(|e| panic!("{} is gone: {e}", self.name));
    }

    /// Closes its input.
    pub fn close_input(&mut self) {
        self.input = None;
    }

    /// The end of what it has printed so far, below its name.
    pub fn printed(&mut self) -> String {
        while self.line(Duration::from_millis(10)).is_some() {}
        format!("{} said:\n{}", self.name, tail(&self.printed))
    }

    /// All that it has printed so far.
    pub fn all(&mut self) -> &str {
        while self.line(Duration::from_millis(10)).is_some() {}
        &self.printed
    }

    /// Whether it runs still.
    ///
    /// # Panics
    /// When the system can't say.
    pub fn runs(&mut self) -> bool {
        !self.ended && self.child.try_wait().expect("a child's state").is_none()
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it doesn't end in time.
    pub fn wait(&mut self, patience: Duration) -> ExitStatus {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child's state") {
                self.ended = true;
                return status;
            }
            assert!(Instant::now() < deadline, "no end: {}", self.printed());
            sleep(Duration::from_millis(20));
        }
    }

    fn signal(&self, signal: Signal) {
        // It may have ended by itself.
        let _ = kill_process_group(Pid::from_child(&self.child), signal);
    }

    /// SIGKILL to it and its children.
    ///
    /// # Panics
    /// When it had ended by itself.
    pub fn kill(mut self) {
        assert!(self.runs(), "gone: {}", self.printed());
        self.signal(Signal::KILL);
        self.wait(Duration::from_secs(10));
    }

    /// SIGTERM to it and its children, and waits.
    ///
    /// # Panics
    /// When it had ended by itself, or doesn't end in time.
    pub fn stop(mut self, patience: Duration) {
        assert!(self.runs(), "gone: {}", self.printed());
        self.signal(Signal::TERM);
        self.wait(patience);
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.runs() {
            self.signal(Signal::KILL);
            let _ = self.child.wait();
        }
        if thread::panicking() {
            eprintln!("{}", self.printed());
        }
    }
}
