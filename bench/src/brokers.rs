//! Which brokers an experiment runs on: those that are named, an own streamd, an own Kafka.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::admin::resolve;
use crate::failure::{Context, Failure, Result};
use crate::server::{Server, TempDir, With, streamd_path};
use crate::workload::Target;

/// What the durable Kafka is called.
pub const KAFKA_DURABLE: &str = "Kafka, flush.messages=1";

/// Installs and runs Kafka.
pub const KAFKA_SCRIPT: &str = include_str!("../kafka.sh");

/// Which brokers are measured, and how often.
#[derive(Args, Clone, Debug, Default)]
pub struct BrokerArgs {
    /// A broker, or one of a cluster; given again, they are measured in turn (A B A B) and
    /// compared. With the numbers of its processes their CPU time and memory are read and added
    /// up. Without a target an own streamd is started.
    #[arg(long = "target", value_name = "[NAME=]HOST:PORT[,PID]...")]
    pub targets: Vec<String>,
    /// Also install and run Apache Kafka: as it comes, and with durable acknowledgements.
    #[arg(long)]
    pub kafka: bool,
    /// Kafka's port; the next one is its controller's.
    #[arg(long, default_value_t = 29292, value_name = "PORT")]
    pub kafka_port: u16,
    /// The program of the own streamd [default: streamd beside this one].
    #[arg(long, value_name = "PATH")]
    pub streamd: Option<PathBuf>,
    /// Where Kafka and the data of own brokers go [default: in the temporary directory].
    #[arg(long, value_name = "DIR")]
    pub work: Option<PathBuf>,
    /// Write a flame graph of the broker's CPU time under load (60 seconds at most); of an own
    /// streamd, or of one that is named together with --admin.
    #[arg(long, value_name = "FILE.svg")]
    pub profile: Option<PathBuf>,
    /// The named broker's admin address, for --profile.
    #[arg(
        long,
        value_name = "HOST:PORT",
        requires = "profile",
        requires = "targets"
    )]
    pub admin: Option<String>,
    /// Replicas of the topics that are made [default: 1].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i16).range(1..=100))]
    pub replicas: Option<i16>,
    /// A config of the topics that are made; may be given again.
    #[arg(long = "topic-config", value_name = "NAME=VALUE")]
    pub topic_configs: Vec<String>,
}

/// Brokers that run. Dropped, the own ones are stopped, and then their data removed.
#[derive(Debug)]
pub struct Brokers {
    /// All of them; the first is compared with each other one.
    pub targets: Vec<Target>,
    /// Those that were started here.
    pub servers: Vec<Server>,
    /// The admin address to take a profile from, and the file for it.
    pub profile: Option<(SocketAddr, PathBuf)>,
    /// Where data is written, as far as it is known.
    pub data: PathBuf,
    _dirs: Vec<TempDir>,
}

impl Brokers {
    /// Starts what is to be started; `named` are targets from a file.
    ///
    /// # Errors
    /// A target cannot be read, or a broker does not start.
    pub fn start(args: &BrokerArgs, named: &[Target]) -> Result<Brokers> {
        let mut brokers = Brokers {
            targets: named.to_vec(),
            servers: Vec::new(),
            profile: None,
            data: std::env::temp_dir(),
            _dirs: Vec::new(),
        };
        for text in &args.targets {
            brokers.targets.push(target(text)?);
        }
        if brokers.targets.is_empty() {
            let program = streamd_path(args.streamd.as_deref())?;
            let dir = match &args.work {
                Some(work) => TempDir::anew(work.join("streamd"))?,
                None => TempDir::new()?,
            };
            brokers.data = dir.path().to_path_buf();
            let data = dir.path().join("data");
            let with = With {
                admin: args.profile.is_some(),
                cores: None,
            };
            let server = Server::streamd(&program, &data, with)?;
            brokers.targets.push(server.target());
            brokers.servers.push(server);
            brokers._dirs.push(dir);
        }
        if args.kafka {
            brokers.add_kafka(args)?;
        }
        for text in &args.topic_configs {
            let config = config(text)?;
            let targets = brokers.targets.iter_mut();
            targets.for_each(|target| target.configs.push(config.clone()));
        }
        if let Some(replicas) = args.replicas {
            let targets = brokers.targets.iter_mut();
            targets.for_each(|target| target.replicas = replicas);
        }
        unique(&brokers.targets)?;
        brokers.profile = brokers.profiled(args)?;
        Ok(brokers)
    }

    /// Brokers that somebody else has started; their data is written to `data`.
    pub fn of(targets: Vec<Target>, data: PathBuf) -> Brokers {
        Brokers {
            targets,
            servers: Vec::new(),
            profile: None,
            data,
            _dirs: Vec::new(),
        }
    }

