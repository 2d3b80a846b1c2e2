//! Names for addresses: Rust's own, short enough to read in a flame graph.
//!
//! Inlined functions are frames too. What every stack has in common (how a thread starts, how a
//! future is polled through its wrappers) is left out. Memory is bounded by the program's debug
//! information, which is read lazily, and by [`KEPT`] addresses; all of it goes with [`Names`].

use std::collections::BTreeMap;
use std::path::Path;

use super::walk::KERNEL;

/// The most addresses whose names are remembered.
const KEPT: usize = 50_000;
/// The longest name (bytes).
const LONG: usize = 120;

/// Functions that say nothing: they only lead to others.
const DULL: [&str; 22] = [
    "core::ops::function::",
    "core::future::",
    "core::task::poll",
    "core::pin::Pin",
    "core::panic::unwind_safe",
    "std::panic::",
    "std::panicking::",
    "std::rt::",
    "std::sys::backtrace",
    "std::sys::pal::unix::thread",
    "std::sys::thread::",
    "std::thread::",
    "alloc::boxed::Box::call",
    "alloc::boxed::Box::poll",
    "streamd_io::runtime::",
    "streamd_io::task::Body",
    "streamd_io::uring::start::run",
    "futures_lite::future::",
    "start_thread",
    "clone3",
    "__rust_",
    "__libc_start",
];

/// Remembers the names of addresses.
pub(super) struct Names {
    /// Innermost first.
    known: BTreeMap<usize, Vec<String>>,
}

impl Names {
    pub(super) fn new() -> Names {
        Names {
            known: BTreeMap::new(),
        }
    }

    /// The names of a stack of addresses of return (innermost first), outermost first.
    pub(super) fn stack(&mut self, frames: &[usize]) -> Vec<String> {
        let mut out: Vec<String> = Vec::new();
        for &frame in frames.iter().rev() {
            for name in self.at(frame).iter().rev() {
                // The parts of an async function follow one another; of the standard library,
                // what it was called for is enough.
                let last = out.last().map_or("", String::as_str);
                if last != name && !(is_std(last) && is_std(name)) {
                    out.push(name.clone());
                }
            }
        }
        out
    }

    /// The line of a folded stack, without its weight.
    pub(super) fn line(&mut self, thread: &str, frames: &[usize]) -> String {
        let mut line = thread.replace([';', '\n'], "_");
        let names = self.stack(frames);
        let unknown = ["(no stack)".to_owned()];
        for name in if names.is_empty() {
            &unknown[..]
        } else {
            &names
        } {
            line.push(';');
            line.push_str(name);
        }
        line
    }

    fn at(&mut self, frame: usize) -> &[String] {
        if self.known.len() >= KEPT {
            self.known.clear();
        }
        self.known.entry(frame).or_insert_with(|| resolve(frame))
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        // Else the debug information stays in memory for the life of the process.
        backtrace::clear_symbol_cache();
    }
}

fn resolve(frame: usize) -> Vec<String> {
    if frame == KERNEL {
        return vec!["[kernel]".to_owned()];
    }
    let (mut out, mut found) = (Vec::new(), false);
    // One before the address of return is looked up, which is within the call.
    backtrace::resolve(frame as *mut std::ffi::c_void, |symbol| {
        let Some(name) = symbol.name() else { return };
        found = true;
        out.extend(shorten(&format!("{name:#}")));
    });
    if !found {
        out.push(place(frame));
    }
    out
}

fn is_std(name: &str) -> bool {
    let crates = [
        "core::",
        "alloc::",
        "std::",
        "__rustc::",
        "hashbrown::",
        "str::",
        "[",
    ];
    name != "[kernel]" && crates.iter().any(|c| name.starts_with(c))
}

/// Which file an address without a name is from.
fn place(frame: usize) -> String {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    for line in maps.lines() {
        let mut words = line.split_ascii_whitespace();
        let range = words.next().and_then(|w| w.split_once('-'));
        let number = |text| usize::from_str_radix(text, 16).ok();
        let Some((Some(start), Some(end))) = range.map(|(a, b)| (number(a), number(b))) else {
            continue;
        };
        if (start..end).contains(&frame) {
            let path = Path::new(words.nth(4).unwrap_or("[anonymous]"));
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            return file.replace([';', ' '], "_");
        }
    }
    "[unknown]".to_owned()
}

