//! `streamctl cluster status`: the nodes with what they have, and partitions that lack something.

use serde_json::{Value, json};
use streamd_wire::kafka::{ApiKey, DescribeClusterRequest, ListPartitionReassignmentsRequest};

use super::upgrade;
use crate::cli::Global;
use crate::client::{Client, Metadata, Partition, Topic, Which, host_port};
use crate::failure::{Failure, Result};
use crate::out;

/// So many partitions are listed for a person; JSON has all.
const LISTED_MAX: usize = 40;

/// A node.
pub struct Node {
    /// Its id.
    pub id: i32,
    /// Where clients reach it.
    pub address: String,
    /// Its rack.
    pub rack: Option<String>,
    /// The cluster has shut it out, or not let it in yet.
    pub fenced: bool,
}

/// Who is there.
pub struct Nodes {
    /// The cluster's id.
    pub cluster_id: Option<String>,
    /// The controller.
    pub controller: i32,
    /// By id.
    pub nodes: Vec<Node>,
}

/// A partition that is being moved.
struct Move {
    topic: String,
    partition: i32,
    adding: Vec<i32>,
    removing: Vec<i32>,
}

/// A partition that somebody should know about.
struct Trouble<'a> {
    topic: &'a str,
    partition: &'a Partition,
    what: String,
}

/// How many partitions are how.
#[derive(Default)]
struct Sums {
    partitions: usize,
    leaderless: usize,
    lacking: usize,
    moving: usize,
}

/// Runs the command.
///
/// # Errors
/// No broker answers.
pub fn run(global: &Global) -> Result<()> {
    let mut client = Client::new(global);
    let nodes = nodes(&mut client)?;
    let cluster = client.metadata(Which::All)?;
    let moves = moves(&mut client)?;
    let level = upgrade::level(&mut client)?;
    let (troubles, sums) = troubles(&cluster.topics, &moves);
    if global.json {
        let mut document = document(&nodes, &cluster, &troubles, &sums);
        document["feature_level"] = level.into();
        return out::json(&document);
    }
    let id = nodes.cluster_id.as_deref();
    let id = id.unwrap_or("(the broker does not say)");
    let count = out::plural(nodes.nodes.len() as u64, "node");
    let mut text = format!(
        "Cluster {id}, {count}, feature level {level}\n\n{}\n",
        node_table(&nodes, &cluster)
    );
    if !troubles.is_empty() {
        text.push_str(&format!("\n{}\n", trouble_table(&troubles)));
    }
    out::line(format_args!("{text}\n{}", sentence(&nodes, &sums)))
}

/// Asks who is there, also of those that are shut out.
///
/// # Errors
/// No broker answers.
pub fn nodes(client: &mut Client) -> Result<Nodes> {
    let conn = client.any()?;
    if conn.version(ApiKey::DescribeCluster, i16::MAX).is_none() {
        let cluster = client.metadata(Which::None)?;
        let nodes = cluster.brokers.into_iter().map(|b| Node {
            id: b.id,
            address: b.address,
            rack: b.rack,
            fenced: false,
        });
        return Ok(Nodes {
            cluster_id: cluster.cluster_id,
            controller: cluster.controller,
            nodes: nodes.collect(),
        });
    }
    let version = conn.need(ApiKey::DescribeCluster, i16::MAX)?;
    let request = DescribeClusterRequest {
        include_fenced_brokers: version >= 2,
        ..DescribeClusterRequest::default()
    };
    let answer = conn.call(&request, i16::MAX)?;
    if answer.error_code != 0 {
        let words = answer.error_message;
        return Err(Failure::code("the cluster", answer.error_code, words));
    }
    let nodes = answer.brokers.iter().map(|b| Node {
        id: b.broker_id,
        address: host_port(b.host, b.port),
        rack: b.rack.map(str::to_owned),
        fenced: b.is_fenced,
    });
    let mut nodes: Vec<Node> = nodes.collect();
    nodes.sort_by_key(|n| n.id);
    Ok(Nodes {
        cluster_id: Some(answer.cluster_id.to_owned()),
        controller: answer.controller_id,
        nodes,
    })
}

