//! The command line: what can be typed, and the help that goes with it.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::cluster::cli::Cluster;
use crate::compress::Compression;

/// Operates a streamd server, or any broker that speaks the Kafka protocol.
#[derive(Debug, Parser)]
#[command(name = "streamctl", version, max_term_width = 100, after_help = TOP_EXAMPLES)]
pub struct Cli {
    /// What is true for every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const TOP_EXAMPLES: &str = "\
Examples:
  streamctl topic create flights -p 12
  seq 1 1000 | streamctl produce flights
  streamctl consume flights --until-end
  streamctl topic describe flights
  streamctl group lag
  streamctl log verify ./streamd-data

Data goes to standard output, everything else to standard error.
Exit codes: 0 as asked, 1 it failed, 2 wrong usage.";

/// What is true for every command.
#[derive(Clone, Debug, Args)]
pub struct Global {
    /// The broker to ask first, or several with commas between them
    #[arg(
        long,
        global = true,
        help_heading = "Options of every command",
        env = "STREAMCTL_BOOTSTRAP",
        hide_env_values = true,
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:9092",
        value_parser = parse_bootstrap
    )]
    pub bootstrap: Bootstrap,
    /// The broker's admin address, for `profile` and `stalls`
    #[arg(
        long,
        global = true,
        help_heading = "Options of every command",
        env = "STREAMCTL_ADMIN",
        hide_env_values = true,
        value_name = "HOST:PORT"
    )]
    pub admin: Option<String>,
    /// Print JSON: one document, or a line for each record or batch
    #[arg(long, global = true, help_heading = "Options of every command")]
    pub json: bool,
    /// How long to wait for a broker, such as 500ms, 10s, 2m
    #[arg(
        long,
        global = true,
        help_heading = "Options of every command",
        value_name = "TIME",
        default_value = "30s",
        value_parser = parse_duration
    )]
    pub timeout: Duration,
}

/// Addresses to begin with, in the order in which they are tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bootstrap(pub Vec<String>);

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create, list, describe, delete or grow topics
    #[command(subcommand)]
    Topic(Topic),
    /// Look at the settings of topics and brokers, and change them
    #[command(subcommand)]
    Config(Config),
    /// Look at consumer groups, move their offsets, delete them
    #[command(subcommand)]
    Group(Group),
    /// Look at share groups, which read topics as queues, move their offsets, delete them
    #[command(subcommand)]
    Queue(Queue),
    /// Look at transactions, abort those that are left open
    #[command(subcommand)]
    Txn(Txn),
    /// Show how the cluster is, move partitions, start a cluster on this machine
    #[command(after_help = "Without a command: status.")]
    Cluster {
        /// What to do
        #[command(subcommand)]
        command: Option<Cluster>,
    },
    /// Send the lines of standard input as records
    Produce(Produce),
    /// Print the records of a topic
    Consume(Consume),
    /// Read segment files without a broker
    #[command(subcommand)]
    Log(Log),
    /// Draw a flame graph of where a broker's CPU time goes
    Profile(Profile),
    /// Show when a task held a shard for too long, and at what
    Stalls(Stalls),
    /// Print a completion script for a shell
    #[command(after_help = "Example:\n  source <(streamctl completions bash)")]
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// `streamctl profile`
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  \
    streamctl --admin 127.0.0.1:9644 profile --seconds 10 -o flame.svg\n\n\
    The broker must have been started with --admin-listen HOST:PORT.")]
pub struct Profile {
    /// For how long, 1 to 60
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = up_to(60))]
    pub seconds: u64,
    /// Samples per second of CPU, 1 to 999
    #[arg(long, value_name = "N", default_value_t = 99, value_parser = up_to(999))]
    pub hz: u64,
    /// The file to write [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Stacks as text, a line each, in place of a picture
    #[arg(long)]
    pub folded: bool,
}

/// Whole numbers from 1 to `most`.
fn up_to(most: u64) -> impl clap::builder::TypedValueParser<Value = u64> {
    clap::value_parser!(u64).range(1..=most)
}

/// `streamctl stalls`
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  streamctl --admin 127.0.0.1:9644 stalls\n\n\
    The broker must have been started with --admin-listen HOST:PORT.")]
pub struct Stalls {
    /// A flame graph, as wide as the stalls were long, in place of text
    #[arg(long)]
    pub svg: bool,
}

