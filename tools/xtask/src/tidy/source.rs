//! Rust source as far as the rules need it: comments and literals blanked out, functions and
//! structs found by their braces.
//!
//! Invariant: blanking keeps every line break and every column, so that positions stay true.

/// A source file with its comments, strings and character literals blanked out.
pub struct Source {
    code: Vec<char>,
    /// For each line (from 0) whether it lies in a `#[cfg(test)]` module.
    test_lines: Vec<bool>,
}

/// A function, or what looks like one.
#[derive(Debug, PartialEq, Eq)]
pub struct Function {
    pub name: String,
    /// The line of `fn`, from 1.
    pub line: usize,
    /// From `fn` to the closing brace.
    pub lines: usize,
    pub parameters: usize,
}

/// A struct with named fields.
#[derive(Debug, PartialEq, Eq)]
pub struct Fields {
    pub name: String,
    /// The line of `struct`, from 1.
    pub line: usize,
    pub fields: usize,
}

impl Source {
    pub fn new(text: &str) -> Source {
        let code = blank(text);
        let lines = code.iter().filter(|&&c| c == '\n').count() + 1;
        let mut source = Source {
            code,
            test_lines: vec![false; lines],
        };
        source.mark_tests();
        source
    }

    /// Whether a line (from 1) lies in a test module.
    pub fn is_test_line(&self, line: usize) -> bool {
        self.test_lines.get(line - 1).copied().unwrap_or(false)
    }

    /// How many lines lie outside of test modules.
    pub fn lines(&self) -> usize {
        let last_is_empty = usize::from(self.code.last().is_none_or(|&c| c == '\n'));
        self.test_lines.iter().filter(|test| !**test).count() - last_is_empty
    }

    /// The identifiers and keywords, each with its line (from 1).
    pub fn words(&self) -> impl Iterator<Item = (usize, String)> {
        let mut line = 1;
        let mut at = 0;
        std::iter::from_fn(move || {
            while let Some(&c) = self.code.get(at) {
                if is_word(c) {
                    let end = self.word_end(at);
                    let word = self.code[at..end].iter().collect();
                    at = end;
                    return Some((line, word));
                }
                line += usize::from(c == '\n');
                at += 1;
            }
            None
        })
    }

    /// Every function with a body.
    pub fn functions(&self) -> Vec<Function> {
        let mut found = Vec::new();
        for at in self.positions("fn") {
            let Some((name, after)) = self.name_after(at + 2) else {
                continue;
            };
            let Some(open) = self.find(after, &['(']) else {
                continue;
            };
            let close = self.matching(open);
            let Some(body) = self.find(close, &['{', ';']) else {
                continue;
            };
            if self.code[body] == '{' {
                let (line, end) = (self.line(at), self.line(self.matching(body)));
                let parameters = self.items(open, close);
                found.push(Function {
                    name,
                    line,
                    lines: end - line + 1,
                    parameters,
                });
            }
        }
        found
    }

    /// Every struct with named fields.
    pub fn structs(&self) -> Vec<Fields> {
        let mut found = Vec::new();
        for at in self.positions("struct") {
            let Some((name, after)) = self.name_after(at + 6) else {
                continue;
            };
            let Some(open) = self.find(after, &['{', ';', '(']) else {
                continue;
            };
            if self.code[open] == '{' {
                let fields = self.items(open, self.matching(open));
                found.push(Fields {
                    name,
                    line: self.line(at),
                    fields,
                });
            }
        }
        found
    }

    fn mark_tests(&mut self) {
        let attribute: Vec<char> = "#[cfg(test)]".chars().collect();
        let starts: Vec<usize> = (0..self.code.len())
            .filter(|&i| self.code[i] == '#' && self.code[i..].starts_with(&attribute))
            .collect();
        for start in starts {
            let Some(open) = self.find(start + attribute.len(), &['{', ';']) else {
                continue;
            };
            if self.code[open] == '{' {
                let (from, to) = (self.line(start), self.line(self.matching(open)));
                self.test_lines[from - 1..to].fill(true);
            }
        }
    }

    /// Where a keyword stands as a word of its own.
    fn positions(&self, keyword: &str) -> Vec<usize> {
        let keyword: Vec<char> = keyword.chars().collect();
        let mut found = Vec::new();
        let mut at = 0;
        while at < self.code.len() {
            if !is_word(self.code[at]) {
                at += 1;
                continue;
            }
            let end = self.word_end(at);
            if self.code[at..end] == keyword {
                found.push(at);
            }
            at = end;
        }
        found
    }

    fn word_end(&self, at: usize) -> usize {
        let rest = &self.code[at..];
        at + rest.iter().position(|&c| !is_word(c)).unwrap_or(rest.len())
    }

    /// The identifier that follows, and the position behind it.
    fn name_after(&self, at: usize) -> Option<(String, usize)> {
        let gap = self
            .code
            .get(at..)?
            .iter()
            .position(|c| !c.is_whitespace())?;
        let start = at + gap;
        let end = self.word_end(start);
        (end > start).then(|| (self.code[start..end].iter().collect(), end))
    }

    /// The next of some characters, outside of angle brackets' arrows and nested brackets.
    fn find(&self, from: usize, wanted: &[char]) -> Option<usize> {
        let mut at = from;
        while at < self.code.len() {
            let c = self.code[at];
            if wanted.contains(&c) {
                return Some(at);
            }
            at = if matches!(c, '(' | '[' | '{') {
                self.matching(at) + 1
            } else {
                at + 1
            };
        }
        None
    }

