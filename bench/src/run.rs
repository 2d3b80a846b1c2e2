//! One measured run of a workload against a target: topic made, filled, loaded, deleted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use streamd_wire::kafka::ApiKey;

use crate::admin::Admin;
use crate::coordinate::{commit, rebalance, transaction};
use crate::failure::Result;
use crate::leaders::Leaders;
use crate::meter::Meter;
use crate::outcome::Outcome;
use crate::source::{self, Wire};
use crate::workload::{Kind, Target, Time, Workload, records_in};
use crate::{fetch, produce, storm, stream};

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
    let size = (workload.partitions, target.replicas);
    let leaders = admin.create(&topic, size, &target.configs)?;
    let measured = load(&mut admin, (target, &leaders), &topic, workload);
    let deleted = admin.delete(&topic);
    let meter = measured?;
    deleted?;
    meter.outcome(target, workload)
}

fn load(
    admin: &mut Admin,
    (target, leaders): (&Target, &Leaders),
    topic: &str,
    workload: &Workload,
) -> Result<Meter> {
    let version = admin.version(ApiKey::Produce, source::VERSION)?;
    let wire = Wire { topic, version };
    if let Some(fill) = fill_of(workload) {
        let quiet = Meter::new(&[], Duration::ZERO, fill.stop());
        produce::run(leaders, wire, &fill, quiet)?;
    }
    let meter = || Meter::new(&target.pids, workload.warmup(), workload.stop());
    match workload.kind {
        Kind::Produce => produce::run(leaders, wire, workload, meter()),
        Kind::Storm => storm::run(leaders.single()?, wire, workload, meter()),
        Kind::Commit => commit::run(leaders.single()?, admin, topic, workload, meter()),
        Kind::Transaction => transaction::run(leaders.single()?, admin, topic, workload, meter()),
        Kind::RebalanceClassic | Kind::RebalanceConsumer => {
            rebalance::run(leaders.single()?, admin, topic, workload, meter())
        }
        Kind::Fetch | Kind::Stream | Kind::CatchUp => {
            let ends = leaders.ends(topic)?;
            let version = admin.version(ApiKey::Fetch, fetch::VERSION)?;
            if workload.kind == Kind::Fetch {
                return fetch::run(leaders, topic, workload, (version, &ends), meter());
            }
            stream::run(leaders, (wire, version), &ends, workload, meter())
        }
    }
}

/// What writes the data that a load reads; `None` if it needs none.
fn fill_of(workload: &Workload) -> Option<Workload> {
    if !matches!(workload.kind, Kind::Fetch | Kind::CatchUp) {
        return None;
    }
    let records = workload.fill_mb.max(1) * 1_000_000 / workload.size.max(1) as u64;
    let batch_records = records_in(64 * 1024, workload.size);
    Some(Workload {
        kind: Kind::Produce,
        batch_records,
        // Every partition gets a batch, however little there is.
        time: Time {
            records: Some(records.max(batch_records as u64 * 4 * workload.partitions as u64)),
            ..workload.time
        },
        connections: 1,
        in_flight: 5,
        rate: None,
        linger_ms: 0.0,
        acks: -1,
        ..workload.clone()
    })
}