/// `streamctl topic ...`
#[derive(Debug, Subcommand)]
pub enum Topic {
    /// Create a topic
    #[command(after_help = "Examples:\n  streamctl topic create flights -p 12\n  \
            streamctl topic create log --config retention.ms=86400000 \
            --config cleanup.policy=delete")]
    Create {
        /// The topic
        name: String,
        /// Number of partitions [default: the broker's]
        #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
        partitions: Option<i32>,
        /// Number of copies of each partition [default: the broker's]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(i16).range(1..))]
        replication_factor: Option<i16>,
        /// A setting of the topic; may be given again
        #[arg(long = "config", value_name = "KEY=VALUE", value_parser = parse_pair)]
        configs: Vec<(String, String)>,
    },
    /// List the topics
    List {
        /// Also the topics that brokers keep for themselves
        #[arg(short, long)]
        all: bool,
    },
    /// Show partitions, leaders, offsets, sizes and settings of topics
    #[command(after_help = "Examples:\n  streamctl topic describe\n  \
        streamctl topic describe flights --json | jq '.[0].partitions[].latest'")]
    Describe {
        /// The topics [default: all but internal ones]
        names: Vec<String>,
    },
    /// Delete topics and all their records
    #[command(after_help = "Example:\n  streamctl topic delete flights weather")]
    Delete {
        /// The topics
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Give a topic more partitions
    #[command(after_help = "Example:\n  streamctl topic alter flights -p 24\n\n\
        The keys of records that come later may go to other partitions than before.")]
    Alter {
        /// The topic
        name: String,
        /// Number of partitions that it shall have
        #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
        partitions: i32,
    },
}

/// `streamctl txn ...`
#[derive(Debug, Subcommand)]
pub enum Txn {
    /// List the transactional ids
    List {
        /// Only those in this state, such as Ongoing or Empty
        #[arg(long)]
        state: Option<String>,
    },
    /// Show state, producer and partitions of transactions
    #[command(after_help = "Example:\n  streamctl txn describe --json | jq '.[].partitions'")]
    Describe {
        /// The transactional ids [default: all]
        ids: Vec<String>,
    },
    /// Abort what is open under transactional ids
    #[command(after_help = "Example:\n  streamctl txn abort mover-1\n\n\
        The producer that has the id is fenced: it has to be started again.")]
    Abort {
        /// The transactional ids
        #[arg(required = true)]
        ids: Vec<String>,
    },
}

/// `streamctl group ...`
#[derive(Debug, Subcommand)]
pub enum Group {
    /// List the groups
    List {
        /// Only those in this state, such as Stable or Empty
        #[arg(long)]
        state: Option<String>,
    },
    /// Show state, members, committed offsets and lag of groups
    #[command(after_help = "Example:\n  \
        streamctl group describe readers --json | jq '.[0].offsets'")]
    Describe {
        /// The groups [default: all]
        names: Vec<String>,
    },
    /// Show how many records groups are behind, by topic
    Lag {
        /// The groups [default: all]
        names: Vec<String>,
    },
    /// Move the committed offsets of a group that has no members
    ResetOffsets(ResetOffsets),
    /// Delete groups without members, and their offsets
    Delete {
        /// The groups
        #[arg(required = true)]
        names: Vec<String>,
    },
}

/// `streamctl queue ...`
#[derive(Debug, Subcommand)]
pub enum Queue {
    /// List the share groups
    List,
    /// Show state, members, start offsets and lag of share groups
    #[command(after_help = "Example:\n  \
        streamctl queue describe workers --json | jq '.[0].offsets'")]
    Describe {
        /// The groups [default: all]
        names: Vec<String>,
    },
    /// Set where a share group that has no members goes on
    ResetOffsets(ResetOffsets),
    /// Delete share groups without members, and what they know of their topics
    Delete {
        /// The groups
        #[arg(required = true)]
        names: Vec<String>,
    },
}

/// `streamctl group reset-offsets`, `streamctl queue reset-offsets`
#[derive(Debug, Args)]
#[command(
    group = clap::ArgGroup::new("target").required(true),
    group = clap::ArgGroup::new("scope").required(true).multiple(true),
    after_help = "Examples:\n  \
        streamctl group reset-offsets readers --topic flights --to-earliest\n  \
        streamctl group reset-offsets readers --topic flights:0,1 --shift-by -100 --execute\n  \
        streamctl queue reset-offsets workers --topic jobs --to-latest --execute\n\n\
        Without --execute it only says what it would do."
)]
pub struct ResetOffsets {
    /// The group
    pub group: String,
    /// A topic, or some of its partitions; may be given again
    #[arg(long = "topic", group = "scope", value_name = "NAME[:P,P]", value_parser = parse_topic)]
    pub topics: Vec<(String, Vec<i32>)>,
    /// All that the group has committed
    #[arg(long, group = "scope")]
    pub all_topics: bool,
    /// To the first record there is
    #[arg(long, group = "target")]
    pub to_earliest: bool,
    /// Behind the last record
    #[arg(long, group = "target")]
    pub to_latest: bool,
    /// To this offset
    #[arg(long, group = "target", value_name = "N",
        value_parser = clap::value_parser!(i64).range(0..))]
    pub to_offset: Option<i64>,
    /// By so many records, back with a minus
    #[arg(
        long,
        group = "target",
        value_name = "N",
        allow_negative_numbers = true
    )]
    pub shift_by: Option<i64>,
    /// To the first record of this time or later, in milliseconds since 1970
    #[arg(long, group = "target", value_name = "MS",
        value_parser = clap::value_parser!(i64).range(0..))]
    pub to_time: Option<i64>,
    /// Do it
    #[arg(long)]
    pub execute: bool,
}

