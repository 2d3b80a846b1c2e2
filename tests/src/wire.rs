//! A bare Kafka connection: frames by hand, and the few calls that the tests need to set a scene.
//!
//! Hardly any version with tagged fields is spoken, so that requests stay readable. A failure of
//! the socket is an `io::Error`; an answer that can't be decoded panics.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::thread::sleep;
use std::time::Duration;

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// No test asks for more than this in one answer.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Builds the body of a request.
#[derive(Clone, Debug, Default)]
pub struct Body(pub Vec<u8>);

impl Body {
    /// An 8-bit number.
    #[must_use]
    pub fn i8(mut self, v: i8) -> Self {
        self.0.extend(v.to_be_bytes());
        self
    }
    /// A 16-bit number.
    #[must_use]
    pub fn i16(mut self, v: i16) -> Self {
        self.0.extend(v.to_be_bytes());
        self
    }
    /// A 32-bit number, also an array's length.
    #[must_use]
    pub fn i32(mut self, v: i32) -> Self {
        self.0.extend(v.to_be_bytes());
        self
    }
    /// A 64-bit number.
    #[must_use]
    pub fn i64(mut self, v: i64) -> Self {
        self.0.extend(v.to_be_bytes());
        self
    }
    /// A string with its length.
    #[must_use]
    pub fn string(mut self, v: &str) -> Self {
        self.0.extend((v.len() as i16).to_be_bytes());
        self.0.extend(v.as_bytes());
        self
    }
    /// A string of the newer encoding, up to 126 bytes long.
    #[must_use]
    pub fn compact(mut self, v: &str) -> Self {
        assert!(v.len() < 127, "a length of one byte");
        self.0.push(v.len() as u8 + 1);
        self.0.extend(v.as_bytes());
        self
    }
    /// Bytes with their length.
    #[must_use]
    pub fn bytes(mut self, v: &[u8]) -> Self {
        self.0.extend((v.len() as i32).to_be_bytes());
        self.0.extend(v);
        self
    }
}

/// Takes an answer apart.
#[derive(Debug)]
pub struct Answer {
    bytes: Vec<u8>,
    at: usize,
}

impl Answer {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let end = self.at + N;
        let part = self
            .bytes
            .get(self.at..end)
            .expect("an answer that is long enough");
        self.at = end;
        part.try_into().expect("N bytes")
    }
    /// An 8-bit number.
    pub fn i8(&mut self) -> i8 {
        i8::from_be_bytes(self.take())
    }
    /// A 16-bit number.
    pub fn i16(&mut self) -> i16 {
        i16::from_be_bytes(self.take())
    }
    /// A 32-bit number, also an array's length.
    pub fn i32(&mut self) -> i32 {
        i32::from_be_bytes(self.take())
    }
    /// A 64-bit number.
    pub fn i64(&mut self) -> i64 {
        i64::from_be_bytes(self.take())
    }
    /// Bytes with their length; null is empty.
    pub fn bytes(&mut self) -> Vec<u8> {
        let len = self.i32();
        self.part(len.max(0) as usize)
    }
    /// A string; null is empty.
    pub fn string(&mut self) -> String {
        let len = self.i16();
        String::from_utf8(self.part(len.max(0) as usize)).expect("UTF-8")
    }
    /// A string of the newer encoding; null is empty.
    pub fn compact(&mut self) -> String {
        let (mut len, mut shift) = (0usize, 0);
        loop {
            let [byte] = self.take();
            len |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                break;
            }
        }
        String::from_utf8(self.part(len.saturating_sub(1))).expect("UTF-8")
    }
    fn part(&mut self, len: usize) -> Vec<u8> {
        let part = self
            .bytes
            .get(self.at..self.at + len)
            .expect("an answer that is long enough");
        self.at += len;
        part.to_vec()
    }
    /// What is left.
    #[must_use]
    pub fn rest(&self) -> &[u8] {
        &self.bytes[self.at..]
    }
}

/// The frame of a request with the plain header (version 1).
#[must_use]
pub fn frame(key: i16, version: i16, correlation: i32, body: &[u8]) -> Vec<u8> {
    let header = Body::default()
        .i16(key)
        .i16(version)
        .i32(correlation)
        .string("streamd-tests");
    let mut out = Vec::with_capacity(header.0.len() + body.len() + 4);
    out.extend(((header.0.len() + body.len()) as i32).to_be_bytes());
    out.extend(header.0);
    out.extend(body);
    out
}

