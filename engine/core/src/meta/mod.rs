//! The cluster's metadata: commands, the image that is their fold, and what may become a command.
//!
//! Invariant: an image is the same on every node that applied the same commands, except for what
//! [`Local`] adds to it; applying never fails. What may not happen is refused before it is logged:
//! [`validate`] makes a command out of a request, and [`ClusterImage::admit`] looks at it again
//! where the log is written, since another command may have come first.

pub(crate) mod cluster;
mod command;
mod image;
mod level;
mod snapshot;
mod topics;
pub mod validate;
mod wanted;

pub use cluster::{
    BrokerMeta, Cluster, ClusterCommand, Endpoint, PartitionMeta, REPLICAS_MAX, Registration,
};
pub use command::{Command, ConfigChange, Resource, decode_batch, encode_batch};
pub use image::{ClusterImage, Local, TopicMeta};
pub use level::{KNOWN, Levels};
pub use wanted::Wanted;

/// The most partitions that a node takes, over all topics.
pub const PARTITIONS_MAX: i64 = 100_000;
