//! What the handlers of one shard share: the shard, its budgets, its fetch sessions.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use streamd_core::group::Token;
use streamd_core::meta::{Endpoint, KNOWN, Registration};
use streamd_core::producer::IdBlock;
use streamd_io::local::Budget;
use streamd_model::{Mono, NodeId, TopicId};
use streamd_shard::{Reply, Request, Shard};

use crate::conn::{Hangup, Life};
use crate::kafka::session::Sessions;
use crate::kafka::share::session::ShareSessions;
use crate::native::peers::Links;

/// The name of the listener that nodes reach each other by.
pub const NATIVE: &str = "STRM";
/// At most one line about bad clients in this time; the others are counted.
const COMPLAIN_EVERY: Duration = Duration::from_secs(1);

/// Subscriptions may take one such part of what requests may.
const STREAMS: usize = 4;

/// What every connection of a shard works with.
pub struct Broker {
    /// This core's shard.
    pub shard: Rc<Shard>,
    /// What the broker says of itself to clients.
    pub identity: Arc<Identity>,
    /// Memory for requests that are being read or handled, bytes.
    pub requests: Budget,
    /// Memory for subscriptions, bytes.
    pub streams: Budget,
    /// The largest frame, bytes (`socket.request.max.bytes`).
    pub request_bytes_max: usize,
    /// The most that one fetch gets, bytes (`fetch.max.bytes`).
    pub fetch_bytes_max: usize,
    /// Where the data lives, as clients are told.
    pub data_dir: PathBuf,
    /// Producer ids that this shard may hand out.
    pub producer_ids: RefCell<IdBlock>,
    /// The fetch sessions of this shard.
    pub sessions: RefCell<Sessions>,
    /// The share sessions of this shard.
    pub shares: RefCell<ShareSessions>,
    /// The way to other nodes, if this one listens for them.
    pub links: OnceCell<Rc<Links>>,
    /// The open connections of this shard.
    pub lives: RefCell<BTreeMap<u64, Rc<Life>>>,
    next_life: Cell<u64>,
    next_token: Cell<u64>,
    complaints: Cell<(Mono, u64)>,
}

/// Who this broker is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// `cluster.id`, 22 characters.
    pub cluster_id: String,
    /// `node.id`.
    pub node_id: i32,
    /// The host that clients are told.
    pub host: String,
    /// The port that clients are told.
    pub port: u16,
    /// The port that other nodes are told; `None`: there are none.
    pub native: Option<u16>,
    /// Where it stands.
    pub rack: Option<String>,
    /// Of the data directory.
    pub directory: TopicId,
    /// Of this run.
    pub incarnation: TopicId,
}

impl Identity {
    /// What the broker says of itself to the cluster.
    pub fn told(&self) -> Registration {
        let endpoint = |name: &str, port| Endpoint {
            name: name.to_owned(),
            host: self.host.clone(),
            port,
        };
        let mut endpoints = vec![endpoint("PLAINTEXT", self.port)];
        endpoints.extend(self.native.map(|port| endpoint(NATIVE, port)));
        Registration {
            node: NodeId(self.node_id),
            incarnation: self.incarnation.0,
            directory: self.directory.0,
            rack: self.rack.clone(),
            endpoints,
            features: KNOWN,
        }
    }

    /// Where other nodes reach this one, `HOST:PORT`.
    pub fn native_address(&self) -> String {
        address(&self.host, self.native.unwrap_or(0))
    }
}

/// `HOST:PORT`, as it is written.
pub fn address(host: &str, port: u16) -> String {
    match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}

/// The limits that a broker is made with.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Memory for requests on each shard, bytes.
    pub request_memory: usize,
    /// See [`Broker::request_bytes_max`].
    pub request_bytes_max: usize,
    /// See [`Broker::fetch_bytes_max`].
    pub fetch_bytes_max: usize,
    /// Fetch sessions on each shard.
    pub sessions: usize,
}

impl Broker {
    /// The broker's part on one shard.
    pub fn new(shard: Rc<Shard>, identity: Arc<Identity>, limits: Limits) -> Rc<Broker> {
        Rc::new(Broker {
            data_dir: shard.data_dir().to_owned(),
            producer_ids: RefCell::default(),
            shard,
            identity,
            requests: Budget::new(limits.request_memory),
            streams: Budget::new(limits.request_memory / STREAMS),
            request_bytes_max: limits.request_bytes_max,
            fetch_bytes_max: limits.fetch_bytes_max,
            sessions: RefCell::new(Sessions::new(limits.sessions)),
            shares: RefCell::default(),
            links: OnceCell::new(),
            lives: RefCell::default(),
            next_life: Cell::new(0),
            next_token: Cell::new(0),
            complaints: Cell::default(),
        })
    }

    /// Takes a new connection into the list that the sweeper goes through; gives its key.
    pub fn register(&self, life: Rc<Life>) -> u64 {
        let key = self.next_life.get();
        self.next_life.set(key + 1);
        self.lives.borrow_mut().insert(key, life);
        key
    }

    /// A token that no other request of this process has.
    pub fn new_token(&self) -> Token {
        let n = self.next_token.get();
        self.next_token.set(n + 1);
        Token(u64::from(self.shard.mesh.id().0) << 48 | n)
    }

    /// Begins a request to shard `owner`, which may be this one. When this returns, another
    /// shard's request has its place in the queue.
    pub async fn begin(
        self: &Rc<Self>,
        owner: usize,
        request: Request,
    ) -> Pin<Box<dyn Future<Output = Option<Reply>>>> {
        self.shard.begin(owner, request).await
    }

    /// Says, not too often, why a connection was closed.
    pub fn complain(&self, why: &Hangup) {
        match why {
            Hangup::Gone => {}
            Hangup::Bad(text) => self.complain_text(text),
            Hangup::Malformed(what) => self.complain_text(&what.to_string()),
        }
    }

    /// Says something about a client's behaviour, not too often.
    pub fn complain_text(&self, text: &str) {
        let (last, kept_back) = self.complaints.get();
        let now = self.shard.env.now();
        if last != Mono(0) && now - last < COMPLAIN_EVERY {
            self.complaints.set((last, kept_back + 1));
            return;
        }
        let others = match kept_back {
            0 => String::new(),
            n => format!(" (and {n} more like it)"),
        };
        eprintln!("warning: connection closed: {text}{others}");
        self.complaints.set((now, 0));
    }
}
