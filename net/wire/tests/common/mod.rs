//! Random messages of every kind and version, from a seed.
#![allow(dead_code, reason = "each test program uses its part")]

mod samples;

use streamd_model::TopicId;
use streamd_wire::kafka::{Array, Message, Records};

/// A test for every message, which is what the macro `one` makes of it.
#[allow(unused_macros, reason = "each test program uses its part")]
macro_rules! test_each {
    ($($request:ident $response:ident;)*) => {$(
        #[allow(non_snake_case, reason = "named as the message")]
        #[test]
        fn $request() {
            one!($request);
        }

        #[allow(non_snake_case, reason = "named as the message")]
        #[test]
        fn $response() {
            one!($response);
        }
    )*};
}

/// A seeded generator of field values that knows the version of the message.
pub struct Gen {
    pub version: i16,
    state: u64,
}

/// What can be made at random.
pub trait Sample: Sized {
    fn sample(g: &mut Gen) -> Self;
}

impl Gen {
    pub fn new(seed: u64) -> Gen {
        Gen {
            version: 0,
            state: seed,
        }
    }

    /// A random message as it may stand in this version.
    pub fn message<M: Message + Sample>(&mut self, version: i16) -> M {
        self.version = version;
        self.sample()
    }

    pub fn sample<T: Sample>(&mut self) -> T {
        T::sample(self)
    }

    pub fn nullable<T: Sample>(&mut self) -> Option<T> {
        if self.below(4) == 0 {
            None
        } else {
            Some(self.sample())
        }
    }

    /// SplitMix64.
    pub fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl Sample for $number {
            fn sample(g: &mut Gen) -> Self {
                match g.below(8) {
                    0 => 0,
                    1 => <$number>::MAX,
                    2 => <$number>::MIN,
                    _ => g.next() as $number,
                }
            }
        }
    )*};
}

numbers!(i8, i16, i32, i64);

impl Sample for bool {
    fn sample(g: &mut Gen) -> Self {
        g.below(2) == 1
    }
}

impl Sample for TopicId {
    fn sample(g: &mut Gen) -> Self {
        TopicId(g.sample())
    }
}

impl Sample for [u8; 16] {
    fn sample(g: &mut Gen) -> Self {
        match g.below(4) {
            0 => [0; 16],
            _ => std::array::from_fn(|_| g.next() as u8),
        }
    }
}

/// Lengths around those at which a length field grows.
const LENGTHS: [usize; 7] = [0, 1, 5, 26, 126, 127, 300];

const TEXT: &str = "a topic, größer, 名前, 🪵; a topic, größer, 名前, 🪵; a topic, größer, 名前, 🪵; \
     a topic, größer, 名前, 🪵; a topic, größer, 名前, 🪵; a topic, größer, 名前, 🪵; \
     a topic, größer, 名前, 🪵; a topic, größer, 名前, 🪵; a topic, größer, 名前, 🪵; end of text";

impl Sample for &'static str {
    fn sample(g: &mut Gen) -> Self {
        let mut len = LENGTHS[g.below(LENGTHS.len())];
        while !TEXT.is_char_boundary(len) {
            len -= 1;
        }
        &TEXT[..len]
    }
}

impl Sample for &'static [u8] {
    fn sample(g: &mut Gen) -> Self {
        <&str>::sample(g).as_bytes()
    }
}

impl Sample for Records<'static> {
    fn sample(g: &mut Gen) -> Self {
        Records::Bytes(<&str>::sample(g).as_bytes())
    }
}

impl<T: Sample> Sample for Array<'static, T> {
    fn sample(g: &mut Gen) -> Self {
        // Now and then an array whose count takes two bytes in a flexible version.
        let len = if g.below(200) == 0 {
            130
        } else {
            [0, 1, 1, 2, 3][g.below(5)]
        };
        (0..len).map(|_| g.sample()).collect()
    }
}
