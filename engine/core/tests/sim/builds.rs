//! Builds: in some seeds the nodes begin with one of before there were feature levels. Somebody
//! replaces them one after another in the middle of everything else, raises the level when all are
//! new, and now and then starts an old one by mistake.

use streamd_core::control::Ask;
use streamd_core::meta::{ClusterCommand, ClusterImage, Command, KNOWN, Levels};
use streamd_model::NodeId;

use crate::world::{Event, MS, World};

/// What builds tell that know nothing of levels.
pub const OLD: (i16, i16) = (0, 0);
pub const NEW: (i16, i16) = KNOWN;

pub fn raise() -> Command {
    Command::Cluster(ClusterCommand::SetFeatureLevel(NEW.1))
}

impl World {
    /// The operator does the next thing, or makes a mistake.
    pub fn operate(&mut self) {
        if self.healed {
            return;
        }
        let pause = 150 * MS + self.rng.below(700 * MS);
        self.later(pause, Event::Operate);
        let all: Vec<NodeId> = self.hard.builds.keys().copied().collect();
        let old = all.iter().find(|n| self.hard.builds[n] == OLD).copied();
        if self.rng.chance(120) {
            let node = self.rng.pick(&all);
            self.replace(node, OLD);
        } else if let Some(node) = old.filter(|_| !self.rng.chance(100)) {
            self.replace(node, NEW);
        } else {
            // Also too early.
            self.tell(Ask::Propose {
                commands: vec![raise()],
                replication: None,
            });
            self.faults.fired("levels asked for");
        }
    }

    fn replace(&mut self, node: NodeId, build: (i16, i16)) {
        self.hard.builds.insert(node, build);
        self.faults.fired("builds replaced");
        self.down(node, "stops for another build");
    }

    /// Whether a node's build can live with an image.
    pub fn knows(&self, node: NodeId, image: &ClusterImage) -> bool {
        Levels::of(self.hard.builds[&node]).has(image.cluster().level())
    }

    /// The cluster does not take a node; whoever has started it takes the other build.
    pub fn turned_away(&mut self, node: NodeId, why: &str) {
        let latest = self.check.latest.clone();
        let rightly = latest.is_some_and(|latest| !self.knows(node, &latest));
        assert!(rightly, "a good broker is refused: {why}");
        self.faults.fired("old builds turned away");
        self.crash(node);
        self.hard.builds.insert(node, NEW);
        let back = self.rng.below(500 * MS);
        self.later(back, Event::Start(node));
    }
}
