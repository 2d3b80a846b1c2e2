//! Regular expressions that clients send. They match whole names, as with Kafka; their length and
//! what they compile to are bounded, and matching takes time in proportion to the name.

use regex::{Regex, RegexBuilder};
use streamd_model::ErrorCode;

use crate::Refused;

/// The longest regular expression, bytes.
const BYTES_MAX: usize = 4096;
/// The most memory that a compiled one may take, bytes.
const MEMORY_MAX: usize = 1 << 20;

/// A regular expression for whole names.
#[derive(Clone, Debug)]
pub struct Pattern(Regex);

impl Pattern {
    /// Compiles `text`, which came in the request's field `field`.
    ///
    /// # Errors
    /// INVALID_REGULAR_EXPRESSION, and a sentence with the field's name.
    pub fn new(field: &str, text: &str) -> Result<Pattern, Refused> {
        let invalid = |why: String| (ErrorCode::InvalidRegularExpression, why);
        if text.len() > BYTES_MAX {
            return Err(invalid(format!(
                "{field} has {} bytes, {BYTES_MAX} are allowed.",
                text.len()
            )));
        }
        let build = |pattern: &str| {
            RegexBuilder::new(pattern)
                .size_limit(MEMORY_MAX)
                .dfa_size_limit(MEMORY_MAX)
                .build()
                .map_err(|e| invalid(format!("{field} `{text}` is not valid: {e}")))
        };
        // By itself first: brackets must not reach out of it.
        build(text)?;
        build(&format!("^(?:{text})$")).map(Pattern)
    }

    /// Whether the whole of `name` matches.
    pub fn matches(&self, name: &str) -> bool {
        self.0.is_match(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_names_match() {
        let pattern = |text| Pattern::new("Field", text).unwrap();
        assert!(pattern("pay-.*").matches("pay-7"));
        assert!(!pattern("pay-.*").matches("repay-7"));
        assert!(pattern("a|ab").matches("ab"));
        assert!(!pattern("a|b").matches("ab"));
        assert!(pattern("[a-c]{2}").matches("ca"));
    }

    #[test]
    fn what_is_no_expression_or_too_much_is_refused() {
        let refused = |text: &str| Pattern::new("Field", text).unwrap_err();
        for text in ["(", "a)|(b", "[z-a]", "(?=x)", "\\1", "a{1000}{1000}"] {
            let (code, why) = refused(text);
            assert_eq!(code, ErrorCode::InvalidRegularExpression, "{text}");
            assert!(
                why.starts_with(&format!("Field `{text}` is not valid")),
                "{why}"
            );
        }
        let (_, why) = refused(&"a".repeat(4097));
        assert_eq!(why, "Field has 4097 bytes, 4096 are allowed.");
    }
}
