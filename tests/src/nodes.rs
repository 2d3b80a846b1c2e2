//! Nodes that make one cluster.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::broker::{Broker, Site, free_port};
use crate::net::Place;

/// By then three nodes vote, also on a machine that has much else to do.
const TOGETHER: Duration = Duration::from_secs(60);

/// A node of a cluster.
pub struct Node {
    /// Its process.
    pub broker: Broker,
    /// Where it listens for other nodes.
    pub native: String,
}

/// The flags of a node: who it is, and whom it joins.
#[must_use]
pub fn flags(id: usize, native: &str, contact: Option<&str>) -> Vec<String> {
    let mut flags = vec![
        format!("--node-id={id}"),
        format!("--native-listen={native}"),
    ];
    flags.extend(contact.map(|at| format!("--join={at}")));
    flags
}

impl Node {
    /// Starts a node at a place; `more` flags.
    ///
    /// # Panics
    /// As [`Broker::start`].
    #[must_use]
    pub fn start(site: Site, (id, contact): (usize, Option<&str>), more: &[&str]) -> Node {
        let here = "127.0.0.1".to_owned();
        let host = site.place.as_ref().map(Place::address);
        let host = host.map_or(here, |address| address.to_string());
        let native = format!("{host}:{}", free_port());
        let flags = flags(id, &native, contact);
        let mut flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        flags.extend(more);
        Node {
            broker: Broker::start_on(site, &flags),
            native,
        }
    }
}

/// Starts the nodes 1, 2 and 3, of which the others join the first, and waits until all vote.
///
/// # Panics
/// When they do not in time.
pub fn three(mut start: impl FnMut(usize, Option<&str>) -> Node) -> Vec<Node> {
    let mut nodes = vec![start(1, None)];
    let contact = nodes[0].native.clone();
    nodes.extend([2, 3].map(|id| start(id, Some(&contact))));
    let deadline = Instant::now() + TOGETHER;
    for node in &nodes {
        while !node.broker.log().contains("vote: 1, 2, 3;") {
            assert!(Instant::now() < deadline, "no cluster within {TOGETHER:?}");
            sleep(Duration::from_millis(50));
        }
    }
    nodes
}
