//! The settings: flags over environment over file over defaults. Whatever is wrong stops the start
//! with where it stands, what was read and what is allowed.
//!
//! Kafka's own keys (`num.partitions`, `log.retention.ms`, ...) go through the one table in `core`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::parser::ValueSource;
use clap::{CommandFactory, FromArgMatches, Parser};
use streamd_core::config::{BrokerConfig, Configs, Layers, broker_key, nearest};
use streamd_core::meta::Local;
use streamd_model::NodeId;
use toml::de::{DeTable, DeValue};

/// The smallest memory that a shard can work with, bytes.
const MEMORY_PER_SHARD_MIN: usize = 32 << 20;

/// Kafka's settings in the environment: KEY=VALUE pairs with semicolons between them.
const SET_VARIABLE: &str = "STREAMD_SET";

const EXAMPLES: &str = "\
Examples:
  streamd                                         a broker on 127.0.0.1:9092, data in ./streamd-data
  streamd --listen 0.0.0.0:9092 --advertise broker1.example:9092
  streamd --cores 4 --memory 2GiB --set num.partitions=12
  streamd --config /etc/streamd.toml

The file is TOML: the options by their names, and Kafka's keys under [kafka]:
  listen = \"0.0.0.0:9092\"
  memory = \"2GiB\"
  [kafka]
  num.partitions = 12
  log.retention.hours = 24

A flag wins over the environment, the environment over the file, the file over the default.";

/// A Kafka-compatible event log. Started without options it is a broker for this machine alone.
/// What it acknowledges is on stable storage.
#[derive(Parser)]
#[command(name = "streamd", version, after_help = EXAMPLES)]
struct Args {
    /// A TOML file with settings
    #[arg(
        long,
        value_name = "FILE",
        env = "STREAMD_CONFIG",
        hide_env_values = true
    )]
    config: Option<PathBuf>,
    /// Where to listen for clients [default: 127.0.0.1:9092]
    #[arg(
        long,
        value_name = "HOST:PORT",
        env = "STREAMD_LISTEN",
        hide_env_values = true
    )]
    listen: Option<String>,
    /// The address that clients are told to connect to [default: that of --listen]
    #[arg(
        long,
        value_name = "HOST:PORT",
        env = "STREAMD_ADVERTISE",
        hide_env_values = true
    )]
    advertise: Option<String>,
    /// Where to listen for the native protocol, which streamd's own clients speak (off: nowhere)
    /// [default: off]
    #[arg(
        long,
        value_name = "HOST:PORT",
        env = "STREAMD_NATIVE_LISTEN",
        hide_env_values = true
    )]
    native_listen: Option<String>,
    /// Native addresses of nodes of a cluster: with an empty data directory this node joins it.
    /// Needs --native-listen, and a --node-id that no other node has
    #[arg(
        long,
        value_name = "HOST:PORT,...",
        env = "STREAMD_JOIN",
        hide_env_values = true
    )]
    join: Option<String>,
    /// Where to answer the operator over HTTP: health, profiles, stalls. Whoever reaches it may
    /// use it (off: nowhere) [default: off]
    #[arg(
        long,
        value_name = "HOST:PORT",
        env = "STREAMD_ADMIN_LISTEN",
        hide_env_values = true
    )]
    admin_listen: Option<String>,
    /// Where the data lives [default: ./streamd-data]
    #[arg(
        long,
        value_name = "DIR",
        env = "STREAMD_DATA_DIR",
        hide_env_values = true
    )]
    data_dir: Option<String>,
    /// How many cores, or which ones, as in 0,2-3 [default: all that the process may use]
    #[arg(
        long,
        value_name = "N|LIST",
        env = "STREAMD_CORES",
        hide_env_values = true
    )]
    cores: Option<String>,
    /// How much memory for buffers, as in 512MiB [default: a quarter of the machine's]
    #[arg(
        long,
        value_name = "SIZE",
        env = "STREAMD_MEMORY",
        hide_env_values = true
    )]
    memory: Option<String>,
    /// The id of this node, 0 or more [default: 1]
    #[arg(
        long,
        value_name = "N",
        env = "STREAMD_NODE_ID",
        hide_env_values = true
    )]
    node_id: Option<String>,
    /// Where this node stands: replicas of a partition go to different racks [default: nowhere]
    #[arg(
        long,
        value_name = "NAME",
        env = "STREAMD_RACK",
        hide_env_values = true
    )]
    rack: Option<String>,
    /// One of Kafka's broker settings; may be given again and again [env: STREAMD_SET, with
    /// semicolons between them]
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// What the broker is started with.
pub struct Config {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Where to listen for the native protocol; `None`: nowhere.
    pub native_listen: Option<SocketAddr>,
    /// Native addresses of nodes to join, `HOST:PORT`.
    pub join: Vec<String>,
    /// Where to answer the operator; `None`: nowhere.
    pub admin_listen: Option<SocketAddr>,
    /// The data directory.
    pub data_dir: PathBuf,
    /// The cores, one shard each.
    pub cores: Vec<usize>,
    /// Memory for buffers, all shards together, bytes.
    pub memory: usize,
    /// This node's id.
    pub node_id: i32,
    /// Its rack.
    pub rack: Option<String>,
    /// The host and port that clients are told.
    pub advertise: (String, u16),
    /// Kafka's settings in force.
    pub broker: BrokerConfig,
    /// Kafka's settings as they were given.
    pub local: Local,
}