/// What a produce request was answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Produced {
    /// Kafka's error code, 0 for none.
    pub error: i16,
    /// Offset of the first record.
    pub base: i64,
}

/// What a fetch request was answered with.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// Kafka's error code, 0 for none.
    pub error: i16,
    /// The end of what may be read.
    pub high: i64,
    /// The batches.
    pub records: Vec<u8>,
}

/// A connection that sends one request at a time, or raw bytes.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    correlation: i32,
}

impl Connection {
    /// Connects, or panics.
    #[must_use]
    pub fn open(addr: &str) -> Self {
        Self::try_open(addr).unwrap_or_else(|e| panic!("connecting to {addr}: {e}"))
    }

    /// Connects.
    ///
    /// # Errors
    /// When nobody listens.
    pub fn try_open(addr: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(addr)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream,
            correlation: 0,
        })
    }

    /// The socket itself.
    #[must_use]
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Reads one frame without its length.
    ///
    /// # Errors
    /// Those of the socket: `UnexpectedEof` when the broker has closed it.
    pub fn receive_raw(&mut self) -> io::Result<Vec<u8>> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let length = usize::try_from(i32::from_be_bytes(length)).expect("a frame's length");
        assert!(length <= ANSWER_BYTES_MAX, "an answer of {length} bytes");
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Sends a request and does not wait.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn send(&mut self, key: i16, version: i16, body: &Body) -> io::Result<()> {
        self.correlation += 1;
        let frame = frame(key, version, self.correlation, &body.0);
        self.stream.write_all(&frame)
    }

    /// The next answer; answers come in the order of the requests.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn receive(&mut self) -> io::Result<(i32, Answer)> {
        let mut answer = Answer {
            bytes: self.receive_raw()?,
            at: 0,
        };
        Ok((answer.i32(), answer))
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn call(&mut self, key: i16, version: i16, body: &Body) -> io::Result<Answer> {
        self.send(key, version, body)?;
        let (correlation, answer) = self.receive()?;
        assert_eq!(
            correlation, self.correlation,
            "an answer to another request"
        );
        Ok(answer)
    }

    /// [`Connection::call`] with the headers of the newer encoding, without tagged fields.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn call_tagged(&mut self, key: i16, version: i16, body: &Body) -> io::Result<Answer> {
        let mut tagged = Body::default().i8(0);
        tagged.0.extend(&body.0);
        let mut answer = self.call(key, version, &tagged)?;
        assert_eq!(answer.take::<1>(), [0], "tagged fields in a header");
        Ok(answer)
    }

    /// Creates a topic and waits until its partitions have leaders.
    ///
    /// # Panics
    /// When that fails.
    pub fn create_topic(&mut self, topic: &str, partitions: i32, configs: &[(&str, &str)]) {
        self.create_replicated((topic, partitions, 1), configs);
    }

    /// As [`Connection::create_topic`], of so many partitions with so many replicas.
    ///
    /// # Panics
    /// As there.
    pub fn create_replicated(
        &mut self,
        (topic, partitions, replicas): (&str, i32, i16),
        configs: &[(&str, &str)],
    ) {
        let mut body = Body::default()
            .i32(1)
            .string(topic)
            .i32(partitions)
            .i16(replicas)
            .i32(0);
        body = body.i32(configs.len() as i32);
        for (name, value) in configs {
            body = body.string(name).string(value);
        }
        let body = body.i32(10_000).i8(0);
        let mut answer = self.call(19, 2, &body).expect("an answer to CreateTopics");
        let (_throttle, count, name) = (answer.i32(), answer.i32(), answer.string());
        assert_eq!(
            (count, name.as_str(), answer.i16()),
            (1, topic, 0),
            "CreateTopics"
        );
        for _ in 0..200 {
            if self.leaders(topic) == partitions {
                return;
            }
            sleep(Duration::from_millis(50));
        }
        panic!("{topic} has no leaders 10 s after its creation");
    }

    /// How many partitions of a topic have leaders, by Metadata version 4.
    fn leaders(&mut self, topic: &str) -> i32 {
        let body = Body::default().i32(1).string(topic).i8(0);
        let mut answer = self.call(3, 4, &body).expect("an answer to Metadata");
        let _throttle = answer.i32();
        for _ in 0..answer.i32() {
            let _broker = (answer.i32(), answer.string(), answer.i32(), answer.string());
        }
        let _cluster = (answer.string(), answer.i32());
        assert_eq!(answer.i32(), 1, "topics in Metadata");
        let error = answer.i16();
        let _name = (answer.string(), answer.take::<1>());
        if error != 0 {
            return 0;
        }
        let count = answer.i32();
        (0..count).fold(0, |with_leader, _| {
            let (error, _index, leader) = (answer.i16(), answer.i32(), answer.i32());
            for _ in 0..2 {
                let nodes = answer.i32();
                for _ in 0..nodes {
                    let _node = answer.i32();
                }
            }
            with_leader + i32::from(error == 0 && leader >= 0)
        })
    }

    /// Produce version 7 with acks=all.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn produce(&mut self, topic: &str, partition: i32, batch: &[u8]) -> io::Result<Produced> {
        let mut answer = self.call(0, 7, &produce_body(topic, partition, batch))?;
        Ok(produced(&mut answer))
    }

    /// Fetch version 10 of one partition, without a session.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn fetch(&mut self, topic: &str, partition: i32, offset: i64) -> io::Result<Fetched> {
        let mut answer = self.call(1, 10, &fetch_body(topic, partition, offset, 4 << 20))?;
        let _throttle = answer.i32();
        assert_eq!(answer.i16(), 0, "error of the whole fetch");
        let (_session, topics, _name) = (answer.i32(), answer.i32(), answer.string());
        assert_eq!(topics, 1, "topics in the fetch's answer");
        let (_count, _index, error) = (answer.i32(), answer.i32(), answer.i16());
        let (high, _stable, _start) = (answer.i64(), answer.i64(), answer.i64());
        for _ in 0..answer.i32().max(0) {
            let _aborted = (answer.i64(), answer.i64());
        }
        Ok(Fetched {
            error,
            high,
            records: answer.bytes(),
        })
    }

    /// A new idempotent producer's id and epoch.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn init_producer(&mut self) -> io::Result<(i64, i16)> {
        const COORDINATOR_LOADING: i16 = 14;
        loop {
            let mut answer = self.call(22, 1, &Body::default().i16(-1).i32(60_000))?;
            let (_throttle, error) = (answer.i32(), answer.i16());
            if error == COORDINATOR_LOADING {
                sleep(Duration::from_millis(50));
                continue;
            }
            assert_eq!(error, 0, "InitProducerId");
            return Ok((answer.i64(), answer.i16()));
        }
    }
}

