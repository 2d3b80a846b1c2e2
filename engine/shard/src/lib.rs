//! streamd engine crate: shard.
