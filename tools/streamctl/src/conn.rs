//! One connection to one broker: connect, agree on versions, ask and wait for the answer.
//!
//! Blocking, one request at a time. An answer is believed only as far as its bytes go: memory
//! grows with what arrives, not with what a length claims.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use streamd_model::ErrorCode;
use streamd_wire::kafka::frame::encode_request;
use streamd_wire::kafka::{
    ApiKey, ApiVersionsRequest, ApiVersionsResponse, Message, Request, ResponseHeader, Writer,
};

use crate::failure::{Failure, Result};

/// The longest answer that is taken, bytes. A fetch asks for far less.
const ANSWER_MAX: u32 = 512 << 20;
pub const CLIENT_ID: &str = "streamctl";

/// A connection.
pub struct Conn {
    address: String,
    stream: TcpStream,
    timeout: Duration,
    correlation: i32,
    out: Writer,
    answer: Vec<u8>,
    /// What the broker serves: key, oldest, newest version.
    served: Vec<(i16, i16, i16)>,
}

impl Conn {
    /// Connects to `HOST:PORT` and asks which versions are served.
    ///
    /// # Errors
    /// Nobody listens there, or nobody who speaks the protocol.
    pub fn open(address: &str, timeout: Duration) -> Result<Conn> {
        let stream = connect(address, timeout)?;
        let mut conn = Conn {
            address: address.to_owned(),
            stream,
            timeout,
            correlation: 0,
            out: Writer::new(),
            answer: Vec::new(),
            served: Vec::new(),
        };
        conn.stream
            .set_nodelay(true)
            .and_then(|()| conn.stream.set_write_timeout(Some(timeout)))
            .map_err(|e| conn.lost("set up the connection", &e))?;
        conn.negotiate()?;
        Ok(conn)
    }

    fn negotiate(&mut self) -> Result<()> {
        let served = [(ApiKey::ApiVersions.code(), 0, 3)];
        let request = ApiVersionsRequest {
            client_software_name: CLIENT_ID,
            client_software_version: env!("CARGO_PKG_VERSION"),
            ..ApiVersionsRequest::default()
        };
        let version = served[0].2;
        self.send(&request, version)?;
        self.receive(self.timeout)?;
        let answered = match self.body(ApiKey::ApiVersions, version)? {
            // An old broker answers a version that it does not know in version 0.
            [0, code, ..] if i16::from(*code) == ErrorCode::UnsupportedVersion.code() => {
                self.send(&ApiVersionsRequest::default(), 0)?;
                self.receive(self.timeout)?;
                0
            }
            _ => version,
        };
        let body = self.body(ApiKey::ApiVersions, answered)?;
        let answer = ApiVersionsResponse::decode_body(body, answered)
            .map_err(|e| self.nonsense(&format!("its ApiVersions answer cannot be read: {e}")))?;
        if answer.error_code != 0 {
            return Err(Failure::code(
                &format!("{} refuses to say which versions it serves", self.address),
                answer.error_code,
                None,
            ));
        }
        self.served = answer
            .api_keys
            .iter()
            .map(|k| (k.api_key, k.min_version, k.max_version))
            .collect();
        Ok(())
    }

    /// The newest version, up to `max`, that both sides know of an API.
    pub fn version(&self, api: ApiKey, max: i16) -> Option<i16> {
        let &(_, oldest, newest) = self.served.iter().find(|(key, ..)| *key == api.code())?;
        let known = api.versions();
        let version = newest.min(known.1).min(max);
        (version >= oldest && version >= known.0).then_some(version)
    }

    /// As [`Conn::version`], or a failure that says what is missing.
    ///
    /// # Errors
    /// The broker does not serve the API in a version that is known here.
    pub fn need(&self, api: ApiKey, max: i16) -> Result<i16> {
        self.version(api, max).ok_or_else(|| {
            Failure::failed(format!(
                "the broker at {} does not serve {} in a version that streamctl speaks: \
                 it may be too old or too new for this command",
                self.address,
                api.name()
            ))
        })
    }

