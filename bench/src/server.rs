//! Brokers that this program starts: its own streamd, and Apache Kafka through `kafka.sh`.
//!
//! Both are children that end with this program; dropping one stops it (SIGTERM, and SIGKILL when
//! that does not help).

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::admin::Admin;
use crate::failure::{Context, Failure, Result};
use crate::sys;
use crate::workload::Target;

/// How long a broker may take to start.
const START_WITHIN: Duration = Duration::from_secs(60);
/// How long a broker may take to stop.
const STOP_WITHIN: Duration = Duration::from_secs(20);
/// How many of its last lines are shown when a broker fails.
const LINES_KEPT: usize = 12;

type Lines = Arc<Mutex<VecDeque<String>>>;

/// A broker that runs as a child of this program.
#[derive(Debug)]
pub struct Server {
    child: Child,
    name: String,
    address: SocketAddr,
    admin: Option<SocketAddr>,
    lines: Lines,
    started: Duration,
}

/// What an own streamd is started with.
#[derive(Clone, Copy, Debug, Default)]
pub struct With {
    /// An admin address.
    pub admin: bool,
    /// So many cores; all if not told.
    pub cores: Option<usize>,
}

/// A directory that is removed in the end.
#[derive(Debug)]
pub struct TempDir(PathBuf);

impl TempDir {
    /// Makes a new directory in the temporary one.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new() -> Result<TempDir> {
        let path = std::env::temp_dir().join(format!("bench-{}", std::process::id()));
        fs::create_dir_all(&path).context(|| format!("cannot make {}", path.display()))?;
        Ok(TempDir(path))
    }

    /// Makes a directory anew: what was there is removed.
    ///
    /// # Errors
    /// It cannot be removed or made.
    pub fn anew(path: PathBuf) -> Result<TempDir> {
        if path.exists() {
            fs::remove_dir_all(&path).context(|| format!("cannot remove {}", path.display()))?;
        }
        fs::create_dir_all(&path).context(|| format!("cannot make {}", path.display()))?;
        Ok(TempDir(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("bench: cannot remove {}: {error}", self.0.display());
        }
    }
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context(|| "no free port".into())?;
    Ok(listener.local_addr()?.port())
}

/// Keeps the last lines of a pipe, and passes on those that begin with `ready`.
fn watch(pipe: impl Read + Send + 'static, lines: Lines) -> Receiver<()> {
    let (tell, told) = channel();
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(|line| line.ok()) {
            if line.starts_with("ready") {
                // Nobody listens any more once the broker is up.
                let _ = tell.send(());
            }
            let Ok(mut kept) = lines.lock() else { return };
            kept.push_back(line);
            if kept.len() > LINES_KEPT {
                kept.pop_front();
            }
        }
    });
    told
}

/// Finds the streamd that is meant: the one given, or the one beside this program.
///
/// # Errors
/// There is none.
pub fn streamd_path(given: Option<&Path>) -> Result<PathBuf> {
    let beside = || -> Result<PathBuf> {
        let own = std::env::current_exe().context(|| "where is this program?".into())?;
        Ok(own.with_file_name("streamd"))
    };
    let path = given.map_or_else(beside, |given| Ok(given.to_path_buf()))?;
    if path.is_file() {
        Ok(path)
    } else {
        Err(Failure::new(format!(
            "there is no {}: build it with `cargo build --release`, or give --streamd PATH",
            path.display()
        )))
    }
}

