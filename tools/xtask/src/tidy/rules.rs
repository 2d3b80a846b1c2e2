//! The rules for one file. A finding is a sentence with the place in front and the cure behind.
//!
//! Nothing mutes a rule. Test modules and test programs may have long functions, and
//! lines of test modules do not count.

use super::source::Source;

const FILE_LINES: usize = 800;
const FUNCTION_LINES: usize = 70;
const LINE_CHARS: usize = 100;
const PARAMETERS: usize = 6;
const FIELDS: usize = 16;
const HEADER_LINES: usize = 15;

/// Looks at the file at `path` (relative to the top of the repository, with slashes).
pub fn file(path: &str, text: &str) -> Vec<String> {
    let source = Source::new(text);
    let mut found = Vec::new();
    header(text, &mut found);
    long_lines(text, &mut found);
    names(path, &source, &mut found);
    unsafety(path, text, &source, &mut found);
    sizes(path, &source, &mut found);
    found
        .iter()
        .map(|finding| format!("{path}{finding}"))
        .collect()
}

/// Files of test programs: everything in a folder `tests` or `benches`.
fn is_test_program(path: &str) -> bool {
    path.split('/')
        .any(|folder| folder == "tests" || folder == "benches")
}

fn header(text: &str, found: &mut Vec<String>) {
    let lines = text
        .lines()
        .take_while(|line| line.starts_with("//!"))
        .count();
    if lines == 0 {
        found.push(": no module header: begin with //! and say what it is and what holds".into());
    } else if lines > HEADER_LINES {
        found.push(format!(
            ": a header of {lines} lines, {HEADER_LINES} allowed: say it shorter"
        ));
    }
}

fn long_lines(text: &str, found: &mut Vec<String>) {
    for (i, line) in text.lines().enumerate() {
        let chars = line.chars().count();
        if chars > LINE_CHARS {
            let at = i + 1;
            found.push(format!(
                ":{at}: {chars} characters, {LINE_CHARS} allowed: break the line"
            ));
        }
    }
}

/// Only engine/io knows the runtime and the kernel.
fn names(path: &str, source: &Source, found: &mut Vec<String>) {
    let io = path.starts_with("engine/io/");
    let bench = path.starts_with("bench/");
    for (line, word) in source.words() {
        let allowed = match word.as_str() {
            "io_uring" => io,
            "libc" => io || bench,
            _ => true,
        };
        if !allowed {
            found.push(format!(
                ":{line}: names {word}: only engine/io may, so put the call there"
            ));
        }
    }
}

fn unsafety(path: &str, text: &str, source: &Source, found: &mut Vec<String>) {
    let allowed = path.starts_with("engine/io/") || path.starts_with("bench/");
    let lines: Vec<&str> = text.lines().collect();
    let words: Vec<(usize, String)> = source.words().collect();
    for (i, (line, word)) in words.iter().enumerate() {
        if word != "unsafe" {
            continue;
        }
        if !allowed {
            found.push(format!(
                ":{line}: unsafe: all of it lives in engine/io, so put it there"
            ));
            continue;
        }
        // A declaration promises nothing; a block or an impl does.
        let next = words.get(i + 1).map(|(_, word)| word.as_str());
        if matches!(next, Some("fn" | "extern" | "trait")) {
            continue;
        }
        let above = lines[..*line].iter().rev().take(6);
        if !above.into_iter().any(|text| text.contains("SAFETY")) {
            found.push(format!(
                ":{line}: unsafe without a SAFETY line above: say why it is sound"
            ));
        }
    }
}