    /// The bracket that closes the one at `open`; the end of the file if none does.
    fn matching(&self, open: usize) -> usize {
        let mut depth = 0usize;
        for (at, c) in self.code.iter().enumerate().skip(open) {
            match c {
                '(' | '[' | '{' => depth += 1,
                ')' | ']' | '}' if depth <= 1 => return at,
                ')' | ']' | '}' => depth -= 1,
                _ => {}
            }
        }
        self.code.len().saturating_sub(1)
    }

    /// How many comma-separated items stand between two brackets, attributes aside.
    fn items(&self, open: usize, close: usize) -> usize {
        let (mut items, mut depth, mut pending) = (0, 0i32, false);
        let mut at = open + 1;
        while at < close {
            match self.code[at] {
                '#' => at = self.matching(at + 1),
                ',' if depth == 0 => {
                    items += usize::from(pending);
                    pending = false;
                }
                '(' | '[' | '{' => at = self.matching(at),
                '<' => depth += 1,
                '>' if self.code[at - 1] != '-' && self.code[at - 1] != '=' => depth -= 1,
                c => pending |= !c.is_whitespace(),
            }
            at += 1;
        }
        items + usize::from(pending)
    }

    fn line(&self, at: usize) -> usize {
        1 + self.code[..at].iter().filter(|&&c| c == '\n').count()
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Replaces comments, strings and characters by spaces.
fn blank(text: &str) -> Vec<char> {
    let code: Vec<char> = text.chars().collect();
    let mut out = code.clone();
    let mut at = 0;
    while at < code.len() {
        let end = literal_end(&code, at);
        for c in &mut out[at..end] {
            if *c != '\n' {
                *c = ' ';
            }
        }
        at = end.max(at + 1);
    }
    out
}

/// Where the comment or literal that begins at `at` ends; `at` itself if none begins.
fn literal_end(code: &[char], at: usize) -> usize {
    let next = |n: usize| code.get(at + n).copied().unwrap_or('\0');
    let word_before = at > 0 && is_word(code[at - 1]);
    match code[at] {
        '/' if next(1) == '/' => end_of(code, at, &['\n'], 0),
        '/' if next(1) == '*' => block_comment_end(code, at),
        '"' => string_end(code, at + 1),
        'b' | 'c' if !word_before && next(1) == '"' => string_end(code, at + 2),
        'r' if !word_before => raw_string_end(code, at, at + 1),
        'b' | 'c' if !word_before && next(1) == 'r' => raw_string_end(code, at, at + 2),
        '\'' if next(1) == '\\' => end_of(code, at + 3, &['\''], 1),
        '\'' if next(2) == '\'' => at + 3,
        _ => at,
    }
}

fn end_of(code: &[char], from: usize, mark: &[char], extra: usize) -> usize {
    let rest = code.get(from..).unwrap_or_default();
    let found = rest.windows(mark.len()).position(|window| window == mark);
    found.map_or(code.len(), |i| from + i + extra)
}

fn string_end(code: &[char], from: usize) -> usize {
    let mut at = from;
    while at < code.len() && code[at] != '"' {
        at += if code[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(code.len())
}

fn raw_string_end(code: &[char], start: usize, from: usize) -> usize {
    let rest = code.get(from..).unwrap_or_default();
    let hashes = rest.iter().take_while(|&&c| c == '#').count();
    if rest.get(hashes) != Some(&'"') {
        return start;
    }
    let mut mark = vec!['"'];
    mark.resize(1 + hashes, '#');
    end_of(code, from + hashes + 1, &mark, mark.len())
}

fn block_comment_end(code: &[char], start: usize) -> usize {
    let mut depth = 0;
    let mut at = start;
    while at < code.len() {
        match (code[at], code.get(at + 1)) {
            ('/', Some('*')) => {
                depth += 1;
                at += 2;
            }
            ('*', Some('/')) => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    code.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        Source::new(text).words().map(|(_, word)| word).collect()
    }

    #[test]
    fn comments_and_literals_are_blank() {
        assert_eq!(words("a // b\n c /* d /* e */ f */ g"), ["a", "c", "g"]);
        assert_eq!(words(r##"a "b \" c" r#"d " e"# br"f" b"g" h"##), ["a", "h"]);
        assert_eq!(
            words(r"x: &'a str = 'b' '\'' '\u{1f4a9}' y"),
            ["x", "a", "str", "y"]
        );
        assert_eq!(words("r#type bar\"x\""), ["r", "type", "bar"]);
    }

    #[test]
    fn functions_are_measured() {
        let text = "\
fn one(a: u8, b: Vec<(u8, u8)>, c: [u8; 2],) -> X<[u8; 1]> where F: Fn(u8) -> u8 {
    if x { \"}\" } else { '}' }
}
trait T { fn declared(&self); fn two(&self, f: impl Fn(u8, u8) -> u8) {} }
type F = fn(u8);
";
        let found = Source::new(text).functions();
        let function = |name: &str, line, lines, parameters| Function {
            name: name.to_owned(),
            line,
            lines,
            parameters,
        };
        assert_eq!(found, [function("one", 1, 3, 3), function("two", 4, 1, 2)]);
    }

    #[test]
    fn fields_are_counted() {
        let text = "\
struct Unit; struct Tuple(u8, u8);
struct S<'a, T: X<u8, u8>> { #[a(b, c)] pub x: Map<u8, (T, T)>, /* y, */ y: fn(u8, u8) -> u8 }";
        let found = Source::new(text).structs();
        assert_eq!(
            found,
            [Fields {
                name: "S".to_owned(),
                line: 2,
                fields: 2
            }]
        );
    }

    #[test]
    fn test_modules_do_not_count() {
        let source = Source::new("fn a() {}\n#[cfg(test)]\nmod tests {\nfn b() {}\n}\nfn c() {}\n");
        assert_eq!(source.lines(), 2);
        assert!(!source.is_test_line(1) && source.is_test_line(4) && !source.is_test_line(6));
    }
}