/// Why there is nothing to start.
pub enum Stop {
    /// The command line: help, version or wrong usage.
    Usage(clap::Error),
    /// A setting; the sentence says which and how to mend it.
    Setting(String),
}

impl Stop {
    /// Says why and gives the exit code: 0 for help, 2 for what was wrong.
    pub fn exit(self) -> ExitCode {
        match self {
            Stop::Usage(e) => {
                // Nothing can be done about an output that is closed.
                let _ = e.print();
                ExitCode::from(e.exit_code() as u8)
            }
            Stop::Setting(text) => {
                eprintln!("streamd: {text}");
                ExitCode::from(2)
            }
        }
    }
}

/// A value and where it stands, for messages.
struct Given {
    text: String,
    place: String,
}

impl Given {
    fn bad(&self, expected: &str) -> String {
        format!(
            "{}: {:?} is not right; expected {expected}",
            self.place, self.text
        )
    }
}

/// The longest name of a rack, bytes.
const RACK_MAX: usize = 249;

/// The names of the options that the file may have.
const OPTIONS: [&str; 10] = [
    "listen",
    "advertise",
    "native-listen",
    "join",
    "admin-listen",
    "data-dir",
    "cores",
    "memory",
    "node-id",
    "rack",
];

/// What the file says.
#[derive(Default)]
struct FileSettings {
    options: BTreeMap<String, Given>,
    kafka: BTreeMap<String, Given>,
}

/// Reads the settings. `args` begins with the program's name.
pub fn load(args: impl IntoIterator<Item = OsString>) -> Result<Config, Stop> {
    let matches = Args::command()
        .try_get_matches_from(args)
        .map_err(Stop::Usage)?;
    let args = Args::from_arg_matches(&matches).map_err(Stop::Usage)?;
    let from_env = |name: &str| {
        matches.value_source(&name.replace('-', "_")) == Some(ValueSource::EnvVariable)
    };
    let set = std::env::var_os(SET_VARIABLE).unwrap_or_default();
    let set = set.to_string_lossy();
    settle(args, &from_env, &set).map_err(Stop::Setting)
}

fn variable(option: &str) -> String {
    format!("STREAMD_{}", option.replace('-', "_").to_uppercase())
}

