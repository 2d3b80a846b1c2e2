//! What clients connect to in place of the broker: it passes bytes on, and cuts and stalls.
//!
//! The broker is started with the relay's address as the one that it advertises.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

const STEP: Duration = Duration::from_millis(5);

#[derive(Default)]
struct State {
    stalled: AtomicBool,
    ended: AtomicBool,
    accepted: AtomicU64,
    /// Both sides of what is connected; those that ended are dropped at the next cut.
    open: Mutex<Vec<(TcpStream, TcpStream)>>,
}

impl State {
    fn open(&self) -> MutexGuard<'_, Vec<(TcpStream, TcpStream)>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub struct Relay {
    listener: TcpListener,
    state: Arc<State>,
}

impl Relay {
    /// Listens; until [`Relay::serve`] connections wait.
    pub fn listen(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("a free port for the relay");
        Self {
            listener,
            state: Arc::default(),
        }
    }

    pub fn addr(&self) -> String {
        self.listener
            .local_addr()
            .expect("a bound port")
            .to_string()
    }

    /// Passes everything on to a broker from now on.
    pub fn serve(&self, broker: String) {
        let listener = self.listener.try_clone().expect("a socket");
        let state = Arc::clone(&self.state);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if state.ended.load(Ordering::Relaxed) {
                    return;
                }
                // While nobody listens the client is let down, as it would be.
                if let Ok(server) = TcpStream::connect(&broker) {
                    state.accepted.fetch_add(1, Ordering::Relaxed);
                    connect(&state, client, server);
                }
            }
        });
    }

    /// How many connections there have been.
    pub fn accepted(&self) -> u64 {
        self.state.accepted.load(Ordering::Relaxed)
    }

    /// Cuts the connections that `chosen` picks.
    pub fn cut(&self, mut chosen: impl FnMut() -> bool) {
        self.state.open().retain(|(client, server)| {
            let cut = chosen();
            if cut {
                // One that has ended already cannot be cut.
                let _ = client.shutdown(Shutdown::Both);
                let _ = server.shutdown(Shutdown::Both);
            }
            !cut
        });
    }

    /// Holds back every byte for so long.
    pub fn stall(&self, time: Duration) {
        self.state.stalled.store(true, Ordering::Relaxed);
        thread::sleep(time);
        self.state.stalled.store(false, Ordering::Relaxed);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::Relaxed);
        self.cut(|| true);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.addr());
    }
}

fn connect(state: &Arc<State>, client: TcpStream, server: TcpStream) {
    let copy = |s: &TcpStream| s.try_clone().expect("a socket");
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    for (from, to) in [
        (copy(&client), copy(&server)),
        (copy(&server), copy(&client)),
    ] {
        let state = Arc::clone(state);
        thread::spawn(move || pass(&state, from, to));
    }
    state.open().push((client, server));
}

fn pass(state: &State, mut from: TcpStream, mut to: TcpStream) {
    let mut bytes = vec![0; 64 << 10];
    loop {
        let count = from.read(&mut bytes).unwrap_or(0);
        while state.stalled.load(Ordering::Relaxed) {
            thread::sleep(STEP);
        }
        if count == 0 || to.write_all(&bytes[..count]).is_err() {
            let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
            return;
        }
    }
}
