//! The judge: another implementation reads what we write, and we read what it writes.
//!
//! Random messages go through our encoder, the other's decoder, the other's encoder and our
//! decoder. The bytes of both encoders must be the same, and the message that comes back must be
//! the one that went out.

#[macro_use]
mod common;

use bytes::{Bytes, BytesMut};
use common::Gen;
use kafka_protocol::messages as oracle;
use kafka_protocol::protocol::{Decodable, Encodable, Message as _};
use streamd_wire::kafka::*;

/// Gives the bytes that the other implementation makes of ours.
fn through<O: Decodable + Encodable>(bytes: &[u8], version: i16) -> Vec<u8> {
    let mut input = Bytes::copy_from_slice(bytes);
    let message = O::decode(&mut input, version).unwrap();
    assert!(
        input.is_empty(),
        "version {version}: it left {} bytes",
        input.len()
    );
    let mut out = BytesMut::new();
    message.encode(&mut out, version).unwrap();
    out.to_vec()
}

macro_rules! one {
    ($message:ident) => {
        let (min, max) = <$message>::VERSIONS;
        let known = oracle::$message::VERSIONS;
        assert!(known.min <= max && known.max >= min, "{known}");
        for version in min.max(known.min)..=max.min(known.max) {
            let mut g = Gen::new(0x0_5ac1e + version as u64);
            for _ in 0..200 {
                let message: $message = g.message(version);
                let mut w = Writer::new();
                message.encode_body(version, &mut w).unwrap();
                let other = through::<oracle::$message>(w.bytes(), version);
                assert_eq!(other, w.bytes(), "version {version}: {message:?}");
                let back = <$message>::decode_body(&other, version).unwrap();
                assert_eq!(back, message, "version {version}");
            }
        }
    };
}

streamd_wire::for_every_api!(test_each);
