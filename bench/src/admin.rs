//! The few requests around a measurement, one at a time: versions, topics, offsets.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use streamd_model::ErrorCode;
use streamd_wire::kafka::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use streamd_wire::kafka::delete_topics_request::DeleteTopicState;
use streamd_wire::kafka::frame::encode_request;
use streamd_wire::kafka::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use streamd_wire::kafka::metadata_request::MetadataRequestTopic;
use streamd_wire::kafka::{
    ApiKey, ApiVersionsRequest, ApiVersionsResponse, CreateTopicsRequest, CreateTopicsResponse,
    Decode, DeleteTopicsRequest, DeleteTopicsResponse, ElectLeadersRequest, ElectLeadersResponse,
    FindCoordinatorRequest, FindCoordinatorResponse, ListOffsetsRequest, ListOffsetsResponse,
    Message, MetadataRequest, MetadataResponse, Request, ResponseHeader, Writer,
};

use crate::failure::{Context, Failure, Result};
use crate::leaders::Leaders;

/// The name that this client gives itself.
pub const CLIENT_ID: &str = "bench";
/// How long an answer may take.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// No answer is longer; a longer length is nonsense and not allocated.
pub const FRAME_MAX: usize = 256 << 20;

/// A name for a code, for a person.
pub fn error_name(code: i16) -> String {
    match ErrorCode::from_code(code) {
        Some(error) => format!("{error:?} ({code}): {}", error.message()),
        None => format!("error code {code}"),
    }
}

/// Finds the address of `HOST:PORT`.
///
/// # Errors
/// It is no such thing, or the name is not known.
pub fn resolve(target: &str) -> Result<SocketAddr> {
    let mut found = target
        .to_socket_addrs()
        .context(|| format!("cannot resolve \"{target}\", expected HOST:PORT"))?;
    found
        .next()
        .ok_or_else(|| Failure::new(format!("\"{target}\" has no address")))
}

/// What a broker says of the cluster and of a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The controller that it names.
    pub controller: i32,
    /// Where the brokers are, by id.
    pub nodes: BTreeMap<i32, String>,
    /// The topic's partitions; none if it does not know the topic.
    pub places: BTreeMap<i32, Place>,
}

/// Where a partition is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its leader; -1 if there is none.
    pub leader: i32,
    /// How many replicas are in sync.
    pub in_sync: usize,
}

/// A blocking connection to one broker.
#[derive(Debug)]
pub struct Admin {
    stream: TcpStream,
    address: SocketAddr,
    versions: Vec<(i16, i16, i16)>,
    correlation: i32,
}

/// An answer's bytes.
pub(crate) struct Reply {
    frame: Vec<u8>,
    body: usize,
    version: i16,
}

impl Reply {
    pub(crate) fn decode<'a, M: Message + Decode<'a>>(&'a self) -> Result<M> {
        M::decode_body(&self.frame[self.body..], self.version)
            .context(|| format!("the broker's {} cannot be read", M::NAME))
    }
}

pub(crate) fn check(code: i16, what: impl FnOnce() -> String) -> Result<()> {
    if code == 0 {
        Ok(())
    } else {
        Err(Failure::new(format!("{}: {}", what(), error_name(code))))
    }
}

