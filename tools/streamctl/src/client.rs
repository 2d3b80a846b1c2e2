//! The cluster as a client sees it: which brokers there are, who leads what, a connection to each.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::thread;
use std::time::{Duration, Instant};

use streamd_model::ErrorCode;
use streamd_wire::kafka::metadata_request::MetadataRequestTopic;
use streamd_wire::kafka::{ApiKey, MetadataRequest, MetadataResponse};

use crate::cli::Global;
use crate::conn::Conn;
use crate::failure::{Failure, Result, is_passing};

/// How long to wait before something is tried again.
pub const RETRY_PAUSE: Duration = Duration::from_millis(150);

/// A broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    /// Kafka's node id.
    pub id: i32,
    /// `HOST:PORT` as the broker advertises it.
    pub address: String,
    /// Where it stands, if it says so.
    pub rack: Option<String>,
}

/// A partition of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its index.
    pub index: i32,
    /// 0 or an error code.
    pub error: i16,
    /// The broker that leads it; -1 for none.
    pub leader: i32,
    /// The brokers that have a copy.
    pub replicas: Vec<i32>,
    /// Those whose copy is up to date.
    pub in_sync: Vec<i32>,
}

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Its id as Kafka prints it, when the broker knows ids.
    pub id: Option<String>,
    /// 0 or an error code.
    pub error: i16,
    /// Whether the brokers keep it for themselves.
    pub internal: bool,
    /// Its partitions, by index.
    pub partitions: Vec<Partition>,
}

/// What the metadata says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// The cluster's id.
    pub cluster_id: Option<String>,
    /// The broker that takes requests which change the cluster; -1 for none.
    pub controller: i32,
    /// The brokers, by id.
    pub brokers: Vec<Broker>,
    /// The topics that were asked for, by name.
    pub topics: Vec<Topic>,
}

/// Which topics to ask for.
pub enum Which<'a> {
    /// All.
    All,
    /// None: brokers only.
    None,
    /// These; the broker must not create any.
    These(&'a [&'a str]),
    /// This one; the broker may create it if it is set up so.
    Create(&'a str),
}

/// Connections to a cluster.
pub struct Client {
    bootstrap: Vec<String>,
    /// How long a person wants to wait.
    pub timeout: Duration,
    conns: BTreeMap<String, Conn>,
    brokers: Vec<Broker>,
    controller: i32,
}

impl Client {
    /// A client that has not connected yet.
    pub fn new(global: &Global) -> Client {
        Client {
            bootstrap: global.bootstrap.0.clone(),
            timeout: global.timeout,
            conns: BTreeMap::new(),
            brokers: Vec::new(),
            controller: -1,
        }
    }

    fn open(&mut self, address: &str) -> Result<&mut Conn> {
        match self.conns.entry(address.to_owned()) {
            Entry::Occupied(slot) => Ok(slot.into_mut()),
            Entry::Vacant(slot) => Ok(slot.insert(Conn::open(address, self.timeout)?)),
        }
    }

    /// A connection to any broker: the first of the addresses given, or else a broker that was
    /// learned of.
    ///
    /// # Errors
    /// None of them can be connected to; what is said is about the first.
    pub fn any(&mut self) -> Result<&mut Conn> {
        let known = self.brokers.iter().map(|b| b.address.clone());
        let mut addresses: Vec<String> = self.bootstrap.iter().cloned().chain(known).collect();
        addresses.dedup();
        let mut first = None;
        for address in &addresses {
            match self.open(address) {
                Ok(_) => return self.open(address),
                Err(Failure::Lost(text)) => first = first.or(Some(Failure::Lost(text))),
                Err(other) => return Err(other),
            }
        }
        Err(first
            .unwrap_or_else(|| Failure::failed("no broker to ask: give --bootstrap HOST:PORT")))
    }

    /// A connection to the broker with this id.
    ///
    /// # Errors
    /// The metadata does not know it, or it cannot be connected to.
    pub fn broker(&mut self, id: i32) -> Result<&mut Conn> {
        let Some(broker) = self.brokers.iter().find(|b| b.id == id) else {
            let known: Vec<String> = self.brokers.iter().map(|b| b.id.to_string()).collect();
            return Err(Failure::failed(format!(
                "there is no broker {id}; the cluster has {}",
                known.join(", ")
            )));
        };
        let address = broker.address.clone();
        self.open(&address)
    }

    /// A connection to the broker that takes changes of the cluster.
    ///
    /// # Errors
    /// It cannot be connected to.
    pub fn controller(&mut self) -> Result<&mut Conn> {
        self.metadata(Which::None)?;
        // Where brokers know this, each passes changes on: the controller need not be reached from
        // here, nor be the one that this broker takes for it.
        let conn = self.any()?;
        if conn
            .version(ApiKey::DescribeTopicPartitions, i16::MAX)
            .is_some()
        {
            return self.any();
        }
        match self.controller {
            id if id >= 0 && self.brokers.iter().any(|b| b.id == id) => self.broker(id),
            _ => self.any(),
        }
    }

    /// Forgets all connections, so that the next call makes new ones.
    pub fn disconnect(&mut self) {
        self.conns.clear();
    }

    /// Waits until the brokers have read everything that they were told without an answer.
    pub fn finish(self) {
        for conn in self.conns.into_values() {
            conn.finish();
        }
    }