/// Body of Produce version 3 to 8 for one partition with acks=all.
#[must_use]
pub fn produce_body(topic: &str, partition: i32, batch: &[u8]) -> Body {
    let body = Body::default()
        .i16(-1)
        .i16(-1)
        .i32(15_000)
        .i32(1)
        .string(topic);
    body.i32(1).i32(partition).bytes(batch)
}

/// Reads the answer to a produce request of version 5 to 7 for one partition.
///
/// # Panics
/// When it has another form.
pub fn produced(answer: &mut Answer) -> Produced {
    assert_eq!(answer.i32(), 1, "topics in the produce answer");
    let (_name, count, _index) = (answer.string(), answer.i32(), answer.i32());
    assert_eq!(count, 1, "partitions in the produce answer");
    Produced {
        error: answer.i16(),
        base: answer.i64(),
    }
}

/// Body of Fetch version 9 or 10 for one partition: waits up to 200 ms for one byte.
#[must_use]
pub fn fetch_body(topic: &str, partition: i32, offset: i64, max_bytes: i32) -> Body {
    let body = Body::default()
        .i32(-1)
        .i32(200)
        .i32(1)
        .i32(max_bytes)
        .i8(0)
        .i32(0)
        .i32(-1);
    let body = body
        .i32(1)
        .string(topic)
        .i32(1)
        .i32(partition)
        .i32(-1)
        .i64(offset)
        .i64(-1);
    body.i32(max_bytes).i32(0)
}