impl Server {
    /// Starts streamd on a free port and waits for its line `ready`.
    ///
    /// # Errors
    /// It cannot be started, ends, or is not ready in a minute; its last lines are in the message.
    pub fn streamd(program: &Path, data: &Path, with: With) -> Result<Server> {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let mut command = Command::new(program);
        command.args(["--listen", &address.to_string(), "--data-dir"]);
        command.arg(data);
        let admin = match with.admin {
            true => Some(SocketAddr::from(([127, 0, 0, 1], free_port()?))),
            false => None,
        };
        if let Some(cores) = with.cores {
            command.args(["--cores", &cores.to_string()]);
        }
        if let Some(admin) = admin {
            command.args(["--admin-listen", &admin.to_string()]);
        }
        let begun = Instant::now();
        let (mut server, ready) = Server::spawn(command, "streamd", address)?;
        loop {
            match ready.recv_timeout(Duration::from_millis(100)) {
                Ok(()) => break,
                Err(RecvTimeoutError::Timeout) => server.still_starting(begun)?,
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(server.failure("ended or closed its standard error"));
                }
            }
        }
        server.started = begun.elapsed();
        server.admin = admin;
        Ok(server)
    }

    /// Installs Kafka if need be, starts it, and waits until it answers.
    ///
    /// # Errors
    /// The script fails, or the broker does not answer in a minute.
    pub fn kafka(script: &Path, work: &Path, port: u16) -> Result<Server> {
        let script_command = |what: &str| {
            let mut command = Command::new("bash");
            command
                .arg(script)
                .arg(what)
                .env("WORK", work)
                .env("KPORT", port.to_string());
            command
        };
        let status = script_command("install").status();
        let status = status.context(|| format!("cannot run {}", script.display()))?;
        if !status.success() {
            let script = script.display();
            return Err(Failure::new(format!("{script} install failed ({status})")));
        }
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let begun = Instant::now();
        let (mut server, _) = Server::spawn(script_command("run"), "Kafka", address)?;
        while Admin::connect(address).is_err() {
            server.still_starting(begun)?;
            thread::sleep(Duration::from_millis(50));
        }
        server.started = begun.elapsed();
        Ok(server)
    }

    fn spawn(
        mut command: Command,
        name: &str,
        address: SocketAddr,
    ) -> Result<(Server, Receiver<()>)> {
        if TcpListener::bind(address).is_err() {
            return Err(Failure::new(format!(
                "something listens on {address} already: stop it or choose another port"
            )));
        }
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(Stdio::piped());
        sys::end_with_parent(&mut command);
        let mut child = command
            .spawn()
            .context(|| format!("cannot start {}", command.get_program().display()))?;
        let lines = Lines::default();
        let pipe = child.stderr.take();
        let pipe = pipe.ok_or_else(|| Failure::new("the broker's standard error is missing"))?;
        let ready = watch(pipe, lines.clone());
        let server = Server {
            child,
            name: name.into(),
            address,
            admin: None,
            lines,
            started: Duration::ZERO,
        };
        Ok((server, ready))
    }

    /// Starts a broker whose start somebody else waits for.
    ///
    /// # Errors
    /// It cannot be started, or something has its port.
    pub fn launch(command: Command, name: &str, address: SocketAddr) -> Result<Server> {
        Ok(Server::spawn(command, name, address)?.0)
    }

    /// That it has not ended.
    ///
    /// # Errors
    /// It has, or cannot be asked.
    pub fn still_runs(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(self.failure(&format!("ended by itself ({status})"))),
        }
    }

    /// SIGKILL, and does not wait for the end.
    ///
    /// # Errors
    /// It had ended by itself.
    pub fn kill_now(&mut self) -> Result<()> {
        self.still_runs()?;
        Ok(self.child.kill()?)
    }

    fn still_starting(&mut self, begun: Instant) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            return Err(self.failure(&format!("ended at its start ({status})")));
        }
        if begun.elapsed() > START_WITHIN {
            return Err(self.failure("was not ready in a minute"));
        }
        Ok(())
    }

    fn failure(&self, what: &str) -> Failure {
        // The lines come through a thread that may be a moment behind.
        thread::sleep(Duration::from_millis(50));
        let lines = self.lines.lock().map(|lines| {
            let lines: Vec<_> = lines.iter().map(|line| format!("\n  {line}")).collect();
            lines.concat()
        });
        let lines = lines.unwrap_or_default();
        Failure::new(format!("{} {what}; its last lines:{lines}", self.name))
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, and waits for the end.
    ///
    /// # Errors
    /// It had ended by itself.
    pub fn kill(mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            return Err(self.failure(&format!("ended by itself ({status})")));
        }
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM, and waits for the end as long as that takes.
    ///
    /// # Errors
    /// It had ended by itself, or did not end well.
    pub fn stop(mut self) -> Result<()> {
        sys::terminate(self.child.id())?;
        let status = self.child.wait()?;
        // Java ends with 128 and the signal's number.
        match status.success() || status.code() == Some(143) {
            true => Ok(()),
            false => Err(self.failure(&format!("ended with {status}"))),
        }
    }

    /// How long it took until it served.
    pub fn started(&self) -> Duration {
        self.started
    }

    /// Its admin address, if it was started with one.
    pub fn admin(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// It as a target, with configs for the topics that are made.
    pub fn target(&self) -> Target {
        Target {
            name: self.name.clone(),
            address: self.address,
            pids: vec![self.child.id()],
            replicas: 1,
            configs: Vec::new(),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let until = Instant::now() + STOP_WITHIN;
        // An error means that it is gone already.
        let _ = sys::terminate(self.child.id());
        while Instant::now() < until {
            match self.child.try_wait() {
                Ok(Some(_)) | Err(_) => return,
                Ok(None) => thread::sleep(Duration::from_millis(20)),
            }
        }
        eprintln!("bench: {} did not stop in time: killed", self.name);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn script(dir: &Path, name: &str, body: &str) -> PathBuf {
        let path = dir.join(name);
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn a_broker_is_ready_when_it_says_so_and_stops_when_dropped() {
        let dir = TempDir::new().unwrap();
        let body = "echo starting >&2; echo \"ready listen=$2\" >&2; exec sleep 60";
        let program = script(dir.path(), "good", body);
        let server = Server::streamd(&program, dir.path(), With::default()).unwrap();
        let pid = server.id();
        assert!(Path::new(&format!("/proc/{pid}")).exists());
        let begun = Instant::now();
        drop(server);
        assert!(begun.elapsed() < Duration::from_secs(10));
        assert!(!Path::new(&format!("/proc/{pid}")).exists());

        let program = script(dir.path(), "bad", "echo no disk >&2; exit 3");
        let error = Server::streamd(&program, dir.path(), With::default()).unwrap_err();
        assert!(error.to_string().contains("no disk"), "{error}");
        let missing = streamd_path(Some(&dir.path().join("none"))).unwrap_err();
        assert!(missing.to_string().contains("cargo build"), "{missing}");
    }
}
