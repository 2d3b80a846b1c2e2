//! `bench/RESULTS.md` as text.

use crate::duel::Case;
use crate::outcome::Interval;
use crate::ratio::{Comparison, Spread};
use crate::report::{CLIENT_SHARE_MAX, ms, number};
use crate::table::{IDLE_PARTITIONS, Table, limit_of};

/// The whole document.
pub fn results(table: &Table) -> String {
    let mut out = head(table);
    out += "\n## streamd and Kafka\n\n";
    out += &format!(
        "streamd acknowledges when the records are on stable storage (O_DIRECT with sync). Kafka \
         {} runs as it comes: it acknowledges when they are in the page cache.\n\n",
        table.kafka_version
    );
    out += &cases(&table.cases, "Kafka");
    out += &disturbance(table);
    if !table.durable.is_empty() {
        out += "\n## Kafka with durable acknowledgements (`flush.messages=1`)\n\n";
        out += &cases(&table.durable, "Kafka, flushed");
    }
    if !table.failed.is_empty() {
        let lines: Vec<_> = table
            .failed
            .iter()
            .map(|why| format!("- {why}\n"))
            .collect();
        out += &format!("\n## Not measured\n\n{}", lines.concat());
    }
    out += &idle(table);
    out += &limits(table);
    out
}

fn head(table: &Table) -> String {
    let pairs = table.cases.first().map_or(0, |case| case.pairs.len());
    let commit = match table.origin.commit.as_str() {
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
         from the time that a request was due.\n",
        table.command,
        table.origin.date,
        table.origin.text()
    )
}

fn cases(cases: &[Case], other: &str) -> String {
    let mut out = format!(
        "| load | broker CPU ms/MB: streamd | {other} | ratio | records/s: streamd | {other} | \
         MB/s: streamd | {other} | ratio |\n|---|---|---|---|---|---|---|---|---|\n"
    );
    for case in cases {
        let (a, b) = marks(case);
        out += &format!(
            "| {} | {}{a} | {}{b} | {} | {} | {} | {} | {} | {} |\n",
            case.workload.name,
            side_a(case.cpu_ms_per_mb, 1.0),
            side_b(case.cpu_ms_per_mb, 1.0),
            ratio(case.cpu_ms_per_mb),
            side_a(case.records_per_s, 1.0),
            side_b(case.records_per_s, 1.0),
            side_a(case.mb_per_s, 1.0),
            side_b(case.mb_per_s, 1.0),
            ratio(case.mb_per_s),
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
            side_a(case.p50_us, 1e-3),
            side_b(case.p50_us, 1e-3),
            ratio(case.p50_us),
            side_a(case.p99_us, 1e-3),
            side_b(case.p99_us, 1e-3),
            ratio(case.p99_us),
            side_a(case.client_ms_per_mb, 1.0),
            side_b(case.client_ms_per_mb, 1.0),
            ratio(case.client_ms_per_mb),
            side_a(case.other_ms_per_mb, 1.0),
            side_b(case.other_ms_per_mb, 1.0),
        );
    }
    out
}

/// How much of the machine somebody else had.
fn disturbance(table: &Table) -> String {
    let cores = table.origin.cores as f64;
    let percent = |i: &Interval| i.other_cpu_ms / (i.seconds * 10.0 * cores).max(1e-9);
    let runs = || table.cases.iter().flat_map(|case| &case.pairs);
    let a = Spread::of(runs().map(|pair| percent(&pair.0.interval)));
    let b = Spread::of(runs().map(|pair| percent(&pair.1.interval)));
    let (Some(a), Some(b)) = (a, b) else {
        return String::new();
    };
    format!(
        "\nEverything else on the machine, the kernel's write-back included, took {:.0} % of it \
         during streamd's runs and {:.0} % during Kafka's (medians; the most was {:.0} % and \
         {:.0} %).\n",
        a.median, b.median, a.max, b.max
    )
}

fn side_a(comparison: Option<Comparison>, unit: f64) -> String {
    comparison.map_or("–".into(), |c| number(c.a.median * unit))
}

