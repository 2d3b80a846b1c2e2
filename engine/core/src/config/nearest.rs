//! The nearest of some known names, for "did you mean".

/// The known name that is least far from `name`, if one is near enough to be what was meant.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Names are short; a long one is no typing mistake, and the distance is quadratic.
    if name.len() > 100 {
        return None;
    }
    let far = (name.len() / 3).max(2);
    let rated = known
        .into_iter()
        .map(|k| (distance(name.as_bytes(), k.as_bytes()), k));
    rated
        .filter(|r| r.0 <= far)
        .min_by_key(|r| r.0)
        .map(|r| r.1)
}

/// Levenshtein's distance.
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_meant() {
        let known = ["retention.ms", "retention.bytes", "segment.ms"];
        assert_eq!(nearest("retension.ms", known), Some("retention.ms"));
        assert_eq!(nearest("segment_ms", known), Some("segment.ms"));
        assert_eq!(nearest("colour", known), None);
        assert_eq!(distance(b"kitten", b"sitting"), 3);
    }
}
