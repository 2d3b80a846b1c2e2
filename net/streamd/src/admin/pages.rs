//! What the admin address serves: a list of itself, health, profiles, stalls.
//!
//! To add a page: a line in [`PAGES`], an arm in [`respond`].

use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use inferno::flamegraph::color::MultiPalette;
use inferno::flamegraph::{Options, Palette, from_lines};
use streamd_io::profile::{self, Stall};

use super::State;
use super::http::{Answer, Request};

/// The longest profile, seconds.
const SECONDS_MAX: u64 = 60;
/// The highest rate of samples, Hz.
const HZ_MAX: u64 = 999;

const SVG: &str = "image/svg+xml";

/// Every page, an example of its parameters, and what it is.
const PAGES: [(&str, &str, &str); 4] = [
    ("/health", "", "ok when the broker serves"),
    (
        "/profile",
        "?seconds=10",
        "where the CPU time goes: a flame graph of that many seconds (1 to 60); \
         hz=99 sets the samples per second of CPU, format=folded gives text",
    ),
    (
        "/stalls",
        "",
        "the last 64 times that a task held its shard for too long, with its stack",
    ),
    (
        "/stalls",
        "?format=svg",
        "the same as a flame graph, as wide as they were long",
    ),
];

/// The answer to a request. Blocks for as long as a profile takes.
pub fn respond(request: &Request, state: &State) -> Answer {
    let result = match request.path.as_str() {
        "/" => nothing_else(request, &[]).map(|()| index()),
        "/health" => nothing_else(request, &[]).map(|()| health(state)),
        "/profile" => on_cpu(request),
        "/stalls" => stalled(request),
        _ => Err(Answer::refuse(
            404,
            "there is no such page; / lists those that there are",
        )),
    };
    result.unwrap_or_else(|refusal| refusal)
}

/// Refuses parameters that are not `known`, and those given twice.
fn nothing_else(request: &Request, known: &[&str]) -> Result<(), Answer> {
    for (at, (name, _)) in request.query.iter().enumerate() {
        if !known.contains(&name.as_str()) {
            let allowed = match known {
                [] => "it takes none".to_owned(),
                _ => format!("it takes {}", known.join(", ")),
            };
            let why = format!("{} has no parameter {name:?}; {allowed}", request.path);
            return Err(Answer::refuse(400, why));
        }
        if request.query[..at].iter().any(|(other, _)| other == name) {
            return Err(Answer::refuse(400, format!("{name} is given twice")));
        }
    }
    Ok(())
}

fn parameter<'a>(request: &'a Request, name: &str) -> Option<&'a str> {
    let found = request.query.iter().find(|(n, _)| n == name);
    found.map(|(_, value)| value.as_str())
}

fn number(request: &Request, name: &str, most: u64, default: u64) -> Result<u64, Answer> {
    let Some(text) = parameter(request, name) else {
        return Ok(default);
    };
    let number = text.parse().ok().filter(|n| (1..=most).contains(n));
    number.ok_or_else(|| {
        let why = format!("{name}={text}: expected a whole number from 1 to {most}");
        Answer::refuse(400, why)
    })
}

fn format<'a>(request: &Request, all: &[&'a str]) -> Result<&'a str, Answer> {
    let text = parameter(request, "format").unwrap_or(all[0]);
    let found = all.iter().find(|f| **f == text);
    found.copied().ok_or_else(|| {
        let why = format!("format={text}: expected {}", all.join(" or "));
        Answer::refuse(400, why)
    })
}

fn index() -> Answer {
    let mut page = String::from(
        "<!doctype html><html lang=en><meta charset=utf-8><title>streamd admin</title>\
         <style>body{font:16px/1.5 sans-serif;max-width:45em;margin:2em auto;padding:0 1em}\
         dt{font-family:monospace;margin-top:1em}</style><h1>streamd admin</h1><dl>\n",
    );
    for (path, query, about) in PAGES {
        let link = format!("{path}{query}");
        // Writing to a string cannot fail.
        let _ = writeln!(page, "<dt><a href=\"{link}\">{link}</a><dd>{about}");
    }
    let _ = writeln!(page, "</dl><p>streamd {}", env!("CARGO_PKG_VERSION"));
    Answer::new("text/html; charset=utf-8", page)
}

