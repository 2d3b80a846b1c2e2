//! `streamctl profile` and `streamctl stalls`: what a broker's admin address has to say.
//!
//! One HTTP request, blocking. An answer is believed only as far as its bytes go.

use std::fs;
use std::io::{self, IsTerminal, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use crate::cli::{Global, Profile, Stalls};
use crate::conn::{reason, seconds};
use crate::failure::{Failure, Result};
use crate::out;

/// The longest answer that is taken, bytes.
const ANSWER_MAX: u64 = 256 << 20;

/// Takes a profile of the CPU.
///
/// # Errors
/// No broker answers, it refuses, or the file cannot be written.
pub fn profile(global: &Global, command: &Profile) -> Result<()> {
    let address = address(global)?;
    let (took, hz) = (command.seconds, command.hz);
    let format = if command.folded { "folded" } else { "svg" };
    if command.output.is_none() && !command.folded && io::stdout().is_terminal() {
        let text = "a picture is no use on a terminal: name a file with -o FILE, or add --folded";
        return Err(Failure::Usage(text.to_owned()));
    }
    out::say(format_args!("profiling {address} for {took} s"));
    let target = format!("/profile?seconds={took}&hz={hz}&format={format}");
    let wait = global.timeout + Duration::from_secs(took);
    let body = get(address, &target, global.timeout, wait)?;
    let Some(path) = &command.output else {
        return out::line(body.trim_end());
    };
    let shown = path.display();
    fs::write(path, &body).map_err(|e| {
        let why = reason(&e);
        Failure::failed(format!(
            "cannot write {shown}: {why}. Name another file with -o FILE"
        ))
    })?;
    let open = if command.folded {
        ""
    } else {
        ": open it in a browser"
    };
    out::say(format_args!("wrote {shown}{open}"));
    Ok(())
}

/// Shows the last stalls.
///
/// # Errors
/// As [`profile`].
pub fn stalls(global: &Global, command: &Stalls) -> Result<()> {
    let address = address(global)?;
    let format = if command.svg { "svg" } else { "text" };
    let target = format!("/stalls?format={format}");
    let body = get(address, &target, global.timeout, global.timeout)?;
    out::line(body.trim_end())
}

fn address(global: &Global) -> Result<&str> {
    global.admin.as_deref().ok_or_else(|| {
        Failure::Usage(
            "this needs the broker's admin address: start it with `streamd --admin-listen \
             HOST:PORT`, and name that with --admin HOST:PORT"
                .to_owned(),
        )
    })
}

/// The body of the page `target`.
fn get(address: &str, target: &str, connect: Duration, wait: Duration) -> Result<String> {
    let mut stream = open(address, connect)?;
    let lost = |e: io::Error| {
        let why = match e.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                format!("no answer within {}", seconds(wait))
            }
            _ => reason(&e),
        };
        Failure::Lost(format!("{address} did not answer: {why}"))
    };
    let request = format!("GET {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let mut answer = Vec::new();
    stream
        .set_read_timeout(Some(wait))
        .and_then(|()| stream.write_all(request.as_bytes()))
        .and_then(|()| stream.take(ANSWER_MAX).read_to_end(&mut answer))
        .map_err(lost)?;
    let (status, body) = split(&answer).ok_or_else(|| {
        Failure::failed(format!(
            "{address} does not speak HTTP as an admin address does. Is it the one of \
             `streamd --admin-listen`, not of --listen?"
        ))
    })?;
    let body = body.map_err(|text| Failure::Lost(format!("{address} {text}")))?;
    match status {
        200 => Ok(body),
        _ => Err(Failure::failed(format!("{address}: {}", body.trim_end()))),
    }
}

fn open(address: &str, timeout: Duration) -> Result<TcpStream> {
    let cannot = |e: io::Error| {
        Failure::Lost(format!(
            "cannot connect to {address}: {}. Was the broker started with --admin-listen \
             {address}?",
            reason(&e)
        ))
    };
    let mut last = io::Error::other("the name has no address");
    for target in address.to_socket_addrs().map_err(cannot)? {
        match TcpStream::connect_timeout(&target, timeout) {
            Ok(stream) => return Ok(stream),
            Err(e) => last = e,
        }
    }
    Err(cannot(last))
}

/// The status and the body of an answer, or what is wrong with the body; `None`: this is no HTTP.
fn split(answer: &[u8]) -> Option<(u16, std::result::Result<String, String>)> {
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.")?.split(' ').nth(1)?;
    let status = status.parse().ok()?;
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let known = name.eq_ignore_ascii_case("content-length");
        value.trim().parse::<usize>().ok().filter(|_| known)
    });
    let body = &answer[end + 4..];
    if length.is_some_and(|length| length != body.len()) {
        return Some((
            status,
            Err("broke off in the middle of its answer".to_owned()),
        ));
    }
    let text = String::from_utf8(body.to_vec()).map_err(|_| "sent no text".to_owned());
    Some((status, text))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// What `get` makes of an answer.
    fn asked(answer: &'static [u8]) -> Result<String> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let n = stream.read(&mut request).unwrap();
            stream.write_all(answer).unwrap();
            String::from_utf8(request[..n].to_vec()).unwrap()
        });
        let second = Duration::from_secs(5);
        let result = get(&address, "/stalls?format=text", second, second);
        let request = server.join().unwrap();
        assert!(
            request.starts_with("GET /stalls?format=text HTTP/1.1\r\n"),
            "{request}"
        );
        result
    }

    #[test]
    fn answers_and_refusals() {
        let ok = asked(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nyes");
        assert_eq!(ok.unwrap(), "yes");
        let cases: [(&[u8], &str); 5] = [
            (b"HTTP/1.1 409 Conflict\r\n\r\nbusy\n", "127.0.0.1"),
            (b"HTTP/1.1 409 Conflict\r\n\r\nbusy\n", ": busy"),
            (
                b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nyes",
                "broke off",
            ),
            (b"\0\0\0\x05hello", "--admin-listen"),
            (b"", "--admin-listen"),
        ];
        for (answer, words) in cases {
            let text = asked(answer).unwrap_err().to_string();
            assert!(text.contains(words), "{text}");
        }
    }

    #[test]
    fn nobody_there() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap().to_string();
        drop(free);
        let second = Duration::from_secs(1);
        let text = get(&address, "/", second, second).unwrap_err().to_string();
        assert!(
            text.contains("cannot connect") && text.contains("--admin-listen"),
            "{text}"
        );
    }
}
