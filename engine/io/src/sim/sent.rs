//! What arrives of what is sent, for tests that hand things on without a network.

use std::io;

use bytes::Bytes;

use crate::{Class, Env, Part};

/// The bytes of these parts as a peer would read them.
///
/// # Errors
/// They cannot be sent: a file is shorter by now.
///
/// # Panics
/// If there is no network.
pub async fn sent(env: &Env, parts: Vec<Part>) -> io::Result<Bytes> {
    let len = parts.iter().map(Part::len).sum();
    let any = "127.0.0.1:0".parse().expect("an address");
    let listener = env.listen(any).await.expect("a listener");
    let address = listener.local_addr().expect("its address");
    let there = env.connect(address).await.expect("a connection");
    let accepted = listener.accept().await.expect("a connection");
    let (_, mut write) = env.adopt(accepted).expect("a connection").split();
    let (mut read, _write) = there.split();
    let sending = env.spawn(Class::Latency, async move { write.send(parts).await });
    let (mut bytes, mut at) = (vec![0; len], 0);
    while at < len {
        match read.read(&mut bytes[at..]).await? {
            0 => break,
            n => at += n,
        }
    }
    sending.await?;
    assert!(at == len, "{at} of {len} bytes came");
    Ok(bytes.into())
}
