//! `streamctl cluster`: the brokers.

use serde_json::{Value, json};
use streamd_wire::kafka::{ApiKey, DescribeClusterRequest};

use crate::cli::Global;
use crate::client::{Broker, Client, Metadata, Which, host_port};
use crate::failure::{Failure, Result};
use crate::out;

/// Runs the command.
///
/// # Errors
/// No broker answers.
pub fn run(global: &Global) -> Result<()> {
    let mut client = Client::new(global);
    let cluster = describe(&mut client)?;
    if global.json {
        return out::json(&document(&cluster));
    }
    let id = cluster
        .cluster_id
        .as_deref()
        .unwrap_or("(the broker does not say)");
    let mut table = out::table(&[">Broker", "Address", "Rack", "Role"]);
    for broker in &cluster.brokers {
        let role = if broker.id == cluster.controller {
            "controller"
        } else {
            ""
        };
        let rack = broker.rack.as_deref().unwrap_or("-");
        table.add_row([&broker.id.to_string(), &broker.address, rack, role]);
    }
    let brokers = out::plural(cluster.brokers.len() as u64, "broker");
    out::line(format_args!(
        "Cluster {id}, {brokers}\n\n{}",
        out::text(&table)
    ))
}

fn describe(client: &mut Client) -> Result<Metadata> {
    let conn = client.any()?;
    if conn.version(ApiKey::DescribeCluster, i16::MAX).is_none() {
        return client.metadata(Which::None);
    }
    let answer = conn.call(&DescribeClusterRequest::default(), i16::MAX)?;
    if answer.error_code != 0 {
        return Err(Failure::code(
            "the cluster",
            answer.error_code,
            answer.error_message,
        ));
    }
    let mut brokers: Vec<Broker> = answer
        .brokers
        .iter()
        .map(|b| Broker {
            id: b.broker_id,
            address: host_port(b.host, b.port),
            rack: b.rack.map(str::to_owned),
        })
        .collect();
    brokers.sort_by_key(|b| b.id);
    Ok(Metadata {
        cluster_id: Some(answer.cluster_id.to_owned()),
        controller: answer.controller_id,
        brokers,
        topics: Vec::new(),
    })
}

fn document(cluster: &Metadata) -> Value {
    let brokers: Vec<Value> = cluster
        .brokers
        .iter()
        .map(|b| json!({"id": b.id, "address": b.address, "rack": b.rack}))
        .collect();
    json!({
        "cluster_id": cluster.cluster_id,
        "controller": cluster.controller,
        "brokers": brokers,
    })
}
