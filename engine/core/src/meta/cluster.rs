//! The part of the image that there is in a cluster only: brokers, and where partitions live.
//!
//! Invariants: a broker's epoch rises with each registration; a partition's epoch rises with each
//! change of it, its leader epoch with each change of its leader; the in-sync set is a subset of
//! the replicas, never empty, and holds the leader.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use streamd_model::{Epoch, ErrorCode, NodeId, PartitionId, TopicId};

use super::topics::{Order, Topics};
use crate::Refused;
use crate::codec::{Damaged, In, Out};

/// The most replicas of a partition.
pub const REPLICAS_MAX: usize = 64;

/// Where a broker is reached.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Endpoint {
    /// The listener's name, such as `PLAINTEXT`.
    pub name: String,
    /// Host.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// What a broker says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// The broker.
    pub node: NodeId,
    /// Of this run of the process; by chance.
    pub incarnation: [u8; 16],
    /// Of its data directory; by chance, for as long as the directory lives.
    pub directory: [u8; 16],
    /// Its rack.
    pub rack: Option<String>,
    /// Where it is reached.
    pub endpoints: Vec<Endpoint>,
    /// The feature levels that it can live at, as they are written; see [`Registration::levels`].
    pub features: (i16, i16),
}

/// A broker of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerMeta {
    /// What it said of itself.
    pub told: Registration,
    /// Of this registration: it rises.
    pub epoch: i64,
    /// It leads nothing and is in no in-sync set.
    pub fenced: bool,
    /// It is about to stop.
    pub leaving: bool,
}

impl BrokerMeta {
    /// Whether it may lead, and belong to in-sync sets.
    pub fn is_active(&self) -> bool {
        !self.fenced && !self.leaving
    }
}

/// Where a partition lives.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct PartitionMeta {
    /// Who has it; the first is the preferred leader.
    pub replicas: Vec<NodeId>,
    /// Who has all that is committed.
    pub isr: Vec<NodeId>,
    /// Replicas that a reassignment adds.
    pub adding: Vec<NodeId>,
    /// Replicas that a reassignment takes away at its end.
    pub removing: Vec<NodeId>,
    /// Who leads; nobody while none of the in-sync set is there.
    pub leader: Option<NodeId>,
    /// It rises whenever a leader begins.
    pub leader_epoch: Epoch,
    /// It rises whenever any of this changes.
    pub epoch: i32,
}

impl PartitionMeta {
    /// A new partition. The first replica leads.
    pub fn new(replicas: Vec<NodeId>) -> PartitionMeta {
        PartitionMeta {
            isr: replicas.clone(),
            leader: replicas.first().copied(),
            replicas,
            ..PartitionMeta::default()
        }
    }

    /// Whether replicas are being moved.
    pub fn is_moving(&self) -> bool {
        !self.adding.is_empty() || !self.removing.is_empty()
    }

    /// The replicas when what is under way is done.
    pub fn target(&self) -> Vec<NodeId> {
        let stays = |n: &&NodeId| !self.removing.contains(n);
        self.replicas.iter().filter(stays).copied().collect()
    }

    /// What makes it nonsense, if it is.
    fn nonsense(&self) -> Option<&'static str> {
        let within = |of: &[NodeId]| of.iter().all(|n| self.replicas.contains(n));
        let once = |of: &[NodeId]| (1..of.len()).all(|i| !of[..i].contains(&of[i]));
        if self.replicas.is_empty() || self.replicas.len() > REPLICAS_MAX || !once(&self.replicas) {
            Some("its replicas")
        } else if self.isr.is_empty() || !within(&self.isr) || !once(&self.isr) {
            Some("its in-sync set")
        } else if !within(&self.adding) || !within(&self.removing) {
            Some("what is added or removed")
        } else if self.leader.is_some_and(|l| !self.isr.contains(&l)) {
            Some("its leader")
        } else {
            None
        }
    }
}

/// Where the partitions of a topic live.
#[derive(Clone, PartialEq)]
struct Placed {
    topic: TopicId,
    partitions: Vec<PartitionMeta>,
}

/// In the order of the topics' ids.
enum ByTopic {}

impl Order for ByTopic {
    type Item = Placed;
    type Key = TopicId;

    fn key(placed: &Placed) -> &TopicId {
        &placed.topic
    }

    fn compare(a: &TopicId, b: &TopicId) -> Ordering {
        a.cmp(b)
    }
}

