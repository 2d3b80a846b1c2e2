//! `bench/RESULTS.md` as text.

use crate::compare::Case;
use crate::limits::Limits;
use crate::metric::Metric;
use crate::outcome::Outcome;
use crate::ratio::Spread;
use crate::report::{CLIENT_SHARE_MAX, ms, number};
use crate::table::{IDLE_PARTITIONS, Table};

/// The whole document.
pub fn results(table: &Table) -> String {
    let mut out = head(table);
    out += "\n## streamd and Kafka\n\n";
    out += &format!(
        "streamd acknowledges when the records are on stable storage (O_DIRECT with sync). Kafka \
         {} runs as it comes: it acknowledges when they are in the page cache.\n\n",
        table.kafka_version
    );
    out += &cases(&table.record.cases, "Kafka");
    out += &disturbance(table);
    if !table.durable.is_empty() {
        out += "\n## Kafka with durable acknowledgements (`flush.messages=1`)\n\n";
        out += &cases(&table.durable, "Kafka, flushed");
    }
    if !table.record.failed.is_empty() {
        let lines: Vec<_> = table
            .record
            .failed
            .iter()
            .map(|why| format!("- {why}\n"))
            .collect();
        out += &format!("\n## Not measured\n\n{}", lines.concat());
    }
    out += &idle(table);
    if let Some(found) = &table.record.limits {
        out += &limits(table, found);
    }
    out
}

fn head(table: &Table) -> String {
    let pairs = table
        .record
        .cases
        .first()
        .map_or(0, |case| case.rounds.len());
    let commit = match table.record.origin.commit.as_str() {
        "" => "unknown",
        commit => commit,
    };
    format!(
        "# Results\n\n\
         Made by\n```\n{}\n```\non {}, commit {commit}, on {}.\n\n\
         Broker and client share the machine over loopback. Both brokers run all the time and \
         are loaded in turn, A B A B; ratios (streamd/Kafka) are taken pair by pair and shown \
         as **median** (least–greatest) of {pairs} pairs, other figures as medians. One more \
         pair before them does not count, both were warmed up before the first, and before \
         every run the file system is synced, so that nobody pays for the other's write-back. \
         MB is 10^6 bytes of record values before compression. Broker CPU is user and system \
         time of the whole process over the measured interval; what the kernel's own threads \
         do for it (writing back the page cache) is not in it, but in *other CPU* with \
         everything else on the machine. ¹ marks rows where the client took more than a third \
         of that broker's CPU. A load is named by record size, partitions and compression: \
         batches of 64 KiB, 5 requests in flight, acks -1; `small` is one 1 KiB record a \
         request on 32 connections; `latency-N` is open loop at N records/s of 1 KiB, latency \
         from the time that a request was due; `e2e` is from then to a reader's hands, and \
         `fan-out-N` 20,000 records/s of 1 KiB in requests of 20 to N groups of readers, whose \
         records, MB and latency are counted.\n",
        table.record.command,
        table.record.origin.date,
        table.record.origin.text()
    )
}

/// The tables of some loads.
pub fn cases(cases: &[Case], other: &str) -> String {
    let mut out = format!(
        "| load | broker CPU ms/MB: streamd | {other} | ratio | records/s: streamd | {other} | \
         MB/s: streamd | {other} | ratio |\n|---|---|---|---|---|---|---|---|---|\n"
    );
    for case in cases {
        let (a, b) = marks(case);
        out += &format!(
            "| {} | {}{a} | {}{b} | {} | {} | {} | {} | {} | {} |\n",
            case.workload.name,
            side(case, 0, Metric::CpuMsPerMb),
            side(case, 1, Metric::CpuMsPerMb),
            ratio(case, Metric::CpuMsPerMb),
            side(case, 0, Metric::RecordsPerS),
            side(case, 1, Metric::RecordsPerS),
            side(case, 0, Metric::MbPerS),
            side(case, 1, Metric::MbPerS),
            ratio(case, Metric::MbPerS),
        );
    }
    out += &format!(
        "\n| load | p50 ms: streamd | {other} | ratio | p99 ms: streamd | {other} | ratio | \
         client CPU ms/MB: streamd | {other} | ratio | other CPU ms/MB: streamd | {other} |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|\n"
    );
    for case in cases {
        out += &format!(
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |\n",
            case.workload.name,
            side(case, 0, Metric::P50Us),
            side(case, 1, Metric::P50Us),
            ratio(case, Metric::P50Us),
            side(case, 0, Metric::P99Us),
            side(case, 1, Metric::P99Us),
            ratio(case, Metric::P99Us),
            side(case, 0, Metric::ClientMsPerMb),
            side(case, 1, Metric::ClientMsPerMb),
            ratio(case, Metric::ClientMsPerMb),
            side(case, 0, Metric::OtherMsPerMb),
            side(case, 1, Metric::OtherMsPerMb),
        );
    }
    out
}

