//! Frames and requests that can't be read: lengths, keys and versions out of range, random bytes.

use std::net::Shutdown;

use streamd_tests::batch::{Batch, put};
use streamd_tests::wire::{Body, frame, produce_body};

use crate::{Fixture, Noise, Outcome, assert_closed, outcome};

const UNSUPPORTED_VERSION: i16 = 35;
const API_VERSIONS: i16 = 18;

/// Sends bytes alone on a new connection; the broker must close it, with or without an answer.
#[track_caller]
fn assert_closes(fixture: &Fixture, bytes: &[u8], what: &str) {
    let mut connection = fixture.connect();
    let sent = connection.send_raw(bytes);
    let end = sent.and_then(|()| connection.receive_raw()).err();
    let end = end.unwrap_or_else(|| panic!("{what} was answered"));
    println!("{what}: {end}");
    assert_closed(&end);
}

#[test]
fn frames_of_impossible_length_are_closed() {
    let fixture = Fixture::shared();
    let _turn = fixture.turn();
    for length in [-1, i32::MIN, i32::MAX, 104_857_601, 0, 1, 7] {
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.extend([0; 7]);
        assert_closes(&fixture, &bytes, &format!("a frame of {length} bytes"));
    }
    fixture.assert_serves_on();
}

#[test]
fn unknown_keys_and_versions() {
    let fixture = Fixture::shared();
    let _turn = fixture.turn();
    for (key, version) in [
        (999, 0),
        (-1, 0),
        (i16::MAX, 3),
        (1, 99),
        (3, -1),
        (0, 99),
        (3, i16::MIN),
    ] {
        let bytes = frame(key, version, 1, &[0; 32]);
        assert_closes(&fixture, &bytes, &format!("key {key} version {version}"));
    }
    fixture.assert_serves_on();
}

/// Version 0 to 2 of Produce is advertised, for old clients' sake, and not served.
#[test]
fn old_versions_of_produce() {
    let fixture = Fixture::shared();
    let _turn = fixture.turn();
    for version in 0..3 {
        let body = Body::default()
            .i16(1)
            .i32(1000)
            .i32(1)
            .string(&fixture.topic);
        let body = body.i32(1).i32(0).bytes(&Batch::of(&["x"]).encode());
        let got = outcome(&fixture, 0, version, &body);
        assert!(matches!(got, Outcome::Closed), "Produce {version}: {got:?}");
    }
    fixture.assert_serves_on();
}

#[test]
fn api_versions_of_an_unknown_version_is_answered_as_version_0() {
    let fixture = Fixture::shared();
    let _turn = fixture.turn();
    // As clients send it: tags of the header, software name and version, tags.
    let newest = Body(b"\0\x02x\x021\0".to_vec());
    for version in [42, 99, i16::MAX] {
        let Outcome::Answered(mut answer) = outcome(&fixture, API_VERSIONS, version, &newest)
        else {
            panic!("ApiVersions {version} was not answered");
        };
        assert_eq!(answer.i16(), UNSUPPORTED_VERSION);
        let count = answer.i32();
        let ranges: Vec<_> = (0..count)
            .map(|_| (answer.i16(), answer.i16(), answer.i16()))
            .collect();
        let own = ranges
            .iter()
            .find(|r| r.0 == API_VERSIONS)
            .expect("the range of ApiVersions");
        assert!(own.1 == 0 && own.2 >= 3, "{own:?}");
        assert_eq!(answer.rest(), [], "bytes after a version 0 answer");
    }
    // On the same connection the client asks again, in a version that is served.
    let mut connection = fixture.connect();
    let mut first = connection
        .call(API_VERSIONS, 99, &newest)
        .expect("an answer");
    assert_eq!(first.i16(), UNSUPPORTED_VERSION);
    let mut second = connection
        .call(API_VERSIONS, 0, &Body::default())
        .expect("an answer");
    assert_eq!(second.i16(), 0);
}