/// Brokers and places. A clone shares the places.
#[derive(Clone, PartialEq, Default)]
pub struct Cluster {
    brokers: BTreeMap<NodeId, Arc<BrokerMeta>>,
    places: Topics<ByTopic>,
    /// How many partitions have a place,
    placed: i64,
    /// and how many replicas each broker has.
    load: BTreeMap<NodeId, usize>,
    feature_level: i16,
}

/// A change of brokers or places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterCommand {
    /// A broker is there. It begins fenced.
    Register(Registration),
    /// A broker's state changes.
    SetBroker {
        /// The broker.
        node: NodeId,
        /// Its epoch: another one makes the command void.
        epoch: i64,
        /// See [`BrokerMeta`].
        fenced: bool,
        /// See [`BrokerMeta`].
        leaving: bool,
    },
    /// A broker goes for good.
    Unregister {
        /// The broker.
        node: NodeId,
        /// Its epoch.
        epoch: i64,
    },
    /// New partitions get their places.
    Place {
        /// The topic.
        topic: TopicId,
        /// The index of the first of them.
        first: i32,
        /// One after another.
        partitions: Vec<PartitionMeta>,
    },
    /// A partition changes. Its epoch becomes one more.
    Change {
        /// The partition.
        partition: PartitionId,
        /// The epoch that it has: another one makes the command void.
        expect: i32,
        /// What it is from now on.
        next: PartitionMeta,
    },
    /// All brokers do more from now on.
    SetFeatureLevel(i16),
}

impl Cluster {
    /// All brokers, by id.
    pub fn brokers(&self) -> impl ExactSizeIterator<Item = &Arc<BrokerMeta>> {
        self.brokers.values()
    }

    /// A broker.
    pub fn broker(&self, node: NodeId) -> Option<&Arc<BrokerMeta>> {
        self.brokers.get(&node)
    }

    /// Whether a broker is there and may lead.
    pub fn is_active(&self, node: NodeId) -> bool {
        self.broker(node).is_some_and(|b| b.is_active())
    }

    /// The agreed level, as it is written; see [`Cluster::level`].
    pub(super) fn told_level(&self) -> i16 {
        self.feature_level
    }

    /// The partitions of a topic, by index; none if they have no places.
    pub fn partitions(&self, topic: TopicId) -> &[PartitionMeta] {
        self.places
            .get(&topic)
            .map_or(&[], |p| p.partitions.as_slice())
    }

    /// A partition.
    pub fn partition(&self, id: PartitionId) -> Option<&PartitionMeta> {
        self.partitions(id.topic)
            .get(usize::try_from(id.index).ok()?)
    }

    /// All partitions, in order.
    pub fn places(&self) -> impl Iterator<Item = (PartitionId, &PartitionMeta)> {
        self.places.iter().flat_map(|placed| {
            let id = |index| PartitionId {
                topic: placed.topic,
                index,
            };
            (0..).map(id).zip(placed.partitions.iter())
        })
    }

