//! Validation of produced batches: good ones of every codec pass untouched, bad ones get Kafka's
//! code, and nothing that a client can send makes it panic.

use std::io::Write;

use proptest::prelude::*;
use streamd_log::batch::{self, BatchHeader, HEADER, NewRecord, Writer, build, restamp_time};
use streamd_log::compress::Inflate;
use streamd_log::validate::{Facts, Rules, Validation};
use streamd_log::{BatchError, Codec};
use streamd_model::ErrorCode;

const RULES: Rules = Rules {
    batch_bytes_max: 1 << 20,
    key_needed: false,
    log_append_time: false,
    before_max_ms: i64::MAX,
    after_max_ms: 3_600_000,
    now_ms: 1_000_000,
    zstd: true,
};

fn check(bytes: &[u8], rules: Rules) -> Result<Facts, BatchError> {
    Validation::begin(bytes, rules)?.run()
}

fn code(bytes: &[u8]) -> ErrorCode {
    check(bytes, RULES).map_or_else(|e| e.code, |_| ErrorCode::None)
}

fn plain(count: usize) -> Vec<u8> {
    let value = vec![b'v'; 100];
    let records: Vec<_> = (0..count)
        .map(|i| NewRecord {
            timestamp: 1000 + (i as i64 ^ 5),
            key: (i % 3 > 0).then_some(b"key".as_slice()),
            value: (i % 5 > 0).then_some(&value),
        })
        .collect();
    build(&records, Writer::default())
}

fn xerial(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![
        0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0, 0, 0, 0, 1, 0, 0, 0, 1,
    ];
    for block in bytes.chunks(1000) {
        let packed = snap::raw::Encoder::new().compress_vec(block).unwrap();
        out.extend_from_slice(&(packed.len() as u32).to_be_bytes());
        out.extend_from_slice(&packed);
    }
    out
}

fn packed(bits: i16, records: &[u8]) -> Vec<u8> {
    match bits {
        1 => {
            let mut w = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
            w.write_all(records).unwrap();
            w.finish().unwrap()
        }
        2 => xerial(records),
        3 => {
            let mut w = lz4_flex::frame::FrameEncoder::new(vec![]);
            w.write_all(records).unwrap();
            w.finish().unwrap()
        }
        4 => zstd::stream::encode_all(records, 1).unwrap(),
        _ => records.to_vec(),
    }
}

/// Puts other record bytes behind the header of `batch`, with codec, length and CRC to match.
fn with_records(batch: &[u8], bits: i16, records: &[u8]) -> Vec<u8> {
    let header = BatchHeader::parse(batch).unwrap();
    let mut out = batch[..HEADER].to_vec();
    out.extend_from_slice(records);
    let length = (out.len() - batch::LOG_OVERHEAD) as i32;
    out[8..12].copy_from_slice(&length.to_be_bytes());
    out[21..23].copy_from_slice(&((header.attributes & !7) | bits).to_be_bytes());
    restamp_time(&mut out, header.max_timestamp, header.is_log_append_time());
    out
}

fn compressed(bits: i16, count: usize) -> Vec<u8> {
    let batch = plain(count);
    with_records(&batch, bits, &packed(bits, &batch[HEADER..]))
}

fn fixed(mut batch: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    batch[at..at + bytes.len()].copy_from_slice(bytes);
    let header = BatchHeader::parse(&batch).unwrap();
    restamp_time(
        &mut batch,
        header.max_timestamp,
        header.is_log_append_time(),
    );
    batch
}

#[test]
fn every_codec_passes_and_needs_no_change() {
    for bits in 0..=4 {
        let batch = compressed(bits, 1000);
        let facts = check(&batch, RULES).unwrap();
        assert_eq!(facts.header.codec(), Codec::from_bits(bits));
        assert_eq!(
            facts.max_timestamp,
            1000 + (0..1000).map(|i| i ^ 5).max().unwrap()
        );
        assert!(!facts.restamp, "codec {bits}");
    }
    let batch = plain(50);
    let raw = snap::raw::Encoder::new()
        .compress_vec(&batch[HEADER..])
        .unwrap();
    assert_eq!(
        code(&with_records(&batch, 2, &raw)),
        ErrorCode::None,
        "librdkafka's snappy"
    );
}

