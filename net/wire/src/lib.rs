//! What travels on the wire, as values: the Kafka protocol's codec, and that of the native one.
//!
//! Deliberately absent: sockets, topics, logs, threads. Bytes come in as slices and go out into a
//! growing buffer; who owns them is somebody else's business.
//! Invariant: decoding never allocates, never panics and reads only what it was given; the work is
//! linear in the bytes, whatever counts and lengths they claim.

pub mod kafka;
pub mod native;
