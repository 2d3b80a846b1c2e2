//! What we encode we decode again, for every message and version.

#[macro_use]
mod common;

use common::{Gen, Sample};
use streamd_wire::kafka::*;

fn round_trip<'a, M>(bytes: &'a [u8], version: i16) -> M
where
    M: Message + Decode<'a>,
{
    let message = M::decode_body(bytes, version).unwrap();
    let mut again = Writer::new();
    message.encode_body(version, &mut again).unwrap();
    assert_eq!(
        again.bytes(),
        bytes,
        "a decoded message encodes to the same bytes"
    );
    message
}

macro_rules! one {
    ($message:ident) => {
        let (min, max) = <$message>::VERSIONS;
        for version in min..=max {
            let mut g = Gen::new(0xa11ce + version as u64);
            for _ in 0..300 {
                let message: $message = g.message(version);
                let mut w = Writer::new();
                message.encode_body(version, &mut w).unwrap();
                let back: $message = round_trip(w.bytes(), version);
                assert_eq!(back, message, "version {version}");
                for cut in 0..w.bytes().len().min(64) {
                    let cut = w.bytes().len() - 1 - cut;
                    <$message>::decode_body(&w.bytes()[..cut], version).unwrap_err();
                }
            }
        }
    };
}

streamd_wire::for_every_api!(test_each);

#[test]
fn a_sample_is_not_always_the_default() {
    let mut g = Gen::new(1);
    let some = (0..10)
        .map(|_| MetadataResponse::sample(&mut g))
        .any(|m| !m.brokers.is_empty());
    assert!(some);
}
