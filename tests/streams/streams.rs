//! Kafka Streams and Kafka Connect, stock, against a broker of ours: what they make of it (groups,
//! transactions, compacted topics, offsets) holds over kills of theirs and of the broker's.

mod connect;
mod wordcount;