#[test]
fn lengths_within_a_request_that_lie_are_closed() {
    let fixture = Fixture::shared();
    let _turn = fixture.turn();
    let produce = produce_body(&fixture.topic, 0, &Batch::of(&["x"]).encode()).0;
    let topics = 8; // transactional id (2), acks (2), timeout (4), then the topics' count
    for count in [i32::MAX, 1 << 24, i32::MIN, 2] {
        let mut body = produce.clone();
        put(&mut body, topics, &count.to_be_bytes());
        assert_closes(&fixture, &frame(0, 7, 1, &body), &format!("{count} topics"));
        put(&mut body, topics, &1i32.to_be_bytes());
        let partitions = topics + 4 + 2 + fixture.topic.len();
        put(&mut body, partitions, &count.to_be_bytes());
        assert_closes(
            &fixture,
            &frame(0, 7, 1, &body),
            &format!("{count} partitions"),
        );
    }
    for length in [i16::MAX, i16::MIN, -1] {
        let mut body = produce.clone();
        put(&mut body, topics + 4, &length.to_be_bytes());
        assert_closes(
            &fixture,
            &frame(0, 7, 1, &body),
            &format!("a name of {length} bytes"),
        );
    }
    let header = [0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 1, 0x7f, 0xff];
    assert_closes(&fixture, &header, "a client id beyond the frame");
    let metadata = Body::default().i32(i32::MAX);
    assert_closes(
        &fixture,
        &frame(3, 4, 1, &metadata.0),
        "Metadata of 2 billion topics",
    );
    // Flexible: a compact array of 2 billion topics; then a section of as many tags.
    let huge = [0xff, 0xff, 0xff, 0xff, 0x07];
    let compact = [&[0][..], &huge, &[0; 8]].concat();
    assert_closes(
        &fixture,
        &frame(3, 12, 1, &compact),
        "Metadata 12 of 2 billion topics",
    );
    assert_closes(
        &fixture,
        &frame(3, 12, 1, &huge),
        "a header of 2 billion tags",
    );
    fixture.assert_serves_on();
}

#[test]
fn half_a_frame_and_then_the_end() {
    let fixture = Fixture::shared();
    let _turn = fixture.turn();
    let whole = frame(
        0,
        7,
        1,
        &produce_body(&fixture.topic, 0, &Batch::of(&["x"]).encode()).0,
    );
    for cut in 1..whole.len() {
        let mut connection = fixture.connect();
        connection
            .send_raw(&whole[..cut])
            .expect("a fresh connection takes bytes");
        connection
            .stream()
            .shutdown(Shutdown::Write)
            .expect("a half-closed socket");
        let end = connection
            .receive_raw()
            .expect_err("half a frame was answered");
        assert_closed(&end);
    }
    fixture.assert_serves_on();
}

#[test]
fn random_bytes() {
    let fixture = Fixture::shared();
    let _turn = fixture.turn();
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    for _ in 0..1000 {
        let mut connection = fixture.connect();
        let length = noise.next() as usize % 4000;
        let bytes = noise.bytes(length);
        let _ = connection.send_raw(&bytes); // it may be closed in the middle
    }
    fixture.assert_serves_on();
}

/// A right header before a random body, for every API and version.
#[test]
fn random_bodies_of_every_request() {
    let fixture = Fixture::shared();
    let _turn = fixture.turn();
    let mut noise = Noise(0x1234_5678_9abc_def1);
    for key in 0..93 {
        for version in 0..19 {
            for size in [0, 1, 16, 200] {
                let mut body = noise.bytes(size);
                if size == 200 {
                    body.iter_mut().for_each(|b| *b &= 3); // small lengths get further
                }
                let mut connection = fixture.connect();
                let _ = connection.send_raw(&frame(key, version, 1, &body));
            }
        }
    }
    fixture.assert_serves_on();
}
