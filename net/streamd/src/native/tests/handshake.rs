//! What a connection begins with.

use std::time::Duration;

use super::*;
use crate::native::{HELLO_HEAD, wanted_shard};

/// What is said instead of Hello is told why it is not taken, and the connection ends.
async fn refused(broker: &Rc<Broker>, bytes: Vec<u8>) -> i16 {
    let mut peer = Peer::dial(broker).await;
    peer.send_raw(bytes).await;
    let came = peer.next().await.expect("a reason");
    let code = came.code();
    assert!(peer.next().await.is_none(), "the connection ends");
    code
}

fn frame(body: &Body<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    let tail = body.encode((0, 1, 0), &mut out);
    out.extend_from_slice(tail);
    out
}

#[test]
fn who_is_not_understood_is_told_so() {
    with_broker(&[], |broker| async move {
        let newer = Hello {
            versions: (2, 9),
            ..hello()
        };
        assert_eq!(refused(&broker, frame(&Body::Hello(newer))).await, 35);
        let elsewhere = Hello {
            cluster: "another",
            ..hello()
        };
        assert_eq!(refused(&broker, frame(&Body::Hello(elsewhere))).await, 104);
        let node = Hello {
            node: NodeId(3),
            ..hello()
        };
        assert_eq!(refused(&broker, frame(&Body::Hello(node))).await, 42);
        assert_eq!(refused(&broker, frame(&Body::Ping)).await, 42);
        let kafka = b"\0\0\0\x20\0\x12\0\x03aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa".to_vec();
        assert_eq!(refused(&broker, kafka).await, 42);
        let mut version = frame(&Body::Ping);
        version[4] = 9;
        assert_eq!(refused(&broker, version).await, 35);
        let header = Header {
            op: Op::Hello,
            flags: 0,
            stream: 0,
            correlation: 1,
            length: HELLO_BYTES_MAX + 1,
        };
        assert_eq!(refused(&broker, header.encode().to_vec()).await, 42);
        Peer::connect(&broker).await;
        broker.shard.env.sleep(Duration::from_secs(1)).await;
        assert_eq!(broker.requests.used(), 0);
    });
}

#[test]
fn a_hello_may_ask_for_a_shard() {
    let wanted = |stream, op| {
        let header = Header {
            op,
            flags: 0,
            stream,
            correlation: 1,
            length: 40,
        };
        wanted_shard(&header.encode())
    };
    assert_eq!(wanted(0, Op::Hello), None);
    assert_eq!(wanted(1, Op::Hello), Some(0));
    assert_eq!(wanted(u32::MAX, Op::Hello), Some(u32::MAX as usize - 1));
    assert_eq!(wanted(4, Op::Ping), None);
    assert_eq!(wanted_shard(b"STRM"), None);
    assert_eq!(wanted_shard(&[0; HELLO_HEAD]), None);
}

#[test]
fn a_welcome_says_what_is_taken() {
    with_broker(&[], |broker| async move {
        let mut peer = Peer::dial(&broker).await;
        let cluster = broker.identity.cluster_id.clone();
        let known = Hello {
            cluster: &cluster,
            ..hello()
        };
        let came = peer.ask(0, &Body::Hello(known)).await;
        let Body::Welcome(welcome) = came.body() else {
            panic!("{:?}", came.body())
        };
        assert_eq!(welcome.payload_bytes_max as usize, broker.request_bytes_max);
        assert_eq!((welcome.version, welcome.cluster), (1, &cluster[..]));
        let pong = peer.ask(0, &Body::Ping).await;
        assert_eq!(pong.body(), Body::Ping);
        let came = peer.ask(0, &Body::TopicOf("nothing")).await;
        assert_eq!(came.code(), 3);
        // What nodes say among themselves is not for a client.
        peer.send(0, &Body::Raft(b"x")).await;
        assert_eq!(peer.next().await.unwrap().code(), 42);
        assert!(peer.next().await.is_none());
    });
}
