//! Kills nodes under stock clients: how long until the partitions that a node led take records
//! again, and until metadata name who leads them now.
//!
//! Invariant: a time counts from just before the SIGKILL, and to the last of the partitions.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::nodes::{NODES, Nodes};
use super::writer::{CLIENTS, Clients, Load, Writer};
use crate::admin::{Admin, Seen};
use crate::failure::{Failure, Result};

/// Nobody who waits longer would call that a failover.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long clients write before a node is killed.
const CALM: Duration = Duration::from_millis(1500);
/// Between two looks at the metadata.
const LOOK: Duration = Duration::from_millis(10);
/// How long it may take until every node leads something.
const BALANCED_WITHIN: Duration = Duration::from_secs(20);
/// What the time until metadata name the new leaders is called.
const NAMED: &str = "metadata";

/// Which node is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Killed {
    /// One that leads partitions, and is not the controller; each in turn.
    Leader,
    /// The controller, which leads partitions too.
    Controller,
}

/// Kills of one kind.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What it is called.
    pub what: String,
    /// Who is killed.
    pub killed: Killed,
    /// Partitions of the topic.
    pub partitions: i32,
    /// Milliseconds between two records of a client.
    pub pause_ms: u32,
    /// How often.
    pub kills: usize,
}

/// What was measured of one kind of kills.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Failovers {
    /// Which kind.
    pub what: String,
    /// The clusters' names.
    pub names: Vec<String>,
    /// By whom it was measured, and for each cluster the milliseconds of all kills.
    pub measured: Vec<(String, Vec<Vec<f64>>)>,
}

impl Failovers {
    fn new(what: &str, names: Vec<String>) -> Failovers {
        let by = CLIENTS.iter().map(|client| client.name()).chain([NAMED]);
        let none = vec![Vec::new(); names.len()];
        Failovers {
            what: what.to_owned(),
            measured: by.map(|by| (by.to_owned(), none.clone())).collect(),
            names,
        }
    }
}

/// A cluster with clients that write to it.
struct Side<'a> {
    nodes: &'a mut Nodes,
    clients: &'a Clients,
    load: Load,
    writers: Vec<Writer>,
    /// Who was killed last.
    last: usize,
}

/// Kills nodes of the clusters in turn, A B A B, until it was done so often or time is over. What
/// went wrong is added to `failed`; the rest is worth having all the same.
///
/// # Errors
/// There is no topic to be had, or the clients do not start.
pub fn run(
    sides: &mut [Nodes],
    clients: &Clients,
    scenario: &Scenario,
    deadline: Instant,
    failed: &mut Vec<String>,
) -> Result<Failovers> {
    let names = sides.iter().map(|nodes| nodes.name().to_owned()).collect();
    let mut out = Failovers::new(&scenario.what, names);
    let load = Load {
        topic: crate::run::topic_name(),
        partitions: scenario.partitions,
        pause_ms: scenario.pause_ms,
    };
    let begin = |nodes| Side::begin(nodes, clients, &load);
    let mut sides: Vec<Side<'_>> = sides.iter_mut().map(begin).collect::<Result<_>>()?;
    'kills: for kill in 1..=scenario.kills {
        for (place, side) in sides.iter_mut().enumerate() {
            if Instant::now() > deadline {
                let (what, of) = (&scenario.what, scenario.kills);
                failed.push(format!("{what}: time was over before kill {kill} of {of}"));
                break 'kills;
            }
            let name = side.nodes.name();
            eprintln!("bench: {name}: {}, kill {kill}", scenario.what);
            let times = side.kill(scenario.killed, failed).or_else(|failure| {
                failed.push(format!("{name}: {}, kill {kill}: {failure}", scenario.what));
                side.recover().map(|()| Vec::new())
            });
            let times = match times {
                Ok(times) => times,
                Err(failure) => {
                    failed.push(format!("{name} did not get well again: {failure}"));
                    break 'kills;
                }
            };
            for ((_, measured), time) in out.measured.iter_mut().zip(times) {
                measured[place].extend(time.map(|time| time.as_secs_f64() * 1e3));
            }
        }
    }
    for side in sides {
        failed.extend(side.end());
    }
    Ok(out)
}

