//! Drives stock clients and compares what they read with what was to be written.
//!
//! Clients exchange records as lines (see the drivers): bytes are hex, null is `~`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::install;
use crate::run::{command, output, source_dir};

/// Kafka's codecs in the order of their numbers.
pub const CODECS: [&str; 5] = ["none", "gzip", "snappy", "lz4", "zstd"];
/// Partitions of every topic that a driver creates in `produce`.
pub const PARTITIONS: usize = 3;

/// A stock client with a driver that takes `produce`, `dump`, `admin` and `group`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// Apache Kafka's own Java client.
    Java,
    /// The same of an older major release, which knows neither the newer protocols of groups nor
    /// the second version of transactions.
    Java3,
    /// librdkafka through confluent-kafka-python.
    Confluent,
    /// kafka-python.
    KafkaPython,
    /// aiokafka.
    AioKafka,
    /// kafkajs.
    KafkaJs,
    /// @platformatic/kafka.
    Platformatic,
    /// franz-go.
    Franz,
    /// sarama.
    Sarama,
}

impl Client {
    /// The name in topics and messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Java => "java",
            Self::Java3 => "java3",
            Self::Confluent => "confluent",
            Self::KafkaPython => "kafka-python",
            Self::AioKafka => "aiokafka",
            Self::KafkaJs => "kafkajs",
            Self::Platformatic => "platformatic",
            Self::Franz => "franz",
            Self::Sarama => "sarama",
        }
    }

    /// The codecs that it has here. The one hole: Node has zstd, which @platformatic/kafka takes
    /// from it, only since 22.15.
    #[must_use]
    pub fn codecs(self) -> &'static [&'static str] {
        if self == Self::Platformatic && !node_has_zstd() {
            return &CODECS[..4];
        }
        &CODECS
    }

    /// The codecs of Java's that it reads: @platformatic/kafka doesn't know the framing that Java
    /// puts around snappy.
    pub fn reads_of_java(self) -> impl Iterator<Item = &'static &'static str> {
        self.codecs()
            .iter()
            .filter(move |&&c| self != Self::Platformatic || c != "snappy")
    }

    /// The driver, to which a command and its arguments are added.
    #[must_use]
    pub fn driver(self) -> Command {
        let python = |driver: &str| {
            let mut c = command(install::python());
            c.env("PYTHONDONTWRITEBYTECODE", "1");
            c.arg(source_dir().join("compat/python").join(driver));
            c
        };
        let node = |driver: &str| {
            let mut c = command("node");
            c.arg(install::node().join(driver));
            c
        };
        let go = |client: &str| {
            let mut c = command(install::go());
            c.arg(client);
            c
        };
        match self {
            Self::Java => install::java(),
            Self::Java3 => install::java3(),
            Self::Confluent => python("confluent.py"),
            Self::KafkaPython => python("kafka_python.py"),
            Self::AioKafka => python("aio.py"),
            Self::KafkaJs => node("kafkajs.cjs"),
            Self::Platformatic => node("platformatic.mjs"),
            Self::Franz => go("franz"),
            Self::Sarama => go("sarama"),
        }
    }

    /// Runs the driver with a command and its arguments, and returns what it printed.
    #[must_use]
    pub fn call(self, name: &str, boot: &str, args: &[&str]) -> String {
        output(self.driver().args([name, boot]).args(args))
    }

    /// Creates `{prefix}-{codec}` for each of its codecs, writes the records there, returns the
    /// topics.
    #[must_use]
    pub fn produce(self, boot: &str, records: &Records, prefix: &str) -> Vec<String> {
        let codecs = self.codecs();
        let file = records.file().display().to_string();
        let printed = self.call("produce", boot, &[&file, prefix, &codecs.join(",")]);
        assert_eq!(
            printed,
            "",
            "{} lacks a codec that it should have",
            self.name()
        );
        codecs
            .iter()
            .map(|codec| format!("{prefix}-{codec}"))
            .collect()
    }

    /// Reads whole topics.
    #[must_use]
    pub fn dump(self, boot: &str, topics: &[String]) -> Dumped {
        let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
        Dumped::parse(&self.call("dump", boot, &topics))
    }
}

/// Whether this machine's Node compresses with zstd.
fn node_has_zstd() -> bool {
    let version = install::version_of("node");
    let mut numbers = version
        .trim_start_matches('v')
        .split('.')
        .map_while(|n| n.parse().ok());
    (
        numbers.next().unwrap_or(0u32),
        numbers.next().unwrap_or(0u32),
    ) >= (22, 15)
}

