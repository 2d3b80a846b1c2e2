//! What more cores would do, and where that ends: a calculation from costs that are measured on one
//! core and on two. bench/SCALING.md says what it means and what it leaves out.

use std::time::Duration;

use serde::Serialize;

use crate::cli::ModelArgs;
use crate::compare;
use crate::failure::{Failure, Result};
use crate::limits::Limits;
use crate::metric::Metric;
use crate::progress::Progress;
use crate::ratio::Spread;
use crate::report::number;
use crate::run;
use crate::server::{Server, TempDir, With, streamd_path};
use crate::spec::{Spec, TimeSpec};
use crate::workload::{Kind, Workload};

/// The machines that are asked about.
const CORES: [u32; 6] = [1, 2, 4, 16, 32, 64];

/// What a request costs, measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Cost {
    /// Broker CPU microseconds for a request, on one shard: nothing crosses.
    pub one_us: f64,
    /// The same on two shards, where half of the requests have to cross to the partition's owner.
    pub two_us: f64,
    /// Bytes of values in a request.
    pub bytes: f64,
    /// Bytes that are written to disk for a byte of values.
    pub written: f64,
}

/// What the rest of a machine can do.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Machine {
    /// Durable MB/s of its disks.
    pub disk_mb_per_s: f64,
    /// MB/s that come in by its network.
    pub network_mb_per_s: f64,
    /// The busiest partition's part of all traffic; a partition is one shard's.
    pub hottest: f64,
}

/// What a number of cores would do: requests a second, bounded by one thing at a time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bounds {
    /// Cores of the broker; clients are elsewhere.
    pub cores: u32,
    /// All shards busy, clients connected anywhere: the part 1 - 1/cores crosses.
    pub cpu: f64,
    /// All shards busy, clients led straight to the owning shard: nothing crosses.
    pub cpu_led: f64,
    /// The shard of the busiest partition busy.
    pub hottest: f64,
    /// The disks busy.
    pub disk: f64,
    /// The network busy.
    pub network: f64,
}

impl Cost {
    /// Microseconds that a crossing adds to a request.
    pub fn crossing_us(&self) -> f64 {
        (2.0 * (self.two_us - self.one_us)).max(0.0)
    }

    /// The bounds for a number of cores.
    pub fn bounds(&self, cores: u32, machine: &Machine) -> Bounds {
        let n = f64::from(cores);
        let crossing = (1.0 - 1.0 / n) * self.crossing_us();
        let mb = self.bytes / 1e6;
        Bounds {
            cores,
            cpu: n * 1e6 / (self.one_us + crossing),
            cpu_led: n * 1e6 / self.one_us,
            // The owner does everything but what the crossing costs the other side.
            hottest: 1e6 / (self.one_us * machine.hottest),
            disk: machine.disk_mb_per_s / (mb * self.written.max(1e-9)),
            network: machine.network_mb_per_s / mb,
        }
    }
}

impl Bounds {
    /// The requests a second that remain, and what stops them first.
    pub fn first(&self) -> (f64, &'static str) {
        let all = [
            (self.cpu, "CPU"),
            (self.hottest, "the busiest partition's shard"),
            (self.disk, "disk"),
            (self.network, "network"),
        ];
        all.into_iter().fold(
            all[0],
            |least, next| if next.0 < least.0 { next } else { least },
        )
    }
}

/// What was measured of a load, and what follows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Scaled {
    /// The load.
    pub load: String,
    /// What it costs.
    pub cost: Cost,
    /// What cores would do.
    pub bounds: Vec<Bounds>,
}

/// The whole model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Scaling {
    /// What is assumed or was measured of the machine.
    pub machine: Machine,
    /// The loads.
    pub loads: Vec<Scaled>,
}

fn loads(seconds: f64) -> Result<Vec<Workload>> {
    let each = Spec {
        partitions: Some(12),
        time: TimeSpec {
            warmup: Some(0.5),
            seconds: Some(seconds),
            records: None,
        },
        ..Spec::default()
    };
    let small = Spec {
        name: Some("one 1 KiB record a request".into()),
        batch_records: Some(1),
        connections: Some(32),
        in_flight: Some(1),
        ..each.clone()
    };
    let bulk = Spec {
        name: Some("64 KiB of 1 KiB records a request".into()),
        connections: Some(4),
        ..each
    };
    let whole = |spec: Spec| Ok(spec.workload(Kind::Produce)?);
    [small, bulk].into_iter().map(whole).collect()
}

/// Measures an own streamd on one core and on two, in turn, and calculates.
///
/// # Errors
/// There is no streamd or it does not start; there is only one core; a run fails.
pub fn measure(args: &ModelArgs) -> Result<Scaling> {
    if std::thread::available_parallelism().is_ok_and(|cores| cores.get() < 2) {
        let text = "the model needs two cores: the second one shows what crossing costs";
        return Err(Failure::new(text));
    }
    let part = |value: f64| (1e-6..=1.0).contains(&value);
    if !part(args.hottest) || !(1..=100).contains(&args.rounds) {
        return Err(Failure::usage(
            "--hottest: above 0 to 1; --rounds: 1 to 100",
        ));
    }
    let program = streamd_path(args.streamd.as_deref())?;
    let dir = TempDir::new()?;
    let loads = loads(args.seconds.clamp(0.1, 600.0))?;
    let cost: f64 = loads.iter().map(compare::cost).sum();
    let progress = Progress::new(cost * 2.0 * args.rounds as f64 + 3.0);
    let each = Duration::from_millis(200);
    let limits = Limits::measure(dir.path(), each, |what| progress.say(what))?;
    let start = |cores: usize| {
        let with = With {
            cores: Some(cores),
            admin: false,
        };
        Server::streamd(&program, &dir.path().join(format!("on-{cores}")), with)
    };
    let servers = [start(1)?, start(2)?];
    for server in &servers {
        compare::warm(&server.target(), 1.0)?;
    }
    let machine = Machine {
        disk_mb_per_s: args.disk.unwrap_or(limits.durable_mb_per_s()),
        network_mb_per_s: args.network * 125.0,
        hottest: args.hottest,
    };
    let mut scaled = Vec::new();
    for load in &loads {
        let cost = measure_load(load, &servers, args.rounds, &progress)?;
        scaled.push(Scaled {
            load: load.name.clone(),
            cost,
            bounds: CORES.map(|cores| cost.bounds(cores, &machine)).to_vec(),
        });
    }
    Ok(Scaling {
        machine,
        loads: scaled,
    })
}