    fn profiled(&self, args: &BrokerArgs) -> Result<Option<(SocketAddr, PathBuf)>> {
        let Some(file) = args.profile.clone() else {
            return Ok(None);
        };
        let own = self.servers.iter().find_map(Server::admin);
        let named = args.admin.as_deref().map(resolve).transpose()?;
        match named.or(own) {
            Some(admin) if self.targets.len() == 1 => Ok(Some((admin, file))),
            Some(_) => Err(Failure::usage("--profile goes with a single broker")),
            None => Err(Failure::usage(
                "--profile needs the broker's --admin HOST:PORT: streamd answers there when it is \
                 started with --admin-listen HOST:PORT",
            )),
        }
    }

    fn add_kafka(&mut self, args: &BrokerArgs) -> Result<()> {
        let work = match &args.work {
            Some(work) => work.join("kafka"),
            None => std::env::temp_dir().join("bench-kafka"),
        };
        let dir = TempDir::anew(work.join("data"))?;
        let work = work
            .canonicalize()
            .context(|| format!("cannot find {}", work.display()))?;
        let script = work.join("kafka.sh");
        std::fs::write(&script, KAFKA_SCRIPT)
            .context(|| format!("cannot write {}", script.display()))?;
        let server = Server::kafka(&script, &work, args.kafka_port)?;
        let target = server.target();
        self.targets.push(target.clone());
        self.targets.push(Target {
            name: KAFKA_DURABLE.into(),
            configs: vec![("flush.messages".into(), "1".into())],
            ..target
        });
        self.servers.push(server);
        self._dirs.push(dir);
        Ok(())
    }

    /// Milliseconds until each own broker served, by name.
    pub fn started_ms(&self) -> Vec<(String, f64)> {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let servers = self.servers.iter();
        servers
            .map(|server| (server.target().name, ms(server.started())))
            .collect()
    }
}

/// Reads `[NAME=]HOST:PORT[,PID]...`.
fn target(text: &str) -> Result<Target> {
    let wrong = || {
        Failure::usage(format!(
            "--target \"{text}\": expected HOST:PORT, with NAME= before and ,PID after it if \
             wanted, as in new=127.0.0.1:9092,4711"
        ))
    };
    let (name, rest) = match text.split_once('=') {
        Some((name, rest)) => (Some(name), rest),
        None => (None, text),
    };
    let (address, pids) = match rest.split_once(',') {
        None => (rest, Vec::new()),
        Some((address, pids)) => {
            let pids = pids.split(',').map(|pid| pid.parse().map_err(|_| wrong()));
            (address, pids.collect::<Result<_>>()?)
        }
    };
    if !address.contains(':') {
        return Err(wrong());
    }
    Ok(Target {
        name: name.unwrap_or(address).into(),
        address: resolve(address)?,
        pids,
        replicas: 1,
        configs: Vec::new(),
    })
}

fn config(text: &str) -> Result<(String, String)> {
    let (name, value) = text.split_once('=').ok_or_else(|| {
        Failure::usage(format!(
            "--topic-config \"{text}\": expected NAME=VALUE, as in flush.messages=1"
        ))
    })?;
    Ok((name.into(), value.into()))
}

fn unique(targets: &[Target]) -> Result<()> {
    for (i, target) in targets.iter().enumerate() {
        if targets[..i].iter().any(|other| other.name == target.name) {
            return Err(Failure::usage(format!(
                "two targets are called \"{}\": name them, as in A={} and B={}",
                target.name, target.address, target.address
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_has_an_address_and_perhaps_a_name_and_a_pid() {
        let named = target("A=127.0.0.1:9092,77").unwrap();
        assert_eq!((named.name.as_str(), &named.pids[..]), ("A", &[77][..]));
        let bare = target("127.0.0.1:1").unwrap();
        assert_eq!((bare.name.as_str(), bare.pids.len()), ("127.0.0.1:1", 0));
        assert_eq!(target("127.0.0.1:1,7,8,9").unwrap().pids, [7, 8, 9]);
        for wrong in ["A=127.0.0.1:1,x", "127.0.0.1:1,7,", "9092", "A=", ""] {
            assert_eq!(target(wrong).unwrap_err().exit_code(), 2, "{wrong}");
        }
    }

    #[test]
    fn two_targets_of_one_name_are_refused() {
        let one = target("127.0.0.1:1").unwrap();
        let error = unique(&[one.clone(), one]).unwrap_err().to_string();
        assert!(error.contains("A=127.0.0.1:1"), "{error}");
        assert!(config("flush.messages").is_err());
    }
}