    /// The topics that `other` has otherwise placed, or not at all, with a few neighbours.
    pub fn placed_unlike<'a>(&'a self, other: &'a Cluster) -> impl Iterator<Item = TopicId> {
        self.places.unlike(&other.places).map(|placed| placed.topic)
    }

    /// How many partitions have a place.
    pub fn placed(&self) -> i64 {
        self.placed
    }

    /// How many replicas a broker has.
    pub fn load(&self, node: NodeId) -> usize {
        self.load.get(&node).copied().unwrap_or(0)
    }

    /// Takes note of replicas that come, or go.
    fn note(&mut self, partitions: &[PartitionMeta], come: bool) {
        for node in partitions.iter().flat_map(|p| &p.replicas) {
            let load = self.load.entry(*node).or_default();
            *load = match come {
                true => *load + 1,
                false => *load - 1,
            };
            if *load == 0 {
                self.load.remove(node);
            }
        }
        let count = partitions.len() as i64;
        self.placed += if come { count } else { -count };
    }

    fn place(&mut self, topic: TopicId, partitions: &[PartitionMeta]) {
        self.note(partitions, true);
        match self.places.get_mut(&topic) {
            Some(placed) => Arc::make_mut(placed)
                .partitions
                .extend_from_slice(partitions),
            None => {
                let partitions = partitions.to_vec();
                self.places.insert(Arc::new(Placed { topic, partitions }));
            }
        }
    }

    fn change(&mut self, id: PartitionId, next: &PartitionMeta) {
        let Some(placed) = self.places.get_mut(&id.topic) else {
            return;
        };
        let placed = Arc::make_mut(placed);
        if let Some(place) = placed.partitions.get_mut(id.index as usize) {
            let epoch = place.epoch + 1;
            let before = std::mem::replace(place, next.clone());
            place.epoch = epoch;
            self.note(&[before], false);
            self.note(std::slice::from_ref(next), true);
        }
    }

    /// Whether a command still fits.
    ///
    /// # Errors
    /// Kafka's code for what stands against it.
    pub fn admit(&self, command: &ClusterCommand) -> Result<(), Refused> {
        match command {
            ClusterCommand::Register(told) => self.admit_broker(told),
            ClusterCommand::SetBroker { node, epoch, .. } => self.known(*node, *epoch).map(drop),
            ClusterCommand::Unregister { node, epoch } => {
                self.known(*node, *epoch)?;
                let has = |p: &PartitionMeta| p.replicas.contains(node);
                match self.places().filter(|(_, p)| has(p)).count() {
                    0 => Ok(()),
                    n => refuse(
                        ErrorCode::InvalidRequest,
                        format!("broker {} still has {n} partitions: move them away", node.0),
                    ),
                }
            }
            ClusterCommand::Place {
                topic,
                first,
                partitions,
            } => {
                let next = self.partitions(*topic).len();
                if i32::try_from(next) != Ok(*first) {
                    let text = format!("the topic has places up to partition {next}");
                    return refuse(ErrorCode::OperationNotAttempted, text);
                }
                match partitions.iter().find_map(PartitionMeta::nonsense) {
                    Some(what) => refuse(ErrorCode::InvalidReplicaAssignment, what.to_owned()),
                    None => Ok(()),
                }
            }
            ClusterCommand::Change {
                partition,
                expect,
                next,
            } => self.admit_change(*partition, *expect, next),
            ClusterCommand::SetFeatureLevel(level) => self.admit_level(*level),
        }
    }

    fn admit_broker(&self, told: &Registration) -> Result<(), Refused> {
        let text = match (self.broker(told.node), told.lives_at(self.level())) {
            (Some(b), _) if b.told.directory != told.directory => format!(
                "broker {} was registered with another data directory: this one is new, or a \
                 copy. Give this broker an id of its own, or take the old one out of the cluster \
                 first",
                told.node.0
            ),
            (_, Err(why)) => why,
            _ if told.node.0 < 0 => format!("{} is no broker id", told.node.0),
            _ => return Ok(()),
        };
        refuse(ErrorCode::InvalidRegistration, text)
    }

    fn known(&self, node: NodeId, epoch: i64) -> Result<&BrokerMeta, Refused> {
        match self.broker(node) {
            None => refuse(
                ErrorCode::BrokerIdNotRegistered,
                format!("broker {} is not registered", node.0),
            ),
            Some(b) if b.epoch != epoch => refuse(
                ErrorCode::StaleBrokerEpoch,
                format!("broker {} has epoch {} now, not {epoch}", node.0, b.epoch),
            ),
            Some(b) => Ok(b),
        }
    }

    fn admit_change(
        &self,
        id: PartitionId,
        expect: i32,
        next: &PartitionMeta,
    ) -> Result<(), Refused> {
        let Some(now) = self.partition(id) else {
            let text = format!("there is no partition {} of {}", id.index, id.topic);
            return refuse(ErrorCode::UnknownTopicOrPartition, text);
        };
        if now.epoch != expect {
            let text = format!("the partition's epoch is {}, not {expect}", now.epoch);
            return refuse(ErrorCode::InvalidUpdateVersion, text);
        }
        let leads_anew = next.leader != now.leader && next.leader.is_some();
        if next.leader_epoch < now.leader_epoch
            || leads_anew && next.leader_epoch == now.leader_epoch
        {
            let text = format!("the leader epoch is {} already", now.leader_epoch);
            return refuse(ErrorCode::FencedLeaderEpoch, text);
        }
        if let Some(what) = next.nonsense() {
            return refuse(ErrorCode::InvalidRequest, what.to_owned());
        }
        let joins = |n: &&NodeId| !now.isr.contains(n) && !self.is_active(**n);
        if let Some(node) = next.isr.iter().find(joins) {
            let text = format!("broker {} is fenced or leaving", node.0);
            return refuse(ErrorCode::IneligibleReplica, text);
        }
        Ok(())
    }

    /// Applies a command that was admitted. `version` counts commands.
    pub(super) fn apply(&mut self, command: &ClusterCommand, version: u64) {
        match command {
            ClusterCommand::Register(told) => {
                let broker = BrokerMeta {
                    told: told.clone(),
                    epoch: version as i64,
                    fenced: true,
                    leaving: false,
                };
                self.brokers.insert(told.node, Arc::new(broker));
            }
            ClusterCommand::SetBroker {
                node,
                fenced,
                leaving,
                ..
            } => {
                if let Some(broker) = self.brokers.get_mut(node) {
                    let broker = Arc::make_mut(broker);
                    (broker.fenced, broker.leaving) = (*fenced, *leaving);
                }
            }
            ClusterCommand::Unregister { node, .. } => {
                self.brokers.remove(node);
            }
            ClusterCommand::Place {
                topic, partitions, ..
            } => self.place(*topic, partitions),
            ClusterCommand::Change {
                partition, next, ..
            } => self.change(*partition, next),
            ClusterCommand::SetFeatureLevel(level) => self.feature_level = *level,
        }
    }

    /// A topic is gone.
    pub(super) fn forget(&mut self, topic: TopicId) {
        if let Some(gone) = self.places.remove(&topic) {
            self.note(&gone.partitions, false);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        *self == Cluster::default()
    }

    pub(super) fn put(&self, out: &mut Out) {
        out.i16(self.feature_level);
        out.count(self.brokers.len());
        for broker in self.brokers.values() {
            put_registration(out, &broker.told);
            out.i64(broker.epoch);
            out.u8(u8::from(broker.fenced));
            out.u8(u8::from(broker.leaving));
        }
        out.count(self.places.iter().len());
        for placed in self.places.iter() {
            out.raw(&placed.topic.0);
            out.count(placed.partitions.len());
            for partition in &placed.partitions {
                put_partition(out, partition);
            }
        }
    }

    pub(super) fn get(r: &mut In<'_>) -> Result<Cluster, Damaged> {
        let mut cluster = Cluster {
            feature_level: r.i16("the feature level")?,
            ..Cluster::default()
        };
        for _ in 0..r.count(50, "a number of brokers")? {
            let broker = BrokerMeta {
                told: get_registration(r)?,
                epoch: r.i64("a broker's epoch")?,
                fenced: r.flag("whether a broker is fenced")?,
                leaving: r.flag("whether a broker is leaving")?,
            };
            cluster.brokers.insert(broker.told.node, Arc::new(broker));
        }
        for _ in 0..r.count(20, "a number of topics with places")? {
            let topic = TopicId(r.array("a topic's id")?);
            let count = r.count(25, "a number of partitions")?;
            let mut partitions = Vec::with_capacity(count);
            for _ in 0..count {
                partitions.push(get_partition(r)?);
            }
            cluster.forget(topic);
            cluster.place(topic, &partitions);
        }
        Ok(cluster)
    }
}

