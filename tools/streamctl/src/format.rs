//! How `consume` prints a record: a template with escapes, or JSON.

use std::io::{self, Write};

use serde_json::{Map, Value};
use streamd_log::record_view::RecordView;

use crate::out::bytes_json;

/// A template that was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(Vec<u8>),
    Key,
    Value,
    Offset,
    Partition,
    Timestamp,
    Headers,
}

impl Format {
    /// Understands a template.
    ///
    /// # Errors
    /// An escape that does not exist; the text says which there are.
    pub fn parse(template: &str) -> Result<Format, String> {
        let mut pieces = Vec::new();
        let mut text = Vec::new();
        let mut chars = template.chars();
        while let Some(c) = chars.next() {
            if c != '%' && c != '\\' {
                text.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                continue;
            }
            let piece = match (c, chars.next()) {
                ('%', Some('%')) => Err(b'%'),
                ('%', Some('k')) => Ok(Piece::Key),
                ('%', Some('v')) => Ok(Piece::Value),
                ('%', Some('o')) => Ok(Piece::Offset),
                ('%', Some('p')) => Ok(Piece::Partition),
                ('%', Some('t')) => Ok(Piece::Timestamp),
                ('%', Some('h')) => Ok(Piece::Headers),
                ('\\', Some('n')) => Err(b'\n'),
                ('\\', Some('t')) => Err(b'\t'),
                ('\\', Some('r')) => Err(b'\r'),
                ('\\', Some('0')) => Err(0),
                ('\\', Some('\\')) => Err(b'\\'),
                (_, other) => {
                    let read = other.map_or_else(String::new, String::from);
                    return Err(format!(
                        "--format: `{c}{read}` is none of %k %v %o %p %t %h %% \\n \\t \\r \\0 \\\\"
                    ));
                }
            };
            match piece {
                Err(byte) => text.push(byte),
                Ok(piece) => {
                    if !text.is_empty() {
                        pieces.push(Piece::Text(std::mem::take(&mut text)));
                    }
                    pieces.push(piece);
                }
            }
        }
        if !text.is_empty() {
            pieces.push(Piece::Text(text));
        }
        Ok(Format(pieces))
    }

    /// Prints a record. A null key or value is nothing.
    ///
    /// # Errors
    /// What `out` says.
    pub fn print(
        &self,
        out: &mut impl Write,
        partition: i32,
        record: &RecordView<'_>,
    ) -> io::Result<()> {
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.write_all(text)?,
                Piece::Key => out.write_all(record.key.unwrap_or_default())?,
                Piece::Value => out.write_all(record.value.unwrap_or_default())?,
                Piece::Offset => write!(out, "{}", record.offset)?,
                Piece::Partition => write!(out, "{partition}")?,
                Piece::Timestamp => write!(out, "{}", record.timestamp)?,
                Piece::Headers => {
                    for (i, (key, value)) in record.headers().enumerate() {
                        out.write_all(if i > 0 { b"," } else { b"" })?;
                        out.write_all(key)?;
                        out.write_all(b"=")?;
                        out.write_all(value.unwrap_or_default())?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// A record as a JSON object. Bytes that are not UTF-8 are hexadecimal, under a name with `_hex`.
pub fn record_json(record: &RecordView<'_>) -> Map<String, Value> {
    let mut object = Map::new();
    object.insert("offset".into(), record.offset.into());
    object.insert("timestamp".into(), record.timestamp.into());
    bytes_json(&mut object, "key", record.key);
    bytes_json(&mut object, "value", record.value);
    let headers = record.headers().map(|(key, value)| {
        let mut header = Map::new();
        bytes_json(&mut header, "key", Some(key));
        bytes_json(&mut header, "value", value);
        Value::Object(header)
    });
    object.insert("headers".into(), headers.collect());
    object
}

#[cfg(test)]
mod tests {
    use super::*;
    use streamd_log::batch::{NewRecord, Writer, build};
    use streamd_log::record_view::BatchView;

    fn printed(template: &str) -> String {
        let record = NewRecord {
            timestamp: 77,
            key: Some(b"k"),
            value: None,
        };
        let batch = build(&[record], Writer::default());
        let view = BatchView::new(&batch, 0).expect("a batch");
        let record = view.records().next().expect("one").expect("sound");
        let mut out = Vec::new();
        let format = Format::parse(template).expect("a template");
        format.print(&mut out, 3, &record).expect("prints");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn every_escape() {
        assert_eq!(
            printed("%k=%v@%p/%o %t 100%%\\t[%h]\\\\\\n"),
            "k=@3/0 77 100%\t[]\\\n"
        );
        assert_eq!(printed("no escapes, ü"), "no escapes, ü");
        assert_eq!(printed(""), "");
    }

    #[test]
    fn unknown_escapes_are_named() {
        for (wrong, named) in [
            ("%x", "`%x`"),
            ("a%", "`%`"),
            ("\\q", "`\\q`"),
            ("\\", "`\\`"),
        ] {
            let error = Format::parse(wrong).expect_err(wrong);
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn json_has_null_for_null() {
        let batch = build(
            &[NewRecord {
                value: Some(b"\xff"),
                ..Default::default()
            }],
            Writer::default(),
        );
        let view = BatchView::new(&batch, 0).expect("a batch");
        let record = view.records().next().expect("one").expect("sound");
        let text = Value::Object(record_json(&record)).to_string();
        assert_eq!(
            text,
            r#"{"headers":[],"key":null,"offset":0,"timestamp":0,"value_hex":"ff"}"#
        );
    }
}