fn moves(client: &mut Client) -> Result<Vec<Move>> {
    let conn = client.any()?;
    let api = ApiKey::ListPartitionReassignments;
    if conn.version(api, i16::MAX).is_none() {
        return Ok(Vec::new());
    }
    let request = ListPartitionReassignmentsRequest {
        topics: None,
        ..ListPartitionReassignmentsRequest::default()
    };
    let answer = conn.call(&request, i16::MAX)?;
    let mut moves = Vec::new();
    for topic in &answer.topics {
        moves.extend(topic.partitions.iter().map(|p| Move {
            topic: topic.name.to_owned(),
            partition: p.partition_index,
            adding: p.adding_replicas.to_vec(),
            removing: p.removing_replicas.to_vec(),
        }));
    }
    Ok(moves)
}

fn troubles<'a>(topics: &'a [Topic], moves: &[Move]) -> (Vec<Trouble<'a>>, Sums) {
    let (mut all, mut sums) = (Vec::new(), Sums::default());
    for (topic, p) in topics
        .iter()
        .flat_map(|t| t.partitions.iter().map(move |p| (t, p)))
    {
        sums.partitions += 1;
        let mut what = Vec::new();
        let found = |m: &&Move| m.topic == topic.name && m.partition == p.index;
        let moving = moves.iter().find(found);
        if p.leader < 0 {
            sums.leaderless += 1;
            what.push("no leader".to_owned());
        }
        let added = |n: &i32| moving.is_some_and(|m| m.adding.contains(n));
        let behind = p
            .replicas
            .iter()
            .filter(|n| !p.in_sync.contains(n) && !added(n));
        let behind: Vec<i32> = behind.copied().collect();
        if !behind.is_empty() {
            sums.lacking += 1;
            what.push(format!("not in sync: {}", ids(&behind)));
        }
        if let Some(moving) = moving {
            sums.moving += 1;
            let signed = |sign: char, nodes: &[i32]| -> Vec<String> {
                nodes.iter().map(|n| format!("{sign}{n}")).collect()
            };
            let mut words = signed('+', &moving.adding);
            words.extend(signed('-', &moving.removing));
            what.push(format!("moving: {}", words.join(" ")));
        }
        if !what.is_empty() {
            let what = what.join("; ");
            let topic = topic.name.as_str();
            all.push(Trouble {
                topic,
                partition: p,
                what,
            });
        }
    }
    (all, sums)
}

fn ids(nodes: &[i32]) -> String {
    let nodes: Vec<String> = nodes.iter().map(i32::to_string).collect();
    nodes.join(",")
}

/// How many partitions a node leads, and how many it has.
fn counts(cluster: &Metadata, node: i32) -> (usize, usize) {
    let partitions = || cluster.topics.iter().flat_map(|t| &t.partitions);
    let led = partitions().filter(|p| p.leader == node).count();
    let has = partitions().filter(|p| p.replicas.contains(&node)).count();
    (led, has)
}

fn node_table(nodes: &Nodes, cluster: &Metadata) -> String {
    let columns = [">Node", "Address", "Rack", "State", ">Leads", ">Replicas"];
    let mut table = out::table(&columns);
    for node in &nodes.nodes {
        let state = match (node.fenced, node.id == nodes.controller) {
            (true, _) => "gone",
            (_, true) => "controller",
            _ => "up",
        };
        let (led, has) = counts(cluster, node.id);
        let rack = node.rack.as_deref().unwrap_or("-");
        table.add_row([
            &node.id.to_string(),
            &node.address,
            rack,
            state,
            &out::count(led as u64),
            &out::count(has as u64),
        ]);
    }
    out::text(&table)
}

