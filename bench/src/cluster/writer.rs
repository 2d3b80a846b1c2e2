//! A stock client that writes without a pause and says when partitions take its records again: a
//! program of bench/clients/, which say what is spoken.
//!
//! Invariant: a writer never outlives its `Writer`, and none is waited for without an end.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::failure::{Context, Failure, Result};
use crate::sys;

const PYTHON: &str = include_str!("../../clients/writer.py");
const JAVA: &str = include_str!("../../clients/Writer.java");
/// What the Python client is, among what the tests install.
const REQUIREMENTS: &str = include_str!("../../../tests/compat/python/requirements.txt");
/// How long a client may take to begin, and to end.
const PATIENCE: Duration = Duration::from_secs(120);

/// Which client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// librdkafka, through Python.
    Librdkafka,
    /// Kafka's own.
    Java,
}

/// The clients of the figures.
pub const CLIENTS: [Client; 2] = [Client::Librdkafka, Client::Java];

impl Client {
    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Client::Librdkafka => "librdkafka",
            Client::Java => "Java",
        }
    }
}

/// What a client writes.
#[derive(Clone, Debug)]
pub struct Load {
    /// To which topic.
    pub topic: String,
    /// Its partitions.
    pub partitions: i32,
    /// A record each so many milliseconds.
    pub pause_ms: u32,
}

/// Where the clients are installed.
#[derive(Clone, Debug)]
pub struct Clients {
    work: PathBuf,
    kafka: PathBuf,
}

impl Clients {
    /// Installs librdkafka below `work` if need be. The Java client is among the jars of `kafka`.
    ///
    /// # Errors
    /// It cannot be installed.
    pub fn install(work: &Path, kafka: &Path) -> Result<Clients> {
        let put = |name: &str, text: &str| {
            let path = work.join(name);
            fs::write(&path, text).context(|| format!("cannot write {}", path.display()))
        };
        put("writer.py", PYTHON)?;
        put("Writer.java", JAVA)?;
        let wanted = REQUIREMENTS.lines().find(|l| l.starts_with("confluent-"));
        let wanted = wanted.ok_or_else(|| Failure::new("no client among the requirements"))?;
        let (venv, stamp) = (work.join("python"), work.join("python.stamp"));
        if !fs::read_to_string(&stamp).is_ok_and(|done| done == wanted) {
            let mut make = Command::new("python3");
            run(make.args(["-m", "venv"]).arg(&venv))?;
            let mut install = Command::new(venv.join("bin/pip"));
            install.args(["install", "--quiet", "--disable-pip-version-check", wanted]);
            run(&mut install)?;
            put("python.stamp", wanted)?;
        }
        Ok(Clients {
            work: work.to_owned(),
            kafka: kafka.to_owned(),
        })
    }

    /// Starts a client that will write.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(&self, client: Client, boot: &str, load: &Load) -> Result<Writer> {
        let mut command = match client {
            Client::Librdkafka => {
                let mut python = Command::new(self.work.join("python/bin/python"));
                python.arg(self.work.join("writer.py"));
                python
            }
            Client::Java => {
                let mut java = Command::new("java");
                java.args(["-Xmx256m", "-XX:+UseSerialGC", "-cp"]);
                java.arg(self.kafka.join("libs/*"));
                java.arg(self.work.join("Writer.java"));
                java
            }
        };
        let (partitions, pause) = (load.partitions.to_string(), load.pause_ms.to_string());
        command.args([boot, &load.topic, &partitions, &pause]);
        let log = self.work.join(format!("{}.log", client.name()));
        let log = File::options().create(true).append(true).open(&log);
        let log = log.context(|| "cannot write a client's log".into())?;
        Writer::start(client, command, log)
    }
}

fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().display().to_string();
    let status = command.stdout(Stdio::null()).status();
    let status = status.context(|| format!("cannot run {program}"))?;
    match status.success() {
        true => Ok(()),
        false => Err(Failure::new(format!("{program} failed ({status})"))),
    }
}

/// A client that runs.
#[derive(Debug)]
pub struct Writer {
    client: Client,
    child: Child,
    input: Option<ChildStdin>,
    /// What it says, and when.
    lines: Receiver<(Instant, String)>,
    marks: u64,
    /// Why records were given up, so far.
    pub failed: Vec<String>,
}

impl Writer {
    fn start(client: Client, mut command: Command, log: File) -> Result<Writer> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command.stderr(log);
        sys::end_with_parent(&mut command);
        let mut child = command
            .spawn()
            .context(|| format!("cannot start the {} client", client.name()))?;
        let (tell, lines) = channel();
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let output = output.ok_or_else(|| Failure::new("a client without an output"))?;
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(|line| line.ok()) {
                // Nobody may listen any more.
                let _ = tell.send((Instant::now(), line));
            }
        });
        let mut writer = Writer {
            client,
            child,
            input,
            lines,
            marks: 0,
            failed: Vec::new(),
        };
        writer.until("writes", Instant::now() + PATIENCE)?;
        Ok(writer)
    }

    /// Which client it is.
    pub fn client(&self) -> Client {
        self.client
    }

    /// Tells it to write, or to rest.
    ///
    /// # Errors
    /// It is gone.
    pub fn write(&mut self, writes: bool) -> Result<()> {
        self.say(if writes { "write" } else { "rest" })
    }

    /// Asks it to say when each of these partitions took a record that is sent from now on.
    ///
    /// # Errors
    /// It is gone.
    pub fn mark(&mut self, partitions: &[i32]) -> Result<()> {
        self.marks += 1;
        let mut line = format!("mark {}", self.marks);
        partitions.iter().for_each(|p| line += &format!(" {p}"));
        self.say(&line)
    }

    /// When the partitions that were marked last had all taken a record.
    ///
    /// # Errors
    /// It is gone, or they had not by then.
    pub fn back(&mut self, deadline: Instant) -> Result<Instant> {
        self.until(&format!("back {}", self.marks), deadline)
    }

    /// Ends it: how many records it could not write.
    ///
    /// # Errors
    /// It does not end by itself.
    pub fn end(mut self) -> Result<u64> {
        self.input = None;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (_, line) = self.line(deadline)?;
            if let Some(left) = line.strip_prefix("left ") {
                let name = self.client.name();
                let left = left.trim().parse();
                return left.context(|| format!("the {name} client said: {line}"));
            }
        }
    }

    fn say(&mut self, line: &str) -> Result<()> {
        let name = self.client.name();
        let input = self.input.as_mut();
        let input = input.ok_or_else(|| Failure::new("a client without an input"))?;
        writeln!(input, "{line}").context(|| format!("the {name} client is gone"))
    }

    fn until(&mut self, wanted: &str, deadline: Instant) -> Result<Instant> {
        loop {
            let (at, line) = self.line(deadline)?;
            if line == wanted {
                return Ok(at);
            }
            if let Some(why) = line.strip_prefix("failed ") {
                self.failed.push(why.to_owned());
            }
        }
    }

    fn line(&mut self, deadline: Instant) -> Result<(Instant, String)> {
        let name = self.client.name();
        let left = deadline.saturating_duration_since(Instant::now());
        self.lines.recv_timeout(left).map_err(|error| {
            Failure::new(match error {
                RecvTimeoutError::Timeout => format!("the {name} client said nothing in time"),
                RecvTimeoutError::Disconnected => format!("the {name} client has ended"),
            })
        })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // An error means that it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
