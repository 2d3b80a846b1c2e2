//! What a message between shards costs: on one thread, and there and back between two.
//!
//! `cargo bench -p streamd-io`.

use std::thread;

use divan::Bencher;
use divan::counter::ItemsCount;
use futures_lite::future::block_on;
use streamd_io::mailbox::mesh;

fn main() {
    divan::main();
}

/// A message of the size that requests have.
type Message = [u64; 8];

#[divan::bench(max_time = 0.5)]
fn push_and_pop(bencher: Bencher<'_, '_>) {
    let ends = mesh::<Message>(2, 128);
    let (from, to) = (&ends[0], &ends[1]);
    bencher.bench_local(|| {
        assert!(from.try_send(1, [7; 8]).is_ok(), "there is room");
        to.try_recv()
    });
}

#[divan::bench(max_time = 0.5)]
fn send_and_receive_64(bencher: Bencher<'_, '_>) {
    let ends = mesh::<Message>(2, 128);
    let (from, to) = (&ends[0], &ends[1]);
    bencher.counter(ItemsCount::new(64usize)).bench_local(|| {
        block_on(async {
            for i in 0..64 {
                from.send(1, [i; 8]).await;
            }
            for _ in 0..64 {
                divan::black_box(to.recv().await);
            }
        });
    });
}

/// A round trip to a thread that sleeps in between: the wake-ups are the price.
#[divan::bench(max_time = 1.0)]
fn round_trip_between_threads(bencher: Bencher<'_, '_>) {
    let mut ends = mesh::<Message>(2, 128);
    let (Some(far), Some(near)) = (ends.pop(), ends.pop()) else {
        unreachable!("two ends were asked for");
    };
    let other = thread::spawn(move || {
        block_on(async {
            // A message of zeros ends it.
            loop {
                let message = far.recv().await;
                if message[0] == 0 {
                    return;
                }
                far.send(0, message).await;
            }
        });
    });
    bencher.bench_local(|| {
        block_on(async {
            near.send(1, [7; 8]).await;
            near.recv().await
        })
    });
    block_on(async { near.send(1, [0; 8]).await });
    assert!(other.join().is_ok(), "the other thread ended well");
}
