//! Appends to a topic and reads it:
//! `cargo run -p streamd-client --example hello -- HOST:PORT TOPIC`.

use streamd_client::{Client, Error, Record, Start};

fn main() -> Result<(), Error> {
    let mut args = std::env::args().skip(1);
    let address = args.next().unwrap_or_else(|| "127.0.0.1:9095".to_owned());
    let topic = args.next().unwrap_or_else(|| "greetings".to_owned());
    hello(&address, &topic)
}

/// Writes three records to partition 0, reads them, and keeps for a group how far that went.
pub fn hello(address: &str, topic: &str) -> Result<(), Error> {
    let client = Client::connect(address)?;
    let topic = client.topic(topic)?;

    // What `append` returned for is on stable storage, once, at this offset.
    let mut producer = client.producer()?;
    let words = ["hello", "to", "you"];
    let first = producer.append(&topic, 0, &words.map(Record::of))?;

    // A group goes on where it was; a new one begins with what was just written.
    let from = match client.committed("readers", &topic, 0)? {
        Some(offset) => Start::At(offset),
        None => Start::At(first),
    };
    let mut stream = client.subscribe(&topic, 0, from)?;
    for _ in words {
        let record = stream.next_record()?;
        println!("{} {}", record.offset, record.text());
    }
    client.commit("readers", &topic, 0, stream.position())
}