fn trouble_table(troubles: &[Trouble<'_>]) -> String {
    let columns = [
        "Topic",
        ">Partition",
        ">Leader",
        "Replicas",
        "In sync",
        "What",
    ];
    let mut table = out::table(&columns);
    for t in troubles.iter().take(LISTED_MAX) {
        let leader = match t.partition.leader {
            ..0 => "-".to_owned(),
            id => id.to_string(),
        };
        table.add_row([
            t.topic,
            &t.partition.index.to_string(),
            &leader,
            &ids(&t.partition.replicas),
            &ids(&t.partition.in_sync),
            &t.what,
        ]);
    }
    let mut text = out::text(&table);
    if troubles.len() > LISTED_MAX {
        let more = out::count((troubles.len() - LISTED_MAX) as u64);
        text.push_str(&format!("\n(and {more} more: --json shows all)"));
    }
    text
}

/// How the cluster is, in one line.
fn sentence(nodes: &Nodes, sums: &Sums) -> String {
    let gone = nodes.nodes.iter().filter(|n| n.fenced).count();
    let all = out::plural(sums.partitions as u64, "partition");
    let mut words = Vec::new();
    let mut say = |n: usize, one: &str, many: &str| match n {
        0 => {}
        1 => words.push(format!("1 {one}")),
        _ => words.push(format!("{} {many}", out::count(n as u64))),
    };
    say(gone, "node is gone", "nodes are gone");
    say(
        sums.leaderless,
        "partition has no leader",
        "partitions have no leader",
    );
    say(
        sums.lacking,
        "partition lacks a replica",
        "partitions lack replicas",
    );
    say(sums.moving, "partition moves", "partitions move");
    match words.is_empty() {
        true if sums.partitions == 0 => "All is well: there are no partitions yet.".to_owned(),
        true => format!("All is well: {all}, each with a leader and all replicas in sync."),
        false => format!("Of {all}: {}.", words.join(", ")),
    }
}

fn document(nodes: &Nodes, cluster: &Metadata, troubles: &[Trouble<'_>], sums: &Sums) -> Value {
    let brokers = nodes.nodes.iter().map(|n| {
        let (led, has) = counts(cluster, n.id);
        json!({
            "id": n.id,
            "address": n.address,
            "rack": n.rack,
            "fenced": n.fenced,
            "leads": led,
            "replicas": has,
        })
    });
    let brokers: Vec<Value> = brokers.collect();
    let partitions = troubles.iter().map(|t| {
        json!({
            "topic": t.topic,
            "partition": t.partition.index,
            "leader": t.partition.leader,
            "replicas": t.partition.replicas,
            "in_sync": t.partition.in_sync,
            "what": t.what,
        })
    });
    let partitions: Vec<Value> = partitions.collect();
    json!({
        "cluster_id": nodes.cluster_id,
        "controller": nodes.controller,
        "brokers": brokers,
        "partitions": partitions,
        "summary": {
            "partitions": sums.partitions,
            "without_leader": sums.leaderless,
            "under_replicated": sums.lacking,
            "moving": sums.moving,
            "text": sentence(nodes, sums),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(index: i32, leader: i32, replicas: &[i32], in_sync: &[i32]) -> Partition {
        Partition {
            index,
            error: 0,
            leader,
            replicas: replicas.to_vec(),
            in_sync: in_sync.to_vec(),
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let topics = [Topic {
            name: "t".to_owned(),
            id: None,
            error: 0,
            internal: false,
            partitions: vec![
                partition(0, 1, &[1, 2], &[1, 2]),
                partition(1, -1, &[1, 2], &[2]),
                partition(2, 1, &[1, 3, 2], &[1, 2]),
            ],
        }];
        let moves = [Move {
            topic: "t".to_owned(),
            partition: 2,
            adding: vec![3],
            removing: vec![2],
        }];
        let (troubles, sums) = troubles(&topics, &moves);
        let said: Vec<(i32, &str)> = troubles
            .iter()
            .map(|t| (t.partition.index, t.what.as_str()))
            .collect();
        let expected = [(1, "no leader; not in sync: 1"), (2, "moving: +3 -2")];
        assert_eq!(said, expected);
        let nodes = |fenced| Nodes {
            cluster_id: None,
            controller: 1,
            nodes: vec![Node {
                id: 1,
                address: String::new(),
                rack: None,
                fenced,
            }],
        };
        assert_eq!(
            sentence(&nodes(true), &sums),
            "Of 3 partitions: 1 node is gone, 1 partition has no leader, 1 partition lacks a \
             replica, 1 partition moves."
        );
        let fine = Sums {
            partitions: 1,
            ..Sums::default()
        };
        let fine = sentence(&nodes(false), &fine);
        assert!(fine.starts_with("All is well: 1 partition,"), "{fine}");
    }
}
