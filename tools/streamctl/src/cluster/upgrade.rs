//! `streamctl cluster upgrade`: the feature level of the cluster, and which levels its nodes know.
//!
//! Without `--yes` nothing changes: the cluster is only asked whether it could.

use serde_json::{Value, json};
use streamd_wire::kafka::update_features_request::FeatureUpdateKey;
use streamd_wire::kafka::{ApiKey, ApiVersionsRequest, UpdateFeaturesRequest};

use super::status::{self, Node, Nodes};
use crate::cli::Global;
use crate::client::{Client, Which};
use crate::conn::{CLIENT_ID, Conn};
use crate::failure::{Failure, Result};
use crate::out;

/// The feature that nodes of streamd agree on.
const LEVEL: &str = "streamd.version";
/// What builds know that tell nothing of levels.
const FIRST: i16 = 1;
const UPGRADE: i8 = 1;

/// What a node says of levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Told {
    /// The lowest and the highest that its build knows.
    known: (i16, i16),
    /// The one that is agreed, as far as the node knows.
    agreed: i16,
}

/// Runs the command.
///
/// # Errors
/// No broker answers, or the level cannot be raised so far.
pub fn run(global: &Global, to: Option<i16>, yes: bool) -> Result<()> {
    let mut client = Client::new(global);
    let nodes = status::nodes(&mut client)?;
    client.metadata(Which::None)?;
    let told: Vec<Option<Told>> = nodes.nodes.iter().map(|n| told(&mut client, n)).collect();
    let agreed = told.iter().flatten().map(|t| t.agreed).max();
    let highest = told.iter().flatten().map(|t| t.known.1).min();
    let (Some(agreed), Some(highest)) = (agreed, highest) else {
        return Err(Failure::failed("no node of the cluster answers"));
    };
    let target = to.unwrap_or(highest.max(agreed));
    let asks = match target == agreed {
        true => Ok(()),
        false => ask(&mut client, &nodes, target, !yes),
    };
    let raised = yes && asks.is_ok() && target != agreed;
    let now = if raised { target } else { agreed };
    if global.json {
        out::json(&document(&nodes, &told, (now, target), &asks))?;
    } else {
        let table = table(&nodes, &told);
        out::line(format_args!(
            "The cluster is at feature level {now}.\n\n{table}\n"
        ))?;
    }
    asks?;
    if !global.json {
        out::line(sentence(agreed, target, raised))?;
    }
    Ok(())
}

fn sentence(agreed: i16, target: i16, raised: bool) -> String {
    match (target == agreed, raised) {
        (true, _) => format!("Nothing to do: {agreed} is the highest level that all nodes know."),
        (_, true) => {
            format!("Raised from level {agreed}. Builds that do not know {target} are refused.")
        }
        _ => format!(
            "All nodes know level {target}; nothing was changed. `streamctl cluster upgrade --to \
             {target} --yes` raises it. It never falls: older builds are refused from then on."
        ),
    }
}

/// What a broker says of levels.
///
/// # Errors
/// It does not answer.
fn levels(conn: &mut Conn) -> Result<Told> {
    let request = ApiVersionsRequest {
        client_software_name: CLIENT_ID,
        client_software_version: env!("CARGO_PKG_VERSION"),
        ..ApiVersionsRequest::default()
    };
    // Features came with version 3.
    let answer = conn.call(&request, 3)?;
    let known = answer.supported_features.iter().find(|f| f.name == LEVEL);
    let agreed = answer.finalized_features.iter().find(|f| f.name == LEVEL);
    Ok(Told {
        known: known.map_or((FIRST, FIRST), |f| (f.min_version, f.max_version)),
        agreed: agreed.map_or(FIRST, |f| f.max_version_level),
    })
}

fn told(client: &mut Client, node: &Node) -> Option<Told> {
    let conn = client.broker(node.id).ok().filter(|_| !node.fenced)?;
    levels(conn).ok()
}

