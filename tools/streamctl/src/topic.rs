//! `streamctl topic ...`: create, list, describe, delete, grow.

use std::time::Duration;

use serde_json::{Value, json};
use streamd_wire::kafka::create_partitions_request::CreatePartitionsTopic;
use streamd_wire::kafka::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use streamd_wire::kafka::delete_topics_request::DeleteTopicState;
use streamd_wire::kafka::{
    ApiKey, CreatePartitionsRequest, CreateTopicsRequest, DeleteTopicsRequest,
};

use crate::cli::{Global, Topic as Command};
use crate::client::{Client, Which};
use crate::conn::Conn;
use crate::describe;
use crate::failure::{Failure, Result, describe as sentence};
use crate::out;

/// How long a topic that was created may take to be seen.
const VISIBLE: Duration = Duration::from_secs(5);

/// Runs the command.
///
/// # Errors
/// No broker answers, or it refuses.
pub fn run(global: &Global, command: &Command) -> Result<()> {
    let mut client = Client::new(global);
    match command {
        Command::Create {
            name,
            partitions,
            replication_factor,
            configs,
        } => {
            let configs = configs
                .iter()
                .map(|(name, value)| CreatableTopicConfig {
                    name,
                    value: Some(value),
                })
                .collect();
            let topic = CreatableTopic {
                name,
                num_partitions: partitions.unwrap_or(-1),
                replication_factor: replication_factor.unwrap_or(-1),
                configs,
                ..CreatableTopic::default()
            };
            create(global, &mut client, topic)
        }
        Command::List { all } => list(global, &mut client, *all),
        Command::Describe { names } => describe::run(global, &mut client, names),
        Command::Delete { names } => delete(global, &mut client, names),
        Command::Alter { name, partitions } => alter(global, &mut client, name, *partitions),
    }
}

fn create(global: &Global, client: &mut Client, topic: CreatableTopic<'_>) -> Result<()> {
    let name = topic.name;
    let timeout_ms = client.timeout.as_millis() as i32;
    let conn = client.controller()?;
    let by_default = topic.num_partitions < 0 || topic.replication_factor < 0;
    if by_default && conn.need(ApiKey::CreateTopics, i16::MAX)? < 4 {
        return Err(Failure::Usage(
            "this broker is too old to choose: give --partitions and --replication-factor".into(),
        ));
    }
    let request = CreateTopicsRequest {
        topics: vec![topic.clone()].into(),
        timeout_ms,
        validate_only: false,
    };
    let (text, document) = created(conn, &request, &topic)?;
    // Brokers learn of a topic a little after it was made; whoever types next shall find it.
    client.wait_for(name, VISIBLE)?;
    out::say(text);
    if global.json {
        out::json(&document)
    } else {
        Ok(())
    }
}

/// Creates the topic; what became of it, in words and as a document.
fn created(
    conn: &mut Conn,
    request: &CreateTopicsRequest<'_>,
    topic: &CreatableTopic<'_>,
) -> Result<(String, Value)> {
    let name = topic.name;
    let answer = conn.call(request, i16::MAX)?;
    let Some(result) = answer.topics.iter().next() else {
        return Err(Failure::failed(format!(
            "the broker says nothing about topic `{name}`"
        )));
    };
    if result.error_code != 0 {
        let what = format!("cannot create topic `{name}`");
        return Err(Failure::code(
            &what,
            result.error_code,
            result.error_message,
        ));
    }
    // Before version 5 the answer does not repeat what was chosen.
    let known =
        |told: i32, asked: i32| Some(if told > 0 { told } else { asked }).filter(|n| *n > 0);
    let partitions = known(result.num_partitions, topic.num_partitions);
    let copies = known(
        result.replication_factor.into(),
        topic.replication_factor.into(),
    );
    let mut text = format!("Created topic `{name}`");
    if let (Some(partitions), Some(copies)) = (partitions, copies) {
        let partitions = out::plural(partitions as u64, "partition");
        text.push_str(&format!(" with {partitions}, replication factor {copies}"));
    }
    let id = (result.topic_id != streamd_model::TopicId::ZERO).then(|| result.topic_id.to_base64());
    let document = json!({
        "name": name,
        "id": id,
        "partitions": partitions,
        "replication_factor": copies,
    });
    Ok((text, document))
}