impl<'a> Side<'a> {
    fn begin(nodes: &'a mut Nodes, clients: &'a Clients, load: &Load) -> Result<Side<'a>> {
        let target = nodes.target();
        let size = (load.partitions, target.replicas);
        Admin::connect(target.address)?.create(&load.topic, size, &target.configs)?;
        nodes.in_sync(&load.topic)?;
        let start = |client| clients.start(client, &nodes.bootstrap(), load);
        let writers = CLIENTS.into_iter().map(start).collect::<Result<_>>()?;
        Ok(Side {
            load: load.clone(),
            writers,
            clients,
            nodes,
            last: 0,
        })
    }

    /// Kills a node: the times of each client, and that of the metadata. It is started again.
    fn kill(&mut self, killed: Killed, failed: &mut Vec<String>) -> Result<Vec<Option<Duration>>> {
        let led = self.balanced()?;
        let controller = self.nodes.controller()?;
        let node = match killed {
            Killed::Controller => controller,
            Killed::Leader => {
                let next = (1..=led.len()).map(|step| (self.last + step - 1) % led.len() + 1);
                let next = { next }.find(|node| *node != controller && led.contains_key(node));
                next.ok_or_else(|| Failure::new("nobody but the controller leads anything"))?
            }
        };
        self.last = node;
        let lost = led.get(&node).cloned().unwrap_or_default();
        self.calm(failed)?;
        let others: Vec<SocketAddr> = { self.nodes.alive() }
            .filter(|other| *other != node)
            .map(|other| self.nodes.address(other))
            .collect();
        let mut admins = others
            .into_iter()
            .map(Admin::connect)
            .collect::<Result<Vec<_>>>()?;
        let at = self.nodes.kill(node)?;
        for writer in &mut self.writers {
            writer.mark(&lost)?;
        }
        let topic = &self.load.topic;
        let (named, backs) = thread::scope(|scope| {
            let named = scope.spawn(|| named(&mut admins, topic, &lost, node, at));
            let backs = self.writers.iter_mut();
            let backs: Vec<_> = backs.map(|writer| writer.back(at + PATIENCE)).collect();
            (named.join(), backs)
        });
        let named = named.unwrap_or_else(|_| Err(Failure::new("the metadata's watch failed")));
        let times = backs.into_iter().chain([named]).map(|time| match time {
            Ok(time) => Some(time - at),
            Err(failure) => {
                failed.push(format!("{}: {failure}", self.nodes.name()));
                None
            }
        });
        let times: Vec<_> = times.collect();
        self.heal(&times, failed)?;
        self.nodes.start_again(node)?;
        self.nodes.in_sync(&self.load.topic)?;
        Ok(times)
    }

    /// After something went wrong: all nodes run, and the clients are new ones.
    fn recover(&mut self) -> Result<()> {
        let alive: Vec<usize> = self.nodes.alive().collect();
        for node in (1..=NODES).filter(|node| !alive.contains(node)) {
            self.nodes.start_again(node)?;
        }
        self.nodes.in_sync(&self.load.topic)?;
        let boot = self.nodes.bootstrap();
        for writer in &mut self.writers {
            *writer = self.clients.start(writer.client(), &boot, &self.load)?;
        }
        Ok(())
    }

    /// Has every node lead something: which partitions each leads.
    fn balanced(&mut self) -> Result<BTreeMap<usize, Vec<i32>>> {
        let deadline = Instant::now() + BALANCED_WITHIN;
        loop {
            // It may be refused while a controller is new.
            let balanced = self.nodes.balance();
            let alive = self.nodes.alive().next().unwrap_or(1);
            let seen = self.nodes.seen(alive, &self.load.topic)?;
            let mut led = BTreeMap::<usize, Vec<i32>>::new();
            for (partition, place) in &seen.places {
                let leader = usize::try_from(place.leader).unwrap_or_default();
                led.entry(leader).or_default().push(*partition);
            }
            if (1..=NODES).all(|node| led.contains_key(&node)) {
                return Ok(led);
            }
            if Instant::now() > deadline {
                balanced?;
                return Err(Failure::new(format!(
                    "{}: some nodes lead nothing: {led:?}",
                    self.nodes.name()
                )));
            }
            thread::sleep(10 * LOOK);
        }
    }

    /// Has the clients write, until all partitions take records.
    fn calm(&mut self, failed: &mut Vec<String>) -> Result<()> {
        let all: Vec<i32> = (0..self.load.partitions).collect();
        for writer in &mut self.writers {
            writer.write(true)?;
            writer.mark(&all)?;
        }
        let deadline = Instant::now() + PATIENCE;
        for writer in &mut self.writers {
            writer.back(deadline)?;
            let (cluster, client) = (self.nodes.name(), writer.client().name());
            let gave_up = writer.failed.drain(..);
            failed
                .extend(gave_up.map(|why| format!("{cluster}: {client} gave up a record: {why}")));
        }
        thread::sleep(CALM);
        Ok(())
    }

    /// Lets the clients rest, and begins anew those that hang.
    fn heal(&mut self, times: &[Option<Duration>], failed: &mut Vec<String>) -> Result<()> {
        for (writer, time) in self.writers.iter_mut().zip(times) {
            if time.is_some() && writer.write(false).is_ok() {
                continue;
            }
            let client = writer.client();
            failed.push(format!("the {} client was started anew", client.name()));
            *writer = self
                .clients
                .start(client, &self.nodes.bootstrap(), &self.load)?;
        }
        Ok(())
    }

    /// Ends the clients and deletes the topic; says what went wrong.
    fn end(self) -> Vec<String> {
        let mut failed = Vec::new();
        let name = self.nodes.name();
        for writer in self.writers {
            let client = writer.client().name();
            match writer.end() {
                Ok(0) => {}
                Ok(left) => failed.push(format!("{name}: {client} could not write {left} records")),
                Err(failure) => failed.push(format!("{name}: {failure}")),
            }
        }
        let admin = Admin::connect(self.nodes.address(1));
        let deleted = admin.and_then(|mut admin| admin.delete(&self.load.topic));
        failed.extend(deleted.err().map(|failure| format!("{name}: {failure}")));
        failed
    }
}

/// When all of these brokers name other leaders than `dead` for all of these partitions.
fn named(
    admins: &mut [Admin],
    topic: &str,
    lost: &[i32],
    dead: usize,
    since: Instant,
) -> Result<Instant> {
    let led = |seen: &Seen| {
        lost.iter().all(|partition| {
            let place = seen.places.get(partition);
            place.is_some_and(|place| place.leader > 0 && place.leader != dead as i32)
        })
    };
    for admin in admins {
        while !led(&admin.seen(topic)?) {
            if since.elapsed() > PATIENCE {
                return Err(Failure::new("metadata named no new leaders in a minute"));
            }
            thread::sleep(LOOK);
        }
    }
    Ok(Instant::now())
}