/// Where offsets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// To the first record.
    Earliest,
    /// Behind the last one.
    Latest,
    /// To this one.
    Offset(i64),
    /// By so many.
    Shift(i64),
    /// To the first record of this time or later.
    Time(i64),
}

impl ResetOffsets {
    /// The one that was given.
    ///
    /// # Errors
    /// None was.
    pub fn target(&self) -> crate::failure::Result<Target> {
        let flag = |given: bool, target| given.then_some(target);
        flag(self.to_earliest, Target::Earliest)
            .or(flag(self.to_latest, Target::Latest))
            .or(self.to_offset.map(Target::Offset))
            .or(self.shift_by.map(Target::Shift))
            .or(self.to_time.map(Target::Time))
            .ok_or_else(|| crate::failure::Failure::Usage("say where to: see --help".into()))
    }
}

/// `NAME` or `NAME:P,P`.
pub fn parse_topic(text: &str) -> Result<(String, Vec<i32>), String> {
    let Some((name, list)) = text.split_once(':') else {
        return Ok((text.to_owned(), Vec::new()));
    };
    let partitions: Option<Vec<i32>> = list
        .split(',')
        .map(|p| p.parse().ok().filter(|n| *n >= 0))
        .collect();
    match partitions {
        Some(partitions) if !name.is_empty() => Ok((name.to_owned(), partitions)),
        _ => Err("expected a topic, or a topic and partitions, such as flights:0,3".into()),
    }
}

/// What has settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Resource {
    /// A topic, by name
    Topic,
    /// A broker, by id; `default` stands for all brokers
    Broker,
    /// A group of consumers, by name
    Group,
}

/// `streamctl config ...`
#[derive(Debug, Subcommand)]
pub enum Config {
    /// Show what is set
    #[command(
        after_help = "Examples:\n  streamctl config describe topic flights\n  \
        streamctl config describe broker 1 --all"
    )]
    Describe {
        /// What kind
        resource: Resource,
        /// The topic's name or the broker's id
        name: String,
        /// Also what has its default
        #[arg(short, long)]
        all: bool,
    },
    /// Change settings
    #[command(after_help = "Example:\n  \
        streamctl config set topic flights retention.ms=86400000 compression.type=lz4")]
    Set {
        /// What kind
        resource: Resource,
        /// The topic's name or the broker's id
        name: String,
        /// The settings
        #[arg(required = true, value_name = "KEY=VALUE", value_parser = parse_pair)]
        settings: Vec<(String, String)>,
    },
    /// Give settings their defaults again
    #[command(after_help = "Example:\n  streamctl config unset topic flights retention.ms")]
    Unset {
        /// What kind
        resource: Resource,
        /// The topic's name or the broker's id
        name: String,
        /// The names of the settings
        #[arg(required = true, value_name = "KEY")]
        keys: Vec<String>,
    },
}

