//! A load as it is asked for, with the gaps that a person leaves: the same options on the command
//! line and in a file.

use clap::Args;

use crate::batch::Codec;
use crate::failure::Failure;
use crate::meter::Stop;
use crate::workload::{Keys, Kind, Time, Workload, records_in};

/// What a load is to be; what is left out has a default that depends on the kind of load.
#[derive(Args, Clone, Debug, Default, PartialEq)]
pub struct Spec {
    /// Its name in results.
    #[arg(long)]
    pub name: Option<String>,
    /// What is done; on the command line the command says it.
    #[arg(skip)]
    pub kind: Option<Kind>,
    /// Bytes of a record [default: 1024].
    #[arg(long, value_name = "BYTES")]
    pub size: Option<usize>,
    /// Partitions of the topic [default: 1; rebalance: 1000].
    #[arg(long, value_name = "N")]
    pub partitions: Option<i32>,
    /// Bytes of records in a batch, before compression [default: 65536, or one record at a rate].
    #[arg(long, value_name = "BYTES", conflicts_with = "batch_records")]
    pub batch: Option<usize>,
    /// Records in a batch, in place of --batch.
    #[arg(long, value_name = "N")]
    pub batch_records: Option<usize>,
    /// Batches in a request, each for another partition; partitions in a commit [default: 1].
    #[arg(long, value_name = "N")]
    pub spread: Option<i32>,
    /// Compression [default: none].
    #[arg(long, value_enum)]
    pub codec: Option<Codec>,
    /// Acknowledgements: -1 all, 1 leader, 0 none [default: -1].
    #[arg(long, allow_hyphen_values = true)]
    pub acks: Option<i16>,
    /// Connections, all on one thread [default: 1; storm: 16 at a time; commit, transaction: 16;
    /// rebalance: 100].
    #[arg(long, value_name = "N")]
    pub connections: Option<usize>,
    /// Requests that a connection has out at once [default: 5; 64 at a rate].
    #[arg(long, value_name = "N")]
    pub in_flight: Option<usize>,
    /// Records (storm: connections) a second: open loop, latency from the time each was due
    /// (rebalance: heartbeats of each member)
    /// [default: as fast as answers come; latency, e2e: 1000; fan-out, catch-up: 10000].
    #[arg(long)]
    pub rate: Option<f64>,
    /// At a rate: milliseconds that a record may wait for others; they go together, and latency
    /// counts from when the first was due [default: 0].
    #[arg(long, value_name = "MS", conflicts_with_all = ["batch", "batch_records"])]
    pub linger: Option<f64>,
    /// Keys.
    #[command(flatten)]
    pub keyed: KeySpec,
    /// Readers.
    #[command(flatten)]
    pub reading: ReadSpec,
    /// How long.
    #[command(flatten)]
    pub time: TimeSpec,
}

/// The keys of records.
#[derive(Args, Clone, Debug, Default, PartialEq)]
pub struct KeySpec {
    /// Different keys; partitions are chosen by murmur2, as stock clients do [default: 0, no keys].
    #[arg(long, value_name = "N")]
    pub keys: Option<u64>,
    /// How much a few keys outweigh the others: the exponent of Zipf's law [default: 0.99].
    #[arg(long, value_name = "S")]
    pub skew: Option<f64>,
}

/// What readers find.
#[derive(Args, Clone, Debug, Default, PartialEq)]
pub struct ReadSpec {
    /// Groups of readers, each of which reads everything [default: 1; fan-out: 10].
    #[arg(long, value_name = "N")]
    pub groups: Option<usize>,
    /// MB to write before reading: fetch, catch-up [default: 256; catch-up: 512].
    #[arg(long, value_name = "MB")]
    pub fill: Option<u64>,
}

/// How long a load runs.
#[derive(Args, Clone, Debug, Default, PartialEq)]
pub struct TimeSpec {
    /// Seconds before measuring [default: 1; rebalance: 10].
    #[arg(long)]
    pub warmup: Option<f64>,
    /// Seconds to measure; a catch-up takes at most as long [default: 5; catch-up: 30].
    #[arg(long, conflicts_with = "records")]
    pub seconds: Option<f64>,
    /// Records to measure, in place of --seconds.
    #[arg(long, value_name = "N")]
    pub records: Option<u64>,
}

