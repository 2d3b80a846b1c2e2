//! The way to other nodes: each shard has a connection of its own to each node that it has to tell
//! something. What those have to say comes by theirs. `net/wire/PROTOCOL.md` says what is spoken.
//!
//! Invariants: what is sent goes out in order or is lost, and what waits is bounded, so nobody who
//! sends ever waits; a broker is said to be gone only when nobody listens where it did.

pub mod book;
mod link;
mod packets;

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use futures_lite::future;
use streamd_core::control::Ask;
use streamd_core::meta::ClusterImage;
use streamd_io::local::Permit;
use streamd_io::{Class, Env};
use streamd_model::{Map, NodeId};
use streamd_shard::{Packet, Peers, Shard};

use book::Book;
use link::Link;
pub use packets::decode;
#[cfg(test)]
pub use packets::frame;

/// How long a connection may take to come about.
const CONNECT_MAX: Duration = Duration::from_secs(1);
/// A process that ends closes its connections and its listener one after another: so often, with
/// such pauses, the listener is tried.
const KNOCKS: usize = 10;
const KNOCK_EVERY: Duration = Duration::from_millis(20);

/// A shard's way to other nodes.
pub struct Links {
    env: Env,
    shard: Weak<Shard>,
    book: Arc<Book>,
    links: RefCell<Map<NodeId, Rc<Link>>>,
}

impl Links {
    /// The way of a shard; no connection yet.
    pub fn new(shard: &Rc<Shard>, book: Arc<Book>) -> Rc<Links> {
        Rc::new(Links {
            env: shard.env.clone(),
            shard: Rc::downgrade(shard),
            book,
            links: RefCell::default(),
        })
    }

    /// What is known of other nodes.
    pub fn book(&self) -> &Arc<Book> {
        &self.book
    }

    fn link(&self, to: NodeId) -> Rc<Link> {
        let mut links = self.links.borrow_mut();
        let begin = || Link::begin(&self.env, &self.shard, &self.book, to);
        links.entry(to).or_insert_with(begin).clone()
    }

    /// A connection of a node, in this run of it, has ended. If nobody listens where it did its
    /// process is gone, and the controller need not wait to hear nothing of it.
    pub fn suspect(&self, node: NodeId, incarnation: [u8; 16]) {
        let image = self.book.image();
        let broker = image.cluster().broker(node);
        let broker = broker.filter(|b| !b.fenced && b.told.incarnation == incarnation);
        let (Some(broker), Some(shard)) = (broker, self.shard.upgrade()) else {
            return;
        };
        let (env, book, epoch) = (self.env.clone(), self.book.clone(), broker.epoch);
        let knock = async move {
            for _ in 0..KNOCKS {
                if shard.mesh.is_stopping() {
                    return;
                }
                if is_deserted(&env, &book, node).await {
                    // If nobody decides soon, the session's end will do.
                    let _ = shard.decide(Ask::Lost { node, epoch }).await;
                    return;
                }
                env.sleep(KNOCK_EVERY).await;
            }
        };
        self.env.spawn(Class::Latency, knock).detach();
    }
}

/// Whether it is certain that nobody listens where a node did.
async fn is_deserted(env: &Env, book: &Arc<Book>, node: NodeId) -> bool {
    let addresses = book.addresses(node);
    for address in &addresses {
        let late = async {
            env.sleep(CONNECT_MAX).await;
            Err(io::ErrorKind::TimedOut.into())
        };
        match future::or(env.connect(*address), late).await {
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {}
            _ => return false,
        }
    }
    !addresses.is_empty()
}

impl Peers for Links {
    fn send(&self, to: NodeId, packet: Packet, memory: Option<Permit>) {
        self.link(to).push(packet, memory);
    }

    fn contacts(&self) -> Vec<NodeId> {
        self.book.contacts()
    }

    fn learn(&self, image: &Arc<ClusterImage>, current: bool) {
        self.book.learn(image, current);
    }

    fn room(&self, to: NodeId, bytes: usize) -> Pin<Box<dyn Future<Output = Option<Permit>>>> {
        Box::pin(self.link(to).room(bytes))
    }
}
