//! The controller: what brokers and operators ask, against the image.
//!
//! Invariant: a call looks at the image and at sessions and changes only sessions; the commands
//! that it returns belong together, and change the image when they are committed.

use std::collections::BTreeMap;
use std::time::Duration;

use streamd_model::{ErrorCode, Mono, NodeId, PartitionId};

use super::propose::without_place;
use super::{
    Answer, Ask, Election, NewIsr, Times, Unplaced, change, plan, reassign, refuse, spread,
};
use crate::Refused;
use crate::config::{DRAIN, TopicConfig};
use crate::meta::{
    BrokerMeta, ClusterCommand, ClusterImage, Command, ConfigChange, PartitionMeta, Registration,
    Resource,
};

/// The most partitions whose leaders one look at the balance moves.
const BALANCE_MAX: usize = 500;

/// Between looks for partitions that may be led by a replica that is not in sync.
const FORCE_EVERY: Duration = Duration::from_secs(1);

/// Between looks for partitions that should move.
const SPREAD_EVERY: Duration = Duration::from_secs(1);

/// What comes of a question: commands to commit, and the answer that holds when they are.
pub(super) type Verdict = Result<(Vec<Command>, Answer), Refused>;

/// The controller of a term.
pub struct Controller {
    times: Times,
    /// When each broker was heard of.
    heard: BTreeMap<NodeId, Mono>,
    balanced: Mono,
    /// When it was looked for partitions that may be led by whoever is there.
    forced: Mono,
    /// When it was looked for what should move.
    spread: Mono,
}

impl Controller {
    /// A new term: every broker has a whole session from now on.
    pub fn new(times: Times, image: &ClusterImage, now: Mono) -> Controller {
        let brokers = image.cluster().brokers();
        Controller {
            times,
            heard: brokers.map(|b| (b.told.node, now)).collect(),
            balanced: now,
            forced: now,
            spread: now,
        }
    }

    /// Decides.
    ///
    /// # Errors
    /// Kafka's code, and a sentence.
    pub fn handle(&mut self, image: &ClusterImage, ask: &Ask, now: Mono) -> Verdict {
        match ask {
            Ask::Register(told) => self.register(image, told, now),
            Ask::Heartbeat {
                node,
                epoch,
                version,
                leaving,
            } => {
                let broker = known(image, *node, *epoch)?;
                self.heard.insert(*node, now);
                Ok(self.heartbeat(image, broker, *version, *leaving))
            }
            Ask::Lost { node, epoch } => {
                let broker = known(image, *node, *epoch)?;
                Ok((fence(image, broker), Answer::Done))
            }
            Ask::Alter { node, epoch, sets } => {
                known(image, *node, *epoch)?;
                Ok(alter(image, *node, sets))
            }
            Ask::Propose {
                commands,
                replication,
            } => Ok((plan(image, commands, *replication)?, Answer::Done)),
            Ask::Elect {
                election,
                partitions,
            } => Ok(elect(image, *election, partitions)),
            Ask::Reassign {
                partition,
                replicas,
            } => reassign(image, *partition, replicas.as_deref()),
            Ask::Unregister(node) => unregister(image, *node),
        }
    }

    /// What is due without anybody asking.
    pub fn tick(&mut self, image: &ClusterImage, now: Mono) -> Vec<Command> {
        let cluster = image.cluster();
        // This very process is there, however long it was held up.
        let others = cluster.brokers().filter(|b| b.told.node != image.node());
        for broker in others.filter(|b| !b.fenced) {
            let heard = *self.heard.entry(broker.told.node).or_insert(now);
            if now - heard > self.times.session {
                return fence(image, broker);
            }
        }
        let places = home(image);
        if !places.is_empty() {
            return places;
        }
        if now - self.forced >= FORCE_EVERY {
            self.forced = now;
            let led = led_unclean(image);
            if !led.is_empty() {
                return led;
            }
        }
        if now - self.spread >= SPREAD_EVERY {
            self.spread = now;
            let moves = spread::look(image);
            if !moves.is_empty() {
                return moves;
            }
        }
        if now - self.balanced < self.times.balance {
            return Vec::new();
        }
        self.balanced = now;
        let better = cluster.places().filter_map(|(id, p)| {
            change::preferred(cluster, p).map(|next| change::command(id, p, next))
        });
        better.take(BALANCE_MAX).collect()
    }

