//! The values of settings: their types, how they are read, what is allowed.

use std::fmt;

/// The type of a setting, with the number that DescribeConfigs uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
pub enum Kind {
    /// `true` or `false`.
    Boolean = 1,
    /// Text.
    String = 2,
    /// A whole number of 32 bits.
    Int = 3,
    /// A whole number of 64 bits.
    Long = 5,
    /// A number.
    Double = 6,
    /// Words with commas between them.
    List = 7,
}

/// Which values a setting takes, beyond what its type says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Allowed {
    /// All.
    Any,
    /// Numbers from this one up.
    AtLeast(i64),
    /// Numbers from the first to the second.
    Between(i64, i64),
    /// -1, or numbers from the first to the second.
    MinusOneOr(i64, i64),
    /// These words. For a list: a choice of them, at least one.
    OneOf(&'static [&'static str]),
    /// `*`, or a list of PARTITION:BROKER.
    Replicas,
}

/// A value that was read.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Of [`Kind::Boolean`].
    Bool(bool),
    /// Of [`Kind::Int`] and [`Kind::Long`].
    Number(i64),
    /// Of [`Kind::Double`].
    Float(f64),
    /// Of [`Kind::String`].
    Text(String),
    /// Of [`Kind::List`].
    List(Vec<String>),
}

impl Value {
    /// The number, or 0 if it is none.
    pub fn number(&self) -> i64 {
        if let Value::Number(n) = self { *n } else { 0 }
    }

    /// Whether it is `true`.
    pub fn is_true(&self) -> bool {
        *self == Value::Bool(true)
    }

    /// The words of a list.
    pub fn words(&self) -> Vec<String> {
        match self {
            Value::List(items) => items.clone(),
            _ => Vec::new(),
        }
    }

    /// Whether it is this word, or a list that has it.
    pub fn has(&self, word: &str) -> bool {
        match self {
            Value::Text(text) => text == word,
            Value::List(items) => items.iter().any(|i| i == word),
            _ => false,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Bool(v) => v.fmt(f),
            Value::Number(v) => v.fmt(f),
            Value::Float(v) => v.fmt(f),
            Value::Text(v) => f.write_str(v),
            Value::List(v) => f.write_str(&v.join(",")),
        }
    }
}

impl Kind {
    fn expected(self) -> &'static str {
        match self {
            Kind::Boolean => "true or false",
            Kind::String => "text",
            Kind::Int => "a whole number of 32 bits",
            Kind::Long => "a whole number of 64 bits",
            Kind::Double => "a number",
            Kind::List => "words with commas between them",
        }
    }
}

/// Says what values are right, for messages: `a whole number of 64 bits, at least -1`.
pub fn expected(kind: Kind, allowed: Allowed) -> String {
    let base = kind.expected();
    match allowed {
        Allowed::Any => base.to_owned(),
        Allowed::AtLeast(min) => format!("{base}, at least {min}"),
        Allowed::Between(min, max) => format!("{base}, from {min} to {max}"),
        Allowed::MinusOneOr(min, max) => format!("-1, or {base} from {min} to {max}"),
        Allowed::OneOf(words) if kind == Kind::List => {
            format!(
                "one or more of {}, with commas between them",
                words.join(", ")
            )
        }
        Allowed::OneOf(words) => format!("one of {}", words.join(", ")),
        Allowed::Replicas => "*, or PARTITION:BROKER items with commas between them".to_owned(),
    }
}

/// Reads a value. White space around it does not count. `scale` multiplies positive numbers (hours
/// to milliseconds); the limits are those of the result.
pub fn parse(kind: Kind, allowed: Allowed, scale: i64, text: &str) -> Option<Value> {
    let text = text.trim();
    let value = match kind {
        Kind::Boolean if text.eq_ignore_ascii_case("true") => Value::Bool(true),
        Kind::Boolean if text.eq_ignore_ascii_case("false") => Value::Bool(false),
        Kind::Boolean => return None,
        Kind::String => Value::Text(text.to_owned()),
        Kind::Int => Value::Number(scaled(text.parse::<i32>().ok()?.into(), scale)?),
        Kind::Long => Value::Number(scaled(text.parse().ok()?, scale)?),
        Kind::Double => Value::Float(text.parse().ok().filter(|v: &f64| v.is_finite())?),
        Kind::List if text.is_empty() => Value::List(Vec::new()),
        Kind::List => Value::List(text.split(',').map(|i| i.trim().to_owned()).collect()),
    };
    is_allowed(&value, allowed).then_some(value)
}