fn refuse<T>(code: ErrorCode, text: String) -> Result<T, Refused> {
    Err((code, text))
}

pub(crate) fn put_registration(out: &mut Out, told: &Registration) {
    out.i32(told.node.0);
    out.raw(&told.incarnation);
    out.raw(&told.directory);
    out.u8(u8::from(told.rack.is_some()));
    out.str(told.rack.as_deref().unwrap_or(""));
    out.count(told.endpoints.len());
    for endpoint in &told.endpoints {
        out.str(&endpoint.name);
        out.str(&endpoint.host);
        out.i32(i32::from(endpoint.port));
    }
    out.i16(told.features.0);
    out.i16(told.features.1);
}

pub(crate) fn get_registration(r: &mut In<'_>) -> Result<Registration, Damaged> {
    let node = NodeId(r.i32("a broker's id")?);
    let incarnation = r.array("a broker's incarnation")?;
    let directory = r.array("a broker's directory")?;
    let has_rack = r.flag("whether a broker has a rack")?;
    let rack = r.str("a broker's rack")?;
    let mut told = Registration {
        node,
        incarnation,
        directory,
        rack: has_rack.then(|| rack.to_owned()),
        endpoints: Vec::new(),
        features: (0, 0),
    };
    for _ in 0..r.count(12, "a number of endpoints")? {
        let name = r.str("a listener's name")?.to_owned();
        let host = r.str("a host")?.to_owned();
        let port = r.i32("a port")?;
        let port = u16::try_from(port).map_err(|_| r.damaged("a port"))?;
        told.endpoints.push(Endpoint { name, host, port });
    }
    told.features = (r.i16("a feature level")?, r.i16("a feature level")?);
    Ok(told)
}