/// `streamctl produce`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  echo hello | streamctl produce greetings\n  \
    streamctl produce flights --key-separator , --compression lz4 < flights.csv\n\n\
    A record with a key goes to the partition that Kafka's Java client would choose (murmur2).\n\
    With --acks all the records are sent idempotently: a retry never writes one twice."
)]
pub struct Produce {
    /// The topic
    pub topic: String,
    /// What stands between key and value in a line; \t is a tab. A line without it has no key
    #[arg(short, long, value_name = "TEXT", value_parser = parse_escapes)]
    pub key_separator: Option<String>,
    /// How batches are compressed
    #[arg(short = 'z', long, value_enum, default_value = "none")]
    pub compression: Compression,
    /// Who must have a record before it counts: all in-sync replicas, the leader, nobody
    #[arg(long, value_enum, default_value = "all")]
    pub acks: Acks,
    /// Send everything to this partition
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    pub partition: Option<i32>,
}

/// Whose acknowledgement a producer waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Acks {
    /// All in-sync replicas
    All,
    /// The leader
    #[value(name = "1")]
    Leader,
    /// Nobody: what is lost is not noticed
    #[value(name = "0")]
    Nobody,
}

impl Acks {
    /// The number on the wire.
    pub fn code(self) -> i16 {
        match self {
            Acks::All => -1,
            Acks::Leader => 1,
            Acks::Nobody => 0,
        }
    }
}

/// `streamctl consume`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  streamctl consume flights --until-end | wc -l\n  \
    streamctl consume flights --offset latest\n  \
    streamctl consume flights -p 3 --offset 1000 -n 10 --json\n  \
    streamctl consume flights --offset -5 --until-end --format '%p/%o %t %k -> %v\\n'\n\n\
    Without -n or --until-end it follows the topic until Ctrl-C."
)]
pub struct Consume {
    /// The topic
    pub topic: String,
    /// Read this partition only
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    pub partition: Option<i32>,
    /// Where to begin in each partition: earliest, latest, an offset, or -N for the last N
    #[arg(
        short,
        long,
        value_name = "WHERE",
        default_value = "earliest",
        allow_hyphen_values = true,
        value_parser = parse_start
    )]
    pub offset: Start,
    /// Stop after this many records
    #[arg(short = 'n', long, value_name = "COUNT")]
    pub count: Option<u64>,
    /// Stop where the partitions ended when the command began
    #[arg(short = 'e', long)]
    pub until_end: bool,
    /// How to print a record: %k key, %v value, %o offset, %p partition, %t timestamp (ms),
    /// %h headers, %% percent sign, \n \t \\
    #[arg(
        short,
        long,
        value_name = "TEXT",
        default_value = "%v\\n",
        conflicts_with = "json"
    )]
    pub format: String,
}

/// Where to begin to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At the first record there is.
    Earliest,
    /// After the last.
    Latest,
    /// At this offset.
    At(i64),
    /// So many records before the end.
    Last(i64),
}

/// `streamctl log ...`
#[derive(Debug, Subcommand)]
pub enum Log {
    /// Print the record batches of segment files
    #[command(
        after_help = "Examples:\n  streamctl log dump streamd-data/.../0.log\n  \
        streamctl log dump ./streamd-data --records --json | jq .base_offset"
    )]
    Dump {
        /// Segment files, or directories that are searched for them
        #[arg(required = true, value_name = "FILE|DIR")]
        paths: Vec<PathBuf>,
        /// Also every record
        #[arg(short, long)]
        records: bool,
    },
    /// Check every byte of segment files: lengths, CRCs, offsets, records
    #[command(
        after_help = "Example:\n  streamctl log verify ./streamd-data && echo sound\n\n\
        Exit code 1 says that something is damaged; what and where is on standard output."
    )]
    Verify {
        /// Segment files, or directories that are searched for them
        #[arg(required = true, value_name = "FILE|DIR")]
        paths: Vec<PathBuf>,
    },
    /// Say how damaged segments can be mended, and do it with --apply
    #[command(
        after_help = "Example:\n  streamctl log repair ./streamd-data/flights-3\n\n\
        Without --apply nothing is changed. With it, what is replaced is kept beside the new file \
        as *.damaged-N. Records in damaged batches are lost, all others keep their offsets. The \
        broker must be stopped."
    )]
    Repair {
        /// Directories of partitions, or a data directory, or segment files
        #[arg(required = true, value_name = "FILE|DIR")]
        paths: Vec<PathBuf>,
        /// Change the files
        #[arg(long)]
        apply: bool,
    },
}

