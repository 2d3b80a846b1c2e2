//! As much of HTTP/1.1 as the admin address needs: one request per connection, no body.
//!
//! Invariants: a request has 5 seconds and 8 KiB, however slowly its bytes come; what is not a
//! request gets an answer that says why, and the connection is closed; nothing panics.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

/// A request must be complete within this time.
const READ_WITHIN: Duration = Duration::from_secs(5);
/// A peer must take the answer, or a part of it, within this time.
const WRITE_WITHIN: Duration = Duration::from_secs(10);
/// The longest request line and headers together, bytes.
const HEAD_MAX: usize = 8 << 10;
const HEADERS_MAX: usize = 64;
/// What a peer may still send while it gets its answer, bytes.
const REST_MAX: u64 = 64 << 10;

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    /// The path, as it was sent.
    pub path: String,
    /// The parameters behind the question mark, as they were sent.
    pub query: Vec<(String, String)>,
    /// Only the headers of the answer are wanted.
    pub head: bool,
}

/// What is answered.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The media type of the body.
    pub kind: &'static str,
    /// The body.
    pub body: String,
}

impl Answer {
    /// A body of some type.
    pub fn new(kind: &'static str, body: String) -> Answer {
        Answer {
            status: 200,
            kind,
            body,
        }
    }

    /// Plain text.
    pub fn text(body: String) -> Answer {
        Answer::new("text/plain; charset=utf-8", body)
    }

    /// A refusal: a sentence that says why.
    pub fn refuse(status: u16, why: impl std::fmt::Display) -> Answer {
        Answer {
            status,
            ..Answer::text(format!("{why}\n"))
        }
    }

    fn reason(&self) -> &'static str {
        match self.status {
            200 => "OK",
            400 => "Bad Request",
            404 => "Not Found",
            405 => "Method Not Allowed",
            408 => "Request Timeout",
            409 => "Conflict",
            431 => "Request Header Fields Too Large",
            503 => "Service Unavailable",
            _ => "Internal Server Error",
        }
    }
}

/// Serves one connection: `respond` makes the answer to what is a request.
///
/// # Errors
/// The connection broke, or its peer asked for nothing at all.
pub fn serve(stream: &mut TcpStream, respond: impl FnOnce(&Request) -> Answer) -> io::Result<()> {
    stream.set_write_timeout(Some(WRITE_WITHIN))?;
    let deadline = Instant::now() + READ_WITHIN;
    let (answer, head) = match read(stream, deadline)? {
        Ok(request) => (respond(&request), request.head),
        Err(refusal) => (refusal, false),
    };
    write(stream, &answer, head)?;
    // Closing while something is unread would make the system throw the answer away.
    stream.shutdown(Shutdown::Write)?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    io::copy(&mut stream.take(REST_MAX), &mut io::sink()).map(|_| ())
}

/// Refuses a connection without reading from it.
///
/// # Errors
/// The connection broke.
pub fn turn_away(stream: &mut TcpStream, why: &str) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    write(stream, &Answer::refuse(503, why), false)
}

fn write(stream: &mut TcpStream, answer: &Answer, head: bool) -> io::Result<()> {
    let mut text = format!(
        "HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n\
         Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n",
        answer.status,
        answer.reason(),
        answer.kind,
        answer.body.len()
    );
    if answer.status == 405 {
        text.push_str("Allow: GET, HEAD\r\n");
    }
    text.push_str("\r\n");
    if !head {
        text.push_str(&answer.body);
    }
    stream.write_all(text.as_bytes())
}

fn read(stream: &mut TcpStream, deadline: Instant) -> io::Result<Result<Request, Answer>> {
    let mut head = vec![0; HEAD_MAX];
    let mut len = 0;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let late = || Answer::refuse(408, "the request did not come within 5 seconds");
        if left.is_zero() {
            return Ok(Err(late()));
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut head[len..]) {
            Ok(0) if len == 0 => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(0) => return Ok(Err(Answer::refuse(400, "the request ends too early"))),
            Ok(n) => len += n,
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Ok(Err(late()));
            }
            Err(e) => return Err(e),
        }
        if let Some(result) = parse(&head[..len]) {
            return Ok(result);
        }
        if len == head.len() {
            let why = "the request line and the headers are longer than 8 KiB";
            return Ok(Err(Answer::refuse(431, why)));
        }
    }
}

/// The request, or why there is none; `None`: more must come.
fn parse(head: &[u8]) -> Option<Result<Request, Answer>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut headers);
    match parsed.parse(head) {
        Ok(httparse::Status::Partial) => return None,
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => {
            return Some(Err(Answer::refuse(431, "more than 64 headers")));
        }
        Err(e) => {
            let why = format!("this is no HTTP/1.1 request: {e}");
            return Some(Err(Answer::refuse(400, why)));
        }
    }
    let head = match parsed.method {
        Some("GET") => false,
        Some("HEAD") => true,
        _ => return Some(Err(Answer::refuse(405, "only GET and HEAD are served"))),
    };
    let target = parsed.path.unwrap_or("/");
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    Some(Ok(Request {
        path: path.to_owned(),
        query: pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
        head,
    }))
}