/// A number that cannot be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// The option's name.
    pub option: &'static str,
    /// What was read.
    pub read: String,
    /// What is allowed.
    pub allowed: String,
}

impl From<Wrong> for Failure {
    fn from(wrong: Wrong) -> Failure {
        let Wrong {
            option,
            read,
            allowed,
        } = wrong;
        Failure::usage(format!("--{option} is {read}, allowed: {allowed}"))
    }
}

impl TimeSpec {
    fn or(self, other: &TimeSpec) -> TimeSpec {
        let told = self.seconds.is_some() || self.records.is_some();
        TimeSpec {
            warmup: self.warmup.or(other.warmup),
            seconds: if told { self.seconds } else { other.seconds },
            records: if told { self.records } else { other.records },
        }
    }
}

impl Spec {
    /// Takes from `other` what is left out here.
    pub fn or(self, other: &Spec) -> Spec {
        // Either way to say a batch's size, or how long to measure, shuts out the other ones.
        let batch = self.batch.is_some() || self.batch_records.is_some() || self.linger.is_some();
        let other_batch = |value| if batch { None } else { value };
        Spec {
            name: self.name.or_else(|| other.name.clone()),
            kind: self.kind.or(other.kind),
            size: self.size.or(other.size),
            partitions: self.partitions.or(other.partitions),
            batch: self.batch.or(other_batch(other.batch)),
            batch_records: self.batch_records.or(other_batch(other.batch_records)),
            linger: if batch { self.linger } else { other.linger },
            spread: self.spread.or(other.spread),
            codec: self.codec.or(other.codec),
            acks: self.acks.or(other.acks),
            connections: self.connections.or(other.connections),
            in_flight: self.in_flight.or(other.in_flight),
            rate: self.rate.or(other.rate),
            keyed: KeySpec {
                keys: self.keyed.keys.or(other.keyed.keys),
                skew: self.keyed.skew.or(other.keyed.skew),
            },
            reading: ReadSpec {
                groups: self.reading.groups.or(other.reading.groups),
                fill: self.reading.fill.or(other.reading.fill),
            },
            time: self.time.or(&other.time),
        }
    }

    /// The whole load; `kind` is what it is unless the specification says.
    ///
    /// # Errors
    /// The first number that is out of its range.
    pub fn workload(&self, kind: Kind) -> Result<Workload, Wrong> {
        let kind = self.kind.unwrap_or(kind);
        let reads = matches!(kind, Kind::Stream | Kind::CatchUp);
        let rate = self.rate.or(match kind {
            Kind::CatchUp => Some(10_000.0),
            Kind::Stream => Some(1_000.0),
            _ => None,
        });
        let size = self.size.unwrap_or(1024);
        let one = rate.is_some() || kind == Kind::Storm || kind.coordinates();
        let bytes = self.batch.unwrap_or(if one { 1 } else { 64 * 1024 });
        let linger_ms = self.linger.unwrap_or(0.0);
        let load = Workload {
            name: self.name.clone().unwrap_or_else(|| kind.name().into()),
            kind,
            size,
            partitions: self
                .partitions
                .unwrap_or(if kind.rebalances() { 1000 } else { 1 }),
            batch_records: match (self.batch_records, rate) {
                (Some(records), _) => records,
                // What comes due while the first record waits, and the first itself.
                (None, Some(rate)) if linger_ms > 0.0 => {
                    ((rate * linger_ms / 1e3) as usize).saturating_add(1)
                }
                (None, _) => records_in(bytes, size),
            },
            spread: self.spread.unwrap_or(1),
            codec: self.codec.unwrap_or(Codec::None),
            acks: self.acks.unwrap_or(-1),
            connections: self.connections.unwrap_or(match kind {
                Kind::Storm | Kind::Commit | Kind::Transaction => 16,
                Kind::RebalanceClassic | Kind::RebalanceConsumer => 100,
                _ => 1,
            }),
            in_flight: self.in_flight.unwrap_or(match (kind, rate) {
                (Kind::Fetch | Kind::Storm, _) => 1,
                (kind, _) if kind.coordinates() => 1,
                (_, Some(_)) => 64,
                (_, None) => 5,
            }),
            rate,
            linger_ms,
            keys: self.keyed.keys.filter(|keys| *keys > 0).map(|count| Keys {
                count,
                skew: self.keyed.skew.unwrap_or(0.99),
            }),
            groups: self.reading.groups.unwrap_or(usize::from(reads)),
            time: Time {
                warmup_s: self
                    .time
                    .warmup
                    .unwrap_or(if kind.rebalances() { 10.0 } else { 1.0 }),
                seconds: self.time.seconds.unwrap_or(match kind {
                    Kind::CatchUp => 30.0,
                    Kind::RebalanceClassic | Kind::RebalanceConsumer => 60.0,
                    _ => 5.0,
                }),
                records: self.time.records,
            },
            fill_mb: match kind {
                Kind::Fetch => self.reading.fill.unwrap_or(256),
                Kind::CatchUp => self.reading.fill.unwrap_or(512),
                _ => 0,
            },
        };
        check(self, &load)?;
        Ok(load)
    }
}