/// Every kind of LZ4 frame: those that go straight into the window and those of the library.
#[test]
fn every_kind_of_lz4_frame_passes() {
    use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
    let batch = plain(60_000);
    let sizes = [
        BlockSize::Max64KB,
        BlockSize::Max256KB,
        BlockSize::Max1MB,
        BlockSize::Max4MB,
    ];
    for size in sizes {
        let plain = FrameInfo::new().block_size(size);
        let kinds = [
            (plain.clone().block_mode(BlockMode::Independent), true),
            (plain.clone().block_mode(BlockMode::Linked), false),
            (plain.clone().content_checksum(true), false),
            (plain.clone().block_checksums(true), false),
            (
                plain.content_size(Some((batch.len() - HEADER) as u64)),
                false,
            ),
        ];
        for (info, straight) in kinds {
            let mut encoder = FrameEncoder::with_frame_info(info.clone(), vec![]);
            encoder.write_all(&batch[HEADER..]).unwrap();
            let frame = encoder.finish().unwrap();
            let inflate = Inflate::new(Codec::Lz4, &frame).unwrap();
            let is_straight = matches!(inflate, Inflate::Lz4Blocks(_));
            assert_eq!(is_straight, straight, "{info:?}");
            let batch = with_records(&batch, 3, &frame);
            let rules = Rules {
                batch_bytes_max: batch.len(),
                ..RULES
            };
            assert!(check(&batch, rules).is_ok(), "{info:?}");
            // The library takes the end of the bytes for the end of the frame.
            let near_end = if straight {
                frame.len() - 1
            } else {
                frame.len() - 1000
            };
            for cut in [3, 7, 9, 1000, frame.len() / 2, near_end] {
                let cut = with_records(&batch, 3, &frame[..cut]);
                assert_eq!(code(&cut), ErrorCode::InvalidRecord, "{info:?}");
            }
        }
    }
}

#[test]
fn steps_come_to_the_same_end() {
    let batch = compressed(3, 1000);
    let mut validation = Validation::begin(&batch, RULES).unwrap();
    let mut steps = 0;
    let facts = loop {
        steps += 1;
        if let Some(facts) = validation.step(1000).unwrap() {
            break facts;
        }
    };
    assert!(steps > 50);
    assert_eq!(facts, check(&batch, RULES).unwrap());
}

#[test]
fn faults_get_kafkas_codes() {
    let good = plain(3);
    assert_eq!(code(&good), ErrorCode::None);
    let mut bad = good.clone();
    bad[HEADER + 3] ^= 1;
    assert_eq!(code(&bad), ErrorCode::CorruptMessage, "CRC");
    assert_eq!(
        code(&good[..good.len() - 1]),
        ErrorCode::InvalidRecord,
        "cut short"
    );
    assert_eq!(
        code(&[good.clone(), good.clone()].concat()),
        ErrorCode::InvalidRecord,
        "two"
    );
    assert_eq!(code(&good[..20]), ErrorCode::InvalidRecord);
    for (magic, expected) in [
        (0, ErrorCode::InvalidRecord),
        (1, ErrorCode::InvalidRecord),
        (3, ErrorCode::CorruptMessage),
    ] {
        let mut bad = good.clone();
        bad[16] = magic;
        assert_eq!(code(&bad), expected, "magic {magic}");
    }
    assert_eq!(
        code(&fixed(good.clone(), 57, &4i32.to_be_bytes())),
        ErrorCode::InvalidRecord
    );
    let more = fixed(
        fixed(good.clone(), 57, &4i32.to_be_bytes()),
        23,
        &3i32.to_be_bytes(),
    );
    assert_eq!(
        code(&more),
        ErrorCode::InvalidRecord,
        "counts a record that is not there"
    );
    let less = fixed(
        fixed(good.clone(), 57, &2i32.to_be_bytes()),
        23,
        &1i32.to_be_bytes(),
    );
    assert_eq!(
        code(&less),
        ErrorCode::InvalidRecord,
        "bytes behind the records"
    );
    let none = fixed(
        fixed(good.clone(), 57, &0i32.to_be_bytes()),
        23,
        &(-1i32).to_be_bytes(),
    );
    assert_eq!(code(&none), ErrorCode::InvalidRecord, "no record");
    assert_eq!(
        code(&fixed(good.clone(), 21, &0x20i16.to_be_bytes())),
        ErrorCode::InvalidRecord
    );
    assert_eq!(
        code(&fixed(good.clone(), 21, &5i16.to_be_bytes())),
        ErrorCode::InvalidRecord
    );
    assert_eq!(
        code(&fixed(good.clone(), 43, &9i64.to_be_bytes())),
        ErrorCode::InvalidRecord
    );
    let old = Rules {
        zstd: false,
        ..RULES
    };
    let e = check(&compressed(4, 3), old).unwrap_err();
    assert_eq!(e.code, ErrorCode::UnsupportedCompressionType);
    let small = Rules {
        batch_bytes_max: good.len() - 1,
        ..RULES
    };
    assert_eq!(
        check(&good, small).unwrap_err().code,
        ErrorCode::MessageTooLarge
    );
}

