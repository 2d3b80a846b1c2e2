//! `bench/CLUSTER.md` as text.

use super::failover::Failovers;
use crate::markdown;
use crate::metric::Metric;
use crate::record::Record;
use crate::report::number;

/// The whole document.
pub fn results(record: &Record, kafka_version: &str) -> String {
    let mut out = head(record, kafka_version);
    if !record.failovers.is_empty() {
        out += &failovers(&record.failovers);
    }
    if !record.cases.is_empty() {
        out += &replication(record);
    }
    if !record.failed.is_empty() {
        let lines = record.failed.iter().map(|why| format!("- {why}\n"));
        out += &format!("\n## What went wrong\n\n{}", lines.collect::<String>());
    }
    out
}

fn head(record: &Record, kafka_version: &str) -> String {
    let commit = match record.origin.commit.as_str() {
        "" => "unknown",
        commit => commit,
    };
    format!(
        "# A cluster of three\n\n\
         Made by\n```\n{}\n```\non {}, commit {commit}, on {}.\n\n\
         Three nodes of streamd and three of Kafka {kafka_version} share the machine with the \
         clients, over loopback. Kafka's nodes are broker and controller in one, with the settings \
         that Kafka ships and 512 MB of heap each; streamd's have 512 MB for buffers each. Topics \
         have 3 replicas, of which 2 have to be in sync. streamd acknowledges what is on stable \
         storage of two nodes (acks all), Kafka what is in the page caches of all that are in \
         sync. Both clusters run all the time and are loaded in turn, A B A B.\n",
        record.command,
        record.origin.date,
        record.origin.text()
    )
}

fn failovers(all: &[Failovers]) -> String {
    let mut out = String::from(
        "\n## When a node is killed\n\n\
         From the SIGKILL until every partition that the node led has acknowledged a record that \
         was sent after it, as stock producers see it (librdkafka through Python, and Kafka's own; \
         acks all and everything else as they come; a record each 2 ms, to many partitions each \
         20 ms), and until the metadata of both nodes that are left name who leads them now. ms; \
         with fewer than 100 kills p99 is the longest.\n\n\
         | killed | seen by | kills: streamd, Kafka | p50: streamd | Kafka | ratio | \
         p99: streamd | Kafka | ratio |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for failovers in all {
        for (by, sides) in &failovers.measured {
            let kills: Vec<_> = sides.iter().map(|ms| ms.len().to_string()).collect();
            let kills = kills.join(", ");
            let at = |side: usize, of: f64| sides.get(side).and_then(|ms| percentile(ms, of));
            let cells = [0.5, 0.99].map(|of| {
                let (a, b) = (at(0, of), at(1, of));
                let ratio = a.zip(b).map(|(a, b)| a / b);
                let bold = ratio.map_or("–".into(), |ratio| format!("**{}**", number(ratio)));
                format!("{} | {} | {bold}", cell(a), cell(b))
            });
            out += &format!(
                "| {} | {by} | {kills} | {} |\n",
                failovers.what,
                cells.join(" | ")
            );
        }
    }
    out
}

fn cell(value: Option<f64>) -> String {
    value.map_or("–".into(), number)
}

/// The least value that so large a part of all does not exceed.
fn percentile(values: &[f64], of: f64) -> Option<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let rank = (values.len() as f64 * of).ceil() as usize;
    values.get(rank.saturating_sub(1)).copied()
}

fn replication(record: &Record) -> String {
    let pairs = record.cases.first().map_or(0, |case| case.rounds.len());
    let mut out = format!(
        "\n## What replication costs\n\n\
         As in RESULTS.md: ratios (streamd/Kafka) are taken pair by pair and shown as **median** \
         (least–greatest) of {pairs} pairs, other figures as medians; one more pair before them \
         does not count. Broker CPU is that of all three processes. ¹ marks rows where the client \
         took more than a third of it. `produce` is batches of 64 KiB of 1 KiB records to 12 \
         partitions, 5 requests in flight to each node; `latency-N` is open loop at N records/s, \
         one record a request, or ten at 10,000; `e2e-acks-A` is 1,000 records/s from when they \
         were due to a reader's hands.\n\n"
    );
    out += &markdown::cases(&record.cases, "Kafka");
    let read = |case: &&crate::compare::Case| case.figure(Metric::AckP50Us).is_some();
    let read: Vec<_> = record.cases.iter().filter(read).collect();
    if !read.is_empty() {
        out += "\n| load | ack p50 ms: streamd | Kafka | ratio | ack p99 ms: streamd | Kafka | \
                ratio |\n|---|---|---|---|---|---|---|\n";
    }
    for case in read {
        let cells = [Metric::AckP50Us, Metric::AckP99Us].map(|metric| {
            let side = |side| markdown::side(case, side, metric);
            format!(
                "{} | {} | {}",
                side(0),
                side(1),
                markdown::ratio(case, metric)
            )
        });
        out += &format!("| {} | {} |\n", case.workload.name, cells.join(" | "));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_a_value_that_was_measured() {
        let values: Vec<f64> = (1..=50).rev().map(f64::from).collect();
        assert_eq!(percentile(&values, 0.5), Some(25.0));
        assert_eq!(percentile(&values, 0.99), Some(50.0));
        assert_eq!(percentile(&values[..1], 0.5), Some(50.0));
        assert_eq!(percentile(&[], 0.5), None);
    }

    #[test]
    fn rows_have_as_many_cells_as_their_heads() {
        let mut record = crate::record::tests::made_up();
        let sides = vec![vec![700.0, 900.0, 800.0], vec![9000.0, 12_000.0]];
        record.failovers.push(Failovers {
            what: "a leader".into(),
            names: vec!["streamd".into(), "Kafka".into()],
            measured: vec![
                ("Java".into(), sides),
                ("metadata".into(), vec![vec![1.0], Vec::new()]),
            ],
        });
        let text = results(&record, "4.4.0");
        let mut width = 0;
        for line in text.lines() {
            let cells = line.matches('|').count();
            let same = !line.starts_with('|') || width == 0 || cells == width;
            assert!(same, "{line}");
            width = if line.starts_with('|') { cells } else { 0 };
        }
        let expected = [
            "| a leader | Java | 3, 2 | 800 | 9,000 | **0.0889** | 900 | 12,000 | **0.0750** |",
            "| a leader | metadata | 1, 0 | 1.00 | – | – | 1.00 | – | – |",
            "## What went wrong\n\n- Kafka in small",
        ];
        for part in expected {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
