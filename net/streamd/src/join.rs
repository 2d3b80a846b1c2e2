//! How a node with an empty data directory comes into a cluster: it asks one of the nodes that it
//! was told which cluster that is, and whether it would be taken. Before any shard runs.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use streamd_io::signal;
use streamd_model::{ErrorCode, NodeId, TopicId};
use streamd_wire::native::{Body, HEADER_BYTES, HELLO_BYTES_MAX, Header, Hello, VERSION};

/// How long the nodes may take to be there.
const JOIN_MAX: Duration = Duration::from_secs(60);
/// Between two rounds.
const AGAIN: Duration = Duration::from_millis(250);
/// How long one connection may take, and one answer.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// A node that belongs to a cluster asks only to be told that it is the wrong one.
const LOOK_MAX: Duration = Duration::from_millis(500);

/// What a node that wants to join says of itself.
pub struct Joiner<'a> {
    /// `node.id`.
    pub node: i32,
    /// Of its data directory.
    pub directory: TopicId,
    /// Where it is reached, `HOST:PORT`.
    pub address: &'a str,
}

/// The cluster, and who has said so.
pub struct Joined {
    /// `cluster.id`.
    pub cluster: String,
    /// The node that was asked.
    pub contact: NodeId,
    /// Where it was reached.
    pub address: String,
}

/// Why a node did not say welcome.
enum Refused {
    /// It may be there later.
    Later(String),
    /// It does not take this node.
    Never(String),
}

/// Asks the nodes at `addresses`, again and again, until one answers.
///
/// # Errors
/// Why this node is not taken, or that nobody answered.
pub fn join(joiner: &Joiner<'_>, addresses: &[String]) -> Result<Joined, String> {
    let until = Instant::now() + JOIN_MAX;
    let mut said = false;
    loop {
        let mut why = String::new();
        for address in addresses {
            match ask(joiner, "", address, ANSWER_MAX) {
                Ok(joined) => return Ok(joined),
                Err(Refused::Never(text)) => return Err(text),
                Err(Refused::Later(text)) => why = format!("{address}: {text}"),
            }
        }
        if Instant::now() >= until {
            return Err(format!(
                "--join: no node answered within {} s ({why}). Give addresses of nodes that run \
                 with --native-listen",
                JOIN_MAX.as_secs()
            ));
        }
        if !said {
            said = true;
            eprintln!("waiting for a node of the cluster to answer ({why})");
        }
        let stop = signal::wait_timeout(AGAIN).map_err(|e| format!("cannot wait: {e}"))?;
        if stop.is_some() {
            return Err("stopped before a node of the cluster had answered".to_owned());
        }
    }
}

/// Sees whether the nodes at `addresses` are of another cluster than this one, as far as they
/// answer at once.
///
/// # Errors
/// A sentence, if they are.
pub fn same(joiner: &Joiner<'_>, cluster: &str, addresses: &[String]) -> Result<(), String> {
    for address in addresses {
        match ask(joiner, cluster, address, LOOK_MAX) {
            Err(Refused::Never(text)) => return Err(format!("--join {address}: {text}")),
            Ok(_) => return Ok(()),
            Err(Refused::Later(_)) => {}
        }
    }
    Ok(())
}

fn ask(
    joiner: &Joiner<'_>,
    cluster: &str,
    address: &str,
    wait: Duration,
) -> Result<Joined, Refused> {
    let later = |e: std::io::Error| Refused::Later(e.to_string());
    let mut stream = None;
    for at in address.to_socket_addrs().map_err(later)? {
        stream = Some(TcpStream::connect_timeout(&at, wait));
        if matches!(stream, Some(Ok(_))) {
            break;
        }
    }
    let nowhere = || Refused::Later("the name has no address".to_owned());
    let mut stream = stream.ok_or_else(nowhere)?.map_err(later)?;
    stream.set_read_timeout(Some(wait)).map_err(later)?;
    stream.set_write_timeout(Some(wait)).map_err(later)?;
    let hello = Hello {
        versions: (VERSION, VERSION),
        node: NodeId(joiner.node),
        incarnation: [0; 16],
        directory: joiner.directory.0,
        cluster,
        name: joiner.address,
    };
    let mut bytes = Vec::new();
    Body::Hello(hello).encode((0, 1, 0), &mut bytes);
    stream.write_all(&bytes).map_err(later)?;
    let mut head = [0; HEADER_BYTES];
    let ended = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::UnexpectedEof => {
            Refused::Later("it ended the connection; is that a --native-listen?".to_owned())
        }
        _ => later(e),
    };
    stream.read_exact(&mut head).map_err(ended)?;
    let other = |e| {
        Refused::Never(format!(
            "{address} does not speak the native protocol ({e}). Give an address of a node's \
             --native-listen"
        ))
    };
    let header = Header::decode(&head, HELLO_BYTES_MAX).map_err(other)?;
    let mut payload = vec![0; header.length as usize];
    stream.read_exact(&mut payload).map_err(later)?;
    match Body::decode(&header, &payload).map_err(other)? {
        Body::Welcome(welcome) => Ok(Joined {
            cluster: welcome.cluster.to_owned(),
            contact: welcome.node,
            address: address.to_owned(),
        }),
        Body::Error(failure) => {
            let text = failure.text.to_owned();
            let later = [ErrorCode::BrokerNotAvailable, ErrorCode::RequestTimedOut];
            match later.iter().any(|c| c.code() == failure.code) {
                true => Err(Refused::Later(text)),
                false => Err(Refused::Never(text)),
            }
        }
        _ => Err(Refused::Never(format!(
            "{address} gave no answer of a node"
        ))),
    }
}