    fn register(&mut self, image: &ClusterImage, told: &Registration, now: Mono) -> Verdict {
        let command = Command::Cluster(ClusterCommand::Register(told.clone()));
        image.admit(&command)?;
        let mut commands = Vec::new();
        if let Some(before) = image.cluster().broker(told.node) {
            let heard = self.heard.get(&told.node);
            let alive = heard.is_some_and(|h| now - *h <= self.times.heartbeat * 2);
            let other = before.told.incarnation != told.incarnation;
            // Where the controller is there is no other process of that broker.
            let elsewhere = told.node != image.node();
            if other && alive && elsewhere && !before.fenced {
                let text = format!(
                    "broker {} is there already, in another process: give this one another id, \
                     or wait until that one is gone",
                    told.node.0
                );
                return refuse(ErrorCode::DuplicateBrokerRegistration, text);
            }
            if !other {
                // A lost answer: the registration holds.
                let epoch = before.epoch;
                return Ok((commands, Answer::Registered { epoch }));
            }
            commands = restart(image, before);
        }
        self.heard.insert(told.node, now);
        commands.push(command);
        if told.node == image.node() {
            // It has the image that this is decided on: it need not ask again.
            let mut after = image.clone();
            commands.iter().for_each(|c| after.apply(c));
            let registered = after.cluster().broker(told.node);
            commands.extend(registered.map_or(Vec::new(), |b| let_in(&after, b)));
        }
        Ok((commands, Answer::Registered { epoch: -1 }))
    }

    fn heartbeat(
        &self,
        image: &ClusterImage,
        broker: &BrokerMeta,
        version: u64,
        leaving: bool,
    ) -> (Vec<Command>, Answer) {
        let (cluster, node) = (image.cluster(), broker.told.node);
        let mut commands = Vec::new();
        if broker.fenced {
            // It knows of its registration, so of everything that it was told to be before.
            if version >= broker.epoch as u64 && !leaving {
                commands = let_in(image, broker);
            }
            let fenced = commands.is_empty();
            let may_stop = leaving;
            return (commands, Answer::Heartbeat { fenced, may_stop });
        }
        let mut stays = 0;
        if leaving {
            if !broker.leaving {
                commands.push(set(broker, false, true));
            }
            for (id, p) in cluster.places().filter(|(_, p)| p.isr.contains(&node)) {
                match change::without(cluster, p, node, true) {
                    Some(next) => commands.push(change::command(id, p, next)),
                    None if p.leader == Some(node) => stays += 1,
                    None => {}
                }
            }
        }
        // What nobody else can lead does not hold up the stop.
        let led = cluster.places().filter(|(_, p)| p.leader == Some(node));
        let may_stop = leaving && led.count() == stays;
        let fenced = false;
        (commands, Answer::Heartbeat { fenced, may_stop })
    }
}

