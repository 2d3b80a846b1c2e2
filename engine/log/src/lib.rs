//! streamd engine crate: log.
