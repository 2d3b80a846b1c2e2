//! Streams, on both arms.

use std::cell::RefCell;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use super::pattern;
use crate::{Bytes, Class, Env, OpenOptions, Part};

conformance! {
    streams_carry_everything_in_order,
    file_parts_are_sent,
    a_short_file_part_is_an_error,
    a_closed_peer_is_seen,
    a_connection_is_looked_at_and_passed_on,
    a_refused_connection,
    listeners_share_an_address,
    many_connections,
}

async fn read_exactly(r: &mut crate::ReadHalf, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    let mut at = 0;
    while at < len {
        let n = r.read(&mut out[at..]).await.unwrap();
        assert!(n > 0, "ended after {at} of {len}");
        at += n;
    }
    out
}

async fn streams_carry_everything_in_order(env: Env, _dir: PathBuf) {
    let listener = env.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let addr = listener.local_addr().unwrap();
    assert_ne!(addr.port(), 0);
    let e = env.clone();
    let client = env.spawn(Class::Latency, async move {
        let stream = e.connect(addr).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), addr);
        let (mut r, mut w) = stream.split();
        w.send(vec![Bytes::from_static(b"hello").into()])
            .await
            .unwrap();
        assert_eq!(read_exactly(&mut r, 5).await, b"HELLO");
        // Many parts, more than one call's worth; the other side reads late.
        let parts: Vec<Part> = (0..300)
            .map(|i| Bytes::from(pattern(40_000, i as u8)).into())
            .collect();
        w.send(parts).await.unwrap();
        w.shutdown();
        let mut buf = [0; 10];
        assert_eq!(r.read(&mut buf).await.unwrap(), 0);
    });
    let (mut r, mut w) = env.adopt(listener.accept().await.unwrap()).unwrap().split();
    assert_eq!(read_exactly(&mut r, 5).await, b"hello");
    w.send(vec![
        Bytes::from_static(b"HE").into(),
        Bytes::new().into(),
        Bytes::from_static(b"LLO").into(),
    ])
    .await
    .unwrap();
    env.sleep(Duration::from_millis(20)).await;
    for i in 0..300 {
        assert_eq!(read_exactly(&mut r, 40_000).await, pattern(40_000, i as u8));
    }
    let mut buf = [0; 10];
    assert_eq!(r.read(&mut buf).await.unwrap(), 0, "the peer has shut down");
    assert_eq!(r.read(&mut []).await.unwrap(), 0);
    drop((r, w));
    client.await;
}

async fn file_parts_are_sent(env: Env, dir: PathBuf) {
    let len = 3 << 20;
    let all = pattern(len, 4);
    let path = dir.join("big");
    let file = env
        .open(&path, &OpenOptions::new().create().direct().durable())
        .await
        .unwrap();
    let mut buf = env.alloc(len);
    buf[..len].copy_from_slice(&all);
    file.write_at(buf, 0).await.unwrap();
    let shared = file.shared();
    // Neither closing nor removing the file takes it from those who send it.
    file.close().await.unwrap();
    env.remove_file(&path).await.unwrap();

    let listener = env.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let e = env.clone();
    let client = env.spawn(Class::Latency, async move {
        let (mut r, _w) = e.connect(addr).await.unwrap().split();
        let head = read_exactly(&mut r, 4).await;
        e.sleep(Duration::from_millis(10)).await;
        (
            head,
            read_exactly(&mut r, len - 10).await,
            read_exactly(&mut r, 300).await,
        )
    });
    let (_r, mut w) = env.adopt(listener.accept().await.unwrap()).unwrap().split();
    w.send(vec![
        Bytes::from_static(b"head").into(),
        Part::File {
            file: shared.clone(),
            pos: 10,
            len: len - 10,
        },
        Part::File {
            file: shared.clone(),
            pos: 4000,
            len: 200,
        },
        Part::File {
            file: shared,
            pos: 0,
            len: 0,
        },
        Bytes::from(all[..100].to_vec()).into(),
    ])
    .await
    .unwrap();
    let (head, body, tail) = client.await;
    assert_eq!(head, b"head");
    assert!(body == all[10..]);
    assert_eq!(tail[..200], all[4000..4200]);
    assert_eq!(tail[200..], all[..100]);
}

async fn a_short_file_part_is_an_error(env: Env, dir: PathBuf) {
    let file = env
        .open(&dir.join("short"), &OpenOptions::new().create())
        .await
        .unwrap();
    file.write_plain(vec![1; 1000], 0).await.unwrap();
    let listener = env.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let client = env.connect(listener.local_addr().unwrap()).await.unwrap();
    let (_r, mut w) = env.adopt(listener.accept().await.unwrap()).unwrap().split();
    let part = Part::File {
        file: file.shared(),
        pos: 500,
        len: 1000,
    };
    let e = w.send(vec![part]).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::UnexpectedEof);
    drop(client);
}

