//! Waits for something new in a partition, however long it takes: for those whom the broker tells,
//! rather than being asked. A wait costs nothing while nothing happens.
//!
//! Invariant: a wait ends when it is dropped, or withdrawn by its token, and leaves nothing behind.

use std::cell::RefCell;
use std::rc::Rc;

use streamd_io::Class;
use streamd_model::{Map, Offset, PartitionId, ShardId};

use crate::mesh::{Reply, Request};
use crate::partition::Partition;
use crate::read::{ReadDone, ReadItem};
use crate::shard::Shard;
use crate::waiters::{Countdown, Watch};

/// Asks to be answered when a partition has something behind an offset, or cannot be used.
#[derive(Clone, Copy, Debug)]
pub struct NewsAsk {
    /// Where.
    pub partition: PartitionId,
    /// All before this offset is known.
    pub seen: Offset,
    /// Nothing of transactions that are open.
    pub committed: bool,
    /// What the wait is withdrawn by: no other has it.
    pub token: u64,
}

/// The waits of other shards.
#[derive(Default)]
pub(crate) struct Awaited(RefCell<Map<u64, Rc<Countdown>>>);

impl Awaited {
    /// A wait begins: to be called in the order in which messages come.
    pub fn begin(&self, token: u64) {
        self.0.borrow_mut().insert(token, Countdown::new(1));
    }

    /// It is withdrawn.
    pub fn withdraw(&self, token: u64) {
        if let Some(gone) = self.0.borrow_mut().remove(&token) {
            gone.take(1);
        }
    }
}

impl Shard {
    /// Begins to wait for shard `from`. In a task that holds no more than that takes: there may be
    /// many, for long.
    pub(crate) fn wait_for(self: Rc<Self>, from: ShardId, id: u64, ask: NewsAsk) {
        self.awaited.begin(ask.token);
        let env = self.env.clone();
        let wait = async move {
            self.tell_news(ask).await;
            // Boxed, what an answer takes is not held meanwhile.
            Box::pin(self.mesh.answer(from, id, Reply::Done)).await;
        };
        env.spawn(Class::Latency, wait).detach();
    }

    /// Waits for another shard, until it withdraws that.
    async fn tell_news(&self, ask: NewsAsk) {
        let gone = self.awaited.0.borrow().get(&ask.token).cloned();
        let Some(gone) = gone else { return };
        futures_lite::future::or(self.news(ask), gone.done()).await;
        self.awaited.0.borrow_mut().remove(&ask.token);
    }

    /// Does what a reader asks who waits.
    pub(crate) async fn serve_reader(&self, request: Request) -> Reply {
        match request {
            Request::ReadWhole(item) => return Reply::Read(vec![self.read_whole(&item).await]),
            Request::Watch(ask) => self.watch(ask).await,
            // That of another shard does not come here: see [`Shard::wait_for`].
            Request::News(ask) => self.news(ask).await,
            Request::NewsGone(token) => self.awaited.withdraw(token),
            _ => {}
        }
        Reply::Done
    }

    /// Waits until there is something to read at `seen`, or the partition is not to be had.
    pub async fn news(&self, ask: NewsAsk) {
        let Ok(partition) = self.open_partition(ask.partition).await else {
            return;
        };
        while !has_news(&partition, &ask) {
            let watch = Watch::of(&partition.waiters);
            watch.changed().await;
        }
    }

    /// Like [`Shard::read`] of one partition, but what is read ends where a batch ends, and its
    /// next offset is exact.
    pub async fn read_whole(&self, item: &ReadItem) -> ReadDone {
        self.touch(std::iter::once(item.partition));
        self.read_one(item, (item.bytes_max, true)).await
    }
}

fn has_news(partition: &Partition, ask: &NewsAsk) -> bool {
    if partition.usable().is_err() || partition.is_readable(true).is_err() {
        return true;
    }
    let marks = partition.watermarks();
    let limit = match ask.committed {
        true => marks.stable,
        false => marks.high,
    };
    limit > ask.seen || ask.seen < marks.start
}