fn within(option: &'static str, value: i64, min: i64, max: i64) -> Result<(), Wrong> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(Wrong {
        option,
        read: value.to_string(),
        allowed: format!("{min} to {max}"),
    })
}

fn between(option: &'static str, value: f64, min: f64, max: f64) -> Result<(), Wrong> {
    if value >= min && value <= max {
        return Ok(());
    }
    Err(Wrong {
        option,
        read: value.to_string(),
        allowed: format!("{min} to {max}"),
    })
}

fn check(spec: &Spec, load: &Workload) -> Result<(), Wrong> {
    let ways = [
        spec.batch.is_some(),
        spec.batch_records.is_some(),
        spec.linger.is_some(),
    ];
    if ways.iter().filter(|given| **given).count() > 1 {
        return Err(wrong(
            "batch",
            "given twice",
            "one of batch, batch-records and linger",
        ));
    }
    within("size", load.size as i64, 1, 64 << 20)?;
    within("partitions", load.partitions.into(), 1, 100_000)?;
    within("connections", load.connections as i64, 1, 10_000)?;
    within("in-flight", load.in_flight as i64, 1, 100_000)?;
    within("spread", load.spread.into(), 1, load.partitions.into())?;
    within("acks", load.acks.into(), -1, 1)?;
    within("batch-records", load.batch_records as i64, 1, 10_000_000)?;
    let batch = load.batch_records.saturating_mul(load.size + 16);
    let option = match spec {
        Spec { batch: Some(_), .. } => "batch",
        Spec {
            linger: Some(_), ..
        } => "linger",
        _ => "batch-records",
    };
    if batch > 256 << 20 {
        return Err(Wrong {
            option,
            read: format!("a batch of {batch} bytes"),
            allowed: format!("up to {} bytes", 256 << 20),
        });
    }
    if let Some(rate) = load.rate {
        between("rate", rate, 0.001, 1e9)?;
    }
    between("linger", load.linger_ms, 0.0, 60_000.0)?;
    if let Some(keys) = load.keys {
        between("skew", keys.skew, 0.0, 10.0)?;
        within("keys", keys.count.min(i64::MAX as u64) as i64, 1, 1 << 40)?;
    }
    between("warmup", load.time.warmup_s, 0.0, 86_400.0)?;
    between("seconds", load.time.seconds, 0.01, 86_400.0)?;
    within("fill", load.fill_mb.min(i64::MAX as u64) as i64, 0, 1 << 20)?;
    if load.stop() == Stop::Records(0) {
        return Err(wrong("records", 0, "1 or more"));
    }
    together(load)
}

fn wrong(option: &'static str, read: impl ToString, allowed: &str) -> Wrong {
    Wrong {
        option,
        read: read.to_string(),
        allowed: allowed.into(),
    }
}