/// How much of the machine somebody else had.
fn disturbance(table: &Table) -> String {
    let cores = table.record.origin.cores as f64;
    let percent = |run: &Outcome| {
        let i = &run.interval;
        i.other_cpu_ms / (i.seconds * 10.0 * cores).max(1e-9)
    };
    let of = |side: usize| {
        let runs = table.record.cases.iter().flat_map(|case| case.runs(side));
        Spread::of(runs.map(percent))
    };
    let (Some(a), Some(b)) = (of(0), of(1)) else {
        return String::new();
    };
    format!(
        "\nEverything else on the machine, the kernel's write-back included, took {:.0} % of it \
         during streamd's runs and {:.0} % during Kafka's (medians; the most was {:.0} % and \
         {:.0} %).\n",
        a.median, b.median, a.max, b.max
    )
}

/// A figure of a side.
pub fn side(case: &Case, side: usize, metric: Metric) -> String {
    let unit = metric.label().1;
    let median = case.median(metric, side);
    median.map_or("–".into(), |median| number(median * unit))
}

/// The ratio of a figure.
pub fn ratio(case: &Case, metric: Metric) -> String {
    let ratio = case.figure(metric).and_then(|figure| figure.ratios.first());
    ratio.map_or("–".into(), |r| {
        let (median, min, max) = (number(r.median), number(r.min), number(r.max));
        format!("**{median}** ({min}–{max})")
    })
}

fn marks(case: &Case) -> (&'static str, &'static str) {
    let mark = |side: usize| match case.client_share.get(side) {
        Some(Some(share)) if *share > CLIENT_SHARE_MAX => " ¹",
        _ => "",
    };
    (mark(0), mark(1))
}

fn idle(table: &Table) -> String {
    let mut out = format!(
        "\n## At rest, with {IDLE_PARTITIONS} partitions\n\n\
         | | start to serving, ms | resident MB | CPU, % of a core |\n|---|---|---|---|\n"
    );
    for idle in &table.record.idle {
        out += &format!(
            "| {} | {} | {} | {} |\n",
            idle.name,
            number(idle.start_ms),
            number(idle.rss_mb),
            number(idle.cpu_percent)
        );
    }
    out
}

fn limits(table: &Table, limits: &Limits) -> String {
    let mut out = format!(
        "\n## The machine's limits, in the same run\n\n\
         The least for durable produce is receiving, checking, one copy and a durable direct write \
         of 1 MiB: {} CPU ms/MB. The least for fetch is sendfile: {} CPU ms/MB. A round trip and a \
         durable 4 KiB write one after the other take {} ms (p50).\n\n\
         | | MB/s | CPU ms/MB | p50 µs | p99 µs |\n|---|---|---|---|---|\n",
        number(limits.produce_ms_per_mb()),
        number(limits.fetch_ms_per_mb()),
        ms(limits.durable_ack_us())
    );
    for figure in &limits.figures {
        let cell = |value: Option<f64>| value.map_or("–".into(), number);
        out += &format!(
            "| {} | {} | {} | {} | {} |\n",
            figure.name,
            cell(figure.mb_per_s),
            cell(figure.cpu_ms_per_mb),
            cell(figure.latency.map(|l| l.p50_us)),
            cell(figure.latency.map(|l| l.p99_us))
        );
    }
    out + &distances(table)
}

fn distances(table: &Table) -> String {
    let mut out = String::from(
        "\n| load | streamd, times the limit | Kafka, times the limit |\n|---|---|---|\n",
    );
    for (case, times) in table.record.cases.iter().zip(&table.record.distances) {
        if let [streamd, kafka, ..] = times[..] {
            let (streamd, kafka) = (number(streamd), number(kafka));
            out += &format!("| {} | {streamd} | {kafka} |\n", case.workload.name);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Idle;

    fn table() -> Table {
        let mut record = crate::record::tests::made_up();
        record.cases[1].client_share = vec![Some(0.4), Some(0.1)];
        record.idle = vec![Idle {
            name: "streamd".into(),
            start_ms: 20.0,
            rss_mb: 40.0,
            cpu_percent: 0.5,
        }];
        Table {
            kafka_version: "4.4.0".into(),
            durable: vec![record.cases[0].clone()],
            record,
        }
    }

    #[test]
    fn rows_have_as_many_cells_as_their_heads() {
        let text = results(&table());
        let mut width = 0;
        for line in text.lines() {
            let cells = line.matches('|').count();
            assert!(
                !line.starts_with('|') || width == 0 || cells == width,
                "{line}"
            );
            width = if line.starts_with('|') { cells } else { 0 };
        }
    }

    #[test]
    fn ratios_marks_and_distances_are_shown() {
        let text = results(&table());
        let expected = [
            "## Not measured\n\n- Kafka in small",
            "| fetch | 0.977 ¹ | 3.91 | **0.250**",
            "| fetch | 3.91 | 15.6 |",
            "| streamd | 20.0 | 40.0 | 0.500 |",
            "## Kafka with durable",
        ];
        for part in expected {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