    /// Asks for the metadata.
    ///
    /// # Errors
    /// No broker answers.
    pub fn metadata(&mut self, which: Which<'_>) -> Result<Metadata> {
        let may_create = matches!(which, Which::Create(_));
        let named: Option<Vec<&str>> = match which {
            Which::All => None,
            Which::None => Some(Vec::new()),
            Which::These(names) => Some(names.to_vec()),
            Which::Create(name) => Some(vec![name]),
        };
        let conn = self.any()?;
        // Before version 1 no topics meant all of them; before 4 every question created topics.
        let version = conn.need(ApiKey::Metadata, i16::MAX)?;
        let topics = named.map(|names| {
            names
                .iter()
                .map(|&name| MetadataRequestTopic {
                    name: Some(name),
                    ..MetadataRequestTopic::default()
                })
                .collect()
        });
        let request = MetadataRequest {
            topics,
            allow_auto_topic_creation: may_create || version < 4,
            ..MetadataRequest::default()
        };
        let metadata = Metadata::from(conn.call(&request, i16::MAX)?);
        self.brokers.clone_from(&metadata.brokers);
        self.controller = metadata.controller;
        Ok(metadata)
    }

    /// Waits until the broker knows a topic and all its leaders, at most so long.
    ///
    /// # Errors
    /// No broker answers.
    pub fn wait_for(&mut self, name: &str, at_most: Duration) -> Result<()> {
        let deadline = Instant::now() + at_most.min(self.timeout);
        loop {
            let topics = self.metadata(Which::These(&[name]))?.topics;
            let led = |t: &Topic| t.error == 0 && t.partitions.iter().all(|p| p.leader >= 0);
            if topics.first().is_some_and(led) || Instant::now() > deadline {
                return Ok(());
            }
            thread::sleep(RETRY_PAUSE / 5);
        }
    }

    /// The metadata of one topic, as soon as every partition of it has a leader. With `create` the
    /// broker may make the topic; the second value says whether it had to.
    ///
    /// # Errors
    /// There is no such topic, or there was no leader before the time was over.
    pub fn topic(&mut self, name: &str, create: bool) -> Result<(Topic, bool)> {
        let deadline = Instant::now() + self.timeout;
        let mut created = false;
        loop {
            let which = if created {
                Which::Create(name)
            } else {
                Which::These(&[name])
            };
            let topic = self
                .metadata(which)?
                .topics
                .into_iter()
                .next()
                .ok_or_else(|| {
                    Failure::failed(format!("the broker's answer leaves topic `{name}` out"))
                })?;
            if topic.error == 0 && topic.partitions.iter().all(|p| p.leader >= 0) {
                return Ok((topic, created));
            }
            if topic.error == ErrorCode::UnknownTopicOrPartition.code() && create && !created {
                created = true;
                continue;
            }
            let missing = topic.error == ErrorCode::UnknownTopicOrPartition.code() && !created;
            if missing || Instant::now() > deadline {
                return Err(not_ready(&topic, name));
            }
            if topic.error != 0 && !is_passing(topic.error) {
                return Err(Failure::code(&format!("topic `{name}`"), topic.error, None));
            }
            thread::sleep(RETRY_PAUSE);
        }
    }
}

fn not_ready(topic: &Topic, name: &str) -> Failure {
    if topic.error == ErrorCode::UnknownTopicOrPartition.code() {
        return Failure::failed(format!(
            "there is no topic `{name}`. Create it with `streamctl topic create {name}`, \
             or see what there is with `streamctl topic list`"
        ));
    }
    if topic.error != 0 {
        return Failure::code(&format!("topic `{name}`"), topic.error, None);
    }
    let lost: Vec<String> = topic
        .partitions
        .iter()
        .filter(|p| p.leader < 0)
        .map(|p| p.index.to_string())
        .collect();
    Failure::failed(format!(
        "topic `{name}`: nobody leads partition {}. Is a broker down? `streamctl cluster` shows \
         those that are up",
        lost.join(", ")
    ))
}

/// `HOST:PORT`, with the brackets that an IPv6 address needs.
pub fn host_port(host: &str, port: i32) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

impl From<MetadataResponse<'_>> for Metadata {
    fn from(answer: MetadataResponse<'_>) -> Metadata {
        let mut brokers: Vec<Broker> = answer
            .brokers
            .iter()
            .map(|b| Broker {
                id: b.node_id,
                address: host_port(b.host, b.port),
                rack: b.rack.map(str::to_owned),
            })
            .collect();
        brokers.sort_by_key(|b| b.id);
        let mut topics: Vec<Topic> = answer.topics.iter().map(|t| topic(&t)).collect();
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        Metadata {
            cluster_id: answer.cluster_id.map(str::to_owned),
            controller: answer.controller_id,
            brokers,
            topics,
        }
    }
}

fn topic(t: &streamd_wire::kafka::metadata_response::MetadataResponseTopic<'_>) -> Topic {
    let mut partitions: Vec<Partition> = t
        .partitions
        .iter()
        .map(|p| Partition {
            index: p.partition_index,
            error: p.error_code,
            leader: p.leader_id,
            replicas: p.replica_nodes.iter().collect(),
            in_sync: p.isr_nodes.iter().collect(),
        })
        .collect();
    partitions.sort_by_key(|p| p.index);
    Topic {
        name: t.name.unwrap_or_default().to_owned(),
        id: (t.topic_id != streamd_model::TopicId::ZERO).then(|| t.topic_id.to_base64()),
        error: t.error_code,
        internal: t.is_internal,
        partitions,
    }
}
