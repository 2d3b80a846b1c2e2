//! Small batches that inflate to a gigabyte. The broker may look into them or not, but neither
//! its memory nor its other clients may suffer. (Kafka inflates them in a stream and finds bad
//! records.)

use std::io::Write as _;
use std::thread;

use flate2::{Compress, Compression, FlushCompress};
use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
use streamd_tests::batch::{Batch, varint};

use crate::Fixture;

const GIB: usize = 1 << 30;
const CORRUPT_MESSAGE: i16 = 2;
const INVALID_RECORD: i16 = 87;
const NONE: i16 = 0;

/// Deflated zeros of 16 MiB, flushed to a byte, as often as it takes.
fn gzip(first: &[u8]) -> Vec<u8> {
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    deflate(first, &mut out);
    let mut part = Vec::new();
    deflate(&vec![0; GIB / 64], &mut part);
    for _ in 0..64 {
        out.extend(&part);
    }
    out.extend([3, 0]); // the last, empty block
    out.extend([0; 8]); // crc and size, wrong: who gets here has inflated all
    out
}

fn deflate(bytes: &[u8], out: &mut Vec<u8>) {
    out.reserve(bytes.len() / 500 + 100);
    let mut raw = Compress::new(Compression::best(), false);
    raw.compress_vec(bytes, out, FlushCompress::Sync)
        .expect("room was reserved");
}

/// Blocks of 4 MiB; the block of zeros is repeated.
fn lz4(first: &[u8]) -> Vec<u8> {
    let info = FrameInfo::new()
        .block_size(BlockSize::Max4MB)
        .block_mode(BlockMode::Independent);
    let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
    encoder.write_all(first).expect("writing to memory");
    encoder.flush().expect("writing to memory");
    let start = encoder.get_ref().len();
    encoder
        .write_all(&vec![0; 4 << 20])
        .expect("writing to memory");
    encoder.flush().expect("writing to memory");
    let mut out = encoder.get_ref().clone();
    let block = out[start..].to_vec();
    assert!(block.len() > (4 << 20) / 256, "a whole block of 4 MiB");
    for _ in 1..GIB / (4 << 20) {
        out.extend(&block);
    }
    out.extend([0; 4]);
    out
}

/// Run-length blocks of 128 KiB in four bytes each.
fn zstd(first: &[u8]) -> Vec<u8> {
    const RUN: usize = 128 << 10;
    // Magic, no size and no checksum, a window of 128 KiB.
    let mut out = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x38];
    let block = |kind: usize, size: usize, last: usize| {
        (size << 3 | kind << 1 | last).to_le_bytes()[..3].to_vec()
    };
    out.extend(block(0, first.len(), 0));
    out.extend(first);
    for i in 0..GIB / RUN {
        out.extend(block(1, RUN, usize::from(i == GIB / RUN - 1)));
        out.push(0);
    }
    out
}

fn bomb(codec: i16, first: &[u8]) -> Vec<u8> {
    let records = match codec {
        1 => gzip(first),
        3 => lz4(first),
        4 => zstd(first),
        _ => unreachable!("no bomb for codec {codec}"),
    };
    Batch {
        codec,
        records,
        ..Batch::of(&["x"])
    }
    .encode()
}

/// Sends the bomb eight times at once, while a bystander is served.
fn explode(fixture: &Fixture, topic: &str, batch: &[u8], right: &[i16]) {
    thread::scope(|scope| {
        let senders: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    fixture
                        .connect()
                        .produce(topic, 0, batch)
                        .expect("an answer")
                })
            })
            .collect();
        if fixture.broker.is_some() {
            fixture.assert_serves_on();
        }
        for sender in senders {
            let got = sender.join().expect("a sender").error;
            assert!(
                right.contains(&got),
                "a bomb was answered with {got}, not one of {right:?}"
            );
        }
    });
    fixture.assert_serves_on();
}

/// The inflated bytes are no records.
#[test]
fn bombs_of_zeros_are_refused() {
    let fixture = Fixture::shared();
    let _turn = fixture.turn();
    let topic = fixture.topic("bombs", &[("max.message.bytes", "10000000")]);
    for codec in [1, 3, 4] {
        explode(
            &fixture,
            &topic,
            &bomb(codec, &[]),
            &[INVALID_RECORD, CORRUPT_MESSAGE],
        );
    }
}

/// The inflated bytes are one record with a value of nearly a gigabyte.
#[test]
fn bombs_of_one_record_do_no_harm() {
    let fixture = Fixture::shared();
    let _turn = fixture.turn();
    let topic = fixture.topic("long-bombs", &[("max.message.bytes", "10000000")]);
    let mut start = vec![0, 0, 0]; // attributes, timestamp delta, offset delta
    varint(&mut start, -1);
    varint(&mut start, (GIB - 1) as i64);
    let mut first = Vec::new();
    varint(&mut first, (start.len() + GIB) as i64);
    first.extend(start);
    for codec in [3, 4] {
        let right = [NONE, INVALID_RECORD, CORRUPT_MESSAGE, 10];
        explode(&fixture, &topic, &bomb(codec, &first), &right);
    }
}

/// The bombs are what they say: a decoder gets the gigabyte out of them.
#[test]
fn bombs_are_real() {
    use std::io::{copy, sink};
    let first = [1, 2, 3];
    let whole = (GIB + first.len()) as u64;
    let deflated = gzip(&first);
    let mut decoder = flate2::bufread::DeflateDecoder::new(&deflated[10..]);
    assert_eq!(
        copy(&mut decoder, &mut sink()).expect("deflated bytes"),
        whole
    );
    let frame = zstd(&first);
    let mut decoder = ::zstd::stream::read::Decoder::new(&frame[..]).expect("a decoder");
    assert_eq!(
        copy(&mut decoder, &mut sink()).expect("a zstd frame"),
        whole
    );
    let frame = lz4(&first);
    let mut decoder = lz4_flex::frame::FrameDecoder::new(&frame[..]);
    assert_eq!(
        copy(&mut decoder, &mut sink()).expect("an lz4 frame"),
        whole
    );
}
