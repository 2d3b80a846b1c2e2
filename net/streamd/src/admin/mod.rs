//! The admin address: a small HTTP endpoint for whoever operates the broker. Not for clients.
//!
//! It has threads of its own, never a shard's, and works while shards are stuck. At most
//! [`CONNECTIONS`] at a time; whoever can reach it may use it, so it is off unless asked for.

mod http;
mod pages;
#[cfg(test)]
mod tests;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::Builder;
use std::time::Duration;
use std::{io, thread};

/// Connections at a time; more are turned away.
const CONNECTIONS: usize = 8;

/// What pages know of the broker.
#[derive(Default)]
pub struct State {
    ready: AtomicBool,
    open: AtomicUsize,
}

impl State {
    /// Whether the broker serves its clients.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }
}

/// The running endpoint. It ends with the process.
pub struct Admin {
    state: Arc<State>,
    address: SocketAddr,
}

impl Admin {
    /// Listens on `listen` (port 0: any) and answers from now on.
    ///
    /// # Errors
    /// The address cannot be had; a sentence for a person.
    pub fn start(listen: SocketAddr) -> Result<Admin, String> {
        let fail = |e: io::Error| {
            let why = match e.kind() {
                io::ErrorKind::AddrInUse => "it is in use by another program".to_owned(),
                _ => e.to_string(),
            };
            format!(
                "cannot listen on {listen} for the admin: {why}. Choose another with \
                 --admin-listen HOST:PORT"
            )
        };
        let listener = TcpListener::bind(listen).map_err(fail)?;
        let address = listener.local_addr().map_err(fail)?;
        let state = Arc::new(State::default());
        let shared = state.clone();
        let thread = Builder::new().name("admin".into());
        thread
            .spawn(move || accept(&listener, &shared))
            .map_err(fail)?;
        Ok(Admin { state, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Says from now on whether the broker serves.
    pub fn set_ready(&self, ready: bool) {
        self.state.ready.store(ready, Ordering::Relaxed);
    }
}

fn accept(listener: &TcpListener, state: &Arc<State>) {
    loop {
        match listener.accept() {
            Ok((stream, _)) => begin(stream, state),
            // Out of file descriptors, most likely: what is open must end first.
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// A place among the connections; free again when it is dropped.
struct Place(Arc<State>);

impl Place {
    fn take(state: &Arc<State>) -> Option<Place> {
        let before = state.open.fetch_add(1, Ordering::Relaxed);
        let place = Place(state.clone());
        (before < CONNECTIONS).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

fn begin(mut stream: TcpStream, state: &Arc<State>) {
    let Some(place) = Place::take(state) else {
        let why = format!("{CONNECTIONS} connections are open already; try again later");
        let _ = http::turn_away(&mut stream, &why);
        return;
    };
    // A thread that cannot be had, or a connection that breaks, is the peer's loss alone.
    let _ = Builder::new().name("admin-conn".into()).spawn(move || {
        let _ = http::serve(&mut stream, |request| pages::respond(request, &place.0));
    });
}