fn known(image: &ClusterImage, node: NodeId, epoch: i64) -> Result<&BrokerMeta, Refused> {
    match image.cluster().broker(node) {
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

fn set(broker: &BrokerMeta, fenced: bool, leaving: bool) -> Command {
    Command::Cluster(ClusterCommand::SetBroker {
        node: broker.told.node,
        epoch: broker.epoch,
        fenced,
        leaving,
    })
}

/// A broker is there: it leads what nobody else could.
fn let_in(image: &ClusterImage, broker: &BrokerMeta) -> Vec<Command> {
    let mut commands = vec![set(broker, false, false)];
    // As it will be: the broker counts as there.
    let mut after = image.clone();
    after.apply(&commands[0]);
    let after = after.cluster();
    let led = after
        .places()
        .filter_map(|(id, p)| change::with(after, p).map(|next| change::command(id, p, next)));
    commands.extend(led);
    commands
}

/// A broker is gone: it leads nothing, and holds up nothing.
fn fence(image: &ClusterImage, broker: &BrokerMeta) -> Vec<Command> {
    fence_of(image, broker, |_| true)
}

/// A broker is there again: what it leads begins anew, but for partitions that nobody else has
/// anything of.
fn restart(image: &ClusterImage, broker: &BrokerMeta) -> Vec<Command> {
    fence_of(image, broker, |p| p.replicas != [broker.told.node])
}

fn fence_of(
    image: &ClusterImage,
    broker: &BrokerMeta,
    counts: impl Fn(&PartitionMeta) -> bool,
) -> Vec<Command> {
    if broker.fenced {
        return Vec::new();
    }
    let (cluster, node) = (image.cluster(), broker.told.node);
    let mut commands = vec![set(broker, true, false)];
    let counting = cluster.places().filter(|(_, p)| counts(p));
    commands.extend(counting.filter_map(|(id, p)| {
        change::without(cluster, p, node, false).map(|next| change::command(id, p, next))
    }));
    commands
}

fn alter(image: &ClusterImage, node: NodeId, sets: &[NewIsr]) -> (Vec<Command>, Answer) {
    let mut commands = Vec::new();
    let mut each = Vec::new();
    for set in sets {
        let code = match alter_one(image, node, set) {
            Ok(command) => {
                commands.push(command);
                ErrorCode::None
            }
            Err(code) => code,
        };
        each.push((set.partition, code));
    }
    (commands, Answer::Each(each))
}

fn alter_one(image: &ClusterImage, node: NodeId, set: &NewIsr) -> Result<Command, ErrorCode> {
    let cluster = image.cluster();
    let now = cluster.partition(set.partition);
    let now = now.ok_or(ErrorCode::UnknownTopicOrPartition)?;
    if set.leader_epoch > now.leader_epoch || set.epoch > now.epoch {
        // The leader knows more than this controller: it is not one any more.
        return Err(ErrorCode::NotController);
    }
    if now.leader != Some(node) || set.leader_epoch < now.leader_epoch {
        return Err(ErrorCode::FencedLeaderEpoch);
    }
    if set.epoch < now.epoch {
        return Err(ErrorCode::InvalidUpdateVersion);
    }
    let members: Vec<NodeId> = set.isr.iter().map(|(n, _)| *n).collect();
    if !members.contains(&node) {
        // The leader cannot go on, its disk failed: another one leads, if there is one in sync.
        let next = change::without(cluster, now, node, true);
        let next = next.ok_or(ErrorCode::IneligibleReplica)?;
        return Ok(change::command(set.partition, now, next));
    }
    if members.iter().any(|n| !now.replicas.contains(n)) {
        return Err(ErrorCode::InvalidRequest);
    }
    for (member, epoch) in &set.isr {
        let joins = !now.isr.contains(member);
        let broker = cluster.broker(*member);
        let same = broker.is_some_and(|b| *epoch == -1 || b.epoch == *epoch);
        if joins && !(same && cluster.is_active(*member)) {
            return Err(ErrorCode::IneligibleReplica);
        }
    }
    let mut next = now.clone();
    next.isr = now.replicas.clone();
    next.isr.retain(|n| members.contains(n));
    let next = reassign::finish(cluster, &next).unwrap_or(next);
    Ok(change::command(set.partition, now, next))
}

/// Topics with partitions that have no place: the first of them, and how many.
fn unplaced(image: &ClusterImage) -> Vec<Unplaced> {
    if image.partitions() == image.cluster().placed() {
        return Vec::new();
    }
    let topics = image.topics().filter_map(|t| without_place(image, t));
    topics.collect()
}

/// Partitions from before there were places are on the node that leads the quorum: there was no
/// other.
fn home(image: &ClusterImage) -> Vec<Command> {
    if !image.cluster().is_active(image.node()) {
        return Vec::new();
    }
    let unplaced = unplaced(image).into_iter();
    let places = unplaced.map(|(topic, first, count)| {
        let here = PartitionMeta::new(vec![image.node()]);
        Command::Cluster(ClusterCommand::Place {
            topic,
            first,
            partitions: vec![here; count as usize],
        })
    });
    places.collect()
}

/// Partitions that nobody leads, and whose topics would rather lose records than wait.
fn led_unclean(image: &ClusterImage) -> Vec<Command> {
    let cluster = image.cluster();
    let places = cluster.places().filter(|(_, p)| p.leader.is_none());
    let may = |id: &PartitionId| {
        let topic = image.topic_by_id(id.topic);
        topic.is_some_and(|t| TopicConfig::may_lead_unclean(&image.layers(Some(t))))
    };
    let led = places.filter(|(id, _)| may(id)).filter_map(|(id, now)| {
        change::unclean(cluster, now).map(|next| change::command(id, now, next))
    });
    led.take(BALANCE_MAX).collect()
}

/// A broker goes for good: it has no partitions, and does not run.
fn unregister(image: &ClusterImage, node: NodeId) -> Verdict {
    let Some(broker) = image.cluster().broker(node) else {
        let text = format!("broker {} is not registered", node.0);
        return refuse(ErrorCode::BrokerIdNotRegistered, text);
    };
    let epoch = broker.epoch;
    let gone = Command::Cluster(ClusterCommand::Unregister { node, epoch });
    image.admit(&gone)?;
    if broker.is_active() {
        // It would register again.
        let text = format!("broker {} is running: stop it first", node.0);
        return refuse(ErrorCode::InvalidRequest, text);
    }
    let mut commands = vec![gone];
    if image.is_draining(node) {
        // Whoever has this id later is another broker.
        commands.push(Command::AlterConfig {
            resource: Resource::Broker(node),
            changes: vec![ConfigChange {
                name: DRAIN.to_owned(),
                value: None,
            }],
        });
    }
    Ok((commands, Answer::Done))
}

fn elect(
    image: &ClusterImage,
    election: Election,
    partitions: &[PartitionId],
) -> (Vec<Command>, Answer) {
    let cluster = image.cluster();
    let mut commands = Vec::new();
    let mut each = Vec::new();
    for id in partitions {
        let code = match (cluster.partition(*id), election) {
            (None, _) => ErrorCode::UnknownTopicOrPartition,
            (Some(now), Election::Preferred) => match change::preferred(cluster, now) {
                Some(next) => {
                    commands.push(change::command(*id, now, next));
                    ErrorCode::None
                }
                None if now.leader == now.replicas.first().copied() => ErrorCode::ElectionNotNeeded,
                None => ErrorCode::PreferredLeaderNotAvailable,
            },
            (Some(now), Election::Unclean) => match change::unclean(cluster, now) {
                Some(next) => {
                    commands.push(change::command(*id, now, next));
                    ErrorCode::None
                }
                None if now.leader.is_some() => ErrorCode::ElectionNotNeeded,
                None => ErrorCode::EligibleLeadersNotAvailable,
            },
        };
        each.push((*id, code));
    }
    (commands, Answer::Each(each))
}

fn reassign(image: &ClusterImage, id: PartitionId, to: Option<&[NodeId]>) -> Verdict {
    let cluster = image.cluster();
    let Some(now) = cluster.partition(id) else {
        let text = format!("there is no partition {} of {}", id.index, id.topic);
        return refuse(ErrorCode::UnknownTopicOrPartition, text);
    };
    let next = match to {
        Some(target) => reassign::begin(cluster, now, target)?,
        None => Some(reassign::cancel(cluster, now)?),
    };
    let commands = next.into_iter().map(|next| change::command(id, now, next));
    Ok((commands.collect(), Answer::Done))
}