async fn a_closed_peer_is_seen(env: Env, _dir: PathBuf) {
    let listener = env.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let client = env.connect(listener.local_addr().unwrap()).await.unwrap();
    let (mut r, mut w) = env.adopt(listener.accept().await.unwrap()).unwrap().split();
    {
        let mut closed = pin!(r.closed());
        assert!(
            futures_lite::future::poll_once(closed.as_mut())
                .await
                .is_none()
        );
        drop(client);
        closed.await;
    }
    let mut buf = [0; 1];
    assert_eq!(r.read(&mut buf).await.unwrap(), 0);
    // Writing to it fails sooner or later, and raises no signal.
    let mut failed = false;
    for _ in 0..100 {
        if w.send(vec![Bytes::from(vec![0; 100_000]).into()])
            .await
            .is_err()
        {
            failed = true;
            break;
        }
        env.sleep(Duration::from_millis(1)).await;
    }
    assert!(failed);
}

async fn a_connection_is_looked_at_and_passed_on(env: Env, _dir: PathBuf) {
    let listener = env.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (mut r, mut w) = env.connect(addr).await.unwrap().split();
    let mut first = env.adopt(listener.accept().await.unwrap()).unwrap();
    let mut buf = [0; 5];
    {
        let mut peek = pin!(first.peek(&mut buf));
        let none = futures_lite::future::poll_once(peek.as_mut()).await;
        assert!(none.is_none(), "nothing has come");
        w.send(vec![Bytes::from_static(b"hello, you").into()])
            .await
            .unwrap();
        let seen = peek.await.unwrap();
        assert!((1..=5).contains(&seen));
    }
    assert_eq!(buf[0], b'h');
    let second = env.adopt(first.pass_on().unwrap()).unwrap();
    let (mut read, mut write) = second.split();
    assert_eq!(read_exactly(&mut read, 10).await, b"hello, you");
    let answer = Bytes::from_static(b"and you");
    write.send(vec![answer.into()]).await.unwrap();
    assert_eq!(read_exactly(&mut r, 7).await, b"and you");

    let mut gone = env.connect(addr).await.unwrap();
    drop(env.adopt(listener.accept().await.unwrap()).unwrap());
    assert_eq!(gone.peek(&mut buf).await.unwrap(), 0, "it has closed");
}

async fn a_refused_connection(env: Env, _dir: PathBuf) {
    let listener = env.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let addr = listener.local_addr().unwrap();
    drop(listener);
    let e = env.connect(addr).await.err().unwrap();
    assert_eq!(e.kind(), ErrorKind::ConnectionRefused);
}

async fn listeners_share_an_address(env: Env, _dir: PathBuf) {
    let one = env.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let addr = one.local_addr().unwrap();
    let two = env.listen(addr).await.unwrap();
    assert_eq!(two.local_addr().unwrap(), addr);
    let counts = Rc::new(RefCell::new([0; 2]));
    let mut acceptors = Vec::new();
    for (i, listener) in [one, two].into_iter().enumerate() {
        let counts = counts.clone();
        let e = env.clone();
        acceptors.push(env.spawn(Class::Latency, async move {
            loop {
                drop(e.adopt(listener.accept().await.unwrap()).unwrap());
                counts.borrow_mut()[i] += 1;
            }
        }));
    }
    for _ in 0..60 {
        let (mut r, _w) = env.connect(addr).await.unwrap().split();
        assert_eq!(r.read(&mut [0]).await.unwrap(), 0);
    }
    let counts = *counts.borrow();
    assert_eq!(counts[0] + counts[1], 60);
    assert!(counts[0] > 0 && counts[1] > 0, "{counts:?}");
}

async fn many_connections(env: Env, _dir: PathBuf) {
    let listener = env.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let e = env.clone();
    let server = env.spawn(Class::Latency, async move {
        let mut tasks = Vec::new();
        for _ in 0..100 {
            let accepted = listener.accept().await.unwrap();
            let (mut r, mut w) = e.adopt(accepted).unwrap().split();
            tasks.push(e.spawn(Class::Latency, async move {
                let mut buf = [0; 100];
                loop {
                    match r.read(&mut buf).await.unwrap() {
                        0 => break,
                        n => w
                            .send(vec![Bytes::copy_from_slice(&buf[..n]).into()])
                            .await
                            .unwrap(),
                    }
                }
            }));
        }
        for task in tasks {
            task.await;
        }
    });
    let mut clients = Vec::new();
    for i in 0..100u8 {
        let e = env.clone();
        clients.push(env.spawn(Class::Latency, async move {
            let (mut r, mut w) = e.connect(addr).await.unwrap().split();
            for round in 0..20u8 {
                let text = pattern(37, i ^ round);
                w.send(vec![Bytes::from(text.clone()).into()])
                    .await
                    .unwrap();
                assert_eq!(read_exactly(&mut r, 37).await, text);
            }
        }));
    }
    for client in clients {
        client.await;
    }
    server.await;
}
