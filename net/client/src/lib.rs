//! A client of the native protocol, for programs that want records pushed to them.
//!
//! Invariants: what `append` returned for is durable and there once; a subscription hands out
//! each record once and in order for as long as it lives, over any number of connections.
//! Deliberately absent: a runtime, and transactions that write.
#![doc = "\n"]
#![doc = include_str!("../README.md")]

mod client;
mod error;
mod link;
mod nodes;
mod producer;
mod record;
mod subscription;

pub use client::{Client, Options, Topic};
pub use error::{Error, Result};
pub use producer::Producer;
pub use record::Record;
pub use subscription::{Start, Subscription};

#[cfg(test)]
mod tests {
    #[test]
    fn the_readme_shows_the_example() {
        let readme = include_str!("../README.md");
        let example = include_str!("../examples/hello.rs");
        let (_, code) = example.split_once("\n\n").expect("a header");
        assert!(
            readme.contains(code),
            "README.md and examples/hello.rs differ"
        );
    }
}