/// `from_env` says of an option whether the environment gave it; `set` is [`SET_VARIABLE`].
fn settle(args: Args, from_env: &dyn Fn(&str) -> bool, set: &str) -> Result<Config, String> {
    let mut file = match &args.config {
        Some(path) => read_file(path)?,
        None => FileSettings::default(),
    };
    let mut pick = |name: &str, flag: &Option<String>| match flag {
        Some(text) => {
            let place = if from_env(name) {
                variable(name)
            } else {
                format!("--{name}")
            };
            Some(Given {
                text: text.clone(),
                place,
            })
        }
        None => file.options.remove(name),
    };
    let listen = pick("listen", &args.listen);
    let advertise = pick("advertise", &args.advertise);
    let native_listen = pick("native-listen", &args.native_listen);
    let join = pick("join", &args.join);
    let admin_listen = pick("admin-listen", &args.admin_listen);
    let data_dir = pick("data-dir", &args.data_dir);
    let cores = pick("cores", &args.cores);
    let memory = pick("memory", &args.memory);
    let node_id = pick("node-id", &args.node_id);

    let listen = listen.map_or(Ok(SocketAddr::from(([127, 0, 0, 1], 9092))), |g| {
        address(&g)
    })?;
    let advertise = match advertise {
        Some(g) => host_port(&g)?,
        None => default_advertise(listen)?,
    };
    let native_listen = native_listen.map(|g| may_be_off(&g)).transpose()?;
    let admin_listen = admin_listen.map(|g| may_be_off(&g)).transpose()?;
    let join = join.map_or(Ok(Vec::new()), |g| {
        nodes(&g, native_listen.is_some_and(|n| n.is_some()))
    })?;
    let cores = cores.map_or_else(|| Ok(streamd_io::available_cores()), |g| read_cores(&g))?;
    let memory = enough_memory(memory, cores.len())?;
    let node_id = node_id.map_or(Ok(1), |g| read_node(&g))?;
    let rack = pick("rack", &args.rack)
        .map(|g| read_rack(&g))
        .transpose()?;
    let configs = kafka_settings(file.kafka, set, &args.set)?;
    let broker = BrokerConfig::resolve(&Layers {
        file: Some(&configs),
        ..Layers::default()
    });
    Ok(Config {
        listen,
        native_listen: native_listen.flatten(),
        join,
        admin_listen: admin_listen.flatten(),
        data_dir: data_dir.map_or_else(|| "streamd-data".into(), |g| g.text.into()),
        cores,
        memory,
        node_id,
        rack,
        advertise,
        broker,
        local: Local {
            node: NodeId(node_id),
            configs,
        },
    })
}

fn read_node(given: &Given) -> Result<i32, String> {
    let id = given.text.parse().ok().filter(|id: &i32| *id >= 0);
    id.ok_or_else(|| given.bad("a number from 0 to 2147483647"))
}

fn read_rack(given: &Given) -> Result<String, String> {
    let name = given.text.trim();
    match (1..=RACK_MAX).contains(&name.len()) {
        true => Ok(name.to_owned()),
        false => Err(given.bad("a name of up to 249 bytes")),
    }
}

/// Kafka's keys, from the file, the environment and `--set`, each checked by the table.
fn kafka_settings(
    file: BTreeMap<String, Given>,
    variable: &str,
    flags: &[String],
) -> Result<Configs, String> {
    let variable = variable.split(';').map(str::trim).filter(|p| !p.is_empty());
    let variable = variable.map(|pair| (SET_VARIABLE, pair));
    let flags = flags.iter().map(|pair| ("--set", pair.as_str()));
    let mut all = file;
    for (from, pair) in variable.chain(flags) {
        let place = format!("{from} {pair}");
        let Some((key, value)) = pair.split_once('=') else {
            return Err(format!(
                "{place}: expected KEY=VALUE, as in num.partitions=12"
            ));
        };
        let text = value.trim().to_owned();
        all.insert(key.trim().to_owned(), Given { text, place });
    }
    let mut configs = Configs::new();
    for (key, given) in all {
        broker_key(&key)
            .and_then(|k| k.parse(&given.text))
            .map_err(|(_, text)| format!("{}: {text}", given.place))?;
        configs.insert(key, given.text);
    }
    Ok(configs)
}