/// A name as a person wants it; `None`: not worth a frame.
fn shorten(name: &str) -> Option<String> {
    let dropped = name.strip_prefix("core::ptr::drop_in_place<");
    let plain = match dropped.and_then(|rest| rest.strip_suffix('>')) {
        Some(kind) if !kind.contains(['(', '{']) => {
            format!("{}::drop", without_generics(kind))
        }
        // The C library's internal aliases.
        _ => without_generics(name.trim_start_matches("__GI_")),
    };
    let parts = plain.split("::").filter(|part| !part.starts_with('{'));
    let mut short = parts
        .collect::<Vec<_>>()
        .join("::")
        .replace([';', ' '], "_");
    // `F::poll`: of a type that is a parameter.
    let wrapper = short
        .strip_suffix("::poll")
        .is_some_and(|kind| kind.len() == 1);
    if wrapper || DULL.iter().any(|dull| short.starts_with(dull)) {
        return None;
    }
    if let Some((at, _)) = short.char_indices().nth(LONG) {
        short.truncate(at);
        short.push('…');
    }
    Some(short).filter(|s| !s.is_empty())
}

/// `<a::B<C> as d::E>::f` and `x::<impl a::B<C>>::f` become `a::B::f`; other brackets go with what
/// is in them.
fn without_generics(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(at) = rest.find('<') {
        let close = at + closing(&rest[at..]);
        let inner = rest.get(at + 1..close).unwrap_or("");
        let leads = out.is_empty() && at == 0;
        let inherent = inner.strip_prefix("impl ");
        if leads || inherent.is_some() {
            // The type: before ` as `, or behind ` for `.
            let inner = inherent.unwrap_or(inner);
            let (before, behind) = (top_level(inner, " as "), top_level(inner, " for "));
            let kind = match (inherent.is_some(), before, behind) {
                (true, _, Some(at)) => &inner[at + 5..],
                (false, Some(at), _) => &inner[..at],
                _ => inner,
            };
            let kind = kind
                .trim_start_matches(['&', '*'])
                .trim_start_matches("mut ");
            out = without_generics(kind);
        } else {
            out.push_str(rest[..at].trim_end_matches("::"));
        }
        rest = rest.get(close + 1..).unwrap_or("");
    }
    out.push_str(rest);
    out
}

/// Where the bracket that `text` begins with is closed.
fn closing(text: &str) -> usize {
    let mut depth = 0;
    let mut before = ' ';
    for (at, c) in text.char_indices() {
        match c {
            '<' => depth += 1,
            '>' if before != '-' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
        before = c;
    }
    text.len()
}

/// Where `word` stands outside of all brackets.
fn top_level(text: &str, word: &str) -> Option<usize> {
    let all = text.match_indices(word).map(|(at, _)| at);
    let depth = |at: &usize| {
        let count = |c| text[..*at].matches(c).count();
        count('<') == count('>')
    };
    all.into_iter().find(depth)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short() {
        let cases = [
            (
                "streamd::kafka::produce::handle",
                "streamd::kafka::produce::handle",
            ),
            (
                "streamd::conn::serve::{{closure}}::{{closure}}",
                "streamd::conn::serve",
            ),
            (
                "<alloc::vec::Vec<T,A> as core::ops::drop::Drop>::drop",
                "alloc::vec::Vec::drop",
            ),
            (
                "a::meta::<impl a::shard::Shard>::publish::{{closure}}",
                "a::shard::Shard::publish",
            ),
            ("a::<impl b::Tr<X> for c::D<E>>::go", "c::D::go"),
            (
                "core::ptr::drop_in_place<a::B<fn() -> c::D>>",
                "core::ptr::drop_in_place",
            ),
            ("a::b::<u8, c::D<E>>::f::<G>", "a::b::f"),
            ("<&mut a::B<C as D> as E>::f", "a::B::f"),
            ("memcpy", "memcpy"),
            ("__GI_sendfile64", "sendfile64"),
            ("odd<", "odd"),
            ("a>b", "a>b"),
        ];
        for (long, short) in cases {
            assert_eq!(shorten(long).as_deref(), Some(short), "{long}");
        }
        assert_eq!(shorten("core::ops::function::FnOnce::call_once"), None);
        assert_eq!(shorten("<F as core::future::future::Future>::poll"), None);
        let long = shorten(&"é".repeat(1000)).unwrap();
        assert_eq!(long.chars().count(), LONG + 1);
    }

    #[test]
    fn lines_cannot_be_forged() {
        let mut names = Names::new();
        assert_eq!(names.line("a;b\nc", &[]), "a_b_c;(no stack)");
        assert_eq!(names.line("t", &[KERNEL]), "t;[kernel]");
        let line = names.line("t", &[names_are_short as *const () as usize + 1]);
        assert!(line.ends_with("names_are_short"), "{line}");
        assert_eq!(names.line("t", &[64]), "t;[unknown]");
    }
}
