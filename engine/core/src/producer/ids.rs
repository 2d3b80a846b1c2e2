//! Producer ids are taken from the metadata log in blocks, so that handing one out writes nothing.
//!
//! Invariant: an id is handed out once in the life of the cluster; a block that was not used up
//! before a restart is lost, which 2^63 ids can bear.

use streamd_model::ProducerId;

use crate::meta::{ClusterImage, Command};

/// How many ids a block has.
pub const BLOCK: i32 = 1000;

/// The ids that this broker may still hand out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IdBlock {
    next: i64,
    end: i64,
}

impl IdBlock {
    /// Hands out an id; `None` if a new block is needed.
    pub fn take(&mut self) -> Option<ProducerId> {
        if self.next >= self.end {
            return None;
        }
        let id = ProducerId(self.next);
        self.next += 1;
        Some(id)
    }

    /// The command that gets the next block. It is refused if somebody else came first: ask again
    /// with the newer image.
    pub fn request(image: &ClusterImage) -> Command {
        Command::AllocateProducerIds {
            first: image.next_producer_id(),
            count: BLOCK,
        }
    }

    /// Takes the block that `command` got, once it is committed. Any other command, or one that
    /// comes when there still are ids, changes nothing.
    pub fn granted(&mut self, command: &Command) {
        if let Command::AllocateProducerIds { first, count } = command
            && self.next >= self.end
        {
            (self.next, self.end) = (*first, first.saturating_add(i64::from(*count)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Configs;
    use crate::meta::Local;
    use streamd_model::NodeId;

    #[test]
    fn two_brokers_never_hand_out_the_same_id() {
        let mut image = ClusterImage::new(Local {
            node: NodeId(1),
            configs: Configs::new(),
        });
        let mut blocks = [IdBlock::default(); 2];
        let mut seen = std::collections::BTreeSet::new();
        for round in 0..5000 {
            let block = &mut blocks[round % 2];
            let id = block.take().unwrap_or_else(|| {
                let command = IdBlock::request(&image);
                image.admit(&command).unwrap();
                image.apply(&command);
                assert!(image.admit(&command).is_err(), "the same block twice");
                block.granted(&command);
                block.take().unwrap()
            });
            assert!(seen.insert(id), "{id:?} twice");
        }
        assert_eq!(image.next_producer_id(), 6000);
    }
}