fn read_file(path: &Path) -> Result<FileSettings, String> {
    let shown = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|e| format!("--config {shown}: cannot read it: {e}"))?;
    let table = DeTable::parse(&text).map_err(|e| format!("{shown}: {e}"))?;
    let place = |at: usize, key: &str| {
        let line = text.bytes().take(at).filter(|b| *b == b'\n').count() + 1;
        format!("{shown}:{line}: {key}")
    };
    let mut out = FileSettings::default();
    for (key, value) in table.get_ref() {
        let (key, at) = (key.get_ref().as_ref(), key.span().start);
        if key == "kafka" {
            let DeValue::Table(keys) = value.get_ref() else {
                return Err(format!("{}: expected a table [kafka]", place(at, key)));
            };
            out.kafka = kafka_table(keys, &place)?;
            continue;
        }
        if !OPTIONS.contains(&key) {
            let name = first_leaf(key, value.get_ref());
            return Err(unknown_option(&name, &place(at, &name)));
        }
        let Some(text) = scalar(value.get_ref()) else {
            return Err(format!("{}: expected text or a number", place(at, key)));
        };
        let place = place(at, key);
        out.options.insert(key.to_owned(), Given { text, place });
    }
    Ok(out)
}

/// The whole name of the first setting in `value`: what TOML reads as a table was meant as dots.
fn first_leaf(key: &str, value: &DeValue<'_>) -> String {
    let (mut name, mut value) = (key.to_owned(), value);
    while let DeValue::Table(inner) = value {
        let Some((key, next)) = inner.iter().next() else {
            break;
        };
        name = format!("{name}.{}", key.get_ref());
        value = next.get_ref();
    }
    name
}

fn unknown_option(key: &str, place: &str) -> String {
    let near = nearest(key, OPTIONS.iter().copied().chain(["kafka"]));
    let hint = match near {
        Some(near) => format!(" Did you mean {near}?"),
        None if broker_key(key).is_ok() => format!(" {key} belongs under [kafka]."),
        None => String::new(),
    };
    format!(
        "{place}: there is no such setting. Allowed are {} and [kafka].{hint}",
        OPTIONS.join(", ")
    )
}

/// Kafka's keys. `log.retention.ms = 5` is a table in a table for TOML; here it is one key, and
/// may not be there once more in quotes.
fn kafka_table(
    keys: &DeTable<'_>,
    place: &dyn Fn(usize, &str) -> String,
) -> Result<BTreeMap<String, Given>, String> {
    let mut out: BTreeMap<String, Given> = BTreeMap::new();
    let mut open = vec![(String::new(), keys)];
    while let Some((prefix, table)) = open.pop() {
        for (key, value) in table {
            let at = key.span().start;
            let name = format!("{prefix}{}", key.get_ref());
            if let DeValue::Table(inner) = value.get_ref() {
                open.push((format!("{name}."), inner));
                continue;
            }
            let Some(text) = scalar(value.get_ref()) else {
                let place = place(at, &name);
                return Err(format!(
                    "{place}: expected text, a number or true or false; a list is text with \
                     commas, as in \"compact,delete\""
                ));
            };
            let place = place(at, &name);
            if let Some(other) = out.insert(name, Given { text, place }) {
                return Err(format!("{}: it is set twice", other.place));
            }
        }
    }
    Ok(out)
}

/// The value as Kafka's tables read it; whole numbers may have TOML's underscores.
fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(s) => Some(s.to_string()),
        DeValue::Integer(n) => {
            let digits = n.as_str().replace('_', "");
            Some(i64::from_str_radix(&digits, n.radix()).ok()?.to_string())
        }
        DeValue::Float(x) => Some(x.as_str().replace('_', "")),
        DeValue::Boolean(b) => Some(b.to_string()),
        _ => None,
    }
}

fn address(given: &Given) -> Result<SocketAddr, String> {
    let expected = "HOST:PORT, as in 127.0.0.1:9092";
    let mut found = given
        .text
        .to_socket_addrs()
        .map_err(|e| format!("{} ({e})", given.bad(expected)))?;
    found.next().ok_or_else(|| given.bad(expected))
}

