//! `cargo xtask gen`: from Kafka's message schemas to the Rust of `net/wire/src/kafka/generated`.
//!
//! The schemas are in Kafka's client jar. They are unpacked below `target/` and not kept: what is
//! checked in is the Rust. To serve another API, add its name to [`APIS`] and run this again.

mod emit;
mod sample;
mod schema;

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Outcome;
use schema::Message;

/// The APIs whose messages are generated, by the names of Kafka's schemas.
const APIS: &[&str] = &[
    "Produce",
    "Fetch",
    "ListOffsets",
    "Metadata",
    "OffsetCommit",
    "OffsetFetch",
    "FindCoordinator",
    "JoinGroup",
    "Heartbeat",
    "LeaveGroup",
    "SyncGroup",
    "DescribeGroups",
    "ListGroups",
    "ApiVersions",
    "CreateTopics",
    "DeleteTopics",
    "DeleteRecords",
    "InitProducerId",
    "OffsetForLeaderEpoch",
    "AddPartitionsToTxn",
    "AddOffsetsToTxn",
    "EndTxn",
    "WriteTxnMarkers",
    "TxnOffsetCommit",
    "DescribeProducers",
    "DescribeTransactions",
    "ListTransactions",
    "DescribeConfigs",
    "AlterConfigs",
    "DescribeLogDirs",
    "CreatePartitions",
    "DeleteGroups",
    "IncrementalAlterConfigs",
    "OffsetDelete",
    "ConsumerGroupHeartbeat",
    "ConsumerGroupDescribe",
    "ShareGroupHeartbeat",
    "ShareGroupDescribe",
    "ShareFetch",
    "ShareAcknowledge",
    "DescribeShareGroupOffsets",
    "AlterShareGroupOffsets",
    "DeleteShareGroupOffsets",
    "ElectLeaders",
    "AlterPartitionReassignments",
    "ListPartitionReassignments",
    "UpdateFeatures",
    "UnregisterBroker",
    "ListConfigResources",
    "DescribeCluster",
    "DescribeTopicPartitions",
];

/// A request and its response.
pub struct Api {
    /// The name in the schemas, `OffsetForLeaderEpoch`.
    pub name: &'static str,
    /// The key on the wire.
    pub key: i16,
    /// The request, then the response.
    pub messages: [Message; 2],
}

/// Fetches the schemas of a version of Kafka (`RELEASE` for the newest) and writes the Rust.
pub fn run(root: &Path, version: &str) -> Outcome {
    let schemas = unpack(root, version)?;
    let kafka = kafka_version(&schemas)?;
    let messages = schemas.join("common/message");
    let mut apis = APIS
        .iter()
        .map(|name| load(&messages, name))
        .collect::<Outcome<Vec<Api>>>()?;
    apis.sort_by_key(|api| api.key);

    let generated = root.join("net/wire/src/kafka/generated");
    let mut written = vec![write(&generated, "mod", emit::module(&apis, &kafka))?];
    for [request, response] in apis.iter().map(|api| &api.messages) {
        for message in [request, response] {
            let text = emit::message(message, response);
            written.push(write(&generated, &message.module(), text)?);
        }
    }
    let samples = root.join("net/wire/tests/common/samples");
    for (name, text) in sample::files(&apis, &kafka) {
        written.push(write(&samples, &name, text)?);
    }
    remove_others(&generated, &written)?;
    remove_others(&samples, &written)?;
    rustfmt(root, &written)?;
    eprintln!(
        "xtask: {} files written from the schemas of Kafka {kafka}",
        written.len()
    );
    Ok(())
}

fn unpack(root: &Path, version: &str) -> Outcome<PathBuf> {
    let dir = root.join("target/kafka-schemas");
    if dir.exists() {
        std::fs::remove_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    }
    let plugin = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:unpack";
    let status = Command::new("mvn")
        .args(["--batch-mode", "--quiet", plugin])
        .arg(format!(
            "-Dartifact=org.apache.kafka:kafka-clients:{version}"
        ))
        .arg("-Dmdep.unpack.includes=common/message/*.json,kafka/kafka-version.properties")
        .arg(format!("-DoutputDirectory={}", dir.display()))
        .current_dir(std::env::temp_dir())
        .status()
        .map_err(|e| {
            format!("mvn does not start ({e}); install Maven, which fetches the schemas")
        })?;
    if !status.success() {
        return Err(format!(
            "mvn could not fetch kafka-clients {version}; its reason is above"
        ));
    }
    Ok(dir)
}

fn kafka_version(schemas: &Path) -> Outcome<String> {
    let text = read(&schemas.join("kafka/kafka-version.properties"))?;
    let version = text.lines().find_map(|line| line.strip_prefix("version="));
    version
        .map(str::to_owned)
        .ok_or_else(|| "the jar does not say its version".to_owned())
}

fn load(dir: &Path, name: &'static str) -> Outcome<Api> {
    let one = |kind: &str| {
        let path = dir.join(format!("{name}{kind}.json"));
        Message::parse(&read(&path)?).map_err(|e| format!("{}: {e}", path.display()))
    };
    let messages = [one("Request")?, one("Response")?];
    let key = messages[0].api_key;
    Ok(Api {
        name,
        key,
        messages,
    })
}

fn read(path: &Path) -> Outcome<String> {
    std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
}

fn write(dir: &Path, name: &str, text: String) -> Outcome<PathBuf> {
    let path = dir.join(format!("{name}.rs"));
    std::fs::create_dir_all(dir)
        .and_then(|()| std::fs::write(&path, text))
        .map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(path)
}

/// Removes files of messages that are no longer generated.
fn remove_others(dir: &Path, written: &[PathBuf]) -> Outcome {
    let entries = std::fs::read_dir(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    for path in entries.flatten().map(|entry| entry.path()) {
        if !written.contains(&path) {
            std::fs::remove_file(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        }
    }
    Ok(())
}

fn rustfmt(root: &Path, files: &[PathBuf]) -> Outcome {
    let status = Command::new("rustfmt")
        .args(["--edition", "2024", "--config-path"])
        .arg(root)
        .args(files)
        .status()
        .map_err(|e| format!("rustfmt does not start: {e}"))?;
    if status.success() {
        Ok(())
    } else {
        Err("rustfmt refused the generated code".to_owned())
    }
}
