//! The run without arguments: an own streamd, one canonical workload, about a minute.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::batch::Codec;
use crate::duel;
use crate::failure::Result;
use crate::limits::Limits;
use crate::machine::Origin;
use crate::outcome::Outcome;
use crate::profile::Profiling;
use crate::progress::Progress;
use crate::report::{ms, number, remark};
use crate::run;
use crate::server::{Server, TempDir, streamd_path};
use crate::workload::{Kind, Workload};

/// What came of it.
#[derive(Debug, Serialize)]
pub struct Canonical {
    /// Where and of what.
    pub origin: Origin,
    /// Milliseconds until the broker was ready.
    pub start_ms: f64,
    /// What the machine can do.
    pub limits: Limits,
    /// The runs.
    pub outcomes: Vec<Outcome>,
}

fn workloads() -> Vec<Workload> {
    let seconds = |seconds: f64, load: Workload| Workload { seconds, ..load };
    vec![
        seconds(10.0, Workload::produce(1024, 12, Codec::None)),
        seconds(8.0, Workload::produce(100, 12, Codec::Lz4)),
        seconds(6.0, Workload::fetch(1024, 12)),
        seconds(6.0, Workload::small()),
        seconds(8.0, Workload::latency(1_000, 1)),
        seconds(8.0, Workload::latency(10_000, 10)),
    ]
}

/// Runs it with the streamd that is given or beside this program; `profile`: where its flame graph
/// goes, if it shall have one.
///
/// # Errors
/// There is no streamd, it does not start, or a run fails.
pub fn run(streamd: Option<&Path>, profile: Option<&Path>) -> Result<Canonical> {
    let program = streamd_path(streamd)?;
    let dir = TempDir::new()?;
    let workloads = workloads();
    let progress = Progress::new(workloads.len() + 4);
    let origin = Origin::here(crate::machine::root(None).ok().as_deref(), dir.path());
    let each = Duration::from_millis(400);
    let limits = Limits::measure(dir.path(), each, |what| progress.step(what))?;
    let server = Server::streamd_with(&program, &dir.path().join("data"), profile.is_some())?;
    let target = server.target();
    duel::warm_one(&target, 2.0)?;
    progress.step("warm-up");
    let loaded = workloads.iter().map(|w| w.seconds + w.warmup_s).sum();
    let loaded = Duration::from_secs_f64(loaded);
    let profiling = profile
        .zip(server.admin())
        .map(|(path, admin)| Profiling::start(admin, path, Duration::ZERO, loaded));
    let profiling = profiling.transpose()?;
    let mut outcomes = Vec::new();
    for workload in &workloads {
        outcomes.push(run::run(&target, workload)?);
        progress.step(&workload.name);
    }
    profiling.map_or(Ok(()), |p| p.finish())?;
    Ok(Canonical {
        origin,
        start_ms: server.started().as_secs_f64() * 1e3,
        limits,
        outcomes,
    })
}

fn title(workload: &Workload) -> String {
    let size = match workload.size {
        1024 => "1 KiB".into(),
        size => format!("{size} B"),
    };
    match (workload.kind, workload.rate) {
        (Kind::Fetch, _) => format!("Fetch what is in memory, {size} records"),
        (_, Some(rate)) => format!("{} records of {size} a second, durable", number(rate)),
        _ if workload.batch_records == 1 => {
            let connections = workload.connections;
            format!("One {size} record a request, {connections} connections, durable")
        }
        _ => format!(
            "Produce {size} records in batches, {}, durable",
            match workload.codec {
                Codec::None => "uncompressed",
                Codec::Lz4 => "lz4",
            }
        ),
    }
}

/// How far a run is from the machine's limit, if one applies.
fn distance(outcome: &Outcome, limits: &Limits) -> Option<String> {
    let (w, i) = (&outcome.workload, &outcome.interval);
    if w.rate.is_some() {
        let (limit, p50) = (limits.durable_ack_us(), i.latency.p50_us);
        return Some(format!(
            "a bare round trip and a bare durable 4 KiB write take {} ms: p50 is {}x that",
            ms(limit),
            number(p50 / limit)
        ));
    }
    let (limit, what) = match w.kind {
        Kind::Fetch => (limits.fetch_ms_per_mb(), "a bare sendfile"),
        // Small requests are bound by requests, compressed ones have other bytes than records.
        Kind::Produce if w.batch_records == 1 || w.codec != Codec::None => return None,
        Kind::Produce => (
            limits.produce_ms_per_mb(),
            "bare receive, CRC, copy and durable direct write",
        ),
    };
    let cost = i.broker_ms_per_mb()?;
    Some(format!(
        "{what} cost {} CPU ms/MB: the broker takes {}x that",
        number(limit),
        number(cost / limit)
    ))
}

/// The result for a person.
pub fn text(canonical: &Canonical) -> String {
    let mut out = format!(
        "streamd on {}\nready after {} ms; broker and load share the machine\n\n",
        canonical.origin.text(),
        number(canonical.start_ms)
    );
    for outcome in &canonical.outcomes {
        let i = &outcome.interval;
        out += &format!("{}\n", title(&outcome.workload));
        out += &format!(
            "  {:>12} records/s {:>8} MB/s    latency ms: half within {}, 99 % within {}\n",
            number(i.records_per_s()),
            number(i.mb_per_s()),
            ms(i.latency.p50_us),
            ms(i.latency.p99_us)
        );
        if let (Some(per_mb), Some(rss)) = (i.broker_ms_per_mb(), i.rss_mb()) {
            out += &format!(
                "  broker {} CPU ms/MB, {} MB resident; this client {} CPU ms/MB{}\n",
                number(per_mb),
                number(rss),
                number(i.client_ms_per_mb()),
                remark(i.client_share())
            );
        }
        if let Some(distance) = distance(outcome, &canonical.limits) {
            out += &format!("  limit: {distance}\n");
        }
        out.push('\n');
    }
    out + "What this machine can do at all:\n" + &crate::report::limits(&canonical.limits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_canonical_workload_takes_about_a_minute() {
        let all = workloads();
        all.iter().for_each(|load| run::check(load).unwrap());
        let seconds: f64 = all.iter().map(|load| load.seconds + load.warmup_s).sum();
        assert!((40.0..60.0).contains(&seconds), "{seconds}");
    }

    #[test]
    fn every_run_has_a_title_of_its_own() {
        let mut titles: Vec<_> = workloads().iter().map(title).collect();
        let count = titles.len();
        titles.sort();
        titles.dedup();
        assert_eq!(titles.len(), count);
    }
}