fn list(global: &Global, client: &mut Client, all: bool) -> Result<()> {
    let mut topics = client.metadata(Which::All)?.topics;
    topics.retain(|t| all || !t.internal);
    if global.json {
        let list: Vec<Value> = topics
            .iter()
            .map(|t| {
                json!({
                    "name": t.name,
                    "id": t.id,
                    "partitions": t.partitions.len(),
                    "replication_factor": t.partitions.first().map(|p| p.replicas.len()),
                    "internal": t.internal,
                })
            })
            .collect();
        return out::json(&Value::Array(list));
    }
    if topics.is_empty() {
        out::say("There are no topics. Create one with `streamctl topic create NAME`.");
        return Ok(());
    }
    let mut table = out::table(&["Topic", ">Partitions", ">Copies", "Note"]);
    for t in &topics {
        let leaderless = t.partitions.iter().filter(|p| p.leader < 0).count();
        let lagging = t
            .partitions
            .iter()
            .filter(|p| p.in_sync.len() < p.replicas.len())
            .count();
        let mut notes = Vec::new();
        if t.internal {
            notes.push("internal".to_owned());
        }
        if leaderless > 0 {
            notes.push(format!("{leaderless} without leader"));
        }
        if lagging > 0 {
            notes.push(format!("{lagging} not in sync"));
        }
        let copies = t.partitions.first().map_or(0, |p| p.replicas.len());
        table.add_row([
            t.name.clone(),
            t.partitions.len().to_string(),
            copies.to_string(),
            notes.join(", "),
        ]);
    }
    out::line(out::text(&table))
}

fn delete(global: &Global, client: &mut Client, names: &[String]) -> Result<()> {
    let timeout_ms = client.timeout.as_millis() as i32;
    let conn = client.controller()?;
    let mut request = DeleteTopicsRequest {
        timeout_ms,
        ..DeleteTopicsRequest::default()
    };
    if conn.need(ApiKey::DeleteTopics, i16::MAX)? >= 6 {
        request.topics = names
            .iter()
            .map(|n| DeleteTopicState {
                name: Some(n),
                ..DeleteTopicState::default()
            })
            .collect();
    } else {
        request.topic_names = names.iter().map(String::as_str).collect();
    }
    let answer = conn.call(&request, i16::MAX)?;
    let (mut deleted, mut refused) = (Vec::new(), Vec::new());
    for result in answer.responses.iter() {
        let name = result.name.unwrap_or_default();
        if result.error_code == 0 {
            out::say(format_args!("Deleted topic `{name}`"));
            deleted.push(name.to_owned());
        } else {
            let what = format!("cannot delete topic `{name}`");
            refused.push(sentence(&what, result.error_code, result.error_message));
        }
    }
    if global.json {
        out::json(&json!({"deleted": deleted}))?;
    }
    if refused.is_empty() {
        Ok(())
    } else {
        Err(Failure::Failed(refused.join("\n")))
    }
}

fn alter(global: &Global, client: &mut Client, name: &str, count: i32) -> Result<()> {
    let timeout_ms = client.timeout.as_millis() as i32;
    let wanted = CreatePartitionsTopic {
        name,
        count,
        assignments: None,
    };
    let request = CreatePartitionsRequest {
        topics: vec![wanted].into(),
        timeout_ms,
        validate_only: false,
    };
    let answer = client.controller()?.call(&request, i16::MAX)?;
    if let Some(result) = answer.results.iter().find(|r| r.error_code != 0) {
        let what = format!("cannot give topic `{name}` {count} partitions");
        return Err(Failure::code(
            &what,
            result.error_code,
            result.error_message,
        ));
    }
    out::say(format_args!(
        "Topic `{name}` has {} now",
        out::plural(count as u64, "partition")
    ));
    if global.json {
        return out::json(&json!({"name": name, "partitions": count}));
    }
    Ok(())
}
