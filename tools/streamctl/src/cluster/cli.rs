//! What can be typed behind `streamctl cluster`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::throttle::parse_rate;
use crate::cli::parse_topic;

/// `streamctl cluster ...`
#[derive(Debug, Subcommand)]
pub enum Cluster {
    /// Show the nodes, and partitions that lack something or move
    #[command(after_help = "Example:\n  streamctl cluster status --json | jq .summary")]
    Status,
    /// Move partitions to other nodes, or call moves off
    Reassign(Reassign),
    /// Have the preferred nodes lead again, or any that is there
    Elect(Elect),
    /// Take a node out of the cluster: its partitions move away first
    #[command(after_help = "Example:\n  streamctl cluster remove 4\n\n\
        The node runs until it has nothing any more; then it has to be stopped.")]
    Remove {
        /// The node's id
        #[arg(value_parser = clap::value_parser!(i32).range(0..))]
        node: i32,
        /// It stays after all
        #[arg(long)]
        cancel: bool,
    },
    /// Show which feature levels the nodes know, and raise that of the cluster
    #[command(after_help = "Examples:\n  \
        streamctl cluster upgrade\n  \
        streamctl cluster upgrade --yes\n\n\
        Replace the builds of all nodes first, one after the other. The level never falls:\n\
        builds that do not know it are refused from then on.")]
    Upgrade {
        /// The level [default: the highest that all nodes know]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(i16).range(1..))]
        to: Option<i16>,
        /// Raise it; without this it is only looked whether it could be
        #[arg(long)]
        yes: bool,
    },
    /// Start a cluster on this machine, or start its nodes again
    Up(Up),
    /// Stop the nodes that `up` has started
    Down {
        /// Where their data is
        #[arg(long, value_name = "DIR", default_value = "streamd-cluster")]
        dir: PathBuf,
    },
}

/// `streamctl cluster reassign`
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    streamctl cluster reassign flights --to 1,2,3\n  \
    streamctl cluster reassign flights:0 --to 4,2 --wait\n  \
    streamctl cluster reassign flights --to 2,3,4 --throttle 10MiB --wait\n  \
    streamctl cluster reassign flights --cancel\n\n\
    Each partition gets all of the nodes; who comes first is another one from partition to\n\
    partition, so that they share the lead. With --throttle what moves\n\
    is copied no faster than that; if this command is stopped meanwhile the throttle stays, and\n\
    --cancel, or the same command again, lifts it.")]
pub struct Reassign {
    /// Topics, or some of their partitions
    #[arg(required = true, value_name = "NAME[:P,P]", value_parser = parse_topic)]
    pub topics: Vec<(String, Vec<i32>)>,
    /// The nodes that shall have them
    #[arg(
        long,
        value_name = "N,N",
        value_delimiter = ',',
        required_unless_present = "cancel",
        conflicts_with = "cancel"
    )]
    pub to: Vec<i32>,
    /// Call off what is moving
    #[arg(long)]
    pub cancel: bool,
    /// Wait until nothing of them moves any more
    #[arg(long)]
    pub wait: bool,
    /// Copy at most so many bytes a second from and to each node; lifted when it is done
    #[arg(long, value_name = "BYTES", value_parser = parse_rate, requires = "wait",
        conflicts_with = "cancel")]
    pub throttle: Option<u64>,
}

/// `streamctl cluster elect`
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    streamctl cluster elect\n  \
    streamctl cluster elect flights:0 --unclean")]
pub struct Elect {
    /// Topics, or some of their partitions [default: all]
    #[arg(value_name = "NAME[:P,P]", value_parser = parse_topic)]
    pub topics: Vec<(String, Vec<i32>)>,
    /// Where nobody in sync is there let any replica lead: acknowledged records may be lost
    #[arg(long)]
    pub unclean: bool,
}

/// `streamctl cluster up`
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    streamctl cluster up -n 3\n  \
    streamctl cluster up -n 3 --dir /tmp/three --port 19092\n  \
    streamctl cluster up -n 3 -- --cores 1 --memory 256MiB\n\n\
    The program is streamd beside this one, or what STREAMD_BIN names.")]
pub struct Up {
    /// How many nodes
    #[arg(short, long, value_name = "N", default_value_t = 3,
        value_parser = clap::value_parser!(u16).range(1..=32))]
    pub nodes: u16,
    /// Where their data is
    #[arg(long, value_name = "DIR", default_value = "streamd-cluster")]
    pub dir: PathBuf,
    /// The port of the first node's Kafka listener; the others follow, the native ones are 100 up
    #[arg(long, value_name = "PORT", default_value_t = 9092,
        value_parser = clap::value_parser!(u16).range(1..=65_000))]
    pub port: u16,
    /// More for the command line of each node
    #[arg(last = true, value_name = "ARGS")]
    pub more: Vec<String>,
}
