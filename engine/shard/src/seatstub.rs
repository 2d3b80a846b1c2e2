use crate::shard::Shard;
use streamd_core::control::NewIsr;
use streamd_model::Mono;
impl Shard {
    pub fn acts(&self) -> Option<i64> {
        None
    }
    pub fn lease(&self) -> Mono {
        Mono(0)
    }
    pub fn wish(&self, _set: NewIsr) {}
}
