//! `streamctl topic describe`: partitions with their leaders, offsets and sizes, and settings.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use streamd_wire::kafka::describe_log_dirs_request::DescribableLogDirTopic;
use streamd_wire::kafka::{ApiKey, DescribeLogDirsRequest};

use crate::cli::{Global, Resource};
use crate::client::{Client, Partition, Topic, Which};
use crate::config::{self, Setting};
use crate::failure::{Failure, Result};
use crate::offsets;
use crate::out;

/// What is shown about a topic.
struct Described {
    topic: Topic,
    earliest: BTreeMap<i32, i64>,
    latest: BTreeMap<i32, i64>,
    /// Bytes of the leader's copy, by partition; empty when brokers do not tell.
    sizes: BTreeMap<i32, i64>,
    settings: Vec<Setting>,
}

/// Runs the command; no names stand for all topics but internal ones.
///
/// # Errors
/// No broker answers, or there is no such topic. What could be described was.
pub fn run(global: &Global, client: &mut Client, names: &[String]) -> Result<()> {
    let named: Vec<&str> = names.iter().map(String::as_str).collect();
    let which = if named.is_empty() {
        Which::All
    } else {
        Which::These(&named)
    };
    let mut topics = client.metadata(which)?.topics;
    topics.retain(|t| !named.is_empty() || !t.internal);
    let mut refused = Vec::new();
    let mut documents = Vec::new();
    if topics.is_empty() && !global.json {
        out::say("There are no topics. Create one with `streamctl topic create NAME`.");
    }
    for (i, topic) in topics.into_iter().enumerate() {
        if topic.error != 0 {
            let what = format!("topic `{}`", topic.name);
            refused.push(Failure::code(&what, topic.error, None).to_string());
            continue;
        }
        let described = describe(client, topic)?;
        if global.json {
            documents.push(document(&described));
        } else {
            let gap = if i > 0 { "\n" } else { "" };
            out::line(format_args!("{gap}{}", text(&described)))?;
        }
    }
    if global.json {
        out::json(&Value::Array(documents))?;
    }
    if refused.is_empty() {
        Ok(())
    } else {
        Err(Failure::Failed(refused.join("\n")))
    }
}

fn describe(client: &mut Client, topic: Topic) -> Result<Described> {
    let earliest = offsets::list(client, &topic.name, &topic.partitions, offsets::EARLIEST)?;
    let latest = offsets::list(client, &topic.name, &topic.partitions, offsets::LATEST)?;
    let sizes = sizes(client, &topic)?;
    let mut settings = config::describe(client, Resource::Topic, &topic.name)?;
    settings.retain(|s| s.source == config::TOPIC);
    Ok(Described {
        topic,
        earliest,
        latest,
        sizes,
        settings,
    })
}

fn sizes(client: &mut Client, topic: &Topic) -> Result<BTreeMap<i32, i64>> {
    let mut sizes = BTreeMap::new();
    for (leader, indexes) in offsets::by_leader(&topic.partitions) {
        let conn = client.broker(leader)?;
        if conn.version(ApiKey::DescribeLogDirs, i16::MAX).is_none() {
            continue;
        }
        let asked = DescribableLogDirTopic {
            topic: &topic.name,
            partitions: indexes.as_slice().into(),
        };
        let request = DescribeLogDirsRequest {
            topics: Some(vec![asked].into()),
        };
        let answer = conn.call(&request, i16::MAX)?;
        // An error here (no right to ask, a directory that failed) leaves sizes unknown.
        for dir in answer.results.iter().filter(|d| d.error_code == 0) {
            let topics = dir.topics.iter().filter(|t| t.name == topic.name);
            for p in topics
                .flat_map(|t| t.partitions.to_vec())
                .filter(|p| !p.is_future_key)
            {
                sizes.insert(p.partition_index, p.partition_size);
            }
        }
    }
    Ok(sizes)
}

fn ids(ids: &[i32]) -> String {
    ids.iter().map(i32::to_string).collect::<Vec<_>>().join(" ")
}

fn maybe(n: Option<&i64>) -> String {
    n.map_or_else(|| "-".into(), i64::to_string)
}

