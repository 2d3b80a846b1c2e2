//! One measured run of a workload against a target: topic made, filled, loaded, deleted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use streamd_wire::kafka::ApiKey;

use crate::admin::Admin;
use crate::failure::{Failure, Result};
use crate::meter::{Meter, Stop};
use crate::outcome::{Interval, Outcome};
use crate::workload::{Kind, Target, Workload, records_in};
use crate::{fetch, produce};

/// A topic name that no other run has.
pub fn topic_name() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let at = since.map_or(0, |since| since.as_millis());
    format!("bench-{}-{at}-{count}", std::process::id())
}

/// Runs a workload on a topic of its own and deletes the topic, also after a failure.
///
/// # Errors
/// The broker cannot be reached, refuses something, or falls silent.
pub fn run(target: &Target, workload: &Workload) -> Result<Outcome> {
    let mut admin = Admin::connect(target.address)?;
    let topic = topic_name();
    admin.create(&topic, workload.partitions, &target.configs)?;
    let measured = load(&mut admin, target, &topic, workload);
    let deleted = admin.delete(&topic);
    let interval = measured?;
    deleted?;
    Ok(Outcome {
        target: target.name.clone(),
        workload: workload.clone(),
        interval,
    })
}

fn load(admin: &mut Admin, target: &Target, topic: &str, workload: &Workload) -> Result<Interval> {
    let produce_version = admin.version(ApiKey::Produce, produce::VERSION)?;
    let meter = || Meter::new(target.pid, workload.warmup(), workload.stop());
    let meter = match workload.kind {
        Kind::Produce => produce::run(target.address, topic, workload, produce_version, meter())?,
        Kind::Fetch => {
            let fill = fill_of(workload);
            let quiet = Meter::new(None, Duration::ZERO, fill.stop());
            produce::run(target.address, topic, &fill, produce_version, quiet)?;
            let ends = admin.ends(topic, workload.partitions)?;
            let version = admin.version(ApiKey::Fetch, fetch::VERSION)?;
            fetch::run(target.address, topic, workload, (version, &ends), meter())?
        }
    };
    meter.interval(workload.size)
}

/// What writes the data of a fetch load.
fn fill_of(workload: &Workload) -> Workload {
    let records = workload.fill_mb.max(1) * 1_000_000 / workload.size.max(1) as u64;
    let batch_records = records_in(64 * 1024, workload.size);
    Workload {
        kind: Kind::Produce,
        batch_records,
        // Every partition gets a batch, however little there is.
        records: Some(records.max(batch_records as u64 * 4 * workload.partitions as u64)),
        connections: 1,
        in_flight: 5,
        rate: None,
        acks: -1,
        ..workload.clone()
    }
}

/// Whether a workload can be run at all.
///
/// # Errors
/// A sentence for the number that is out of range.
pub fn check(workload: &Workload) -> Result<()> {
    let within = |what: &str, value: i64, min: i64, max: i64| {
        if (min..=max).contains(&value) {
            Ok(())
        } else {
            Err(Failure::usage(format!(
                "{what} is {value}, allowed are {min} to {max}"
            )))
        }
    };
    within("--size", workload.size as i64, 1, 64 << 20)?;
    within("--partitions", workload.partitions.into(), 1, 100_000)?;
    within("--connections", workload.connections as i64, 1, 10_000)?;
    within("--in-flight", workload.in_flight as i64, 1, 100_000)?;
    within(
        "--spread",
        workload.spread.into(),
        1,
        workload.partitions.into(),
    )?;
    within("--acks", workload.acks.into(), -1, 1)?;
    let batch = workload.batch_records.saturating_mul(workload.size + 16);
    within("the batch's bytes", batch as i64, 1, 256 << 20)?;
    if let Some(rate) = workload.rate.filter(|rate| !(*rate > 0.0 && *rate <= 1e9)) {
        return Err(Failure::usage(format!(
            "--rate is {rate}, allowed are more than 0 to 1e9 records a second"
        )));
    }
    if matches!(workload.stop(), Stop::After(0) | Stop::Records(0)) {
        return Err(Failure::usage("--seconds or --records must be more than 0"));
    }
    Ok(())
}
