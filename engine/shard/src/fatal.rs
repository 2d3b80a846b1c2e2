//! Why this process must not go on: said once, by whatever finds it, to whoever ends the process.

use std::cell::RefCell;
use std::rc::Rc;

use streamd_io::local::Notify;

/// A reason to end, once there is one.
#[derive(Clone, Default)]
pub(crate) struct Fatal(Rc<Inner>);

#[derive(Default)]
struct Inner {
    why: RefCell<Option<String>>,
    said: Notify,
}

impl Fatal {
    /// There is one. The first one counts.
    pub fn say(&self, why: String) {
        self.0.why.borrow_mut().get_or_insert(why);
        self.0.said.notify_all();
    }

    /// Whether there is one.
    pub fn is_said(&self) -> bool {
        self.0.why.borrow().is_some()
    }

    /// Waits for one.
    pub async fn wait(&self) -> String {
        loop {
            let said = self.0.said.wait();
            if let Some(why) = &*self.0.why.borrow() {
                return why.clone();
            }
            said.await;
        }
    }
}
