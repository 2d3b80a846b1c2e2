//! The clients' processes: what they say is kept, and they never outlive the test.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use streamd_tests::install;
use streamd_tests::run::{source_dir, target_dir};

/// From when its writers have stopped until a worker has read everything.
const PATIENCE: Duration = Duration::from_secs(75);

pub struct Worker {
    name: &'static str,
    child: Child,
    input: Option<ChildStdin>,
    said: Receiver<String>,
    lines: Vec<String>,
}

impl Worker {
    /// librdkafka in Python, with further arguments.
    pub fn confluent(arguments: &[&str]) -> Self {
        let mut command = Command::new(install::python());
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        command.arg(source_dir().join("history/worker.py"));
        Self::start("librdkafka", command.args(arguments))
    }

    /// The Java client, with further arguments.
    pub fn java(arguments: &[&str]) -> Self {
        Self::start("java", install::java_history().args(arguments))
    }

    fn start(name: &'static str, command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a client starts; see tests/setup.sh");
        let output = child.stdout.take().expect("a pipe");
        let (say, said) = channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                // The test may be over.
                let _ = say.send(line);
            }
        });
        Self {
            name,
            input: child.stdin.take(),
            child,
            said,
            lines: Vec::new(),
        }
    }

    /// Stops it where it is for some time.
    pub fn pause(&self, time: Duration) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::STOP).expect("a worker that runs");
        thread::sleep(time);
        kill_process(pid, Signal::CONT).expect("a worker that was stopped");
    }

    /// Asks it to write nothing more.
    pub fn drain(&mut self) {
        let input = self.input.as_mut().expect("a worker that was not stopped");
        writeln!(input, "drain").expect("the worker listens");
    }

    /// Tells it that the others have ended: its members of groups wait until they own everything.
    pub fn is_last(&mut self) {
        let input = self.input.as_mut().expect("a worker that was not stopped");
        writeln!(input, "last").expect("the worker listens");
    }

    /// Waits until it writes no more.
    pub fn until_quiet(&mut self) {
        let quiet = |lines: &[String]| lines.last().is_some_and(|l| l == "# quiet");
        self.follow("stop writing", quiet);
    }

    /// Lets it read the rest, waits for its end and gives all that it said.
    pub fn finish(mut self) -> Vec<String> {
        drop(self.input.take());
        self.follow("end", |_| false);
        let status = self.child.wait().expect("a child's state");
        assert!(status.success(), "{} ended with {status}", self.name);
        std::mem::take(&mut self.lines)
    }

    /// Takes what it says until `done`, or until its output ends.
    fn follow(&mut self, what: &str, done: impl Fn(&[String]) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done(&self.lines) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.said.recv_timeout(left) {
                Ok(line) => self.lines.push(line),
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    let path = target_dir().join(format!("history-{}.txt", self.name));
                    fs::write(&path, self.lines.join("\n")).expect("a writable target folder");
                    let path = path.display();
                    panic!("{} does not {what}; see what it said in {path}", self.name);
                }
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It has ended unless the test has failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