#[test]
fn single_records_are_blamed() {
    let e = check(
        &plain(6),
        Rules {
            key_needed: true,
            ..RULES
        },
    )
    .unwrap_err();
    assert_eq!((e.code, e.records), (ErrorCode::InvalidRecord, vec![0, 3]));
    let late = Rules {
        now_ms: 500,
        after_max_ms: 503,
        ..RULES
    };
    let e = check(&plain(4), late).unwrap_err();
    assert_eq!(
        (e.code, e.records),
        (ErrorCode::InvalidTimestamp, vec![0, 1, 2, 3])
    );
    let early = Rules {
        before_max_ms: 10,
        ..RULES
    };
    assert_eq!(
        check(&plain(1), early).unwrap_err().code,
        ErrorCode::InvalidTimestamp
    );
}

#[test]
fn timestamps_are_put_right() {
    let mut wrong = plain(10);
    restamp_time(&mut wrong, 7, false);
    let facts = check(&wrong, RULES).unwrap();
    assert!(facts.restamp);
    restamp_time(&mut wrong, facts.max_timestamp, false);
    assert_eq!(wrong, plain(10));
    let facts = check(
        &plain(10),
        Rules {
            log_append_time: true,
            ..RULES
        },
    )
    .unwrap();
    assert!(facts.restamp && facts.log_append_time);
    assert_eq!(facts.max_timestamp, RULES.now_ms);
}

#[test]
fn bombs_end_at_the_limit() {
    let zeros = vec![0u8; 300 << 20];
    let batch = plain(1);
    // One record that states 300 MiB of value: length, attributes, deltas, null key, value.
    let mut head = Vec::new();
    let varint = |out: &mut Vec<u8>, v: i64| {
        let mut z = (v << 1) as u64;
        while z >= 0x80 {
            out.push(z as u8 | 0x80);
            z >>= 7;
        }
        out.push(z as u8);
    };
    varint(&mut head, zeros.len() as i64 + 9);
    head.extend_from_slice(&[0, 0, 0, 1]);
    varint(&mut head, zeros.len() as i64);
    head.extend_from_slice(&zeros);
    head.push(0);
    for bits in [3, 4] {
        let bomb = with_records(&batch, bits, &packed(bits, &head));
        let rules = Rules {
            batch_bytes_max: usize::MAX,
            ..RULES
        };
        let e = check(&bomb, rules).unwrap_err();
        assert_eq!(e.code, ErrorCode::InvalidRecord, "{}", e.text);
        assert!(e.text.contains("inflates"), "{}", e.text);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn noise_never_panics(noise in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = check(&noise, RULES);
    }

    #[test]
    fn damaged_records_never_panic(
        bits in 0i16..8,
        count in 1usize..20,
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut batch = compressed(bits.min(4), count);
        for (at, x) in flips {
            let at = 17 + at.index(batch.len() - 17);
            batch[at] ^= x;
        }
        if let Ok(h) = BatchHeader::parse(&batch) {
            // With a good CRC the damage reaches the walk of the records.
            restamp_time(&mut batch, h.max_timestamp, false);
            batch[21..23].copy_from_slice(&bits.to_be_bytes());
            restamp_time(&mut batch, h.max_timestamp, false);
        }
        let _ = check(&batch, RULES);
    }
}
