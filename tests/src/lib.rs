//! Tests that look at streamd from outside: as a process on a port, through stock clients.
//!
//! - `compat/`: stock clients write and read in every codec, and use their admin calls.
//! - `mainjob/`: real records through librdkafka, a SIGKILL in the middle, read back by Java.
//! - `crash/`: rounds of SIGKILL under load; nothing acknowledged is lost or doubled.
//! - `streams/`: Kafka Streams counts words exactly once over kills; Kafka Connect moves files.
//! - `scenarios/`: what people use such a log for: programs that check themselves.
//! - `cluster/`: three nodes join, are killed; `upgrade/`: get a new build; `many/` partitions.
//! - `full/`: a small disk gets full under load; `history/`: clients under faults; `differ/`.
//! - `hostile/`: what no client should send; the broker answers as Kafka does and serves on.
//!
//! `STREAMD_TEST_TARGET=HOST:PORT` points compat, mainjob (without the kill) and hostile at a
//! broker that runs already, such as Apache Kafka: so the tests themselves are validated.
//! `STREAMD_TEST_BIN=PATH` tests that binary instead of building `target/release/streamd`.
//! `tests/setup.sh` installs the clients' tools; tests install clients (`target/compat-cache`).

pub mod batch;
pub mod broker;
pub mod child;
pub mod client;
pub mod clock;
pub mod disk;
pub mod install;
pub mod net;
pub mod nodes;
pub mod noise;
pub mod previous;
pub mod run;
pub mod wire;
