//! Feature levels: what every node of a cluster can read, and so what each of them may write.
//!
//! Invariants: the agreed level only rises, and only to one that all registered brokers know; no
//! broker registers that cannot live at it. So what a level brings is written once it is agreed,
//! by whoever asks [`Cluster::level`] first, and is never met by a build that cannot read it.
//!
//! Builds of before there were levels tell `(0, 0)`, live at 0, and take nobody who cannot: they
//! are of level 1, which is written as 0 for as long as there may be one of them.

use std::fmt;

use streamd_model::ErrorCode;

use super::cluster::{BrokerMeta, Cluster, Registration};
use crate::Refused;

/// The levels that this build can live at, lowest and highest, as a broker tells them. What each
/// of them brings is listed in `engine/decisions/0012-feature-level.md`.
pub const KNOWN: (i16, i16) = (0, 2);

/// The level of builds of before there were any.
const FIRST: i16 = 1;

/// The levels that a build can live at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Levels {
    /// The lowest.
    pub lowest: i16,
    /// The highest.
    pub highest: i16,
}

impl Levels {
    /// What a broker has told.
    pub fn of(told: (i16, i16)) -> Levels {
        Levels {
            lowest: told.0.max(FIRST),
            highest: told.1.max(FIRST),
        }
    }

    /// Whether the build can live at `level`.
    pub fn has(&self, level: i16) -> bool {
        (self.lowest..=self.highest).contains(&level)
    }
}

impl fmt::Display for Levels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.lowest == self.highest {
            true => write!(f, "level {}", self.lowest),
            false => write!(f, "levels {} to {}", self.lowest, self.highest),
        }
    }
}

impl Registration {
    /// The levels that the broker can live at.
    pub fn levels(&self) -> Levels {
        Levels::of(self.features)
    }

    /// Whether the broker can live in a cluster that is at `level`.
    ///
    /// # Errors
    /// A sentence: why not, and what to do.
    pub fn lives_at(&self, level: i16) -> Result<(), String> {
        let (node, levels) = (self.node.0, self.levels());
        if levels.has(level) {
            return Ok(());
        }
        let mend = match levels.highest < level {
            true => format!("start a newer build there, one that knows level {level}"),
            false => format!(
                "start an older build there, one that knows level {level} too; when all nodes \
                 have it, raise the level with `streamctl cluster upgrade`, and come back"
            ),
        };
        Err(format!(
            "the cluster is at feature level {level}, and the build of node {node} knows {levels}: \
             {mend}"
        ))
    }
}

impl Cluster {
    /// The level that is agreed: what it brings, and what those below it brought, may be written.
    pub fn level(&self) -> i16 {
        self.told_level().max(FIRST)
    }

    /// The registered brokers whose builds do not know `level`, by id.
    pub fn lacking(&self, level: i16) -> impl Iterator<Item = &BrokerMeta> {
        let all = self.brokers().map(|b| &**b);
        all.filter(move |b| !b.told.levels().has(level))
    }

    /// Whether the level may be raised so far.
    pub(super) fn admit_level(&self, level: i16) -> Result<(), Refused> {
        let now = self.level();
        if level <= now {
            let text = match level == now {
                true => format!("the feature level is {now} already"),
                false => format!(
                    "the feature level is {now}, and does not fall: what was written since it was \
                     raised cannot be read by builds of before"
                ),
            };
            return Err((ErrorCode::InvalidUpdateVersion, text));
        }
        let lacking = self.lacking(level).map(|b| {
            let gone = if b.fenced { ", is not running" } else { "" };
            format!("node {} knows {}{gone}", b.told.node.0, b.told.levels())
        });
        let lacking: Vec<String> = lacking.collect();
        if lacking.is_empty() {
            return Ok(());
        }
        let text = format!(
            "not every node knows feature level {level}: {}. Start a newer build there, or take \
             the node out with `streamctl cluster remove`",
            lacking.join("; ")
        );
        Err((ErrorCode::InvalidUpdateVersion, text))
    }
}

#[cfg(test)]
mod tests {
    use streamd_model::NodeId;