pub(super) fn put_partition(out: &mut Out, partition: &PartitionMeta) {
    let lists = [
        &partition.replicas,
        &partition.isr,
        &partition.adding,
        &partition.removing,
    ];
    for list in lists {
        out.u8(u8::try_from(list.len()).expect("replicas are bounded"));
        for node in list {
            out.i32(node.0);
        }
    }
    out.u8(u8::from(partition.leader.is_some()));
    out.i32(partition.leader.map_or(-1, |l| l.0));
    out.i32(partition.leader_epoch);
    out.i32(partition.epoch);
}

pub(super) fn get_partition(r: &mut In<'_>) -> Result<PartitionMeta, Damaged> {
    let mut lists: [Vec<NodeId>; 4] = Default::default();
    for list in &mut lists {
        let count = usize::from(r.u8("a number of replicas")?);
        if count > REPLICAS_MAX {
            return Err(r.damaged("a number of replicas"));
        }
        for _ in 0..count {
            list.push(NodeId(r.i32("a replica")?));
        }
    }
    let [replicas, isr, adding, removing] = lists;
    let led = r.flag("whether a partition has a leader")?;
    let leader = NodeId(r.i32("a leader")?);
    let partition = PartitionMeta {
        replicas,
        isr,
        adding,
        removing,
        leader: led.then_some(leader),
        leader_epoch: r.i32("a leader epoch")?,
        epoch: r.i32("a partition's epoch")?,
    };
    match partition.nonsense() {
        Some(what) => Err(r.damaged(what)),
        None => Ok(partition),
    }
}

impl ClusterCommand {
    /// Kinds 32 to 37 of the metadata's commands.
    pub(super) fn put(&self, out: &mut Out) {
        match self {
            ClusterCommand::Register(told) => {
                out.u8(32);
                put_registration(out, told);
            }
            ClusterCommand::SetBroker {
                node,
                epoch,
                fenced,
                leaving,
            } => {
                out.u8(33);
                out.i32(node.0);
                out.i64(*epoch);
                out.u8(u8::from(*fenced));
                out.u8(u8::from(*leaving));
            }
            ClusterCommand::Unregister { node, epoch } => {
                out.u8(34);
                out.i32(node.0);
                out.i64(*epoch);
            }
            ClusterCommand::Place {
                topic,
                first,
                partitions,
            } => {
                out.u8(35);
                out.raw(&topic.0);
                out.i32(*first);
                out.count(partitions.len());
                for partition in partitions {
                    put_partition(out, partition);
                }
            }
            ClusterCommand::Change {
                partition,
                expect,
                next,
            } => {
                out.u8(36);
                out.raw(&partition.topic.0);
                out.i32(partition.index);
                out.i32(*expect);
                put_partition(out, next);
            }
            ClusterCommand::SetFeatureLevel(level) => {
                out.u8(37);
                out.i16(*level);
            }
        }
    }

    pub(super) fn get(kind: u8, r: &mut In<'_>) -> Result<ClusterCommand, Damaged> {
        Ok(match kind {
            32 => ClusterCommand::Register(get_registration(r)?),
            33 => ClusterCommand::SetBroker {
                node: NodeId(r.i32("a broker's id")?),
                epoch: r.i64("a broker's epoch")?,
                fenced: r.flag("whether a broker is fenced")?,
                leaving: r.flag("whether a broker is leaving")?,
            },
            34 => ClusterCommand::Unregister {
                node: NodeId(r.i32("a broker's id")?),
                epoch: r.i64("a broker's epoch")?,
            },
            35 => {
                let topic = TopicId(r.array("a topic's id")?);
                let first = r.i32("a partition's index")?;
                let count = r.count(25, "a number of partitions")?;
                let mut partitions = Vec::with_capacity(count);
                for _ in 0..count {
                    partitions.push(get_partition(r)?);
                }
                ClusterCommand::Place {
                    topic,
                    first,
                    partitions,
                }
            }
            36 => ClusterCommand::Change {
                partition: PartitionId {
                    topic: TopicId(r.array("a topic's id")?),
                    index: r.i32("a partition's index")?,
                },
                expect: r.i32("a partition's epoch")?,
                next: get_partition(r)?,
            },
            37 => ClusterCommand::SetFeatureLevel(r.i16("the feature level")?),
            _ => return Err(r.damaged("a metadata command of an unknown kind")),
        })
    }
}
