//! Standard input as lines, read ahead on a thread of its own, so that a slow writer's lines are
//! sent while the next one is waited for. Bounded: so many chunks, and so long a line.

use std::io::{BufRead, BufReader, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

/// The longest line, bytes. No broker takes a record near it.
pub const LINE_MAX: u64 = 64 << 20;
/// A chunk is handed over when it holds so many bytes, or when no more input is there yet.
const CHUNK: usize = 64 << 10;
/// Chunks that wait to be sent.
const AHEAD: usize = 16;

/// Lines without their line breaks, or why there are no more.
pub type Chunk = Result<Vec<Vec<u8>>, String>;

/// Begins to read; the channel closes at the end of the input.
pub fn read(input: impl Read + Send + 'static) -> Receiver<Chunk> {
    let (sender, receiver) = sync_channel(AHEAD);
    thread::spawn(move || {
        if let Err(why) = pump(input, &sender, LINE_MAX) {
            let _ = sender.send(Err(why));
        }
    });
    receiver
}

fn pump(input: impl Read, sender: &SyncSender<Chunk>, line_max: u64) -> Result<(), String> {
    let mut reader = BufReader::with_capacity(CHUNK, input);
    let (mut lines, mut bytes, mut number) = (Vec::new(), 0, 0u64);
    loop {
        let mut line = Vec::new();
        let read = (&mut reader)
            .take(line_max + 1)
            .read_until(b'\n', &mut line);
        let ended = read.map_err(|e| format!("cannot read standard input: {e}"))? == 0;
        number += 1;
        if line.last() == Some(&b'\n') {
            line.pop();
        } else if line.len() as u64 > line_max {
            return Err(format!("line {number} is longer than {line_max} bytes"));
        }
        if !ended {
            bytes += line.len() + 1;
            lines.push(line);
        }
        let full = bytes >= CHUNK || reader.buffer().is_empty() || ended;
        if full && !lines.is_empty() {
            bytes = 0;
            if sender.send(Ok(std::mem::take(&mut lines))).is_err() {
                return Ok(());
            }
        }
        if ended {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(input: &'static [u8]) -> Vec<Vec<u8>> {
        read(input)
            .iter()
            .flat_map(|chunk| chunk.expect("reads"))
            .collect()
    }

    #[test]
    fn the_last_line_needs_no_break() {
        assert!(lines(b"").is_empty());
        assert_eq!(lines(b"a\n\nb"), [&b"a"[..], b"", b"b"]);
        assert_eq!(lines(b"a\r\nb\n"), [&b"a\r"[..], b"b"]);
    }

    #[test]
    fn a_line_that_is_too_long_ends_the_input() {
        let (sender, receiver) = sync_channel(4);
        let why = pump(&b"1234\n12345\n"[..], &sender, 4).expect_err("too long");
        assert_eq!(why, "line 2 is longer than 4 bytes");
        drop(sender);
        assert_eq!(receiver.iter().count(), 0);
    }
}
