//! `streamctl config ...`: the settings of topics and brokers.

use comfy_table::ContentArrangement;
use serde_json::{Value, json};
use streamd_wire::kafka::describe_configs_request::DescribeConfigsResource;
use streamd_wire::kafka::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use streamd_wire::kafka::{ApiKey, DescribeConfigsRequest, IncrementalAlterConfigsRequest};

use crate::cli::{Config, Global, Resource};
use crate::client::{Client, Which};
use crate::conn::Conn;
use crate::failure::{Failure, Result};
use crate::out;

const SET: i8 = 0;
const DELETE: i8 = 1;

/// A setting as a broker tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its name.
    pub name: String,
    /// Its value; none when it is secret or has none.
    pub value: Option<String>,
    /// Where the value comes from, as Kafka numbers it.
    pub source: i8,
    read_only: bool,
    sensitive: bool,
}

impl Setting {
    /// Whether somebody set it on the resource itself or for all its kind: not a default.
    fn is_set(&self, resource: Resource) -> bool {
        match resource {
            Resource::Topic => self.source == TOPIC,
            Resource::Broker => self.source != DEFAULT,
            Resource::Group => self.source == GROUP,
        }
    }

    fn shown(&self) -> String {
        match &self.value {
            Some(value) if value.is_empty() => "(empty)".into(),
            Some(value) => value.clone(),
            None if self.sensitive => "(secret)".into(),
            None => "-".into(),
        }
    }
}

/// The source of a setting of the topic itself.
pub const TOPIC: i8 = 1;
const DEFAULT: i8 = 5;
const GROUP: i8 = 8;

fn source_name(source: i8) -> &'static str {
    match source {
        TOPIC => "topic",
        2 => "this broker",
        3 => "all brokers",
        4 => "broker's file",
        DEFAULT => "default",
        6 => "broker's logging",
        _ => "unknown",
    }
}

/// Runs the command.
///
/// # Errors
/// No broker answers, or it refuses.
pub fn run(global: &Global, command: &Config) -> Result<()> {
    let mut client = Client::new(global);
    match command {
        Config::Describe {
            resource,
            name,
            all,
        } => {
            let name = resource_name(*resource, name)?;
            let mut settings = describe(&mut client, *resource, name)?;
            settings.retain(|s| *all || s.is_set(*resource));
            show(global, *resource, name, &settings)
        }
        Config::Set {
            resource,
            name,
            settings,
        } => {
            let name = resource_name(*resource, name)?;
            let changes: Vec<_> = settings
                .iter()
                .map(|(k, v)| change(SET, k, Some(v)))
                .collect();
            alter(&mut client, (*resource, name), &changes)?;
            done(
                global,
                *resource,
                name,
                "set",
                changes.iter().map(|c| c.name).collect(),
            )
        }
        Config::Unset {
            resource,
            name,
            keys,
        } => {
            let name = resource_name(*resource, name)?;
            let changes: Vec<_> = keys.iter().map(|k| change(DELETE, k, None)).collect();
            alter(&mut client, (*resource, name), &changes)?;
            done(
                global,
                *resource,
                name,
                "unset",
                changes.iter().map(|c| c.name).collect(),
            )
        }
    }
}

fn change<'a>(operation: i8, name: &'a str, value: Option<&'a str>) -> AlterableConfig<'a> {
    AlterableConfig {
        name,
        config_operation: operation,
        value,
    }
}

/// The name on the wire: all brokers have an empty one.
fn resource_name(resource: Resource, name: &str) -> Result<&str> {
    match (resource, name) {
        (Resource::Broker, "default") => Ok(""),
        (Resource::Broker, id) if id.parse::<i32>().is_err() => Err(Failure::Usage(format!(
            "`{id}` is no broker: give its number (`streamctl cluster` shows them), \
             or `default` for all brokers"
        ))),
        _ => Ok(name),
    }
}

fn resource_type(resource: Resource) -> i8 {
    match resource {
        Resource::Topic => 2,
        Resource::Broker => 4,
        Resource::Group => 32,
    }
}