/// The word `off` takes back what the file says.
fn may_be_off(given: &Given) -> Result<Option<SocketAddr>, String> {
    if given.text == "off" {
        return Ok(None);
    }
    address(given).map(Some)
}

fn host_port(given: &Given) -> Result<(String, u16), String> {
    let bad = || given.bad("HOST:PORT, as clients reach it, as in broker1.example:9092");
    let (host, port) = given.text.rsplit_once(':').ok_or_else(bad)?;
    let port = port.parse().ok().filter(|p| *p > 0).ok_or_else(bad)?;
    let host = host.trim_matches(['[', ']']);
    if host.is_empty() || host == "0.0.0.0" || host == "::" {
        return Err(bad());
    }
    Ok((host.to_owned(), port))
}

/// Addresses with commas between them. `listens`: whether other nodes can reach this one.
fn nodes(given: &Given, listens: bool) -> Result<Vec<String>, String> {
    let parts = given.text.split(',').map(str::trim).map(str::to_owned);
    let all: Vec<String> = parts.collect();
    let is_one = |text: &String| {
        let parts = text.rsplit_once(':');
        parts.is_some_and(|(h, p)| !h.is_empty() && p.parse().is_ok_and(|p: u16| p > 0))
    };
    if !all.iter().all(is_one) {
        return Err(given.bad("HOST:PORT of a node's --native-listen, or more with commas"));
    }
    if !listens {
        return Err(format!(
            "{}: other nodes have to reach this one: add --native-listen HOST:PORT",
            given.place
        ));
    }
    Ok(all)
}

fn default_advertise(listen: SocketAddr) -> Result<(String, u16), String> {
    if listen.ip().is_unspecified() {
        return Err(format!(
            "--listen {listen} takes clients on every address, but they must be told one: add \
             --advertise HOST:PORT, as they reach this machine"
        ));
    }
    Ok((listen.ip().to_string(), listen.port()))
}

/// `N` cores, or a list with ranges. A lone number is a count.
fn read_cores(given: &Given) -> Result<Vec<usize>, String> {
    let available = streamd_io::available_cores();
    let expected = format!(
        "a number of cores from 1 to {}, or a list out of {available:?}, as in 0,2-3",
        available.len()
    );
    let bad = || given.bad(&expected);
    if let Ok(count) = given.text.trim().parse::<usize>() {
        let few = available.get(..count).filter(|c| !c.is_empty());
        return few.map(<[usize]>::to_vec).ok_or_else(bad);
    }
    let mut cores = Vec::new();
    for part in given
        .text
        .split(',')
        .map(str::trim)
        .filter(|p| !p.is_empty())
    {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let from: usize = from.trim().parse().map_err(|_| bad())?;
        let to: usize = to.trim().parse().map_err(|_| bad())?;
        if to < from || to - from > 4096 {
            return Err(bad());
        }
        cores.extend(from..=to);
    }
    let known = cores.iter().all(|c| available.contains(c));
    let mut once = cores.clone();
    once.sort_unstable();
    once.dedup();
    if cores.is_empty() || !known || once.len() != cores.len() {
        return Err(bad());
    }
    Ok(cores)
}

/// `512MiB`, `2GiB`, `1.5g`, or bytes.
fn size(given: &Given) -> Result<usize, String> {
    let bad = || given.bad("a size, as in 512MiB or 2GiB");
    let text = given.text.trim().to_ascii_lowercase();
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let number: f64 = text[..digits].parse().map_err(|_| bad())?;
    let shift = match text[digits..].trim() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        _ => return Err(bad()),
    };
    let bytes = number * (1u64 << shift) as f64;
    if (0.0..1e15).contains(&bytes) {
        Ok(bytes as usize)
    } else {
        Err(bad())
    }
}

fn enough_memory(given: Option<Given>, shards: usize) -> Result<usize, String> {
    let memory = given.map_or_else(|| Ok(quarter_of_memory()), |g| size(&g))?;
    let least = MEMORY_PER_SHARD_MIN * shards;
    if memory >= least {
        return Ok(memory);
    }
    Err(format!(
        "--memory: {} MiB is too little; {shards} shard(s) need {} MiB at least",
        memory >> 20,
        least >> 20
    ))
}