fn health(state: &State) -> Answer {
    if state.is_ready() {
        return Answer::text("ok\n".to_owned());
    }
    Answer::refuse(503, "the broker does not serve: it starts or stops")
}

fn on_cpu(request: &Request) -> Result<Answer, Answer> {
    nothing_else(request, &["seconds", "hz", "format"])?;
    let seconds = number(request, "seconds", SECONDS_MAX, 10)?;
    let hz = number(request, "hz", HZ_MAX, 99)?;
    let format = format(request, &["svg", "folded"])?;
    if request.head {
        return Ok(Answer::new(SVG, String::new()));
    }
    let profile = profile::record(Duration::from_secs(seconds), hz as u32).map_err(|e| {
        let busy = e.kind() == std::io::ErrorKind::ResourceBusy;
        let status = if busy { 409 } else { 500 };
        Answer::refuse(status, format!("cannot take a profile: {e}"))
    })?;
    let folded = profile.folded();
    if format == "folded" {
        return Ok(Answer::text(folded));
    }
    let samples = profile.samples();
    // Each sample stands for a period of one core.
    let cores = samples as f64 / f64::from(profile.hz) / profile.took.as_secs_f64();
    let mut about = format!(
        "{:.0} s, {samples} samples at {} Hz: {cores:.2} cores busy",
        profile.took.as_secs_f64(),
        profile.hz
    );
    if profile.lost > 0 {
        let _ = write!(about, "; {} samples lost", profile.lost);
    }
    draw(&folded, "streamd on CPU", about, "samples")
}

fn stalled(request: &Request) -> Result<Answer, Answer> {
    nothing_else(request, &["format"])?;
    let format = format(request, &["text", "svg", "folded"])?;
    let stalls = profile::stalls();
    match format {
        "text" => Ok(Answer::text(list(&stalls))),
        "folded" => Ok(Answer::text(profile::folded_stalls(&stalls))),
        _ => {
            let sum: Duration = stalls.iter().map(|s| s.took).sum();
            let about = format!(
                "the last {}, {:.0} ms in all",
                stalls.len(),
                sum.as_secs_f64() * 1000.0
            );
            let folded = profile::folded_stalls(&stalls);
            draw(&folded, "streamd stalls", about, "µs")
        }
    }
}

fn list(stalls: &[Stall]) -> String {
    let mut out = String::new();
    for (shard, count) in profile::stall_counts() {
        let _ = writeln!(out, "{shard}: {count} stalls since it started");
    }
    if stalls.is_empty() {
        out.push_str("no stack of a stall is kept\n");
    }
    let now = SystemTime::now();
    for stall in stalls.iter().rev() {
        let ago = now.duration_since(stall.when).unwrap_or_default().as_secs();
        let at = stall.when.duration_since(UNIX_EPOCH).unwrap_or_default();
        let _ = writeln!(out, "\n{stall}");
        let _ = writeln!(
            out,
            "  {ago} s ago, at {}.{:03}",
            at.as_secs(),
            at.subsec_millis()
        );
        let stack = stall.stack();
        if stack.is_empty() {
            out.push_str("    (it ended before its stack was taken)\n");
        }
        for name in stack.iter().rev() {
            let _ = writeln!(out, "    {name}");
        }
    }
    out
}

fn draw(folded: &str, title: &str, about: String, unit: &str) -> Result<Answer, Answer> {
    if folded.is_empty() {
        let why = "there is nothing to draw: no thread used any CPU, or no stall is kept";
        return Err(Answer::refuse(404, why));
    }
    let mut options = Options::default();
    title.clone_into(&mut options.title);
    options.subtitle = Some(about);
    unit.clone_into(&mut options.count_name);
    options.colors = Palette::Multi(MultiPalette::Rust);
    options.font_size = 12;
    options.min_width = 0.05;
    let mut svg = Vec::new();
    from_lines(&mut options, folded.lines(), &mut svg)
        .map_err(|e| Answer::refuse(500, format!("cannot draw the flame graph: {e}")))?;
    let svg = String::from_utf8_lossy(&svg).into_owned();
    Ok(Answer::new(SVG, svg))
}