impl Admin {
    /// Connects and asks for the versions.
    ///
    /// # Errors
    /// Nobody listens there, or what listens does not speak the Kafka protocol.
    pub fn connect(address: SocketAddr) -> Result<Admin> {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(10))
            .context(|| format!("cannot connect to {address}: is a broker listening there?"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_WITHIN))?;
        let mut admin = Admin {
            stream,
            address,
            versions: Vec::new(),
            correlation: 0,
        };
        let reply = admin.call(&ApiVersionsRequest::default(), 0)?;
        let answer: ApiVersionsResponse<'_> = reply.decode()?;
        check(answer.error_code, || "ApiVersions was refused".into())?;
        let keys = answer.api_keys.iter();
        admin.versions = keys
            .map(|key| (key.api_key, key.min_version, key.max_version))
            .collect();
        Ok(admin)
    }

    /// The newest version up to `wanted` that the broker serves of an API.
    ///
    /// # Errors
    /// It serves none.
    pub fn version(&self, api: ApiKey, wanted: i16) -> Result<i16> {
        let served = self.versions.iter().find(|(key, ..)| *key == api.code());
        match served {
            Some((_, min, max)) if *min <= wanted => Ok(wanted.min(*max)),
            Some((_, min, _)) => Err(Failure::new(format!(
                "the broker serves {} from version {min} on, this client speaks up to {wanted}",
                api.name()
            ))),
            None => Err(Failure::new(format!(
                "the broker at {} does not serve {}",
                self.address,
                api.name()
            ))),
        }
    }

    /// Makes leaders of the first replicas of all partitions, as far as they are in sync.
    ///
    /// # Errors
    /// The broker refuses it as a whole.
    pub fn elect_preferred(&mut self) -> Result<()> {
        let request = ElectLeadersRequest {
            topic_partitions: None,
            timeout_ms: 30_000,
            ..ElectLeadersRequest::default()
        };
        let version = self.version(ApiKey::ElectLeaders, 1)?;
        let reply = self.call(&request, version)?;
        let answer: ElectLeadersResponse<'_> = reply.decode()?;
        check(answer.error_code, || "no leaders were elected".into())
    }

    /// Sends a body that was encoded by hand: the answer's frame.
    ///
    /// # Errors
    /// The broker does not answer.
    pub fn exchange(&mut self, api: i16, version: i16, body: &[u8]) -> Result<Vec<u8>> {
        self.correlation += 1;
        let mut frame = Vec::new();
        frame.extend_from_slice(&api.to_be_bytes());
        frame.extend_from_slice(&version.to_be_bytes());
        frame.extend_from_slice(&self.correlation.to_be_bytes());
        frame.extend_from_slice(&(CLIENT_ID.len() as i16).to_be_bytes());
        frame.extend_from_slice(CLIENT_ID.as_bytes());
        frame.extend_from_slice(body);
        let address = self.address;
        let what = || format!("a request to {address}");
        let length = (frame.len() as i32).to_be_bytes();
        self.stream.write_all(&length).context(what)?;
        self.stream.write_all(&frame).context(what)?;
        self.frame().context(what)
    }

    fn frame(&mut self) -> Result<Vec<u8>> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let mut frame = vec![0; frame_length(length)?];
        self.stream.read_exact(&mut frame)?;
        Ok(frame)
    }

    pub(crate) fn call<M: Request>(&mut self, request: &M, version: i16) -> Result<Reply> {
        self.correlation += 1;
        let mut w = Writer::new();
        encode_request(request, version, self.correlation, Some(CLIENT_ID), &mut w)
            .context(|| format!("cannot encode {}", M::NAME))?;
        let address = self.address;
        let what = || format!("{} to {address}", M::NAME);
        self.stream.write_all(w.bytes()).context(what)?;
        let frame = self.frame().context(what)?;
        let header = ResponseHeader {
            api: M::API,
            version,
            correlation_id: self.correlation,
        };
        let (correlation, body) = header.parse(&frame).context(what)?;
        if correlation != self.correlation {
            return Err(Failure::new(format!(
                "{}: the answer has correlation id {correlation}, expected {}",
                what(),
                self.correlation
            )));
        }
        let body = frame.len() - body.len();
        Ok(Reply {
            frame,
            body,
            version,
        })
    }

    /// Creates a topic of so many partitions and replicas, and waits until every partition has a
    /// leader that serves.
    ///
    /// # Errors
    /// The broker refuses it, or leaders do not come within a minute.
    pub fn create(
        &mut self,
        topic: &str,
        (partitions, replicas): (i32, i16),
        configs: &[(String, String)],
    ) -> Result<Leaders> {
        let configs: Vec<_> = configs
            .iter()
            .map(|(name, value)| CreatableTopicConfig {
                name,
                value: Some(value),
            })
            .collect();
        let request = CreateTopicsRequest {
            topics: vec![CreatableTopic {
                name: topic,
                num_partitions: partitions,
                replication_factor: replicas,
                configs: configs.into(),
                ..CreatableTopic::default()
            }]
            .into(),
            timeout_ms: 30_000,
            ..CreateTopicsRequest::default()
        };
        let version = self.version(ApiKey::CreateTopics, 5)?;
        let reply = self.call(&request, version)?;
        for answer in reply.decode::<CreateTopicsResponse<'_>>()?.topics.iter() {
            check(answer.error_code, || {
                let why = answer.error_message.unwrap_or("no message");
                format!("the topic {topic} was not created ({why})")
            })?;
        }
        let leaders = self.await_leaders(topic, partitions)?;
        // A leader that the metadata name may not know it yet.
        let until = Instant::now() + ANSWER_WITHIN;
        while let Err(error) = leaders.ends(topic) {
            if Instant::now() > until {
                return Err(error);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(leaders)
    }

    fn await_leaders(&mut self, topic: &str, partitions: i32) -> Result<Leaders> {
        let until = Instant::now() + ANSWER_WITHIN;
        loop {
            let seen = self.seen(topic)?;
            let led = seen.places.values().filter(|place| place.leader >= 0);
            let led = led.count();
            if led >= partitions as usize {
                return self.leaders(&seen, partitions);
            }
            if Instant::now() > until {
                return Err(Failure::new(format!(
                    "only {led} of {partitions} partitions of {topic} got a leader in a minute"
                )));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A broker that is alone is reached where it was reached, whatever it says of itself.
    fn leaders(&self, seen: &Seen, partitions: i32) -> Result<Leaders> {
        if seen.nodes.len() == 1 {
            return Ok(Leaders::alone(self.address, partitions));
        }
        let address = |place: &Place| {
            let at = seen.nodes.get(&place.leader);
            let at = at.ok_or_else(|| {
                let leader = place.leader;
                Failure::new(format!("the broker did not tell where node {leader} is"))
            })?;
            resolve(at)
        };
        let addresses = seen.places.values().map(address);
        Ok(Leaders::of(&addresses.collect::<Result<Vec<_>>>()?))
    }

    /// What the broker says of the cluster and of a topic now.
    ///
    /// # Errors
    /// It does not answer.
    pub fn seen(&mut self, topic: &str) -> Result<Seen> {
        let version = self.version(ApiKey::Metadata, 8)?;
        let request = MetadataRequest {
            topics: Some(
                vec![MetadataRequestTopic {
                    name: Some(topic),
                    ..MetadataRequestTopic::default()
                }]
                .into(),
            ),
            allow_auto_topic_creation: false,
            ..MetadataRequest::default()
        };
        let reply = self.call(&request, version)?;
        let answer: MetadataResponse<'_> = reply.decode()?;
        let mut seen = Seen {
            controller: answer.controller_id,
            ..Seen::default()
        };
        for broker in answer.brokers.iter() {
            let at = format!("{}:{}", broker.host, broker.port);
            seen.nodes.insert(broker.node_id, at);
        }
        for topic in answer.topics.iter().filter(|topic| topic.error_code == 0) {
            for partition in topic.partitions.iter() {
                let place = Place {
                    leader: partition.leader_id,
                    in_sync: partition.isr_nodes.len(),
                };
                seen.places.insert(partition.partition_index, place);
            }
        }
        Ok(seen)
    }

    /// Waits until a group (type 0) or a transactional id (type 1) has a coordinator: a broker may
    /// have to make the topic for their state first.
    ///
    /// # Errors
    /// There is none within a minute.
    pub fn coordinator(&mut self, key: &str, key_type: i8) -> Result<()> {
        let version = self.version(ApiKey::FindCoordinator, 3)?;
        let until = Instant::now() + ANSWER_WITHIN;
        loop {
            let request = FindCoordinatorRequest {
                key,
                key_type,
                ..FindCoordinatorRequest::default()
            };
            let reply = self.call(&request, version)?;
            let code = reply.decode::<FindCoordinatorResponse<'_>>()?.error_code;
            if code == 0 || Instant::now() > until {
                return check(code, || format!("there is no coordinator for {key}"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Deletes a topic.
    ///
    /// # Errors
    /// The broker refuses it.
    pub fn delete(&mut self, topic: &str) -> Result<()> {
        let version = self.version(ApiKey::DeleteTopics, 6)?;
        let mut request = DeleteTopicsRequest {
            timeout_ms: 30_000,
            ..DeleteTopicsRequest::default()
        };
        if version >= 6 {
            request.topics = vec![DeleteTopicState {
                name: Some(topic),
                ..DeleteTopicState::default()
            }]
            .into();
        } else {
            request.topic_names = vec![topic].into();
        }
        let reply = self.call(&request, version)?;
        for answer in reply.decode::<DeleteTopicsResponse<'_>>()?.responses.iter() {
            check(answer.error_code, || {
                format!("the topic {topic} was not deleted")
            })?;
        }
        Ok(())
    }

    /// The end offsets of those of a topic's partitions that this broker leads.
    ///
    /// # Errors
    /// The broker refuses.
    pub fn ends(&mut self, topic: &str, partitions: &[i32]) -> Result<Vec<(i32, i64)>> {
        let version = self.version(ApiKey::ListOffsets, 5)?;
        let asked: Vec<_> = partitions
            .iter()
            .map(|partition| ListOffsetsPartition {
                partition_index: *partition,
                timestamp: -1,
                ..ListOffsetsPartition::default()
            })
            .collect();
        let request = ListOffsetsRequest {
            replica_id: -1,
            topics: vec![ListOffsetsTopic {
                name: topic,
                partitions: asked.into(),
            }]
            .into(),
            ..ListOffsetsRequest::default()
        };
        let reply = self.call(&request, version)?;
        let mut ends = Vec::with_capacity(partitions.len());
        for answer in reply.decode::<ListOffsetsResponse<'_>>()?.topics.iter() {
            for partition in answer.partitions.iter() {
                check(partition.error_code, || {
                    format!("the end of {topic}-{}", partition.partition_index)
                })?;
                ends.push((partition.partition_index, partition.offset));
            }
        }
        Ok(ends)
    }
}

/// Reads the length in front of a frame.
///
/// # Errors
/// It is negative or beyond [`FRAME_MAX`].
pub fn frame_length(bytes: [u8; 4]) -> Result<usize> {
    let length = i32::from_be_bytes(bytes);
    usize::try_from(length)
        .ok()
        .filter(|length| *length <= FRAME_MAX)
        .ok_or_else(|| {
            Failure::new(format!(
                "the broker sent a frame of {length} bytes, expected 0 to {FRAME_MAX}: \
                 does it speak the Kafka protocol?"
            ))
        })
}
