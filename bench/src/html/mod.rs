//! page
pub fn page(_r: &crate::record::Record) -> String {
    "</html>".into()
}
