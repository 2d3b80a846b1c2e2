//! Looking for damage in the background, and what becomes of a partition that has some: offline,
//! also after the next start, until a person has mended it.

use std::rc::Rc;
use std::time::Duration;

use streamd_io::Class;
use streamd_log::{LogError, scrub};
use streamd_model::ErrorCode;

use crate::Refusal;
use crate::partition::Partition;
use crate::shard::Shard;

/// How long a shard waits when there was nothing to read, or nothing is to be read.
const PAUSE: Duration = Duration::from_secs(10);

impl Shard {
    /// Reads the closed segments of this shard's partitions, slowly. For ever.
    pub async fn scrub(self: Rc<Self>) {
        self.past.all_open().await;
        loop {
            let mut bytes = 0;
            for partition in self.mine() {
                let rate = self.image().broker().disk.scrub_rate / self.mesh.shards() as u64;
                if rate == 0 || !partition.is_at_work() {
                    continue;
                }
                match scrub::scrub(&self.env, &partition.log, rate).await {
                    Ok(done) => bytes += done.bytes,
                    // Deleted meanwhile, or it failed for another reason.
                    Err(_) if partition.usable().is_err() => {}
                    Err(error) => {
                        self.damaged(&partition, &error);
                    }
                }
                self.env.yield_now().await;
            }
            if bytes == 0 {
                self.env.sleep(PAUSE).await;
            }
        }
    }

    /// Takes a partition offline whose log cannot be read right. Damage is remembered on the disk.
    pub(crate) fn damaged(&self, partition: &Partition, error: &LogError) -> Refusal {
        let refusal = Refusal::new(ErrorCode::KafkaStorageError, error.to_string());
        if error.is_full() || partition.usable().is_err() {
            return refusal;
        }
        partition.fail(error);
        if let LogError::Corrupt(text) = error {
            let error = LogError::Corrupt(text.clone());
            let (env, dir) = (self.env.clone(), partition.log.borrow().dir().to_owned());
            let mark = async move {
                if let Err(e) = scrub::mark(&env, &dir, &error).await {
                    eprintln!("error: {e}: the next start does not know of the damage");
                }
            };
            self.env.spawn(Class::Background, mark).detach();
        }
        refusal
    }
}
