//! `--profile FILE`: a flame graph of the broker while it is loaded, from its admin address.
//!
//! The broker samples itself; here is one HTTP request on a thread that sleeps meanwhile, and a
//! file. The sampling is part of what the run measures (well below 5 % of the broker's CPU).

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::failure::{Context, Failure, Result};

/// The longest profile that a broker takes.
const LONGEST: Duration = Duration::from_secs(60);
/// What the broker may take to connect, and to draw the picture.
const PATIENCE: Duration = Duration::from_secs(30);
/// The largest picture that is taken, bytes.
const PICTURE_MAX: u64 = 256 << 20;

/// A profile that is being taken.
pub struct Profiling {
    path: PathBuf,
    file: File,
    asked: JoinHandle<Result<Vec<u8>>>,
}

impl Profiling {
    /// Has the broker with that admin address profiled, from `after` on for `time`.
    ///
    /// # Errors
    /// The file cannot be made, or nobody listens there.
    pub fn start(
        admin: SocketAddr,
        path: &Path,
        after: Duration,
        time: Duration,
    ) -> Result<Profiling> {
        let file =
            File::create(path).context(|| format!("--profile: cannot write {}", path.display()))?;
        let stream = TcpStream::connect_timeout(&admin, PATIENCE).context(|| {
            format!("no admin address at {admin}: start streamd with --admin-listen {admin}")
        })?;
        drop(stream);
        let seconds = time.min(LONGEST).as_secs_f64().round().max(1.0) as u64;
        let asked = thread::spawn(move || {
            thread::sleep(after);
            picture(admin, seconds)
        });
        Ok(Profiling {
            path: path.to_path_buf(),
            file,
            asked,
        })
    }

    /// Waits for the picture and writes it.
    ///
    /// # Errors
    /// The broker gave none, or it cannot be written.
    pub fn finish(mut self) -> Result<()> {
        let shown = self.path.display();
        let asked = self.asked.join();
        let picture = asked.map_err(|_| Failure::new("the thread of the profile panicked"))??;
        self.file
            .write_all(&picture)
            .context(|| format!("--profile: cannot write {shown}"))?;
        eprintln!("bench: wrote the flame graph {shown}");
        Ok(())
    }
}

/// Asks for the flame graph of so many seconds.
fn picture(admin: SocketAddr, seconds: u64) -> Result<Vec<u8>> {
    let what = || format!("the profile from {admin}");
    let mut stream = TcpStream::connect_timeout(&admin, PATIENCE).context(what)?;
    let patience = PATIENCE + Duration::from_secs(seconds);
    stream.set_read_timeout(Some(patience)).context(what)?;
    let request = format!(
        "GET /profile?seconds={seconds} HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).context(what)?;
    let mut answer = Vec::new();
    let mut stream = stream.take(PICTURE_MAX);
    stream.read_to_end(&mut answer).context(what)?;
    body(&answer).map_err(|why| Failure::new(format!("{}: {why}", what())))
}

/// The body of a good answer; else what the broker said.
fn body(answer: &[u8]) -> std::result::Result<Vec<u8>, String> {
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n");
    let end = end.ok_or("this is no admin address of a streamd")?;
    let (head, body) = (String::from_utf8_lossy(&answer[..end]), &answer[end + 4..]);
    let mut lines = head.lines();
    let status = lines.next().unwrap_or_default().split(' ').nth(1);
    if status != Some("200") {
        return Err(String::from_utf8_lossy(body).trim().to_owned());
    }
    let length = lines.find_map(|line| line.strip_prefix("Content-Length: "));
    if length.and_then(|text| text.parse().ok()) != Some(body.len()) {
        return Err("the answer broke off".to_owned());
    }
    Ok(body.to_vec())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_picture_is_fetched_and_written() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let admin = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            drop(listener.accept().unwrap());
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 512];
            let n = stream.read(&mut request).unwrap();
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<svg/>";
            stream.write_all(answer).unwrap();
            String::from_utf8_lossy(&request[..n]).into_owned()
        });
        let path = std::env::temp_dir().join(format!("bench-profile-{}", std::process::id()));
        let time = Duration::from_secs(500);
        let profiling = Profiling::start(admin, &path, Duration::ZERO, time).unwrap();
        profiling.finish().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(text, "<svg/>");
        let request = server.join().unwrap();
        assert!(
            request.starts_with("GET /profile?seconds=60 HTTP/1.1\r\n"),
            "{request}"
        );
    }

    #[test]
    fn what_is_no_picture_is_said() {
        let cases: [(&[u8], &str); 4] = [
            (b"HTTP/1.1 409 Conflict\r\n\r\nbusy\n", "busy"),
            (
                b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n<svg",
                "broke off",
            ),
            (b"\0\0\0\x04what", "no admin address"),
            (b"", "no admin address"),
        ];
        for (answer, words) in cases {
            let why = body(answer).unwrap_err();
            assert!(why.contains(words), "{why}");
        }
    }
}
