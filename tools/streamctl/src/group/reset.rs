//! `group reset-offsets`: says what it would do; does it with `--execute`, as Kafka's tool.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::ask::Offsets;
use crate::cli::{Global, ResetOffsets, Target};
use crate::client::{Client, Partition};
use crate::failure::{Failure, Result};
use crate::offsets::{EARLIEST, LATEST, list};
use crate::out;

/// One partition's new offset.
struct Move {
    topic: String,
    partition: i32,
    from: Option<i64>,
    to: i64,
    /// What was asked for lies outside of the log.
    cut: bool,
}

/// The state of a group and the number of its members, if it is there.
type Members = Option<(String, usize)>;

/// What is different between kinds of groups.
pub struct Asks {
    /// How a group is.
    pub members: fn(&mut Client, &str) -> Result<Members>,
    /// Where it stands.
    pub offsets: fn(&mut Client, &str) -> Result<Offsets>,
    /// Has it stand elsewhere.
    pub commit: fn(&mut Client, &str, &Offsets) -> Result<()>,
}

/// Runs the command.
///
/// # Errors
/// The group has members, a topic is unknown, or a broker refuses.
pub fn run(global: &Global, client: &mut Client, plan: &ResetOffsets, asks: &Asks) -> Result<()> {
    let group = (asks.members)(client, &plan.group)?;
    if let Some((state, members)) = group.filter(|g| g.0 != "Empty") {
        return Err(Failure::failed(format!(
            "group `{}` is {} with {}: stop its members first, they would commit over it",
            plan.group,
            state,
            out::plural(members as u64, "member"),
        )));
    }
    let committed = (asks.offsets)(client, &plan.group)?;
    let mut moves = Vec::new();
    for (topic, wanted) in scope(plan, &committed)? {
        moves.extend(topic_moves(
            client,
            plan,
            (&topic, wanted),
            committed.get(&topic),
        )?);
    }
    if plan.execute {
        let mut offsets = Offsets::new();
        for m in &moves {
            offsets
                .entry(m.topic.clone())
                .or_default()
                .insert(m.partition, m.to);
        }
        (asks.commit)(client, &plan.group, &offsets)?;
    }
    print(global, plan, &moves)
}

/// Topics, and the partitions that are meant; all of them when none is named.
fn scope(plan: &ResetOffsets, committed: &Offsets) -> Result<BTreeMap<String, Vec<i32>>> {
    let mut scope: BTreeMap<String, Vec<i32>> = BTreeMap::new();
    for (topic, partitions) in &plan.topics {
        scope.entry(topic.clone()).or_default().extend(partitions);
    }
    if plan.all_topics {
        for (topic, offsets) in committed {
            let all = scope.entry(topic.clone()).or_default();
            all.extend(offsets.keys());
        }
    }
    if scope.is_empty() {
        return Err(Failure::failed(format!(
            "group `{}` has committed nothing: name topics with --topic",
            plan.group
        )));
    }
    Ok(scope)
}

fn topic_moves(
    client: &mut Client,
    plan: &ResetOffsets,
    (name, wanted): (&str, Vec<i32>),
    committed: Option<&BTreeMap<i32, i64>>,
) -> Result<Vec<Move>> {
    let (topic, _) = client.topic(name, false)?;
    let has = |p: &i32| topic.partitions.iter().any(|t| t.index == *p);
    if let Some(missing) = wanted.iter().find(|p| !has(p)) {
        let text = format!("topic `{name}` has no partition {missing}");
        return Err(Failure::failed(text));
    }
    let meant = |p: &&Partition| wanted.is_empty() || wanted.contains(&p.index);
    let partitions: Vec<Partition> = topic.partitions.iter().filter(meant).cloned().collect();
    let starts = list(client, name, &partitions, EARLIEST)?;
    let ends = list(client, name, &partitions, LATEST)?;
    let at = match plan.target()? {
        Target::Time(ms) => list(client, name, &partitions, ms)?,
        _ => BTreeMap::new(),
    };
    let mut moves = Vec::new();
    for p in &partitions {
        let (start, end) = (starts.get(&p.index), ends.get(&p.index));
        let (Some(&start), Some(&end)) = (start, end) else {
            continue;
        };
        let from = committed.and_then(|c| c.get(&p.index)).copied();
        let asked = match plan.target()? {
            Target::Earliest => start,
            Target::Latest => end,
            Target::Offset(offset) => offset,
            Target::Shift(by) => match from {
                Some(from) => from.saturating_add(by),
                None => {
                    out::say(format_args!(
                        "{name} partition {}: nothing is committed, so nothing is shifted",
                        p.index
                    ));
                    continue;
                }
            },
            // Nothing is that new.
            Target::Time(_) => at.get(&p.index).copied().filter(|o| *o >= 0).unwrap_or(end),
        };
        let to = asked.clamp(start, end);
        moves.push(Move {
            topic: name.to_owned(),
            partition: p.index,
            from,
            to,
            cut: to != asked,
        });
    }
    Ok(moves)
}

fn print(global: &Global, plan: &ResetOffsets, moves: &[Move]) -> Result<()> {
    if global.json {
        let all = moves.iter().map(|m| {
            json!({
                "topic": m.topic, "partition": m.partition, "from": m.from, "to": m.to,
                "clamped": m.cut, "executed": plan.execute,
            })
        });
        return out::json(&Value::Array(all.collect()));
    }
    let mut table = out::table(&["Topic", ">Partition", ">From", ">To", ""]);
    for m in moves {
        let from = m.from.map_or("-".to_owned(), |n| n.to_string());
        let note = if m.cut { "(the log has no more)" } else { "" };
        let (p, to) = (m.partition.to_string(), m.to.to_string());
        table.add_row([m.topic.clone(), p, from, to, note.to_owned()]);
    }
    out::line(out::text(&table))?;
    out::say(match plan.execute {
        true => "Done",
        false => "Nothing was changed: this is what --execute would do",
    });
    Ok(())
}