    use super::super::{ClusterCommand, ClusterImage, Command, Local};
    use super::*;

    fn told(node: i32, features: (i16, i16)) -> Registration {
        Registration {
            node: NodeId(node),
            incarnation: [1; 16],
            directory: [node as u8; 16],
            rack: None,
            endpoints: Vec::new(),
            features,
        }
    }

    fn register(told: Registration) -> Command {
        Command::Cluster(ClusterCommand::Register(told))
    }

    fn raise(level: i16) -> Command {
        Command::Cluster(ClusterCommand::SetFeatureLevel(level))
    }

    fn image() -> ClusterImage {
        ClusterImage::new(Local {
            node: NodeId(1),
            configs: Default::default(),
        })
    }

    fn do_it(image: &mut ClusterImage, command: Command) -> Result<(), String> {
        image.admit(&command).map_err(|(_, text)| text)?;
        image.apply(&command);
        Ok(())
    }

    #[test]
    fn builds_of_before_levels_and_this_one_live_together() {
        let mut image = image();
        assert_eq!(image.cluster().level(), 1);
        // What the builds of before look at when somebody registers.
        let stored = image.cluster().told_level();
        assert_eq!(stored, 0, "level 1 is written as they write it");
        assert!((KNOWN.0..=KNOWN.1).contains(&stored), "they take this one");
        do_it(&mut image, register(told(1, (0, 0)))).unwrap();
        do_it(&mut image, register(told(2, KNOWN))).unwrap();
        assert_eq!(image.cluster().told_level(), 0);
    }

    #[test]
    fn the_level_rises_once_all_know_it_and_never_falls() {
        let mut image = image();
        for (node, levels) in [(1, KNOWN), (2, (0, 0)), (3, (0, 1))] {
            do_it(&mut image, register(told(node, levels))).unwrap();
        }
        let refused = image.admit(&raise(2)).unwrap_err();
        assert_eq!(refused.0, ErrorCode::InvalidUpdateVersion);
        assert!(!refused.1.contains("node 1 "), "{}", refused.1);
        for of in ["node 2 knows level 1, is not", "node 3 knows level 1,"] {
            assert!(refused.1.contains(of), "{of}: {}", refused.1);
        }
        do_it(&mut image, register(told(2, KNOWN))).unwrap();
        assert!(image.admit(&raise(2)).is_err(), "one is left");
        let epoch = image.cluster().broker(NodeId(3)).unwrap().epoch;
        let node = NodeId(3);
        let gone = ClusterCommand::Unregister { node, epoch };
        do_it(&mut image, Command::Cluster(gone)).unwrap();
        do_it(&mut image, raise(2)).unwrap();
        assert_eq!(image.cluster().level(), 2);
        for level in [-1, 0, 1, 2, 3, i16::MAX] {
            let code = image.admit(&raise(level)).map_err(|r| r.0);
            assert_eq!(code, Err(ErrorCode::InvalidUpdateVersion), "{level}");
        }
        let bytes = image.encode();
        let local = image_local();
        let read = ClusterImage::decode(&bytes, local).unwrap();
        assert_eq!(read.cluster().level(), 2, "the snapshot has it");
    }

    fn image_local() -> Local {
        Local {
            node: NodeId(1),
            configs: Default::default(),
        }
    }

    #[test]
    fn who_cannot_live_at_the_level_is_told_what_to_do() {
        let mut image = image();
        do_it(&mut image, raise(2)).unwrap();
        let old = do_it(&mut image, register(told(3, (0, 0)))).unwrap_err();
        assert_eq!(
            old,
            "the cluster is at feature level 2, and the build of node 3 knows level 1: start a \
             newer build there, one that knows level 2"
        );
        let new = do_it(&mut image, register(told(3, (3, 4)))).unwrap_err();
        let says = "the build of node 3 knows levels 3 to 4: start an older build there";
        assert!(new.contains(says), "{new}");
        do_it(&mut image, register(told(3, (2, 4)))).unwrap();
        let code = image.admit(&register(told(4, (0, 1)))).map_err(|r| r.0);
        assert_eq!(code, Err(ErrorCode::InvalidRegistration));
    }
}
