//! Throttles of moves, kept where Kafka's tools keep them: rates of brokers, and lists of replicas
//! of topics.

use std::collections::BTreeSet;

use streamd_wire::kafka::IncrementalAlterConfigsRequest;
use streamd_wire::kafka::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};

use super::status;
use crate::client::{Client, Which};
use crate::failure::{Failure, Result};

const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const RATES: [&str; 2] = [
    "leader.replication.throttled.rate",
    "follower.replication.throttled.rate",
];
const LEADERS: &str = "leader.replication.throttled.replicas";
const FOLLOWERS: &str = "follower.replication.throttled.replicas";

/// Partitions of topics.
type Named = [(String, Vec<i32>)];
/// A setting and its value; none: the default.
type Change = (&'static str, Option<String>);

/// Throttles what moves when these partitions get these brokers, to so many bytes a second of each
/// broker. To be done before they move.
///
/// # Errors
/// No broker answers, or one refuses.
pub fn set(client: &mut Client, (topics, to): (&Named, &[i32]), rate: u64) -> Result<()> {
    let names: Vec<&str> = topics.iter().map(|(name, _)| name.as_str()).collect();
    let known = client.metadata(Which::These(&names))?.topics;
    let (mut changes, mut brokers) = (Vec::new(), BTreeSet::from_iter(to.iter().copied()));
    for (name, partitions) in topics {
        let topic = known.iter().filter(|t| t.name == *name);
        let moving = topic.flat_map(|t| &t.partitions);
        let (mut leaders, mut followers) = (Vec::new(), Vec::new());
        for p in moving.filter(|p| partitions.contains(&p.index)) {
            brokers.extend(&p.replicas);
            leaders.extend(p.replicas.iter().map(|node| format!("{}:{node}", p.index)));
            let new = to.iter().filter(|node| !p.replicas.contains(node));
            followers.extend(new.map(|node| format!("{}:{node}", p.index)));
        }
        let lists = vec![
            (LEADERS, Some(leaders.join(","))),
            (FOLLOWERS, Some(followers.join(","))),
        ];
        changes.push((TOPIC, name.clone(), lists));
    }
    for broker in brokers {
        let rates = RATES.map(|rate_of| (rate_of, Some(rate.to_string())));
        changes.push((BROKER, broker.to_string(), rates.to_vec()));
    }
    alter(client, &changes)
}

/// Lifts the throttles of these topics, and those of all brokers.
///
/// # Errors
/// As for [`set`].
pub fn lift(client: &mut Client, topics: &Named) -> Result<()> {
    let mut changes = Vec::new();
    for (name, _) in topics {
        let lists = vec![(LEADERS, None), (FOLLOWERS, None)];
        changes.push((TOPIC, name.clone(), lists));
    }
    for node in status::nodes(client)?.nodes {
        let rates = RATES.map(|rate| (rate, None));
        changes.push((BROKER, node.id.to_string(), rates.to_vec()));
    }
    alter(client, &changes)
}

fn alter(client: &mut Client, changes: &[(i8, String, Vec<Change>)]) -> Result<()> {
    const SET: i8 = 0;
    const DELETE: i8 = 1;
    let resources = changes.iter().map(|(kind, name, configs)| {
        let configs = configs.iter().map(|(name, value)| AlterableConfig {
            name,
            config_operation: if value.is_some() { SET } else { DELETE },
            value: value.as_deref(),
        });
        AlterConfigsResource {
            resource_type: *kind,
            resource_name: name,
            configs: configs.collect(),
        }
    });
    let request = IncrementalAlterConfigsRequest {
        resources: resources.collect(),
        validate_only: false,
    };
    let answer = client.any()?.call(&request, i16::MAX)?;
    match answer.responses.iter().find(|r| r.error_code != 0) {
        Some(r) => {
            let what = format!("cannot throttle {}", r.resource_name);
            Err(Failure::code(&what, r.error_code, r.error_message))
        }
        None => Ok(()),
    }
}

/// Reads a number of bytes, as `500000` or `10MiB`.
pub fn parse_rate(text: &str) -> std::result::Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match &text[digits.len()..] {
        "" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => 0,
    };
    let bytes = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(unit));
    bytes.filter(|n| *n > 0).ok_or_else(|| {
        format!("`{text}` is no rate: bytes a second are expected, as 500000 or 10MiB")
    })
}

#[cfg(test)]
mod tests {
    use super::parse_rate;

    #[test]
    fn rates_have_units() {
        assert_eq!(parse_rate("500000"), Ok(500_000));
        assert_eq!(parse_rate("10MiB"), Ok(10 << 20));
        for bad in ["", "0", "MiB", "10MB", "-1", "1.5MiB", "99999999999GiB"] {
            let text = parse_rate(bad).unwrap_err();
            assert!(text.contains("10MiB"), "{text}");
        }
    }
}
