//! Loopback: bulk, round trip, and a cached file by sendfile. Each side's CPU time apart.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::disk::Scratch;
use super::{Figure, Stopwatch};
use crate::failure::{Context, Failure, Result};
use crate::sys::send_file;

/// The receiver's side of bulk loopback TCP.
pub const RECEIVE: &str = "loopback TCP bulk, 64 KiB: receiver";
/// The sender's side of it.
pub const SEND: &str = "loopback TCP bulk, 64 KiB: sender";
/// A small message there and back.
pub const ROUND_TRIP: &str = "loopback TCP round trip, 64 B";
/// The sender's side of sendfile.
pub const SENDFILE: &str = "sendfile of a cached file to loopback: sender";
/// The receiver's side of it.
const SENDFILE_RECEIVE: &str = "sendfile of a cached file to loopback: receiver";

const BULK: usize = 64 * 1024;
const FILE: usize = 64 << 20;
const PING: usize = 64;

/// A connection to a thread that runs `peer` on the other end.
fn pair<T: Send + 'static>(
    peer: impl FnOnce(TcpStream) -> T + Send + 'static,
) -> Result<(TcpStream, JoinHandle<T>)> {
    let listener = TcpListener::bind("127.0.0.1:0").context(|| "cannot listen".into())?;
    let address = listener.local_addr()?;
    let near = TcpStream::connect(address).context(|| "cannot connect to loopback".into())?;
    let (far, _) = listener.accept()?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    Ok((near, thread::spawn(move || peer(far))))
}

fn join<T>(thread: JoinHandle<T>) -> Result<T> {
    let result = thread.join();
    result.map_err(|_| Failure::new("the other end of the loopback test panicked"))
}

/// Reads to the end.
fn drain(mut stream: TcpStream, name: &'static str) -> Figure {
    let mut buffer = vec![0; 256 * 1024];
    let mut watch = Stopwatch::start();
    while let Ok(read) = stream.read(&mut buffer) {
        if read == 0 {
            break;
        }
        watch.bytes += read as u64;
    }
    watch.figure(name)
}

fn echo(mut stream: TcpStream) {
    let mut buffer = [0; PING];
    while stream.read_exact(&mut buffer).is_ok() && stream.write_all(&buffer).is_ok() {}
}

pub(super) fn measure(dir: &Path, each: Duration, figures: &mut Vec<Figure>) -> Result<()> {
    let (near, far) = pair(|stream| drain(stream, RECEIVE))?;
    figures.push(bulk(near, each)?);
    figures.push(join(far)?);

    let (near, far) = pair(echo)?;
    figures.push(round_trips(near, each)?);
    join(far)?;

    let scratch = Scratch(dir.join(format!("bench-sendfile-{}", std::process::id())));
    let path = &scratch.0;
    fs::write(path, vec![0x5a; FILE]).context(|| format!("cannot write {}", path.display()))?;
    let file = File::open(path)?;
    let (near, far) = pair(|stream| drain(stream, SENDFILE_RECEIVE))?;
    figures.push(send_files(near, &file, each)?);
    figures.push(join(far)?);
    Ok(())
}

fn bulk(mut stream: TcpStream, each: Duration) -> Result<Figure> {
    let data = vec![0x5a; BULK];
    let mut watch = Stopwatch::start();
    while watch.running(each) {
        watch.time(BULK, || stream.write_all(&data))?;
    }
    let mut figure = watch.figure(SEND);
    // The time of a write into a socket buffer says nothing.
    figure.latency = None;
    Ok(figure)
}

fn round_trips(mut stream: TcpStream, each: Duration) -> Result<Figure> {
    let mut buffer = [0x5a; PING];
    let mut watch = Stopwatch::start();
    while watch.running(each) {
        watch.time(0, || {
            stream.write_all(&buffer)?;
            stream.read_exact(&mut buffer)
        })?;
    }
    Ok(watch.figure(ROUND_TRIP))
}

fn send_files(stream: TcpStream, file: &File, each: Duration) -> Result<Figure> {
    let mut watch = Stopwatch::start();
    let mut at = 0;
    while watch.running(each) {
        match send_file(&stream, file, at as u64, (1 << 20).min(FILE - at)) {
            Ok(sent) => {
                watch.bytes += sent as u64;
                at = (at + sent) % FILE;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context(|| "sendfile".into()),
        }
    }
    Ok(watch.figure(SENDFILE))
}
