//! streamd engine crate: io.
