//! What another node has to tell this one: frames of its shards, handed to the shards here.
//!
//! Invariants: the memory of a frame is held until it was dealt with, so a node that sends more
//! than is dealt with has to wait; who says something that cannot be understood is told so, and the
//! connection ends.

use std::rc::Rc;
use std::time::Duration;

use futures_lite::future;
use streamd_model::NodeId;
use streamd_wire::native::{Body, FLAG_ANSWER, Hello};

use super::peers::{Links, decode};
use super::{Conn, OWED_MAX, parse, unasked};
use crate::conn::{Hangup, Life};
use crate::frames::Frames;

/// A node says something each second. One that did not for so long is not there any more.
const SILENT: Duration = Duration::from_secs(15);
/// How often that is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Who has connected.
#[derive(Clone, Copy)]
pub struct Who {
    node: NodeId,
    incarnation: [u8; 16],
    directory: [u8; 16],
}

impl Who {
    /// Who says `hello`.
    pub fn says(hello: &Hello<'_>) -> Who {
        Who {
            node: hello.node,
            incarnation: hello.incarnation,
            directory: hello.directory,
        }
    }
}

/// Takes what a node says, until its connection ends.
pub async fn hear(
    conn: &Rc<Conn>,
    links: &Rc<Links>,
    frames: &mut Frames,
    who: Who,
) -> Result<(), Hangup> {
    let life = frames.life.clone();
    let hear = hear_all(conn, links, frames, who);
    let done = future::or(hear, watch(conn, &life, who.node)).await;
    if matches!(done, Ok(true) | Err(Hangup::Gone)) {
        links.suspect(who.node, who.incarnation);
    }
    done.map(drop)
}

/// Gives whether the other side has ended it.
async fn hear_all(
    conn: &Rc<Conn>,
    links: &Rc<Links>,
    frames: &mut Frames,
    who: Who,
) -> Result<bool, Hangup> {
    let shard = conn.broker.shard.clone();
    let mut checked = shard.image().version();
    while let Some((bytes, permits)) = frames.next().await? {
        let (header, body) = parse(&bytes)?;
        let version = shard.image().version();
        if version != checked {
            checked = version;
            if let Err(refusal) = links.book().check(who.node, who.directory) {
                conn.out.refuse((0, 0, 0), &refusal);
                return Ok(false);
            }
        }
        if let (Body::Ping, false) = (&body, header.is_answer()) {
            if !conn.out.at_most(OWED_MAX).await {
                return Ok(true);
            }
            conn.out
                .say((0, header.correlation, FLAG_ANSWER), &Body::Ping);
            continue;
        }
        let Some(packet) = decode(&bytes, &header, &body)? else {
            return Err(unasked(header.op));
        };
        shard.arrived(who.node, packet).await;
        drop(permits);
    }
    Ok(true)
}

async fn watch(conn: &Conn, life: &Life, node: NodeId) -> Result<bool, Hangup> {
    let env = &conn.broker.shard.env;
    loop {
        env.sleep(LOOK_EVERY).await;
        if env.now() - life.last.get() > SILENT {
            return Err(Hangup::Bad(format!(
                "node {} said nothing for {SILENT:?}",
                node.0
            )));
        }
    }
}