fn quarter_of_memory() -> usize {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib: Option<usize> = text
        .lines()
        .find_map(|l| l.strip_prefix("MemTotal:"))
        .and_then(|l| l.trim().strip_suffix("kB")?.trim().parse().ok());
    kib.map_or(1 << 30, |kib| (kib << 10) / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &[&str]) -> Result<Config, String> {
        let args = std::iter::once("streamd")
            .chain(args.iter().copied())
            .map(OsString::from);
        load(args).map_err(|stop| match stop {
            Stop::Usage(e) => e.to_string(),
            Stop::Setting(text) => text,
        })
    }

    fn error(args: &[&str]) -> String {
        read(args).err().expect("a setting is wrong")
    }

    fn file(text: &str) -> (tempfile::TempDir, String) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.toml");
        std::fs::write(&path, text).unwrap();
        let path = path.display().to_string();
        (dir, path)
    }

    #[test]
    fn nothing_is_needed() {
        let c = read(&[]).unwrap();
        assert_eq!(c.listen.to_string(), "127.0.0.1:9092");
        assert_eq!(c.data_dir, Path::new("streamd-data"));
        assert_eq!(c.advertise, ("127.0.0.1".to_owned(), 9092));
        assert_eq!(c.cores, streamd_io::available_cores());
        assert!(c.broker.durable && c.node_id == 1);
        assert_eq!(
            (c.admin_listen, c.native_listen, c.rack),
            (None, None, None)
        );
    }

    #[test]
    fn a_flag_wins_over_the_file() {
        let (_dir, path) = file(
            "listen = \"127.0.0.1:7000\"\nnode-id = 5\nrack = \"cellar\"\n\
             native-listen = \"127.0.0.1:7001\"\n\
             admin-listen = \"127.0.0.1:0\"\n[kafka]\nnum.partitions = 4\n\
             log.retention.ms = 60000\n",
        );
        let c = read(&[
            "--config",
            &path,
            "--node-id",
            "7",
            "--set",
            "num.partitions=6",
        ])
        .unwrap();
        assert_eq!(
            (c.listen.port(), c.node_id, c.broker.num_partitions),
            (7000, 7, 6)
        );
        assert_eq!(c.local.configs["log.retention.ms"], "60000");
        assert_eq!(c.rack.as_deref(), Some("cellar"));
        assert_eq!(c.admin_listen, Some(SocketAddr::from(([127, 0, 0, 1], 0))));
        assert_eq!(
            c.native_listen,
            Some(SocketAddr::from(([127, 0, 0, 1], 7001)))
        );
        let off = ["--admin-listen", "off", "--native-listen", "off"];
        let c = read(&[&["--config", &path], &off[..]].concat()).unwrap();
        assert_eq!((c.admin_listen, c.native_listen), (None, None));
    }

    #[test]
    fn wrong_settings_say_where_and_what() {
        let says = |args: &[&str], parts: &[&str]| {
            let text = error(args);
            for part in parts {
                assert!(text.contains(part), "{text:?} lacks {part:?}");
            }
        };
        says(
            &["--listen", "nowhere"],
            &["--listen", "\"nowhere\"", "HOST:PORT"],
        );
        says(&["--listen", "0.0.0.0:9092"], &["--advertise"]);
        says(
            &["--admin-listen", "here"],
            &["--admin-listen", "\"here\"", "HOST:PORT"],
        );
        says(&["--cores", "0"], &["--cores", "from 1 to"]);
        says(&["--cores", "7-5"], &["--cores"]);
        says(&["--memory", "lots"], &["--memory", "2GiB"]);
        says(&["--memory", "1MiB"], &["too little"]);
        says(&["--node-id=-3"], &["node-id"]);
        says(&["--set", "num.partitions"], &["KEY=VALUE"]);
        says(&["--set", "num.partitions=x"], &["num.partitions", "x"]);
        says(&["--set", "num.partition=3"], &["num.partitions"]);
        says(
            &["--config", "/no/such/file"],
            &["/no/such/file", "cannot read"],
        );
        let (_dir, path) = file("listen = \"127.0.0.1:1\"\nlissten = 3\n");
        says(
            &["--config", &path],
            &[":2: lissten", "Did you mean listen?"],
        );
        let (_dir, path) = file("\n\n[kafka]\n# why\nlog.retention.ms = \"soon\"\n");
        says(&["--config", &path], &[":5: log.retention.ms", "soon"]);
        let (_dir, path) = file("# num.partitions = 1\n\nnum.partitions = 3\n");
        says(
            &["--config", &path],
            &[":3: num.partitions: there is", "belongs under [kafka]"],
        );
        let (_dir, path) = file("\"num.partitions\" = 3\n");
        says(&["--config", &path], &["belongs under [kafka]"]);
        let (_dir, path) = file("[kafka]\nnum.partitions = 3\n\"num.partitions\" = 4\n");
        says(&["--config", &path], &["num.partitions: it is set twice"]);
        let (_dir, path) = file("[kafka]\nlog.cleanup.policy = [\"delete\"]\n");
        says(&["--config", &path], &[":2: log.cleanup.policy", "commas"]);
        let (_dir, path) = file("[kafka.log.retention]\n# ms\nbytes = 1\nms = 1.5\n");
        says(&["--config", &path], &[":4: ", "log.retention.ms", "1.5"]);
        let (_dir, path) = file("kafka = 3\n");
        says(&["--config", &path], &[":1: kafka", "table"]);
        let (_dir, path) = file("listen = true\nmemory = [1]\n");
        says(&["--config", &path], &[":2: memory"]);
        let (_dir, path) = file("listen = \n");
        says(&["--config", &path], &["line 1"]);
    }

    #[test]
    fn the_environment_stands_between_flags_and_file() {
        let (_dir, path) = file("[kafka]\nnum.partitions = 1\nlog.retention.hours = 1_0\n");
        let args = |more: &[&str]| {
            let args = ["streamd", "--config", &path]
                .into_iter()
                .chain(more.iter().copied());
            Args::try_parse_from(args).unwrap()
        };
        let set = "num.partitions=2; log.cleanup.policy=compact,delete;";
        let from_env = |name: &str| name == "node-id";
        let c = settle(args(&[]), &from_env, set).unwrap();
        assert_eq!(c.broker.num_partitions, 2);
        assert_eq!(c.local.configs["log.cleanup.policy"], "compact,delete");
        assert_eq!(c.local.configs["log.retention.hours"], "10");
        let c = settle(args(&["--set", "num.partitions=3"]), &from_env, set).unwrap();
        assert_eq!(c.broker.num_partitions, 3);
        let error = |more: &[&str], set| settle(args(more), &from_env, set).err().unwrap();
        let text = error(&[], "num.partitions");
        assert!(
            text.starts_with("STREAMD_SET num.partitions: expected KEY=VALUE"),
            "{text}"
        );
        let text = error(&["--node-id", "x"], "");
        assert!(
            text.starts_with("STREAMD_NODE_ID: \"x\" is not right"),
            "{text}"
        );
        let text = error(&["--memory", "x"], "");
        assert!(text.starts_with("--memory: "), "{text}");
    }

    #[test]
    fn sizes_and_cores() {
        let given = |text: &str| Given {
            text: text.into(),
            place: "here".into(),
        };
        assert_eq!(size(&given("1.5 GiB")), Ok(3 << 29));
        assert_eq!(size(&given("64m")), Ok(64 << 20));
        assert_eq!(size(&given("4096")), Ok(4096));
        assert!(size(&given("5 apples")).is_err());
        let first = streamd_io::available_cores()[0];
        assert_eq!(read_cores(&given(&format!("{first},"))), Ok(vec![first]));
        assert!(read_cores(&given("4000,")).is_err());
    }
}
