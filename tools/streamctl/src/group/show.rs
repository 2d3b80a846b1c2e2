//! Groups, members, lag: as tables and as JSON.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::ask::{self, Described, Offsets};
use crate::cli::Global;
use crate::client::{Client, Topic, Which};
use crate::failure::{Failure, Result};
use crate::{offsets, out};

/// Where a group stands in a partition.
struct Place {
    topic: String,
    partition: i32,
    committed: Option<i64>,
    end: Option<i64>,
    /// The member that reads it.
    member: Option<String>,
}

impl Place {
    fn lag(&self) -> Option<i64> {
        Some((self.end? - self.committed?).max(0))
    }
}

/// `group list`
pub fn list(global: &Global, client: &mut Client, state: Option<&str>) -> Result<()> {
    let mut groups = ask::list(client)?;
    groups.retain(|g| state.is_none_or(|s| s.eq_ignore_ascii_case(&g.state)));
    if global.json {
        let all = groups.iter().map(|g| {
            json!({
                "group": g.name,
                "state": g.state,
                "type": g.kind,
                "protocol_type": g.protocol_type,
            })
        });
        return out::json(&Value::Array(all.collect()));
    }
    if groups.is_empty() {
        out::say("There are no such groups");
        return Ok(());
    }
    let mut table = out::table(&["Group", "State", "Type", "Protocol"]);
    for g in &groups {
        let dash = |s: &str| {
            if s.is_empty() {
                "-".to_owned()
            } else {
                s.to_owned()
            }
        };
        table.add_row([
            g.name.clone(),
            dash(&g.state),
            dash(&g.kind),
            dash(&g.protocol_type),
        ]);
    }
    out::line(out::text(&table))
}

/// The groups that are meant: those named, or all there are.
fn named(client: &mut Client, names: &[String]) -> Result<Vec<String>> {
    if !names.is_empty() {
        return Ok(names.to_vec());
    }
    // Share groups are shown by `queue describe`.
    let mut all = ask::list(client)?;
    all.retain(|g| !g.kind.eq_ignore_ascii_case("share"));
    Ok(all.into_iter().map(|g| g.name).collect())
}

fn existing(client: &mut Client, name: &str) -> Result<Described> {
    ask::describe(client, name)?.ok_or_else(|| {
        Failure::failed(format!(
            "there is no group `{name}`. `streamctl group list` shows those there are"
        ))
    })
}

/// `group describe`
pub fn describe(global: &Global, client: &mut Client, names: &[String]) -> Result<()> {
    let mut documents = Vec::new();
    let mut texts = Vec::new();
    for name in named(client, names)? {
        let group = existing(client, &name)?;
        let committed = ask::offsets(client, &name)?;
        let places = places(client, &group, &committed)?;
        documents.push(document(&name, &group, &places));
        texts.push(in_words(&name, &group, &places));
    }
    match global.json {
        true => out::json(&Value::Array(documents)),
        false => out::line(texts.join("\n\n")),
    }
}

/// `group lag`
pub fn lag(global: &Global, client: &mut Client, names: &[String]) -> Result<()> {
    let mut table = out::table(&["Group", "Topic", ">Partitions", ">Lag"]);
    let mut documents = Vec::new();
    for name in named(client, names)? {
        let group = existing(client, &name)?;
        let committed = ask::offsets(client, &name)?;
        let mut topics: BTreeMap<String, (u64, i64)> = BTreeMap::new();
        for place in places(client, &group, &committed)? {
            let sum = topics.entry(place.topic.clone()).or_default();
            sum.0 += 1;
            sum.1 += place.lag().unwrap_or(0);
        }
        for (topic, (partitions, lag)) in topics {
            documents.push(json!({
                "group": name, "topic": topic, "partitions": partitions, "lag": lag,
            }));
            let lag = out::count(lag.unsigned_abs());
            table.add_row([name.clone(), topic, out::count(partitions), lag]);
        }
    }
    match global.json {
        true => out::json(&Value::Array(documents)),
        false => out::line(out::text(&table)),
    }
}