/// What does not go together.
fn together(load: &Workload) -> Result<(), Wrong> {
    if load.linger_ms > 0.0 && load.rate.is_none() {
        let why = "0 without a rate (in closed loop every batch is full)";
        return Err(wrong("linger", load.linger_ms, why));
    }
    if load.kind.coordinates() {
        if let (Some(rate), false) = (load.rate, load.kind.rebalances()) {
            return Err(wrong(
                "rate",
                rate,
                "nothing: it goes as fast as answers come",
            ));
        }
        if let Some(keys) = load.keys {
            return Err(wrong(
                "keys",
                keys.count,
                "0 where records are not the matter",
            ));
        }
    }
    if load.kind.rebalances() {
        within(
            "connections",
            load.connections as i64,
            2,
            load.partitions.into(),
        )?;
    }
    if !matches!(load.kind, Kind::Stream | Kind::CatchUp) {
        if load.groups > 0 {
            return Err(wrong("groups", load.groups, "0 where nobody reads along"));
        }
        return Ok(());
    }
    if load.acks == 0 && load.kind == Kind::CatchUp {
        let allowed = "-1 or 1 where a reader catches up with what was acknowledged";
        return Err(wrong("acks", 0, allowed));
    }
    within("spread", load.spread.into(), 1, 1)?;
    if let Some(keys) = load.keys {
        return Err(wrong("keys", keys.count, "0 where readers read along"));
    }
    // Every partition has one writer: then offsets tell which request a record came from.
    within(
        "connections",
        load.connections as i64,
        1,
        load.partitions.into(),
    )?;
    within(
        "groups",
        load.groups as i64,
        1,
        if load.kind == Kind::CatchUp { 1 } else { 1000 },
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_depend_on_the_kind_and_on_a_rate() {
        let of = |kind, rate| {
            let spec = Spec {
                rate,
                ..Spec::default()
            };
            let load = spec.workload(kind).unwrap();
            (load.batch_records, load.in_flight, load.rate)
        };
        assert_eq!(of(Kind::Produce, None), (63, 5, None));
        assert_eq!(of(Kind::Produce, Some(7.0)), (1, 64, Some(7.0)));
        assert_eq!(of(Kind::Stream, None), (1, 64, Some(1000.0)));
        assert_eq!(of(Kind::Storm, None), (1, 1, None));
    }

    #[test]
    fn one_way_to_say_a_batch_shuts_out_the_defaults_other_ways() {
        let defaults = Spec {
            time: TimeSpec {
                records: Some(5),
                ..TimeSpec::default()
            },
            batch: Some(1000),

            size: Some(10),
            ..Spec::default()
        };
        let own = Spec {
            time: TimeSpec {
                seconds: Some(2.0),
                ..TimeSpec::default()
            },
            batch_records: Some(3),

            ..Spec::default()
        };
        let both = own.or(&defaults);
        assert_eq!((both.batch, both.batch_records), (None, Some(3)));
        assert_eq!((both.time.seconds, both.time.records), (Some(2.0), None));
        assert_eq!(both.size, Some(10));
        assert_eq!(Spec::default().or(&defaults), defaults);
    }

    #[test]
    fn numbers_out_of_range_are_named_with_what_is_allowed() {
        let cases: [(Spec, Kind, &str); 9] = [
            (
                Spec {
                    size: Some(0),
                    ..Spec::default()
                },
                Kind::Produce,
                "size",
            ),
            (
                Spec {
                    spread: Some(2),
                    ..Spec::default()
                },
                Kind::Produce,
                "spread",
            ),
            (
                Spec {
                    acks: Some(2),
                    ..Spec::default()
                },
                Kind::Produce,
                "acks",
            ),
            (
                Spec {
                    rate: Some(f64::NAN),
                    ..Spec::default()
                },
                Kind::Produce,
                "rate",
            ),
            (
                Spec {
                    linger: Some(1.0),
                    ..Spec::default()
                },
                Kind::Produce,
                "linger",
            ),
            (
                Spec {
                    time: TimeSpec {
                        records: Some(0),
                        ..TimeSpec::default()
                    },

                    ..Spec::default()
                },
                Kind::Produce,
                "records",
            ),
            (
                Spec {
                    reading: ReadSpec {
                        groups: Some(2),
                        ..ReadSpec::default()
                    },

                    ..Spec::default()
                },
                Kind::Fetch,
                "groups",
            ),
            (
                Spec {
                    keyed: KeySpec {
                        keys: Some(5),
                        ..KeySpec::default()
                    },

                    ..Spec::default()
                },
                Kind::Stream,
                "keys",
            ),
            (
                Spec {
                    connections: Some(2),
                    ..Spec::default()
                },
                Kind::CatchUp,
                "connections",
            ),
        ];
        for (spec, kind, option) in cases {
            let wrong = spec.workload(kind).unwrap_err();
            assert_eq!(wrong.option, option, "{wrong:?}");
            assert_eq!(Failure::from(wrong).exit_code(), 2);
        }
        let huge = Spec {
            batch: Some(1 << 40),
            ..Spec::default()
        };
        assert!(huge.workload(Kind::Produce).is_err());
    }
}
