//! Who the other nodes are and where they are reached: what the metadata says, and what they say
//! themselves before it knows them. All shards share it; it is looked at when a connection begins.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use streamd_core::meta::{ClusterImage, Local};
use streamd_model::{ErrorCode, NodeId};
use streamd_shard::Refusal;
use streamd_wire::native::Hello;

use crate::broker::{Identity, NATIVE};

/// What a name stands for is asked for again after so long.
const NAME_LASTS: Duration = Duration::from_secs(30);
/// Nodes that are remembered without the metadata knowing them.
const STRANGERS_MAX: usize = 64;

/// The book of nodes.
pub struct Book {
    identity: Arc<Identity>,
    pages: Mutex<Pages>,
}

struct Pages {
    image: Arc<ClusterImage>,
    /// The image is not that of long ago.
    current: bool,
    /// Where nodes say that they are reached, `HOST:PORT`.
    said: BTreeMap<NodeId, String>,
    /// Nodes that were named at the start.
    contacts: Vec<NodeId>,
    /// What names stand for, and when that was asked for; nothing while it is.
    names: BTreeMap<String, (Instant, Option<SocketAddr>)>,
}

impl Book {
    /// A book of this node, with nodes that were named at the start and their addresses.
    pub fn new(
        identity: Arc<Identity>,
        local: Local,
        contacts: Vec<(NodeId, String)>,
    ) -> Arc<Book> {
        let pages = Pages {
            image: Arc::new(ClusterImage::new(local)),
            current: false,
            contacts: contacts.iter().map(|c| c.0).collect(),
            said: contacts.into_iter().collect(),
            names: BTreeMap::new(),
        };
        Arc::new(Book {
            identity,
            pages: Mutex::new(pages),
        })
    }

    /// This node.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        // What is in it is whole at any moment.
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The metadata, as this node has it.
    pub fn learn(&self, image: &Arc<ClusterImage>, current: bool) {
        let mut pages = self.pages();
        pages.image = image.clone();
        pages.current |= current;
    }

    /// The metadata, as this node has it.
    pub fn image(&self) -> Arc<ClusterImage> {
        self.pages().image.clone()
    }

    /// Nodes that were named at the start.
    pub fn contacts(&self) -> Vec<NodeId> {
        self.pages().contacts.clone()
    }

    /// Whether a node may say `hello`; then it is known where it is reached.
    pub fn greet(&self, hello: &Hello<'_>) -> Result<(), Refusal> {
        self.check(hello.node, hello.directory)?;
        let mut pages = self.pages();
        if pages.said.len() < STRANGERS_MAX || pages.said.contains_key(&hello.node) {
            pages.said.insert(hello.node, hello.name.to_owned());
        }
        Ok(())
    }

    /// Whether a node with this directory may say something.
    pub fn check(&self, node: NodeId, directory: [u8; 16]) -> Result<(), Refusal> {
        let me = self.identity.node_id;
        if node.0 == me {
            let text = format!(
                "node {me} is this one: another node has to have another id (--node-id, with a \
                 data directory of its own)"
            );
            return Err(Refusal::new(ErrorCode::InvalidRegistration, text));
        }
        let pages = self.pages();
        match pages.image.cluster().broker(node) {
            Some(broker) if broker.told.directory != directory => {}
            _ => return Ok(()),
        }
        let id = node.0;
        if !pages.current {
            let text = format!(
                "node {me} knows node {id} with another data directory, and does not have the \
                 newest metadata yet"
            );
            return Err(Refusal::new(ErrorCode::BrokerNotAvailable, text));
        }
        let text = format!(
            "node {id} of this cluster has another data directory: this one was wiped, or is of \
             another node. Start node {id} with the directory that it had; or join as a new node: \
             with an empty --data-dir and a --node-id that no node has; or have node {id} \
             unregistered first (kafka-cluster.sh unregister --id {id}), if its data is lost"
        );
        Err(Refusal::new(ErrorCode::InvalidRegistration, text))
    }

    /// Where a node may be reached, the likeliest first. A name that has to be looked up is left
    /// out until that is done.
    pub fn addresses(self: &Arc<Self>, node: NodeId) -> Vec<SocketAddr> {
        let mut places: Vec<(String, u16)> = Vec::new();
        {
            let pages = self.pages();
            if let Some(broker) = pages.image.cluster().broker(node) {
                let of_nodes = broker.told.endpoints.iter().filter(|e| e.name == NATIVE);
                places.extend(of_nodes.map(|e| (e.host.clone(), e.port)));
            }
            let said = pages.said.get(&node).and_then(|s| host_port(s));
            places.extend(said);
        }
        let mut found: Vec<SocketAddr> = Vec::new();
        for (host, port) in places {
            let address = match host.parse::<IpAddr>() {
                Ok(ip) => Some(SocketAddr::new(ip, port)),
                Err(_) => self.look_up(&host).map(|mut at| {
                    at.set_port(port);
                    at
                }),
            };
            found.extend(address.filter(|a| !found.contains(a)));
        }
        found
    }

    /// What a name stands for, if that is known. Else another thread asks: that may take long.
    fn look_up(self: &Arc<Self>, host: &str) -> Option<SocketAddr> {
        let mut pages = self.pages();
        let known = pages.names.get(host).copied();
        if let Some((since, found)) = known
            && since.elapsed() < NAME_LASTS
        {
            return found;
        }
        let found = known.and_then(|(_, found)| found);
        pages.names.insert(host.to_owned(), (Instant::now(), found));
        drop(pages);
        let (book, name) = (self.clone(), host.to_owned());
        let ask = move || {
            let answer = (name.as_str(), 0).to_socket_addrs();
            let found = answer.ok().and_then(|mut all| all.next());
            book.pages().names.insert(name, (Instant::now(), found));
        };
        // Without a thread it is asked for again later.
        drop(std::thread::Builder::new().spawn(ask));
        found
    }
}

/// The two parts of `HOST:PORT`.
pub fn host_port(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let host = host.trim_matches(['[', ']']);
    Some((host.to_owned(), port.parse().ok()?))
}
