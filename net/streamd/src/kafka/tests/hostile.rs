//! Frames that nobody should send: the handlers answer or refuse, and go on.

use streamd_wire::kafka::Frame;
use streamd_wire::kafka::versions::SERVED;

use super::{create, with_broker};
use crate::kafka;

/// A frame's header: API, version, correlation id, client id, and no tags if there are tags.
fn header(api: i16, version: i16, flexible: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&api.to_be_bytes());
    bytes.extend_from_slice(&version.to_be_bytes());
    bytes.extend_from_slice(&[0, 0, 0, 7, 0, 1, b'x']);
    bytes.extend(flexible.then_some(0));
    bytes
}

#[test]
fn random_bodies_are_answered_or_refused() {
    with_broker(&[], |broker| async move {
        create(&broker, "t", 1).await;
        let env = broker.shard.env.clone();
        let (mut answered, mut refused) = (0, 0);
        for served in SERVED {
            for version in served.accept_min..=served.max {
                for round in 0..40 {
                    let mut bytes =
                        header(served.api.code(), version, served.api.is_flexible(version));
                    let len = env.random_u64() % 60;
                    // Small bytes make counts that fit; all kinds make lengths that do not.
                    let mask = if round % 2 == 0 { 3 } else { 255 };
                    bytes.extend((0..len).map(|_| env.random_u64() as u8 & mask));
                    let Ok(frame) = Frame::parse(&bytes) else {
                        continue;
                    };
                    if frame.header.api == streamd_wire::kafka::ApiKey::Produce {
                        continue;
                    }
                    match kafka::answer(&broker, ("/10.0.0.1", 0), &frame).await {
                        Ok(_) => answered += 1,
                        Err(why) => {
                            assert!(why.contains(served.api.name()), "{why}");
                            refused += 1;
                        }
                    }
                }
            }
        }
        assert!(
            answered > 100 && refused > 100,
            "{answered} answered, {refused} refused"
        );
        create(&broker, "still-alive", 1).await;
    });
}