fn measure_load(
    load: &Workload,
    servers: &[Server; 2],
    rounds: usize,
    progress: &Progress,
) -> Result<Cost> {
    let (mut us, mut written) = ([Vec::new(), Vec::new()], Vec::new());
    for _ in 0..rounds {
        for (server, us) in servers.iter().zip(&mut us) {
            progress.say(&load.name);
            let run = run::run(&server.target(), load)?;
            let record = Metric::CpuUsPerRecord.of(&run).unwrap_or(0.0);
            us.push(record * load.batch_records as f64);
            let disk = Metric::DiskWriteMbPerS.of(&run).unwrap_or(0.0);
            written.push(disk / run.interval.mb_per_s().max(1e-9));
            progress.add(compare::cost(load));
        }
    }
    let median = |values: &[f64]| Spread::of(values.iter().copied()).map_or(0.0, |s| s.median);
    Ok(Cost {
        one_us: median(&us[0]),
        two_us: median(&us[1]),
        bytes: (load.batch_records * load.size) as f64,
        written: median(&written),
    })
}

/// The model for a person.
pub fn text(scaling: &Scaling) -> String {
    let machine = &scaling.machine;
    let mut out = format!(
        "Assumed: disks take {} MB/s durably, the network brings {} MB/s, the busiest partition \
         has {} % of the traffic,\nclients are on other machines. Requests a second:\n",
        number(machine.disk_mb_per_s),
        number(machine.network_mb_per_s),
        number(machine.hottest * 100.0)
    );
    for scaled in &scaling.loads {
        let cost = &scaled.cost;
        out += &format!(
            "\n{}: {} us on one shard, {} us on two, so a crossing costs {} us; {} bytes written \
             for one\n{:>6}{:>14}{:>14}{:>16}{:>12}{:>12}   breaks first\n",
            scaled.load,
            number(cost.one_us),
            number(cost.two_us),
            number(cost.crossing_us()),
            number(cost.written),
            "cores",
            "CPU",
            "CPU, led",
            "one partition",
            "disk",
            "network"
        );
        for b in &scaled.bounds {
            let (first, why) = b.first();
            out += &format!(
                "{:>6}{:>14}{:>14}{:>16}{:>12}{:>12}   {why}, at {}\n",
                b.cores,
                number(b.cpu),
                number(b.cpu_led),
                number(b.hottest),
                number(b.disk),
                number(b.network),
                number(first)
            );
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const COST: Cost = Cost {
        one_us: 10.0,
        two_us: 12.0,
        bytes: 1000.0,
        written: 2.0,
    };
    const MACHINE: Machine = Machine {
        disk_mb_per_s: 2000.0,
        network_mb_per_s: 3000.0,
        hottest: 0.1,
    };

    #[test]
    fn a_crossing_costs_twice_what_two_shards_add() {
        assert_eq!(COST.crossing_us(), 4.0);
        // What was measured comes out again.
        assert_eq!(COST.bounds(1, &MACHINE).cpu, 1e5);
        assert_eq!(COST.bounds(2, &MACHINE).cpu, 2e6 / 12.0);
        let faster = Cost {
            two_us: 9.0,
            ..COST
        };
        assert_eq!(faster.crossing_us(), 0.0);
    }

    #[test]
    fn cores_help_until_something_else_breaks() {
        let at = |cores| COST.bounds(cores, &MACHINE).first();
        assert_eq!(at(2).1, "CPU");
        // 16 cores could do 1.16 million; the disks take 1 million, one partition 1 million.
        let bounds = COST.bounds(16, &MACHINE);
        assert!(bounds.cpu > 1.1e6 && bounds.cpu_led == 1.6e6);
        assert_eq!((bounds.disk, bounds.network), (1e6, 3e6));
        let hot = Machine {
            hottest: 0.5,
            ..MACHINE
        };
        let expected = (2e5, "the busiest partition's shard");
        assert_eq!(COST.bounds(64, &hot).first(), expected);
        let slow = Machine {
            network_mb_per_s: 1.0,
            ..MACHINE
        };
        assert_eq!(COST.bounds(64, &slow).first(), (1000.0, "network"));
    }

    #[test]
    fn the_text_has_a_line_for_every_number_of_cores() {
        let scaling = Scaling {
            machine: MACHINE,
            loads: vec![Scaled {
                load: "x".into(),
                cost: COST,
                bounds: CORES.map(|cores| COST.bounds(cores, &MACHINE)).to_vec(),
            }],
        };
        let text = text(&scaling);
        assert_eq!(text.matches(", at ").count(), CORES.len(), "{text}");
        assert!(text.contains("a crossing costs 4.00 us"), "{text}");
    }
}