fn sizes(path: &str, source: &Source, found: &mut Vec<String>) {
    let test_program = is_test_program(path);
    let lines = source.lines();
    if lines > FILE_LINES {
        found.push(format!(
            ": {lines} lines, {FILE_LINES} allowed: split by idea"
        ));
    }
    for function in source.functions() {
        let (line, name) = (function.line, &function.name);
        let (lines, parameters) = (function.lines, function.parameters);
        if lines > FUNCTION_LINES && !test_program && !source.is_test_line(line) {
            found.push(format!(
                ":{line}: fn {name} has {lines} lines, {FUNCTION_LINES} allowed: split by idea"
            ));
        }
        if parameters > PARAMETERS {
            found.push(format!(
                ":{line}: fn {name} has {parameters} parameters, {PARAMETERS} allowed: \
                 gather what belongs together in a struct"
            ));
        }
    }
    for found_struct in source.structs() {
        let (line, name, fields) = (found_struct.line, &found_struct.name, found_struct.fields);
        if fields > FIELDS {
            found.push(format!(
                ":{line}: struct {name} has {fields} fields, {FIELDS} allowed: split by idea"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "//! What it is.\n";

    fn findings(path: &str, body: &str) -> Vec<String> {
        file(path, &format!("{HEAD}{body}"))
    }

    #[test]
    fn a_clean_file_has_no_finding() {
        let body = "fn f(a: u8) {\n    // unsafe, libc and io_uring in a comment\n}\n";
        assert_eq!(findings("engine/core/src/x.rs", body), [""; 0]);
    }

    #[test]
    fn headers_and_lines() {
        assert_eq!(
            file("a.rs", "fn f() {}\n"),
            ["a.rs: no module header: begin with //! and say what it is and what holds"]
        );
        let long = "//! x\n".repeat(16);
        assert_eq!(
            file("a.rs", &long),
            ["a.rs: a header of 16 lines, 15 allowed: say it shorter"]
        );
        let wide = format!("// {}\n", "é".repeat(97));
        assert_eq!(findings("a.rs", &wide), [""; 0]);
        let wide = format!("// {}\n", "é".repeat(98));
        assert_eq!(
            findings("a.rs", &wide),
            ["a.rs:2: 101 characters, 100 allowed: break the line"]
        );
    }

    #[test]
    fn the_runtime_is_named_in_one_place() {
        let body = "use io_uring::x;\nuse libc;\n";
        assert_eq!(findings("engine/io/src/x.rs", body), [""; 0]);
        assert_eq!(findings("engine/log/src/x.rs", body).len(), 2);
        assert_eq!(
            findings("bench/src/x.rs", body),
            ["bench/src/x.rs:2: names io_uring: only engine/io may, so put the call there"]
        );
    }

    #[test]
    fn unsafe_has_its_place_and_its_reason() {
        let body = "fn f() {\n    unsafe { g() }\n}\n";
        let elsewhere = findings("net/wire/src/x.rs", body);
        let text = "unsafe: all of it lives in engine/io, so put it there";
        assert_eq!(elsewhere, [format!("net/wire/src/x.rs:3: {text}")]);
        let bare = findings("engine/io/src/x.rs", body);
        let text = "unsafe without a SAFETY line above: say why it is sound";
        assert_eq!(bare, [format!("engine/io/src/x.rs:3: {text}")]);
        let body = "fn f() {\n    // SAFETY: g is.\n    unsafe { g() }\n}\nunsafe fn g() {}\n";
        assert_eq!(findings("engine/io/src/x.rs", body), [""; 0]);
    }

    #[test]
    fn sizes_have_limits() {
        let function = |lines: usize| format!("fn f() {{\n{}}}\n", "x();\n".repeat(lines - 2));
        assert_eq!(findings("a.rs", &function(70)), [""; 0]);
        let text = "fn f has 71 lines, 70 allowed: split by idea";
        assert_eq!(findings("a.rs", &function(71)), [format!("a.rs:2: {text}")]);
        let test = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", function(71));
        assert_eq!(findings("a.rs", &test), [""; 0]);
        assert_eq!(findings("x/tests/a.rs", &function(71)), [""; 0]);

        assert_eq!(findings("a.rs", &"x();\n".repeat(799)), [""; 0]);
        let text = "801 lines, 800 allowed: split by idea";
        assert_eq!(
            findings("a.rs", &"x();\n".repeat(800)),
            [format!("a.rs: {text}")]
        );
        assert_eq!(
            findings("x/tests/a.rs", &"x();\n".repeat(800)),
            [format!("x/tests/a.rs: {text}")]
        );

        let parameters = "fn f(a: u8, b: u8, c: u8, d: u8, e: u8, f: u8, g: u8) {}\n";
        assert_eq!(findings("a.rs", parameters).len(), 1);
        let fields = |n: usize| format!("struct S {{ {} }}\n", "a: u8,\n".repeat(n));
        assert_eq!(findings("a.rs", &fields(16)), [""; 0]);
        assert_eq!(findings("a.rs", &fields(17)).len(), 1);
    }
}
