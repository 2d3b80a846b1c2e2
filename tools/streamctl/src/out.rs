//! What a person or a script sees: tables, JSON, sizes and times, words on standard error.
//!
//! Standard output is data, standard error is talk. Writing never panics: a reader that went away
//! is [`Failure::Closed`], and talk that nobody can hear is dropped.

use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};
use std::time::Duration;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

use crate::failure::{Failure, Result};

/// Buffered standard output.
pub struct Out(BufWriter<StdoutLock<'static>>);

impl Default for Out {
    fn default() -> Out {
        Out(BufWriter::with_capacity(64 << 10, io::stdout().lock()))
    }
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Prints a text with a line break behind it.
///
/// # Errors
/// Standard output is closed or full.
pub fn line(text: impl std::fmt::Display) -> Result<()> {
    let mut out = Out::default();
    writeln!(out, "{text}")
        .and_then(|()| out.flush())
        .map_err(Failure::stdout)
}

/// Prints one JSON document.
///
/// # Errors
/// As [`line()`].
pub fn json(value: &Value) -> Result<()> {
    line(format_args!("{value:#}"))
}

/// Tells a person something.
pub fn say(text: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// An empty table. Columns whose name begins with `>` are aligned to the right.
pub fn table(columns: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(columns.iter().map(|c| c.trim_start_matches('>')));
    for (i, name) in columns.iter().enumerate() {
        if let Some(column) = table.column_mut(i) {
            column.set_padding((if i == 0 { 0 } else { 2 }, 0));
            if name.starts_with('>') {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    table
}

/// The text of a table, without blanks at the ends of lines.
pub fn text(table: &Table) -> String {
    let lines: Vec<String> = table.lines().map(|l| l.trim_end().to_owned()).collect();
    lines.join("\n")
}

/// A number of bytes for a person: `1.5 GiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    // 1023.96 KiB would be printed as 1024.0.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{bytes} B")
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// A number with a thin gap every three digits: `1 234 567`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(c);
    }
    out
}

/// `1 record`, `2 records`.
pub fn plural(n: u64, one: &str) -> String {
    let s = if n == 1 { "" } else { "s" };
    format!("{} {one}{s}", count(n))
}

/// Milliseconds since the Unix epoch as UTC: `2024-02-29T12:30:00.123Z`. What is outside the years
/// 0 to 9999 stays a number.
pub fn time(ms: i64) -> String {
    let (days, rest) = (ms.div_euclid(86_400_000), ms.rem_euclid(86_400_000));
    // Days to a date, by the era of 400 years that begins on 1 March of year 0.
    let z = days + 719_468;
    let (era, doe) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + i64::from(month <= 2);
    if !(0..=9999).contains(&year) {
        return ms.to_string();
    }
    let (h, m, s) = (rest / 3_600_000, rest / 60_000 % 60, rest / 1000 % 60);
    format!(
        "{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{:03}Z",
        rest % 1000
    )
}

/// Bytes as JSON under `name`: a string when they are UTF-8, else hexadecimal as `name_hex`.
pub fn bytes_json(object: &mut serde_json::Map<String, Value>, name: &str, bytes: Option<&[u8]>) {
    let (name, value) = match bytes {
        None => (name.to_owned(), Value::Null),
        Some(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => (name.to_owned(), text.into()),
            Err(_) => {
                let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
                (format!("{name}_hex"), hex.into())
            }
        },
    };
    object.insert(name, value);
}

/// A progress bar over bytes on standard error; hidden where that is no terminal, and for work
/// that is done at once.
pub fn progress(bytes: u64) -> ProgressBar {
    const LONG: u64 = 32 << 20;
    if bytes < LONG || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::stderr_with_hz(5));
    let template = "{wide_msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_counts() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1024), "1.0 KiB");
        assert_eq!(size((1 << 20) - 1), "1.0 MiB");
        assert_eq!(size(3 << 29), "1.5 GiB");
        assert_eq!(size(u64::MAX), "16384.0 PiB");
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_234_567), "1 234 567");
        assert_eq!(plural(1, "record"), "1 record");
        assert_eq!(plural(1000, "record"), "1 000 records");
    }

    #[test]
    fn times() {
        assert_eq!(time(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(time(1_709_209_800_123), "2024-02-29T12:30:00.123Z");
        assert_eq!(time(-1), "1969-12-31T23:59:59.999Z");
        assert_eq!(time(951_782_399_999), "2000-02-28T23:59:59.999Z");
        assert_eq!(time(253_402_300_799_999), "9999-12-31T23:59:59.999Z");
        assert_eq!(time(253_402_300_800_000), "253402300800000");
        assert_eq!(time(i64::MAX), i64::MAX.to_string());
        assert_eq!(time(i64::MIN), i64::MIN.to_string());
    }

    #[test]
    fn tables_have_no_blanks_at_the_ends() {
        let mut t = table(&["Name", ">Size"]);
        t.add_row(["a", "1"]).add_row(["longer", "1000"]);
        assert_eq!(text(&t), "Name    Size\na          1\nlonger  1000");
    }

    #[test]
    fn bytes_that_are_no_text_become_hexadecimal() {
        let mut object = serde_json::Map::new();
        bytes_json(&mut object, "key", Some(b"a\xff"));
        bytes_json(&mut object, "value", Some("ü".as_bytes()));
        bytes_json(&mut object, "nothing", None);
        let text = Value::Object(object).to_string();
        assert_eq!(text, r#"{"key_hex":"61ff","nothing":null,"value":"ü"}"#);
    }
}
