//! Questions of clients and operators to the controller, from any shard.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use streamd_core::control::{Answer, Ask};
use streamd_core::meta::{ClusterImage, Command, Wanted};
use streamd_model::{ErrorCode, NodeId, ShardId};

use crate::Refusal;
use crate::asking;
use crate::mesh::{Reply, Request};
use crate::shard::Shard;

/// A new topic waits so long for a broker that could take it.
const SITE_MAX: Duration = Duration::from_secs(5);
/// How often that is looked for.
const SITE_POLL: Duration = Duration::from_millis(20);

/// What the controller has answered, and an image with what it decided.
pub type Decided = Result<(Answer, Arc<ClusterImage>), Refusal>;

fn stopping() -> Refusal {
    Refusal::new(ErrorCode::NotController, "this broker is stopping")
}

impl Shard {
    /// Asks the controller; any shard may.
    ///
    /// # Errors
    /// Why it refuses, or that it cannot be asked.
    pub async fn decide(self: &Rc<Self>, ask: Ask) -> Decided {
        match self.ask(ShardId(0), Request::Control(ask)).await {
            Some(Reply::Control(decided)) => decided,
            _ => Err(stopping()),
        }
    }

    /// Has the controller carry out what somebody wants; any shard may. Gives an image with it.
    ///
    /// # Errors
    /// See [`Shard::decide`].
    pub async fn want(self: &Rc<Self>, wanted: Wanted) -> Result<Arc<ClusterImage>, Refusal> {
        self.decide(wanted.into()).await.map(|(_, image)| image)
    }

    /// The image, once it knows this run of the broker and has one that could take partitions;
    /// right after a start that may take a moment.
    pub async fn sited_image(&self) -> Arc<ClusterImage> {
        let until = self.env.now() + SITE_MAX;
        loop {
            let image = self.image();
            let there = image.cluster().brokers().any(|b| b.is_active());
            if there && self.acts().is_some() || self.env.now() >= until {
                return image;
            }
            self.env.sleep(SITE_POLL).await;
        }
    }

    /// Who the controller is, as far as this node knows.
    pub fn controller(&self) -> Option<NodeId> {
        self.seated().controller
    }

    /// Asks the controller (shard 0 only). What is decided is known to every shard then.
    pub(crate) async fn control(self: &Rc<Self>, ask: Ask) -> Decided {
        let meta = self.meta.borrow().clone();
        let Some(meta) = meta else {
            return Err(stopping());
        };
        if places(&ask) {
            self.sited_image().await;
        }
        let commands = match &ask {
            Ask::Propose { commands, .. } => commands.clone(),
            _ => Vec::new(),
        };
        let is_done = |image: &ClusterImage| {
            !commands.is_empty() && commands.iter().all(|c| asking::is_done(image, c))
        };
        let answer = meta.decide(ask, is_done).await?;
        Ok((answer, self.image()))
    }

    /// Changes the metadata (shard 0 only): checked against the image, durable, known to every
    /// shard. Gives an image with the change in it.
    ///
    /// # Errors
    /// See [`Shard::decide`].
    pub async fn propose(self: &Rc<Self>, command: Command) -> Result<Arc<ClusterImage>, Refusal> {
        let ask = Ask::Propose {
            commands: vec![command],
            replication: None,
        };
        self.control(ask).await.map(|(_, image)| image)
    }
}

/// Whether partitions may get places.
fn places(ask: &Ask) -> bool {
    let creates = |c: &Command| {
        matches!(
            c,
            Command::CreateTopic { .. } | Command::CreatePartitions { .. }
        )
    };
    matches!(ask, Ask::Propose { commands, .. } if commands.iter().any(creates))
}
