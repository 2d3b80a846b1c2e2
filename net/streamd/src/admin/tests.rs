//! The endpoint over real sockets, with peers that mean no good.

use std::io::{Read, Write};
use std::time::Instant;

use super::*;

fn start() -> Admin {
    Admin::start(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap()
}

/// What comes back when `bytes` are sent.
fn send(admin: &Admin, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(admin.address()).unwrap();
    // The endpoint may close before it has read everything.
    let _ = stream.write_all(bytes);
    let mut out = Vec::new();
    let _ = stream.read_to_end(&mut out);
    String::from_utf8(out).unwrap()
}

fn get(admin: &Admin, target: &str) -> (u16, String) {
    let request = format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n");
    let answer = send(admin, request.as_bytes());
    let (head, body) = answer.split_once("\r\n\r\n").expect(&answer);
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok());
    (status.expect(head), body.to_owned())
}

#[test]
fn pages() {
    let admin = start();
    let (status, body) = get(&admin, "/");
    assert_eq!(status, 200);
    for page in ["/health", "/profile?seconds=10", "/stalls?format=svg"] {
        assert!(body.contains(page), "{body}");
    }
    assert_eq!(get(&admin, "/health").0, 503);
    admin.set_ready(true);
    assert_eq!(get(&admin, "/health"), (200, "ok\n".to_owned()));
    assert_eq!(get(&admin, "/stalls").0, 200);
    let answer = send(&admin, b"HEAD /health HTTP/1.1\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("Content-Length: 3\r\n") && answer.ends_with("\r\n\r\n"));
}

#[test]
fn a_profile_is_drawn() {
    let admin = start();
    let stop = Arc::new(AtomicBool::new(false));
    let theirs = stop.clone();
    let busy = Builder::new().name("busy<&>".into()).spawn(move || {
        streamd_io::profile::know_stack();
        while !theirs.load(Ordering::Relaxed) {
            std::hint::spin_loop();
        }
    });
    let (status, svg) = get(&admin, "/profile?seconds=1&hz=199");
    assert_eq!(status, 200, "{svg}");
    assert!(
        svg.contains("<svg") && svg.contains("busy&lt;&amp;&gt;"),
        "{svg}"
    );
    let (status, folded) = get(&admin, "/profile?format=folded&seconds=1");
    stop.store(true, Ordering::Relaxed);
    busy.unwrap().join().unwrap();
    assert_eq!(status, 200, "{folded}");
    assert!(
        folded.lines().any(|l| l.starts_with("busy<&>;")),
        "{folded}"
    );
}

#[test]
fn wrong_parameters_are_named() {
    let admin = start();
    let cases = [
        (
            "/profile?seconds=0",
            "seconds=0: expected a whole number from 1 to 60",
        ),
        ("/profile?seconds=61", "from 1 to 60"),
        ("/profile?seconds=-1", "from 1 to 60"),
        ("/profile?seconds=99999999999999999999", "from 1 to 60"),
        (
            "/profile?hz=1000",
            "hz=1000: expected a whole number from 1 to 999",
        ),
        ("/profile?format=png", "format=png: expected svg or folded"),
        ("/profile?second=1", "it takes seconds, hz, format"),
        ("/profile?seconds=1&seconds=2", "seconds is given twice"),
        ("/health?x", "it takes none"),
        (
            "/stalls?format=%3Cscript%3E",
            "expected text or svg or folded",
        ),
    ];
    for (target, words) in cases {
        let (status, body) = get(&admin, target);
        assert!(
            status == 400 && body.contains(words),
            "{target}: {status} {body}"
        );
    }
    let (status, body) = get(&admin, "/../../etc/passwd");
    assert!(status == 404 && body.contains("/ lists"), "{body}");
}

#[test]
fn what_is_no_request_is_refused() {
    let admin = start();
    let long = [b"GET /".as_slice(), &[b'a'; 20_000], b" HTTP/1.1\r\n\r\n"].concat();
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(100));
    let cases: [(&[u8], &str); 9] = [
        (
            b"POST /profile HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
            "405",
        ),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "400"),
        (b"\0\0\0\x1a\0\x12\0\x03\0\0\0\x01\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", "400"),
        (b"GET  HTTP/1.1\r\n\r\n", "400"),
        (b"GET / HTTP/9.9\r\n\r\n", "400"),
        (b"\xff\xfe\xfd\r\n\r\n", "400"),
        (&long, "431"),
        (many.as_bytes(), "431"),
    ];
    for (bytes, status) in cases {
        let answer = send(&admin, bytes);
        let expected = format!("HTTP/1.1 {status} ");
        assert!(
            answer.starts_with(&expected),
            "{:?}: {answer}",
            bytes.escape_ascii().to_string()
        );
    }
    // It still serves.
    assert_eq!(get(&admin, "/").0, 200);
}

#[test]
fn slow_and_silent_peers_hold_nothing_for_long() {
    let admin = start();
    let begin = Instant::now();
    let mut idle: Vec<_> = (0..CONNECTIONS)
        .map(|_| TcpStream::connect(admin.address()).unwrap())
        .collect();
    // They are accepted in order, so all places are taken by then.
    let (status, body) = get(&admin, "/");
    assert!(
        status == 503 && body.contains("try again"),
        "{status} {body}"
    );
    let mut slow = idle.pop().unwrap();
    while begin.elapsed() < Duration::from_secs(15) && slow.write_all(b"G").is_ok() {
        thread::sleep(Duration::from_millis(200));
        let full = admin.state.open.load(Ordering::Relaxed) >= CONNECTIONS;
        if !full && get(&admin, "/").0 == 200 {
            break;
        }
    }
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(12), "{took:?}");
    let mut text = String::new();
    idle[0].read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 408 "), "{text}");
}

#[test]
fn an_address_that_is_taken_is_named() {
    let admin = start();
    let text = Admin::start(admin.address()).err().unwrap();
    assert!(
        text.contains("in use") && text.contains("--admin-listen"),
        "{text}"
    );
}