/// How many offsets lie between the first and the last record.
fn span(d: &Described, partition: &Partition) -> Option<i64> {
    let (earliest, latest) = (
        d.earliest.get(&partition.index)?,
        d.latest.get(&partition.index)?,
    );
    Some(latest.saturating_sub(*earliest).max(0))
}

fn text(d: &Described) -> String {
    let t = &d.topic;
    let mut lines = vec![format!("Topic {}", t.name)];
    let partitions = out::plural(t.partitions.len() as u64, "partition");
    let copies = t.partitions.first().map_or(0, |p| p.replicas.len());
    let records: i64 = t.partitions.iter().filter_map(|p| span(d, p)).sum();
    let records = out::plural(records.max(0) as u64, "record");
    let mut facts = format!("  {partitions}, replication factor {copies}, {records}");
    if !d.sizes.is_empty() {
        let bytes: u64 = d.sizes.values().map(|&n| n.max(0) as u64).sum();
        facts.push_str(&format!(", {}", out::size(bytes)));
    }
    lines.push(facts);
    if let Some(id) = &t.id {
        lines.push(format!("  id {id}"));
    }
    for s in &d.settings {
        let value = s.value.as_deref().unwrap_or("(secret)");
        lines.push(format!("  {} = {value}", s.name));
    }
    lines.push(String::new());
    let mut table = out::table(&[
        ">Partition",
        ">Leader",
        "Replicas",
        "In sync",
        ">Earliest",
        ">Latest",
        ">Records",
        ">Size",
    ]);
    for p in &t.partitions {
        let leader = if p.leader < 0 {
            "none".into()
        } else {
            p.leader.to_string()
        };
        let size = d.sizes.get(&p.index).map(|&n| out::size(n.max(0) as u64));
        table.add_row([
            p.index.to_string(),
            leader,
            ids(&p.replicas),
            ids(&p.in_sync),
            maybe(d.earliest.get(&p.index)),
            maybe(d.latest.get(&p.index)),
            maybe(span(d, p).as_ref()),
            size.unwrap_or_else(|| "-".into()),
        ]);
    }
    lines.push(out::text(&table));
    lines.join("\n")
}

fn document(d: &Described) -> Value {
    let partitions: Vec<Value> = d
        .topic
        .partitions
        .iter()
        .map(|p| {
            json!({
                "partition": p.index,
                "leader": (p.leader >= 0).then_some(p.leader),
                "replicas": p.replicas,
                "in_sync": p.in_sync,
                "earliest": d.earliest.get(&p.index),
                "latest": d.latest.get(&p.index),
                "bytes": d.sizes.get(&p.index),
            })
        })
        .collect();
    let settings: Map<String, Value> = d
        .settings
        .iter()
        .map(|s| (s.name.clone(), json!(s.value)))
        .collect();
    json!({
        "name": d.topic.name,
        "id": d.topic.id,
        "internal": d.topic.internal,
        "replication_factor": d.topic.partitions.first().map(|p| p.replicas.len()),
        "configs": settings,
        "partitions": partitions,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described() -> Described {
        let partition = |index, leader| Partition {
            index,
            error: 0,
            leader,
            replicas: vec![1, 2],
            in_sync: vec![1],
        };
        Described {
            topic: Topic {
                name: "flights".into(),
                id: Some("AAAA".into()),
                error: 0,
                internal: false,
                partitions: vec![partition(0, 1), partition(1, -1)],
            },
            earliest: [(0, 10)].into(),
            latest: [(0, 1010)].into(),
            sizes: [(0, 2048)].into(),
            settings: vec![],
        }
    }

    #[test]
    fn a_partition_without_leader_is_shown_as_such() {
        let text = text(&described());
        let wanted = "\
Topic flights
  2 partitions, replication factor 2, 1 000 records, 2.0 KiB
  id AAAA

Partition  Leader  Replicas  In sync  Earliest  Latest  Records     Size
        0       1  1 2       1              10    1010     1000  2.0 KiB
        1    none  1 2       1               -       -        -        -";
        assert_eq!(text, wanted);
    }

    #[test]
    fn the_document_has_null_for_what_is_unknown() {
        let document = document(&described());
        assert_eq!(document["partitions"][0]["latest"], 1010);
        assert_eq!(document["partitions"][1]["leader"], Value::Null);
        assert_eq!(document["partitions"][1]["latest"], Value::Null);
    }
}
