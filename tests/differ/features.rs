//! UpdateFeatures that change nothing, or must not. Where either has features that the other has
//! not, what is asked of is one that both have at the same level.

use streamd_tests::wire::Body;

use crate::lab::Lab;

const UPDATE_FEATURES: i16 = 57;
/// Both have it, at this level and no higher one.
const BOTH: (&str, i16) = ("transaction.version", 2);
const UPGRADE: i8 = 1;
const SAFE_DOWNGRADE: i8 = 2;
const UNSAFE_DOWNGRADE: i8 = 3;

/// A feature, the level that it is to have, and how that is meant.
type Update<'a> = (&'a str, i16, i8);

/// The code of the answer, and those for each feature that older versions have.
fn update(lab: &mut Lab, version: i16, updates: &[Update<'_>], dry: bool) -> String {
    let mut body = Body::default().i32(10_000).i8(updates.len() as i8 + 1);
    for (feature, level, kind) in updates {
        // In version 0 that is whether it may be a downgrade.
        body = body.compact(feature).i16(*level).i8(*kind).i8(0);
    }
    if version > 0 {
        body = body.i8(i8::from(dry));
    }
    let body = body.i8(0);
    let asked = lab.c.call_tagged(UPDATE_FEATURES, version, &body);
    let mut a = asked.expect("an answer");
    let (_throttle, code, _text) = (a.i32(), a.i16(), a.compact());
    let mut codes = Vec::new();
    if version < 2 {
        for _ in 1..a.i8() {
            let (_name, code, _text, _tags) = (a.compact(), a.i16(), a.compact(), a.i8());
            codes.push(code);
        }
    }
    format!("{code} {codes:?}")
}

pub fn ask(lab: &mut Lab) {
    let (both, level) = BOTH;
    let unknown = ("no.such.feature", 1, UPGRADE);
    let questions: &[(&str, i16, &[Update<'_>])] = &[
        ("update an unknown feature", 1, &[unknown]),
        ("update an unknown feature, version 2", 2, &[unknown]),
        (
            "update an unknown feature, version 0",
            0,
            &[("no.such.feature", 1, 0)],
        ),
        (
            "update a feature to what it is",
            1,
            &[(both, level, UPGRADE)],
        ),
        (
            "update a feature to what it is, version 2",
            2,
            &[(both, level, UPGRADE)],
        ),
        (
            "update a feature to a level that nobody has",
            1,
            &[(both, 99, UPGRADE)],
        ),
        (
            "update a feature to a level below 0",
            1,
            &[(both, -1, UPGRADE)],
        ),
        ("update a feature in no way", 1, &[(both, level, 0)]),
        ("update a feature in a way of 9", 1, &[(both, level, 9)]),
        (
            "upgrade a feature downwards",
            1,
            &[(both, level - 1, UPGRADE)],
        ),
        (
            "downgrade a feature upwards",
            1,
            &[(both, level + 1, SAFE_DOWNGRADE)],
        ),
        (
            "downgrade a feature to what it is",
            1,
            &[(both, level, UNSAFE_DOWNGRADE)],
        ),
        ("update no feature", 1, &[]),
        (
            "update two features, one unknown",
            1,
            &[(both, level, UPGRADE), unknown],
        ),
    ];
    for (question, version, updates) in questions {
        let answer = update(lab, *version, updates, false);
        lab.note(question, answer);
    }
    let answer = update(lab, 1, &[(both, level, UPGRADE)], true);
    lab.note("update a feature to what it is, dry", answer);
    let answer = update(lab, 1, &[unknown], true);
    lab.note("update an unknown feature, dry", answer);
}
