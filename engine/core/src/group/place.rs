//! Where a group lives.

/// The internal topic that keeps groups and committed offsets.
pub const OFFSETS_TOPIC: &str = "__consumer_offsets";

/// The partition of `__consumer_offsets` that a group belongs to, of `partitions`: Java's
/// `String.hashCode`, as Kafka and its tools compute it.
pub fn partition_of(group: &str, partitions: i32) -> i32 {
    let hash = group.encode_utf16().fold(0i32, |h, unit| {
        h.wrapping_mul(31).wrapping_add(i32::from(unit))
    });
    // Kafka's abs of the smallest number is 0.
    let positive = hash.checked_abs().unwrap_or(0);
    positive % partitions.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_java_does_it() {
        // Values of Java: Math.abs("...".hashCode()) % 50.
        assert_eq!(partition_of("console-consumer-1", 50), 24);
        assert_eq!(partition_of("", 50), 0);
        assert_eq!(partition_of("a", 50), 47);
        // "polygenelubricants".hashCode() is Integer.MIN_VALUE.
        assert_eq!(partition_of("polygenelubricants", 50), 0);
        // U+1F600 is two UTF-16 units: 31 * 0xd83d + 0xde00.
        assert_eq!(partition_of("\u{1f600}", 50), 1_772_899 % 50);
    }
}