fn parse_bootstrap(text: &str) -> Result<Bootstrap, String> {
    let addresses: Vec<String> = text
        .split(',')
        .map(str::trim)
        .filter(|a| !a.is_empty())
        .map(str::to_owned)
        .collect();
    for address in &addresses {
        let port = address
            .rsplit_once(':')
            .filter(|(host, _)| !host.is_empty());
        let port = port.and_then(|(_, port)| port.parse::<u16>().ok());
        if port.is_none_or(|port| port == 0) {
            return Err(format!(
                "`{address}` is not HOST:PORT with a port from 1 to 65535, such as 127.0.0.1:9092"
            ));
        }
    }
    if addresses.is_empty() {
        return Err("expected HOST:PORT, such as 127.0.0.1:9092".into());
    }
    Ok(Bootstrap(addresses))
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let unit_ms = match unit {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60_000,
        _ => 0,
    };
    let ms = digits
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(unit_ms));
    // The wire has 31 bits for a time in milliseconds.
    match ms {
        Some(ms) if ms > 0 && ms <= i32::MAX as u64 => Ok(Duration::from_millis(ms)),
        _ => Err("expected a time greater than 0, such as 500ms, 10s or 2m".into()),
    }
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!(
            "expected KEY=VALUE, such as retention.ms=86400000; read `{text}`"
        )),
    }
}

fn parse_start(text: &str) -> Result<Start, String> {
    match (text, text.parse::<i64>()) {
        ("earliest" | "beginning", _) => Ok(Start::Earliest),
        ("latest" | "end", _) => Ok(Start::Latest),
        (_, Ok(n)) if n >= 0 && !text.starts_with('-') => Ok(Start::At(n)),
        (_, Ok(n)) if n > i64::MIN => Ok(Start::Last(-n)),
        _ => {
            Err("expected earliest, latest, an offset such as 1000, or -10 for the last ten".into())
        }
    }
}

/// `\t`, `\n`, `\\` and `\0` become what they stand for.
pub fn parse_escapes(text: &str) -> Result<String, String> {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        out.push(match chars.next() {
            Some('t') => '\t',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('0') => '\0',
            Some('\\') => '\\',
            other => {
                let read = other.map_or_else(String::new, String::from);
                return Err(format!("`\\{read}` is none of \\t \\n \\r \\0 \\\\"));
            }
        });
    }
    if out.is_empty() {
        Err("must not be empty".into())
    } else {
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_duration("7"), Ok(Duration::from_secs(7)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        for wrong in [
            "",
            "0",
            "s",
            "-1s",
            "5h",
            "1.5s",
            "99999999999999999999s",
            "36000m",
        ] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn addresses() {
        assert_eq!(
            parse_bootstrap("a:1, [::1]:9092,"),
            Ok(Bootstrap(vec!["a:1".into(), "[::1]:9092".into()]))
        );
        for wrong in [
            "",
            ",",
            "localhost",
            "localhost:",
            ":9092",
            "a:0",
            "a:65536",
            "a:x",
        ] {
            assert!(parse_bootstrap(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn pairs_starts_escapes() {
        assert_eq!(parse_pair("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(parse_pair("a="), Ok(("a".into(), String::new())));
        assert!(parse_pair("=b").is_err() && parse_pair("ab").is_err());
        assert_eq!(parse_start("earliest"), Ok(Start::Earliest));
        assert_eq!(parse_start("12"), Ok(Start::At(12)));
        assert_eq!(parse_start("-12"), Ok(Start::Last(12)));
        assert!(parse_start("soon").is_err() && parse_start("-9223372036854775808").is_err());
        assert_eq!(parse_escapes("a\\t\\\\n").as_deref(), Ok("a\t\\n"));
        assert!(parse_escapes("\\x").is_err() && parse_escapes("").is_err());
    }

    #[test]
    fn offsets_may_begin_with_a_hyphen() {
        let cli = Cli::try_parse_from(["streamctl", "consume", "t", "--offset", "-5"]);
        let Ok(Cli {
            command: Command::Consume(consume),
            ..
        }) = cli
        else {
            panic!("not parsed: {cli:?}");
        };
        assert_eq!(consume.offset, Start::Last(5));
    }
}