fn title(resource: Resource, name: &str) -> String {
    match (resource, name) {
        (Resource::Topic, _) => format!("topic `{name}`"),
        (Resource::Group, _) => format!("group `{name}`"),
        (Resource::Broker, "") => "all brokers".into(),
        (Resource::Broker, _) => format!("broker {name}"),
    }
}

/// The broker to ask: a broker answers for itself, any one for the rest.
fn whom<'c>(client: &'c mut Client, resource: Resource, name: &str) -> Result<&'c mut Conn> {
    match (resource, name.parse::<i32>()) {
        (Resource::Broker, Ok(id)) => {
            client.metadata(Which::None)?;
            client.broker(id)
        }
        _ => client.any(),
    }
}

/// Asks for all settings of a topic or a broker, by name.
///
/// # Errors
/// No broker answers, or it refuses.
pub fn describe(client: &mut Client, resource: Resource, name: &str) -> Result<Vec<Setting>> {
    let asked = DescribeConfigsResource {
        resource_type: resource_type(resource),
        resource_name: name,
        configuration_keys: None,
    };
    let request = DescribeConfigsRequest {
        resources: vec![asked].into(),
        ..Default::default()
    };
    let answer = whom(client, resource, name)?.call(&request, i16::MAX)?;
    let mut settings = Vec::new();
    for result in answer.results.iter() {
        if result.error_code != 0 {
            let (what, words) = (title(resource, name), result.error_message);
            return Err(Failure::code(&what, result.error_code, words));
        }
        settings.extend(result.configs.iter().map(|c| Setting {
            name: c.name.to_owned(),
            value: c.value.map(str::to_owned),
            source: c.config_source,
            read_only: c.read_only,
            sensitive: c.is_sensitive,
        }));
    }
    settings.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(settings)
}

fn show(global: &Global, resource: Resource, name: &str, settings: &[Setting]) -> Result<()> {
    if global.json {
        let list: Vec<Value> = settings
            .iter()
            .map(|s| {
                json!({
                    "name": s.name,
                    "value": s.value,
                    "source": source_name(s.source),
                    "read_only": s.read_only,
                    "sensitive": s.sensitive,
                })
            })
            .collect();
        return out::json(&Value::Array(list));
    }
    if settings.is_empty() {
        out::say(format_args!(
            "{}: nothing is set, everything has its default. --all shows the defaults.",
            title(resource, name)
        ));
        return Ok(());
    }
    let mut table = out::table(&["Setting", "Value", "Set by", "Note"]);
    // Some values are long lists: on a terminal they are folded in their column.
    table.set_content_arrangement(ContentArrangement::Dynamic);
    for s in settings {
        let note = if s.read_only { "read-only" } else { "" };
        table.add_row([&s.name, &s.shown(), source_name(s.source), note]);
    }
    out::line(out::text(&table))
}

fn alter(
    client: &mut Client,
    (resource, name): (Resource, &str),
    changes: &[AlterableConfig<'_>],
) -> Result<()> {
    let asked = AlterConfigsResource {
        resource_type: resource_type(resource),
        resource_name: name,
        configs: changes.into(),
    };
    let request = IncrementalAlterConfigsRequest {
        resources: vec![asked].into(),
        validate_only: false,
    };
    let conn = whom(client, resource, name)?;
    conn.need(ApiKey::IncrementalAlterConfigs, i16::MAX)?;
    let answer = conn.call(&request, i16::MAX)?;
    if let Some(result) = answer.responses.iter().find(|r| r.error_code != 0) {
        return Err(Failure::code(
            &title(resource, name),
            result.error_code,
            result.error_message,
        ));
    }
    Ok(())
}

fn done(
    global: &Global,
    resource: Resource,
    name: &str,
    verb: &str,
    keys: Vec<&str>,
) -> Result<()> {
    out::say(format_args!(
        "{}: {verb} {}",
        title(resource, name),
        keys.join(", ")
    ));
    if global.json {
        return out::json(&json!({"resource": title(resource, name), verb: keys}));
    }
    Ok(())
}
