//! `streamctl queue ...`: share groups, which read topics as queues. List, describe,
//! reset-offsets, delete.

mod ask;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::cli::{Global, Queue as Command};
use crate::client::Client;
use crate::failure::{Failure, Result};
use crate::group::{self, reset};
use crate::out;
use ask::{Described, Place};

/// Runs the command.
///
/// # Errors
/// No broker answers, or it refuses.
pub fn run(global: &Global, command: &Command) -> Result<()> {
    let mut client = Client::new(global);
    match command {
        Command::List => list(global, &mut client),
        Command::Describe { names } => describe(global, &mut client, names),
        Command::ResetOffsets(plan) => reset::run(global, &mut client, plan, &RESET),
        Command::Delete { names } => group::delete(&mut client, names),
    }
}

/// What a reset asks of a share group.
const RESET: reset::Asks = reset::Asks {
    members: |client, name| {
        let found = ask::describe(client, name)?;
        Ok(found.map(|d| (d.state, d.members.len())))
    },
    offsets: |client, name| {
        let mut starts = group::ask::Offsets::new();
        for p in ask::places(client, name)? {
            if p.start >= 0 {
                starts
                    .entry(p.topic)
                    .or_default()
                    .insert(p.partition, p.start);
            }
        }
        Ok(starts)
    },
    commit: ask::alter,
};

fn names(client: &mut Client) -> Result<Vec<group::ask::Listed>> {
    let mut all = group::ask::list(client)?;
    all.retain(|g| g.kind.eq_ignore_ascii_case("share"));
    Ok(all)
}

fn list(global: &Global, client: &mut Client) -> Result<()> {
    let groups = names(client)?;
    if global.json {
        let all = groups
            .iter()
            .map(|g| json!({ "group": g.name, "state": g.state }));
        return out::json(&Value::Array(all.collect()));
    }
    if groups.is_empty() {
        out::say("There are no share groups");
        return Ok(());
    }
    let mut table = out::table(&["Group", "State"]);
    for g in &groups {
        table.add_row([g.name.clone(), g.state.clone()]);
    }
    out::line(out::text(&table))
}

fn describe(global: &Global, client: &mut Client, wanted: &[String]) -> Result<()> {
    let wanted = match wanted {
        [] => names(client)?.into_iter().map(|g| g.name).collect(),
        some => some.to_vec(),
    };
    let (mut documents, mut texts) = (Vec::new(), Vec::new());
    for name in wanted {
        let found = ask::describe(client, &name)?.ok_or_else(|| {
            Failure::failed(format!(
                "there is no share group `{name}`. `streamctl queue list` shows those there are"
            ))
        })?;
        let places = ask::places(client, &name)?;
        documents.push(document(&name, &found, &places));
        texts.push(in_words(&name, &found, &places));
    }
    match global.json {
        true => out::json(&Value::Array(documents)),
        false => out::line(texts.join("\n\n")),
    }
}

fn document(name: &str, found: &Described, places: &[Place]) -> Value {
    let members = found
        .members
        .iter()
        .map(|m| json!({ "id": m.id, "client": m.client, "host": m.host, "assignment": m.owns }));
    let offsets = places.iter().map(|p| {
        let known = |n: i64| (n >= 0).then_some(n);
        json!({
            "topic": p.topic,
            "partition": p.partition,
            "start": known(p.start),
            "lag": known(p.lag),
        })
    });
    json!({
        "group": name,
        "state": found.state,
        "assignor": found.assignor,
        "members": members.collect::<Vec<_>>(),
        "offsets": offsets.collect::<Vec<_>>(),
    })
}

fn in_words(name: &str, found: &Described, places: &[Place]) -> String {
    let members = out::plural(found.members.len() as u64, "member");
    let lag: i64 = places.iter().map(|p| p.lag.max(0)).sum();
    let lag = out::count(lag.unsigned_abs());
    let mut text = format!("Share group {name}: {}, {members}, lag {lag}", found.state);
    if !found.members.is_empty() {
        let mut table = out::table(&["Member", "Client", "Host", "Reads"]);
        for m in &found.members {
            let (id, client, host) = (m.id.clone(), m.client.clone(), m.host.clone());
            table.add_row([id, client, host, reads(&m.owns)]);
        }
        text.push_str(&format!("\n\n{}", out::text(&table)));
    }
    if !places.is_empty() {
        let mut table = out::table(&["Topic", ">Partition", ">Start", ">Lag"]);
        let dash = |n: i64| match n {
            ..0 => "-".to_owned(),
            n => n.to_string(),
        };
        for p in places {
            let partition = p.partition.to_string();
            table.add_row([p.topic.clone(), partition, dash(p.start), dash(p.lag)]);
        }
        text.push_str(&format!("\n\n{}", out::text(&table)));
    }
    text
}

/// `flights:0,1`
fn reads(owns: &BTreeMap<String, Vec<i32>>) -> String {
    let topics = owns.iter().map(|(topic, partitions)| {
        let numbers: Vec<String> = partitions.iter().map(i32::to_string).collect();
        format!("{topic}:{}", numbers.join(","))
    });
    topics.collect::<Vec<_>>().join(" ")
}
