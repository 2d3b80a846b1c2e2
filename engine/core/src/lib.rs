//! streamd engine crate: core.