/// The feature level of the cluster, as any of its nodes says.
///
/// # Errors
/// No broker answers.
pub fn level(client: &mut Client) -> Result<i16> {
    levels(client.any()?).map(|told| told.agreed)
}

/// Asks for the level; with `dry` only whether it could be.
fn ask(client: &mut Client, nodes: &Nodes, target: i16, dry: bool) -> Result<()> {
    let request = UpdateFeaturesRequest {
        timeout_ms: client.timeout.as_millis() as i32,
        feature_updates: vec![FeatureUpdateKey {
            feature: LEVEL,
            max_version_level: target,
            upgrade_type: UPGRADE,
            ..FeatureUpdateKey::default()
        }]
        .into(),
        validate_only: dry,
    };
    for node in nodes.nodes.iter().filter(|n| !n.fenced) {
        let Ok(conn) = client.broker(node.id) else {
            continue;
        };
        // Builds of before there were levels do not have it; before version 1 nothing is tried.
        if conn.version(ApiKey::UpdateFeatures, i16::MAX) < Some(1) {
            continue;
        }
        let answer = conn.call(&request, i16::MAX)?;
        return match answer.error_code {
            0 => Ok(()),
            code => {
                let what = format!("the level cannot become {target}");
                Err(Failure::code(&what, code, answer.error_message))
            }
        };
    }
    Err(Failure::failed(
        "no node that answers knows of feature levels: start newer builds first, one node after \
         the other",
    ))
}

fn table(nodes: &Nodes, told: &[Option<Told>]) -> String {
    let mut table = out::table(&[">Node", "Address", "State", "Knows levels"]);
    for (node, told) in nodes.nodes.iter().zip(told) {
        let state = if node.fenced { "gone" } else { "up" };
        let knows = match told.map(|t| t.known) {
            None => "(no answer)".to_owned(),
            Some((low, high)) if low == high => low.to_string(),
            Some((low, high)) => format!("{low} to {high}"),
        };
        table.add_row([&node.id.to_string(), &node.address, state, &knows]);
    }
    out::text(&table)
}

fn document(
    nodes: &Nodes,
    told: &[Option<Told>],
    (now, target): (i16, i16),
    asks: &Result<()>,
) -> Value {
    let each = nodes.nodes.iter().zip(told).map(|(node, told)| {
        json!({
            "id": node.id,
            "address": node.address,
            "fenced": node.fenced,
            "lowest": told.map(|t| t.known.0),
            "highest": told.map(|t| t.known.1),
        })
    });
    json!({
        "cluster_id": nodes.cluster_id,
        "level": now,
        "target": target,
        "nodes": each.collect::<Vec<Value>>(),
        "refused": asks.as_ref().err().map(ToString::to_string),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_next_is_said() {
        assert!(sentence(2, 2, false).starts_with("Nothing to do: 2"));
        let dry = sentence(1, 2, false);
        assert!(dry.contains("nothing was changed") && dry.contains("--to 2 --yes"));
        assert!(sentence(1, 2, true).starts_with("Raised from level 1."));
    }

    #[test]
    fn who_does_not_answer_is_shown_as_such() {
        let node = |id, fenced| Node {
            id,
            address: format!("h:{id}"),
            rack: None,
            fenced,
        };
        let nodes = Nodes {
            cluster_id: None,
            controller: 1,
            nodes: vec![node(1, false), node(2, true), node(3, false)],
        };
        let known = |known| Some(Told { known, agreed: 1 });
        let told = [known((1, 2)), None, known((1, 1))];
        let text = table(&nodes, &told);
        let lines: Vec<&str> = text.lines().skip(1).collect();
        for (line, words) in lines.iter().zip(["1 to 2", "gone", "up"]) {
            assert!(line.contains(words), "{words}: {text}");
        }
        assert!(lines[1].contains("(no answer)"), "{text}");
        let document = document(&nodes, &told, (1, 2), &Err(Failure::failed("no")));
        assert_eq!(document["nodes"][1]["highest"], Value::Null);
        assert_eq!(document["refused"], "no");
    }
}
