//! Who this broker is: `meta.properties` in its data directory, made at the first start, by joining
//! a cluster or as a cluster of its own.
//!
//! Invariant: a directory belongs to one cluster and to one node, for ever.

use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;

use streamd_model::{NodeId, TopicId};

use crate::broker::{Identity, address};
use crate::config::Config;
use crate::join::{self, Joiner};

/// Nodes and where they are reached.
pub type Contacts = Vec<(NodeId, String)>;

/// Reads `meta.properties`, or makes it at the first start. The cluster id never changes. Gives the
/// nodes too that this one has the cluster from, if it has joined one.
pub fn identity(config: &Config) -> Result<(Identity, Contacts), String> {
    let path = config.data_dir.join("meta.properties");
    let fail = |e: io::Error| format!("{}: {e}", path.display());
    let text = match fs::read_to_string(&path) {
        Ok(text) => {
            joined_already(config, &text)?;
            text
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let text = first_properties(config)?;
            write_durably(&path, &text).map_err(fail)?;
            text
        }
        Err(e) => return Err(fail(e)),
    };
    let value = |key: &str| property(&text, key);
    let Some(cluster_id) = value("cluster.id").filter(|id| !id.is_empty()) else {
        return Err(format!(
            "{}: no line cluster.id=...; restore the file, or move the directory away to begin \
             anew",
            path.display()
        ));
    };
    let node_id = config.node_id.to_string();
    match value("node.id") {
        Some(stored) if stored == node_id => {}
        stored => {
            return Err(format!(
                "{}: this directory belongs to node.id={}, but --node-id says {node_id}",
                path.display(),
                stored.unwrap_or("(none)")
            ));
        }
    }
    let directory = directory(&path, &text)?;
    let identity = Identity {
        directory,
        incarnation: new_id().map_err(fail)?,
        cluster_id: cluster_id.to_owned(),
        node_id: config.node_id,
        host: config.advertise.0.clone(),
        port: config.advertise.1,
        native: config.native_listen.map(|at| at.port()),
        rack: config.rack.clone(),
    };
    let contact = value("joined").and_then(|at| at.split_once('@'));
    let contact = contact.and_then(|(id, at)| Some((NodeId(id.parse().ok()?), at.to_owned())));
    if value("joined").is_some() && config.native_listen.is_none() {
        return Err(format!(
            "{}: this directory belongs to a cluster of nodes: add --native-listen HOST:PORT, \
             where the others reach this one",
            path.display()
        ));
    }
    Ok((identity, contact.into_iter().collect()))
}

/// The id of the data directory.
fn directory(path: &Path, text: &str) -> Result<TopicId, String> {
    let fail = |e: io::Error| format!("{}: {e}", path.display());
    let id = property(text, "directory.id");
    match id.map(|id| (TopicId::from_base64(id), id)) {
        Some((Some(id), _)) => Ok(id),
        Some((None, id)) => Err(format!(
            "{}: directory.id={id} is no such id (22 characters, URL-safe base 64); restore the \
             file",
            path.display()
        )),
        // A directory of before it had one.
        None => {
            let id = new_id().map_err(fail)?;
            let text = format!("{}\ndirectory.id={id}\n", text.trim_end());
            write_durably(path, &text).map_err(fail)?;
            Ok(id)
        }
    }
}

fn property<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let mut lines = text.lines();
    let value = lines.find_map(|l| l.strip_prefix(key)?.strip_prefix('='));
    value.map(str::trim)
}

/// A directory that belongs to a cluster joins no other.
fn joined_already(config: &Config, text: &str) -> Result<(), String> {
    let Some(cluster) = property(text, "cluster.id").filter(|_| !config.join.is_empty()) else {
        return Ok(());
    };
    let directory = property(text, "directory.id").and_then(TopicId::from_base64);
    let port = config.native_listen.map_or(0, |at| at.port());
    let joiner = Joiner {
        node: config.node_id,
        directory: directory.unwrap_or(TopicId::ZERO),
        address: &address(&config.advertise.0, port),
    };
    join::same(&joiner, cluster, &config.join).map_err(|why| {
        let dir = config.data_dir.display();
        format!(
            "{why} {dir} belongs to cluster {cluster:?}: to join another one, start with an empty \
             --data-dir"
        )
    })?;
    eprintln!("note: --join is ignored: this node belongs to cluster {cluster} already");
    Ok(())
}

/// The first `meta.properties`: of a cluster of its own, or of the one that is joined.
fn first_properties(config: &Config) -> Result<String, String> {
    let random = || new_id().map_err(|e| format!("/dev/urandom: {e}"));
    let (node, directory) = (config.node_id, random()?);
    let (cluster, joined) = match config.join.as_slice() {
        [] => (random()?.to_string(), String::new()),
        nodes => {
            let port = config.native_listen.map_or(0, |at| at.port());
            let address = address(&config.advertise.0, port);
            let joiner = Joiner {
                node,
                directory,
                address: &address,
            };
            let joined = join::join(&joiner, nodes)?;
            let from = format!("joined={}@{}\n", joined.contact.0, joined.address);
            (joined.cluster, from)
        }
    };
    Ok(format!(
        "version=1\ncluster.id={cluster}\nnode.id={node}\ndirectory.id={directory}\n{joined}"
    ))
}

fn new_id() -> io::Result<TopicId> {
    let mut random = fs::File::open("/dev/urandom")?;
    let mut word = || {
        let mut bytes = [0; 8];
        random
            .read_exact(&mut bytes)
            .map(|()| u64::from_le_bytes(bytes))
    };
    Ok(TopicId::from_random(word()?, word()?))
}

fn write_durably(path: &Path, text: &str) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = fs::File::create(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    fs::File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}
