//! The native client at a cluster: it writes to and reads from whoever leads, and keeps offsets
//! with whoever coordinates, while they are killed.

use std::thread;

use streamd_client::{Client, Record, Start};

use super::Cluster;

const PARTITIONS: i32 = 6;
const ROUNDS: usize = 20;

fn value(partition: i32, n: usize) -> String {
    format!("p{partition}-{n}")
}

/// Appends to all partitions at once; gives how many records each has then.
fn write(client: &Client, from: usize) -> usize {
    let topic = client.topic("t").expect("the topic");
    let mut producer = client.producer().expect("a producer");
    for n in from..from + ROUNDS {
        let records: Vec<[Record; 1]> =
            (0..PARTITIONS).map(|p| [Record::of(value(p, n))]).collect();
        let batches: Vec<(i32, &[Record])> = (0..PARTITIONS)
            .zip(&records)
            .map(|(p, r)| (p, &r[..]))
            .collect();
        let done = producer.append_all(&topic, &batches).expect("answers");
        for (partition, one) in done.into_iter().enumerate() {
            assert_eq!(one, Ok(n as i64), "partition {partition}");
        }
    }
    from + ROUNDS
}

#[test]
fn the_native_client_follows_leaders_and_coordinators() {
    let mut cluster = Cluster::start();
    cluster.topic("t", PARTITIONS);
    let client = Client::connect(&cluster.0[1].native).expect("a connection");
    let topic = client.topic("t").expect("the topic");
    // Readers that live through all of it.
    let last = 4 * ROUNDS;
    let readers: Vec<_> = (0..PARTITIONS)
        .map(|partition| {
            let stream = client.subscribe(&topic, partition, Start::Earliest);
            let mut stream = stream.expect("a stream");
            thread::spawn(move || {
                for n in 0..last {
                    let record = stream.next_record().expect("a record");
                    assert_eq!(record.offset, n as i64);
                    assert_eq!(record.text(), value(partition, n));
                }
            })
        })
        .collect();
    let mut written = write(&client, 0);
    // The one that it was told of goes too.
    for gone in [1, 0, 2] {
        cluster.0[gone].broker.kill();
        written = write(&client, written);
        for partition in 0..PARTITIONS {
            let next = written as i64 - i64::from(partition);
            let kept = client.commit("readers", &topic, partition, next);
            kept.expect("an offset is kept");
        }
        cluster.0[gone].broker.start_again();
        cluster.in_sync(&["t", "__consumer_offsets"]);
    }
    assert_eq!(written, last);
    for reader in readers {
        reader.join().expect("all records, in order, once");
    }
    for partition in 0..PARTITIONS {
        let kept = client.committed("readers", &topic, partition);
        assert_eq!(kept, Ok(Some(last as i64 - i64::from(partition))));
    }
    // Whom nobody told of a node asks one that is there.
    let several = format!("127.0.0.1:9,{}", cluster.0[2].native);
    let client = Client::connect(&several).expect("the second is there");
    assert_eq!(client.topic("t"), Ok(topic));
}