/// Every partition that the group has committed for, or that a member reads.
fn places(client: &mut Client, group: &Described, committed: &Offsets) -> Result<Vec<Place>> {
    let mut all: BTreeMap<(String, i32), Place> = BTreeMap::new();
    let place = |topic: &str, partition: i32| Place {
        topic: topic.to_owned(),
        partition,
        committed: None,
        end: None,
        member: None,
    };
    for (topic, offsets) in committed {
        for (partition, offset) in offsets {
            let key = (topic.clone(), *partition);
            let one = all.entry(key).or_insert_with(|| place(topic, *partition));
            one.committed = Some(*offset);
        }
    }
    for member in &group.members {
        for (topic, partitions) in &member.owns {
            for p in partitions {
                let key = (topic.clone(), *p);
                let one = all.entry(key).or_insert_with(|| place(topic, *p));
                one.member = Some(member.id.clone());
            }
        }
    }
    let names: Vec<String> = all.keys().map(|key| key.0.clone()).collect();
    let ends = ends(client, &names)?;
    for place in all.values_mut() {
        place.end = ends.get(&(place.topic.clone(), place.partition)).copied();
    }
    Ok(all.into_values().collect())
}

/// Where the partitions of these topics end; a topic that is gone has none.
fn ends(client: &mut Client, names: &[String]) -> Result<BTreeMap<(String, i32), i64>> {
    let mut found = BTreeMap::new();
    let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
    names.dedup();
    let topics: Vec<Topic> = client.metadata(Which::These(&names))?.topics;
    for topic in topics.into_iter().filter(|t| t.error == 0) {
        let list = offsets::list(client, &topic.name, &topic.partitions, offsets::LATEST)?;
        found.extend(
            list.into_iter()
                .map(|(p, end)| ((topic.name.clone(), p), end)),
        );
    }
    Ok(found)
}

fn document(name: &str, group: &Described, places: &[Place]) -> Value {
    let members = group.members.iter().map(|m| {
        json!({
            "id": m.id,
            "instance": m.instance,
            "client": m.client,
            "host": m.host,
            "assignment": m.owns,
        })
    });
    let offsets = places.iter().map(|p| {
        json!({
            "topic": p.topic,
            "partition": p.partition,
            "committed": p.committed,
            "end": p.end,
            "lag": p.lag(),
            "member": p.member,
        })
    });
    json!({
        "group": name,
        "state": group.state,
        "protocol_type": group.protocol_type,
        "protocol": group.protocol,
        "members": members.collect::<Vec<_>>(),
        "offsets": offsets.collect::<Vec<_>>(),
    })
}

fn in_words(name: &str, group: &Described, places: &[Place]) -> String {
    let mut text = format!("Group {name}: {}", group.state);
    if !group.protocol.is_empty() {
        text.push_str(&format!(", {}", group.protocol));
    }
    let members = out::plural(group.members.len() as u64, "member");
    let lag: i64 = places.iter().filter_map(Place::lag).sum();
    let lag = out::count(lag.unsigned_abs());
    text.push_str(&format!(", {members}, lag {lag}"));
    let dash = |n: Option<i64>| n.map_or("-".to_owned(), |n| n.to_string());
    if !group.members.is_empty() {
        let mut table = out::table(&["Member", "Client", "Host", ">Partitions"]);
        for m in &group.members {
            let count: usize = m.owns.values().map(Vec::len).sum();
            let id = match &m.instance {
                Some(instance) => format!("{} (instance {instance})", m.id),
                None => m.id.clone(),
            };
            table.add_row([id, m.client.clone(), m.host.clone(), count.to_string()]);
        }
        text.push_str(&format!("\n\n{}", out::text(&table)));
    }
    if !places.is_empty() {
        let mut table = out::table(&[
            "Topic",
            ">Partition",
            ">Committed",
            ">End",
            ">Lag",
            "Member",
        ]);
        for p in places {
            let member = p.member.clone().unwrap_or_else(|| "-".to_owned());
            table.add_row([
                p.topic.clone(),
                p.partition.to_string(),
                dash(p.committed),
                dash(p.end),
                dash(p.lag()),
                member,
            ]);
        }
        text.push_str(&format!("\n\n{}", out::text(&table)));
    }
    text
}
