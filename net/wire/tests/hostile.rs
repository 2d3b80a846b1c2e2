//! Bytes from a client that means harm: no decoder panics, allocates, or gives a value that is not
//! what the bytes say.

mod common;

use allocation_counter::measure;
use common::Gen;
use streamd_wire::kafka::*;

/// Inputs for each request and each response over all its versions.
const REQUEST_INPUTS: usize = 100_000;
const RESPONSE_INPUTS: usize = 20_000;

/// Numbers that hurt when they are believed.
const NASTY: [&[u8]; 9] = [
    &[0x7f, 0xff, 0xff, 0xff],
    &[0xff, 0xff, 0xff, 0xff],
    &[0x80, 0x00, 0x00, 0x00],
    &[0xff, 0xff, 0xff, 0xff, 0x0f],
    &[0xff, 0xff, 0xff, 0xff, 0x07],
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
    &[0x7f, 0xff],
    &[0xff, 0xfe],
    &[0x00],
];

/// Damages a message, or makes noise.
fn damage(g: &mut Gen, valid: &[u8], out: &mut Vec<u8>) {
    out.clear();
    match g.below(4) {
        0 => out.extend((0..g.below(80)).map(|_| g.next() as u8)),
        1 => out.extend((0..g.below(80)).map(|_| [0, 1, 2, 0xff][g.below(4)])),
        _ => out.extend_from_slice(valid),
    }
    for _ in 0..g.below(4) {
        let at = g.below(out.len() + 1);
        match g.below(4) {
            0 => out.truncate(at),
            1 => {
                let nasty = NASTY[g.below(NASTY.len())];
                let end = out.len().min(at + nasty.len());
                out.splice(at..end, nasty.iter().copied());
            }
            2 => out.insert(at, g.next() as u8),
            _ => out
                .iter_mut()
                .skip(at)
                .take(1)
                .for_each(|b| *b ^= 1 << g.below(8)),
        }
    }
}

/// Decodes; what is accepted must encode, and decode to the same again.
macro_rules! attack {
    ($message:ident, $bytes:expr, $version:expr) => {{
        let bytes: &[u8] = $bytes;
        let mut decoded = None;
        let cost = measure(|| decoded = Some(<$message>::decode_body(bytes, $version)));
        assert_eq!(cost.bytes_total, 0, "decoding {} {bytes:02x?}", $version);
        if let Some(Ok(message)) = decoded {
            let mut w = Writer::new();
            let cost = measure(|| message.encode_body($version, &mut w).unwrap());
            assert!(
                cost.bytes_max as usize <= 4096 + 16 * bytes.len(),
                "{cost:?} {bytes:02x?}"
            );
            assert!(w.bytes().len() <= bytes.len(), "{} {bytes:02x?}", $version);
            let again = <$message>::decode_body(w.bytes(), $version).unwrap();
            // Not-a-number apart there is no float: equal is equal.
            assert_eq!(again, message);
            true
        } else {
            false
        }
    }};
}

macro_rules! every_message {
    ($($request:ident $response:ident;)*) => {
        $(
            every_message!(one $request REQUEST_INPUTS);
            every_message!(one $response RESPONSE_INPUTS);
        )*

        #[test]
        fn a_few_bytes_do_not_reserve_memory() {
            let mut g = Gen::new(7);
            $(
                for version in <$request>::VERSIONS.0..=<$request>::VERSIONS.1 {
                    for bomb in bombs(&mut g) {
                        attack!($request, &bomb, version);
                    }
                }
            )*
        }
    };
    (one $message:ident $inputs:ident) => {
        #[allow(non_snake_case, reason = "named as the message")]
        #[test]
        fn $message() {
            let (min, max) = <$message>::VERSIONS;
            let mut g = Gen::new(0xbad);
            let (mut bytes, mut accepted) = (Vec::new(), 0);
            let each = $inputs / usize::from((max - min + 1).unsigned_abs());
            for version in min..=max {
                let mut valid = Writer::new();
                for i in 0..each {
                    if i % 50 == 0 {
                        valid.clear();
                        let message: $message = g.message(version);
                        message.encode_body(version, &mut valid).unwrap();
                    }
                    damage(&mut g, valid.bytes(), &mut bytes);
                    accepted += usize::from(attack!($message, &bytes, version));
                }
            }
            assert!(accepted > 0, "nothing was accepted: the inputs are too wild to test much");
            assert!(accepted < $inputs, "everything was accepted: the inputs are too tame");
        }
    };
}

streamd_wire::for_every_api!(every_message);

/// Bodies of up to 12 bytes with a huge count or length at every place.
fn bombs(g: &mut Gen) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for len in 1..=12 {
        for nasty in NASTY {
            for at in 0..len {
                let mut body = vec![g.below(2) as u8; len];
                for (to, from) in body.iter_mut().skip(at).zip(nasty) {
                    *to = *from;
                }
                out.push(body);
            }
        }
    }
    out
}

#[test]
fn a_count_is_compared_with_the_bytes_that_remain() {
    // Metadata version 1: an array of topic names that claims 2^31 - 1 of them.
    let error = MetadataRequest::decode_body(&[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0], 1);
    let claimed = i64::from(i32::MAX);
    assert_eq!(
        error.unwrap_err(),
        DecodeError::Length {
            at: 0,
            length: claimed,
            have: 4
        }
    );
    let error = MetadataRequest::decode_body(&[0xff, 0xff, 0xff, 0xfe], 1);
    assert_eq!(
        error.unwrap_err(),
        DecodeError::Length {
            at: 0,
            length: -2,
            have: 0
        }
    );
}

#[test]
fn frames_of_noise_are_refused_without_allocating() {
    let mut g = Gen::new(99);
    let mut frame = Vec::new();
    for _ in 0..REQUEST_INPUTS {
        damage(
            &mut g,
            &[0, 3, 0, 9, 0, 0, 0, 1, 0, 1, b'c', 0, 1, 1, 0, 0, 0],
            &mut frame,
        );
        let mut parsed = None;
        let cost = measure(|| parsed = Some(Frame::parse(&frame)));
        assert_eq!(cost.bytes_total, 0);
        if let Some(Ok(parsed)) = parsed {
            assert!(parsed.body.len() < frame.len());
        }
    }
}

/// A request with one topic of one partition.
fn produce(version: i16) -> Vec<u8> {
    let partition = produce_request::PartitionProduceData {
        index: 3,
        records: Some(Records::Bytes(&[7; 500])),
    };
    let topic = produce_request::TopicProduceData {
        name: if version < 13 { "clicks" } else { "" },
        partition_data: vec![partition].into(),
        ..Default::default()
    };
    let request = ProduceRequest {
        acks: -1,
        timeout_ms: 30_000,
        topic_data: vec![topic].into(),
        ..Default::default()
    };
    let mut w = Writer::new();
    frame::encode_request(&request, version, 1, Some("client"), &mut w).unwrap();
    w.into_parts().0
}

#[test]
fn a_produce_request_is_read_without_allocating() {
    for version in 3..=13 {
        let frame = produce(version);
        let mut bytes = 0;
        let cost = measure(|| {
            let frame = Frame::parse(&frame[4..]).unwrap();
            let request: ProduceRequest = frame.decode().unwrap();
            for topic in &request.topic_data {
                for partition in &topic.partition_data {
                    bytes += partition.records.map_or(0, |records| records.len());
                }
            }
        });
        assert_eq!(bytes, 500);
        assert_eq!(cost.count_total, 0, "version {version}");
    }
}