/// Records to write: some with null keys, null values, empty values, headers, up to 250 bytes.
pub struct Records {
    lines: Vec<[String; 5]>,
    file: tempfile::NamedTempFile,
}

/// What stands for null in a line.
const NULL: &str = "~";

/// Bytes as hex.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, b| {
        write!(out, "{b:02x}").expect("writing to a string");
        out
    })
}

/// Milliseconds since 1970.
///
/// # Panics
/// When the clock is wrong by decades.
#[must_use]
pub fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a clock after 1970");
    u64::try_from(since.as_millis()).expect("a clock before the year 500,000,000")
}

impl Records {
    /// `count` records over three partitions, stamped in the last hour: retention spares them.
    ///
    /// # Panics
    /// When the temporary folder can't be written.
    #[must_use]
    pub fn generate(count: u64) -> Self {
        let start = now_ms() - 3_600_000;
        let lines: Vec<[String; 5]> = (0..count)
            .map(|i| {
                let key = if i % 5 == 0 {
                    NULL.into()
                } else {
                    hex(format!("k{}", i % 7).as_bytes())
                };
                let value = match i {
                    _ if i % 13 == 0 && i % 5 != 0 => NULL.into(), // a tombstone has a key
                    _ if i % 11 == 0 => String::new(),
                    _ => {
                        hex(format!("value-{i}-{}", "x".repeat((i * 37 % 211) as usize)).as_bytes())
                    }
                };
                let headers = if i % 4 == 0 {
                    format!("n={};e=", hex(i.to_string().as_bytes()))
                } else {
                    String::new()
                };
                let partition = i % PARTITIONS as u64;
                [
                    partition.to_string(),
                    (start + i * 1000).to_string(),
                    key,
                    value,
                    headers,
                ]
            })
            .collect();
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        for line in &lines {
            use std::io::Write as _;
            writeln!(file, "{}", line.join("\t")).expect("a temporary file");
        }
        Self { lines, file }
    }

    /// Where they are for the drivers to read.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.file.path().to_path_buf()
    }

    /// What a reader should find in a partition: timestamp, key, value, headers of each offset.
    pub fn expected(&self, partition: u32) -> impl Iterator<Item = &[String]> {
        let partition = partition.to_string();
        self.lines
            .iter()
            .filter(move |l| l[0] == partition)
            .map(|l| &l[1..])
    }
}

/// What a client read: for each topic and partition, the offset and the four fields of its records.
pub struct Dumped(BTreeMap<(String, u32), Vec<Line>>);

/// Offset, and timestamp, key, value and headers as text.
type Line = (u64, Vec<String>);

impl Dumped {
    /// Parses a driver's output.
    ///
    /// # Panics
    /// When a line has another form.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut out = BTreeMap::<_, Vec<_>>::new();
        for line in text.lines() {
            let f: Vec<&str> = line.split('\t').collect();
            assert_eq!(f.len(), 7, "a driver's line has 7 fields: {line}");
            let place = (f[0].to_owned(), f[1].parse().expect("a partition"));
            let fields = f[3..].iter().map(|&s| s.to_owned()).collect();
            out.entry(place)
                .or_default()
                .push((f[2].parse().expect("an offset"), fields));
        }
        Self(out)
    }

    /// The records of a partition with their offsets.
    #[must_use]
    pub fn partition(&self, topic: &str, partition: u32) -> &[Line] {
        self.0
            .get(&(topic.to_owned(), partition))
            .map_or(&[], Vec::as_slice)
    }

    /// Every topic holds exactly the records, in order, from offset 0 on.
    ///
    /// # Panics
    /// When one differs.
    pub fn assert_holds(&self, reader: &str, topics: &[String], records: &Records) {
        for topic in topics {
            for partition in 0..PARTITIONS as u32 {
                let got = self.partition(topic, partition);
                let mut count = 0;
                for (offset, want) in records.expected(partition).enumerate() {
                    let Some((at, fields)) = got.get(offset) else {
                        panic!("{reader} read {} records of {topic}-{partition}", got.len());
                    };
                    assert_eq!(
                        *at, offset as u64,
                        "{reader}: offsets of {topic}-{partition}"
                    );
                    assert_eq!(fields, want, "{reader}: {topic}-{partition} at {offset}");
                    count += 1;
                }
                assert_eq!(
                    got.len(),
                    count,
                    "{reader} read too much of {topic}-{partition}"
                );
            }
        }
    }
}