fn scaled(n: i64, scale: i64) -> Option<i64> {
    if n < 0 { Some(n) } else { n.checked_mul(scale) }
}

fn is_allowed(value: &Value, allowed: Allowed) -> bool {
    match (value, allowed) {
        (_, Allowed::Any) => true,
        (Value::Number(n), Allowed::AtLeast(min)) => *n >= min,
        (Value::Number(n), Allowed::Between(min, max)) => (min..=max).contains(n),
        (Value::Number(n), Allowed::MinusOneOr(min, max)) => *n == -1 || (min..=max).contains(n),
        (Value::Float(x), Allowed::AtLeast(min)) => *x >= min as f64,
        (Value::Float(x), Allowed::Between(min, max)) => (min as f64..=max as f64).contains(x),
        (Value::Text(text), Allowed::OneOf(words)) => words.contains(&text.as_str()),
        (Value::List(items), Allowed::OneOf(words)) => {
            !items.is_empty() && items.iter().all(|i| words.contains(&i.as_str()))
        }
        (Value::List(items), Allowed::Replicas) => {
            matches!(items.as_slice(), [all] if all == "*") || items.iter().all(|i| is_replica(i))
        }
        _ => false,
    }
}

fn is_replica(item: &str) -> bool {
    item.split_once(':').is_some_and(|(partition, broker)| {
        partition.parse::<u32>().is_ok() && broker.parse::<u32>().is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_their_limits() {
        let read = |text| parse(Kind::Long, Allowed::AtLeast(-1), 3_600_000, text);
        assert_eq!(read(" 168 "), Some(Value::Number(604_800_000)));
        assert_eq!(
            read("-1"),
            Some(Value::Number(-1)),
            "minus one is no number of hours"
        );
        assert_eq!(read("-2"), None);
        assert_eq!(read("9223372036854775807"), None, "overflow");
        assert_eq!(read("7d"), None);
        assert_eq!(read(""), None);
        assert_eq!(parse(Kind::Int, Allowed::Any, 1, "2147483648"), None);
        assert_eq!(parse(Kind::Int, Allowed::MinusOneOr(1, 9), 1, "0"), None);
        assert_eq!(
            parse(Kind::Int, Allowed::MinusOneOr(1, 9), 1, "-1"),
            Some(Value::Number(-1))
        );
    }

    #[test]
    fn words_lists_and_fractions() {
        let policy = Allowed::OneOf(&["compact", "delete"]);
        let list = parse(Kind::List, policy, 1, "compact, delete").unwrap();
        assert!(list.has("compact") && list.has("delete"));
        assert_eq!(list.to_string(), "compact,delete");
        assert_eq!(parse(Kind::List, policy, 1, ""), None);
        assert_eq!(parse(Kind::List, policy, 1, "compact,,delete"), None);
        assert_eq!(parse(Kind::Double, Allowed::Between(0, 1), 1, "1.5"), None);
        assert_eq!(parse(Kind::Double, Allowed::Between(0, 1), 1, "NaN"), None);
        assert_eq!(
            parse(Kind::Double, Allowed::Between(0, 1), 1, "0.5"),
            Some(Value::Float(0.5))
        );
        assert!(
            parse(Kind::Boolean, Allowed::Any, 1, "TRUE")
                .unwrap()
                .is_true()
        );
        assert_eq!(parse(Kind::Boolean, Allowed::Any, 1, "yes"), None);
        assert!(parse(Kind::List, Allowed::Replicas, 1, "0:1,2:3").is_some());
        assert!(parse(Kind::List, Allowed::Replicas, 1, "*").is_some());
        assert!(parse(Kind::List, Allowed::Replicas, 1, "0:1,x").is_none());
    }
}