    /// Sends a request and reads the answer to it, in the newest version up to `max`.
    ///
    /// # Errors
    /// The API is not served, the connection broke, or the answer makes no sense.
    pub fn call<M: Request>(&mut self, request: &M, max: i16) -> Result<M::Response<'_>> {
        self.call_for(request, max, Duration::ZERO)
    }

    /// As [`Conn::call`], when the broker may take `longer` before it answers.
    ///
    /// # Errors
    /// As [`Conn::call`].
    pub fn call_for<M: Request>(
        &mut self,
        request: &M,
        max: i16,
        longer: Duration,
    ) -> Result<M::Response<'_>> {
        let version = self.need(M::API, max)?;
        self.send(request, version)?;
        self.receive(self.timeout.saturating_add(longer))?;
        let body = self.body(M::API, version)?;
        M::Response::decode_body(body, version)
            .map_err(|e| self.nonsense(&format!("its {} answer: {e}", M::API.name())))
    }

    /// Sends a request to which no answer comes.
    ///
    /// # Errors
    /// The API is not served, or the connection broke.
    pub fn tell<M: Request>(&mut self, request: &M, max: i16) -> Result<()> {
        let version = self.need(M::API, max)?;
        self.send(request, version)
    }

    /// Says that no more is sent, and waits until the broker has read everything and closes. So
    /// what was told is in the broker's hands and not in a buffer that dies with the process.
    pub fn finish(self) {
        let mut stream = self.stream;
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.set_read_timeout(Some(self.timeout));
        let _ = io::copy(&mut stream, &mut io::sink());
    }

    fn send<M: Request>(&mut self, request: &M, version: i16) -> Result<()> {
        self.correlation = self.correlation.wrapping_add(1);
        self.out.clear();
        encode_request(
            request,
            version,
            self.correlation,
            Some(CLIENT_ID),
            &mut self.out,
        )
        .map_err(|e| {
            Failure::failed(format!(
                "the broker at {} serves {} up to version {version} only, \
                     which cannot carry this: {e}",
                self.address,
                M::API.name()
            ))
        })?;
        self.stream
            .write_all(self.out.bytes())
            .map_err(|e| self.lost("send to", &e))
    }

    fn receive(&mut self, timeout: Duration) -> Result<()> {
        self.stream
            .set_read_timeout(Some(timeout))
            .map_err(|e| self.lost("set up the connection to", &e))?;
        let mut length = [0; 4];
        self.stream
            .read_exact(&mut length)
            .map_err(|e| self.lost("read from", &e))?;
        let length = u32::from_be_bytes(length);
        if !(4..=ANSWER_MAX).contains(&length) {
            return Err(self.nonsense(&format!(
                "its answer begins with {length:#010x}, which is no length of an answer"
            )));
        }
        self.answer.clear();
        let read = (&mut self.stream)
            .take(u64::from(length))
            .read_to_end(&mut self.answer)
            .map_err(|e| self.lost("read from", &e))?;
        if read < length as usize {
            return Err(self.lost("read from", &ErrorKind::UnexpectedEof.into()));
        }
        Ok(())
    }

    fn body(&self, api: ApiKey, version: i16) -> Result<&[u8]> {
        let header = ResponseHeader {
            api,
            version,
            correlation_id: self.correlation,
        };
        let (correlation, body) = header
            .parse(&self.answer)
            .map_err(|e| self.nonsense(&format!("its answer cannot be read: {e}")))?;
        if correlation != self.correlation {
            return Err(self.nonsense(&format!(
                "it answers request {correlation}, but {} was asked",
                self.correlation
            )));
        }
        Ok(body)
    }

    fn lost(&self, what: &str, error: &io::Error) -> Failure {
        let address = &self.address;
        Failure::Lost(match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => format!(
                "the broker at {address} did not answer within {}. \
                 Is it overloaded or stopped? --timeout waits longer.",
                seconds(self.timeout)
            ),
            ErrorKind::UnexpectedEof => format!(
                "the broker at {address} closed the connection. Its log says why; \
                 is it a broker that speaks the Kafka protocol without TLS?"
            ),
            _ => format!("cannot {what} the broker at {address}: {}", reason(error)),
        })
    }

    fn nonsense(&self, what: &str) -> Failure {
        Failure::failed(format!(
            "what listens at {} does not speak the Kafka protocol in plain text: {what}. \
             Is it another service, or a port with TLS?",
            self.address
        ))
    }
}

