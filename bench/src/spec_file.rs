//! A load's options from a file. They are those of the command line, and it is the command line's
//! own parser that reads their values: so both always know the same ones.

use std::ops::Range;

use clap::{Args, Command, FromArgMatches, ValueEnum};
use toml::de::{DeTable, DeValue};

use crate::spec::Spec;
use crate::workload::Kind;

/// An option that cannot be used.
#[derive(Debug)]
pub struct Wrong {
    /// Where it is in the file, if a single place is to blame.
    pub at: Option<Range<usize>>,
    /// What was read, and what is allowed.
    pub what: String,
}

fn command() -> Command {
    Spec::augment_args(Command::new("load")).no_binary_name(true)
}

/// Reads a table of options.
///
/// # Errors
/// The first one that is not known or has a value that it cannot have; options that shut each
/// other out.
pub fn read(table: &DeTable<'_>) -> Result<Spec, Wrong> {
    let mut kind = None;
    let mut arguments = Vec::new();
    for (name, value) in table {
        let at = value.span();
        let wrong = |what| Wrong {
            at: Some(at.clone()),
            what,
        };
        let (option, value) = (name.get_ref(), value.get_ref());
        let text = text(value).ok_or_else(|| {
            wrong(format!(
                "{option} is neither a number nor a text, expected one of them"
            ))
        })?;
        if option == "kind" {
            kind = Some(Kind::from_str(&text, false).map_err(|_| {
                let kinds = Kind::value_variants().iter().map(|kind| kind.name());
                let kinds: Vec<_> = kinds.collect();
                wrong(format!("kind is {text}, allowed: {}", kinds.join(", ")))
            })?);
            continue;
        }
        let argument = format!("--{option}={text}");
        if let Err(what) = single(option, &text, &argument) {
            return Err(wrong(what));
        }
        arguments.push(argument);
    }
    let matches = command().try_get_matches_from(arguments);
    let spec = matches.and_then(|matches| Spec::from_arg_matches(&matches));
    let spec = spec.map_err(|error| Wrong {
        at: None,
        what: first_line(&error),
    })?;
    Ok(Spec { kind, ..spec })
}

fn text(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(number.as_str().replace('_', "")),
        DeValue::Float(number) => Some(number.as_str().replace('_', "")),
        _ => None,
    }
}

/// Whether an option is known and can have a value.
fn single(option: &str, text: &str, argument: &str) -> Result<(), String> {
    let command = command();
    let known = |arg: &&clap::Arg| arg.get_long() == Some(option);
    let Some(arg) = command.get_arguments().find(known) else {
        let all: Vec<_> = command
            .get_arguments()
            .filter_map(|arg| arg.get_long())
            .collect();
        let all = all.join(", ");
        return Err(format!(
            "{option} is no option of a load, allowed: kind, {all}"
        ));
    };
    let values: Vec<_> = arg
        .get_possible_values()
        .iter()
        .map(|v| v.get_name().to_owned())
        .collect();
    let allowed = match (values.is_empty(), arg.get_help()) {
        (false, _) => values.join(", "),
        (true, help) => format!(
            "a number ({})",
            help.map(ToString::to_string).unwrap_or_default()
        ),
    };
    match command.try_get_matches_from([argument]) {
        Ok(_) => Ok(()),
        Err(_) => Err(format!("{option} is {text}, allowed: {allowed}")),
    }
}

fn first_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Codec;

    fn of(text: &str) -> Result<Spec, Wrong> {
        read(DeTable::parse(text).unwrap().get_ref())
    }

    #[test]
    fn every_option_of_the_command_line_can_be_written() {
        let text = "kind = \"storm\"\nname = \"x\"\nsize = 1_000\nacks = -1\nrate = 2.5\n\
                    codec = \"lz4\"\nin-flight = 3\nkeys = 9\ngroups = 2\nseconds = 4";
        let spec = of(text).unwrap();
        assert_eq!((spec.kind, spec.size), (Some(Kind::Storm), Some(1000)));
        assert_eq!((spec.acks, spec.rate), (Some(-1), Some(2.5)));
        assert_eq!((spec.codec, spec.in_flight), (Some(Codec::Lz4), Some(3)));
        let (keys, groups, seconds) = (spec.keyed.keys, spec.reading.groups, spec.time.seconds);
        assert_eq!((keys, groups, seconds), (Some(9), Some(2), Some(4.0)));
    }

    #[test]
    fn what_is_allowed_is_told() {
        let cases = [
            (
                "sze = 1",
                "sze is no option of a load, allowed: kind, name, size",
            ),
            (
                "size = 1.5",
                "size is 1.5, allowed: a number (Bytes of a record",
            ),
            ("size = true", "size is neither a number nor a text"),
            ("codec = \"gzip\"", "codec is gzip, allowed: none, lz4"),
            (
                "kind = \"x\"",
                "kind is x, allowed: produce, fetch, stream, catch-up, storm",
            ),
        ];
        for (text, expected) in cases {
            let wrong = of(text).unwrap_err();
            assert!(wrong.what.starts_with(expected), "{wrong:?}");
            assert!(wrong.at.is_some());
        }
        let wrong = of("batch = 5\nbatch-records = 5").unwrap_err();
        assert!(wrong.what.contains("cannot be used with"), "{wrong:?}");
    }
}