fn side_b(comparison: Option<Comparison>, unit: f64) -> String {
    comparison.map_or("–".into(), |c| number(c.b.median * unit))
}

fn ratio(comparison: Option<Comparison>) -> String {
    comparison.map_or("–".into(), |c| {
        let r = c.ratio;
        let (median, min, max) = (number(r.median), number(r.min), number(r.max));
        format!("**{median}** ({min}–{max})")
    })
}

fn marks(case: &Case) -> (&'static str, &'static str) {
    let mark = |share: Option<f64>| match share {
        Some(share) if share > CLIENT_SHARE_MAX => " ¹",
        _ => "",
    };
    (mark(case.client_share.0), mark(case.client_share.1))
}

fn idle(table: &Table) -> String {
    let mut out = format!(
        "\n## At rest, with {IDLE_PARTITIONS} partitions\n\n\
         | | start to serving, ms | resident MB | CPU, % of a core |\n|---|---|---|---|\n"
    );
    for idle in &table.idle {
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

fn limits(table: &Table) -> String {
    let limits = &table.limits;
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
    let limits = &table.limits;
    let mut out = String::from(
        "\n| load | streamd, times the limit | Kafka, times the limit |\n|---|---|---|\n",
    );
    for case in &table.cases {
        let bound = limit_of(case, limits).map(|limit| (case.cpu_ms_per_mb, limit));
        let bound = bound.or(case
            .workload
            .rate
            .map(|_| (case.p50_us, limits.durable_ack_us())));
        let Some((Some(figure), limit)) = bound else {
            continue;
        };
        out += &format!(
            "| {} | {} | {} |\n",
            case.workload.name,
            number(figure.a.median / limit),
            number(figure.b.median / limit)
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Limits;
    use crate::machine::Origin;
    use crate::table::Idle;
    use crate::workload::Workload;

    fn comparison(a: f64, b: f64) -> Option<Comparison> {
        let all = |value| Spread {
            median: value,
            min: value,
            max: value,
        };
        Some(Comparison {
            a: all(a),
            b: all(b),
            ratio: all(a / b),
        })
    }

    fn table() -> Table {
        let case = Case {
            workload: Workload::fetch(1024, 12),
            names: ("streamd".into(), "Kafka".into()),
            cpu_ms_per_mb: comparison(0.5, 2.0),
            cpu_us_per_record: None,
            records_per_s: comparison(2e6, 1e6),
            mb_per_s: comparison(2000.0, 1000.0),
            p50_us: comparison(500.0, 1000.0),
            p99_us: None,
            p999_us: None,
            client_ms_per_mb: comparison(0.2, 0.2),
            client_share: (Some(0.4), Some(0.1)),
            rss_mb: None,
            other_ms_per_mb: None,
            pairs: Vec::new(),
        };
        Table {
            command: "target/release/bench table".into(),
            origin: Origin::here(None, std::path::Path::new("/")),
            kafka_version: "4.4.0".into(),
            limits: Limits {
                figures: vec![crate::limits::Figure {
                    name: crate::limits::SENDFILE.into(),
                    mb_per_s: Some(4000.0),
                    cpu_ms_per_mb: Some(0.25),
                    latency: None,
                }],
            },
            idle: vec![Idle {
                name: "streamd".into(),
                start_ms: 20.0,
                rss_mb: 40.0,
                cpu_percent: 0.5,
            }],
            cases: vec![case],
            durable: Vec::new(),
            failed: vec!["streamd in small: it fell silent".into()],
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
        assert!(
            text.contains("## Not measured\n\n- streamd in small"),
            "{text}"
        );
        assert!(
            text.contains("| fetch-1k-p12 | 0.500 ¹ | 2.00 | **0.250**"),
            "{text}"
        );
        assert!(text.contains("| fetch-1k-p12 | 2.00 | 8.00 |"), "{text}");
        assert!(text.contains("| streamd | 20.0 | 40.0 | 0.500 |"), "{text}");
    }
}