fn connect(address: &str, timeout: Duration) -> Result<TcpStream> {
    let cannot = |why: &str| {
        Failure::Lost(format!(
            "cannot connect to {address}: {why}. Is streamd running there? \
             Start it with `streamd`, or name another with --bootstrap HOST:PORT"
        ))
    };
    let targets = address.to_socket_addrs().map_err(|e| {
        Failure::Lost(format!(
            "cannot find the host of {address}: {}. Name another with --bootstrap HOST:PORT",
            reason(&e)
        ))
    })?;
    let mut last = None;
    for target in targets {
        match TcpStream::connect_timeout(&target, timeout) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = Some(error),
        }
    }
    Err(match last {
        Some(error) if matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock) => {
            cannot(&format!("no answer within {}", seconds(timeout)))
        }
        Some(error) => cannot(&reason(&error)),
        None => cannot("the name has no address"),
    })
}

/// A duration as a person writes it.
pub fn seconds(duration: Duration) -> String {
    if duration.subsec_millis() == 0 {
        format!("{} s", duration.as_secs())
    } else {
        format!("{} ms", duration.as_millis())
    }
}

/// What the system says, without the number behind it.
pub fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |c| {
        c.to_lowercase().collect::<String>() + chars.as_str()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread;

    /// Somebody who reads a little, sends `answer` and closes.
    fn stranger(answer: &'static [u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address").to_string();
        thread::spawn(move || {
            let (mut peer, _) = listener.accept().expect("accept");
            let mut some = [0; 16];
            let _ = peer.read(&mut some);
            let _ = peer.write_all(answer);
            let _ = peer.shutdown(std::net::Shutdown::Write);
            let _ = io::copy(&mut peer, &mut io::sink());
        });
        address
    }

    fn failure(address: &str) -> String {
        Conn::open(address, Duration::from_secs(5))
            .err()
            .expect("must fail")
            .to_string()
    }

    #[test]
    fn nobody_there() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address").to_string();
        drop(listener);
        let text = failure(&address);
        assert!(text.contains("connection refused"), "{text}");
        assert!(text.contains("--bootstrap HOST:PORT"), "{text}");
    }

    #[test]
    fn somebody_else_there() {
        let text = failure(&stranger(b"HTTP/1.1 400 Bad Request\r\n\r\n"));
        assert!(text.contains("does not speak the Kafka protocol"), "{text}");
        let text = failure(&stranger(b"\0\0\0\x08\0\0\0\x63\0\0\0\0"));
        assert!(text.contains("answers request 99"), "{text}");
        let text = failure(&stranger(b"\x1f\xff\xff\xff\0\0\0\x01"));
        assert!(text.contains("closed the connection"), "{text}");
        let text = failure(&stranger(b"\0\0\0\x0a\0\0\0\x01\0\0\x7f\xff\xff\xff"));
        assert!(text.contains("cannot be read"), "{text}");
    }

    #[test]
    fn an_old_broker_is_asked_again() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address").to_string();
        let broker = thread::spawn(move || {
            let (mut peer, _) = listener.accept().expect("accept");
            let mut versions = Vec::new();
            for answer in [
                // Version 0: UNSUPPORTED_VERSION and no keys; then Metadata 0 to 5.
                &b"\0\0\0\x0a\0\0\0\x01\0\x23\0\0\0\0"[..],
                b"\0\0\0\x10\0\0\0\x02\0\0\0\0\0\x01\0\x03\0\0\0\x05",
            ] {
                let mut length = [0; 4];
                peer.read_exact(&mut length).expect("length");
                let mut frame = vec![0; u32::from_be_bytes(length) as usize];
                peer.read_exact(&mut frame).expect("frame");
                versions.push(frame[3]);
                peer.write_all(answer).expect("answer");
            }
            versions
        });
        let conn = Conn::open(&address, Duration::from_secs(5)).expect("opens");
        assert_eq!(broker.join().expect("broker"), [3, 0]);
        assert_eq!(conn.version(ApiKey::Metadata, i16::MAX), Some(5));
        assert_eq!(conn.version(ApiKey::Metadata, 4), Some(4));
        assert_eq!(conn.version(ApiKey::Fetch, i16::MAX), None);
        let text = conn
            .need(ApiKey::Fetch, 12)
            .expect_err("not served")
            .to_string();
        assert!(text.contains("does not serve Fetch"), "{text}");
    }
}
