//! Compaction on a shard: which of its logs comes next, with what memory and at what pace. One log
//! at a time, the dirtiest first, as background work; what is to be done to it is decided, and
//! done, in `streamd_log::compact`.

use std::rc::Rc;
use std::time::Duration;

use streamd_core::config::{CleanerConfig, TopicConfig};
use streamd_log::LogError;
use streamd_log::compact::filter::Aborted;
use streamd_log::compact::{self, Done, Order, Pace, Rules, Todo};

use crate::partition::Partition;
use crate::shard::Shard;

/// The shortest rest when there is nothing to do.
const REST_MIN: Duration = Duration::from_millis(20);

fn rules(config: &TopicConfig) -> Rules {
    let c = &config.compaction;
    Rules {
        delete_retention_ms: c.delete_retention_ms,
        min_lag_ms: c.min_lag_ms,
        max_lag_ms: c.max_lag_ms,
        min_dirty_ratio: c.min_dirty_ratio,
        segment_bytes: config.segment_bytes as u64,
        index_bytes: config.segment_index_bytes as u64,
    }
}

impl Shard {
    /// Compacts the logs of this shard. For ever.
    pub async fn compact(self: Rc<Self>) {
        let pace = Pace::new(f64::MAX);
        self.past.all_open().await;
        loop {
            let settings = self.image().broker().cleaner.clone();
            pace.set_rate(settings.bytes_per_second / self.mesh.shards() as f64);
            if !settings.enabled || !self.compact_dirtiest(&settings, &pace).await {
                let rest = Duration::from_millis(settings.backoff_ms);
                self.env.sleep(rest.max(REST_MIN)).await;
            }
        }
    }

    /// Compacts the log that needs it most. False when none does, or it cannot be done now.
    async fn compact_dirtiest(&self, settings: &CleanerConfig, pace: &Pace) -> bool {
        let mut dirtiest: Option<(Rc<Partition>, Rules, Todo)> = None;
        for partition in self.mine() {
            let rules = {
                let topic = partition.topic.borrow();
                topic.config.compact.then(|| rules(&topic.config))
            };
            let Some(rules) = rules.filter(|_| partition.is_at_work()) else {
                continue;
            };
            if let Err(error) = self.catch_up(&partition).await {
                self.not_compacted(&partition, &error);
                continue;
            }
            let now_ms = self.env.wall_ms();
            let bound = partition.watermarks().stable;
            let todo = compact::todo(&self.env, &partition.log, (&rules, bound), now_ms).await;
            match todo {
                Ok(Some(todo)) if dirtiest.as_ref().is_none_or(|d| d.2.ratio < todo.ratio) => {
                    dirtiest = Some((partition, rules, todo));
                }
                Ok(_) => {}
                Err(error) => self.not_compacted(&partition, &error),
            }
            self.env.yield_if_needed().await;
        }
        let Some((partition, rules, todo)) = dirtiest else {
            return false;
        };
        let order = Order {
            rules,
            bound: partition.watermarks().stable,
            now_ms: self.env.wall_ms(),
            map_bytes: settings.map_bytes / self.mesh.shards(),
            producers: (partition.producers.borrow().last_offsets())
                .map(|(id, last)| (id.0, last))
                .collect(),
            aborted: aborted_in(&partition),
            pace,
        };
        match compact::run(&self.env, &partition.log, &order, todo).await {
            Ok(Done {
                refused: Some(why), ..
            }) => {
                eprintln!(
                    "warning: {} is not compacted: {why}. Nothing is lost; it is tried again",
                    partition.name
                );
                false
            }
            Ok(_) => true,
            Err(error) => {
                self.not_compacted(&partition, &error);
                !error.is_full()
            }
        }
    }
}

impl Shard {
    /// A log that was deleted meanwhile has no files any more: that is no fault.
    fn not_compacted(&self, partition: &Partition, error: &LogError) {
        if error.is_full() {
            eprintln!(
                "warning: {} is not compacted: {error}. Nothing is lost; it is tried again",
                partition.name
            );
        } else if partition.usable().is_ok() {
            self.damaged(partition, error);
        }
    }

    /// Sees to it that a checkpoint lies behind the segments that were rolled. What they have in
    /// the journal goes to their files now: under a light load it would stay there for long.
    pub(crate) async fn catch_up(&self, partition: &Partition) -> Result<(), LogError> {
        let lags = partition.log.borrow().checkpoint_lags();
        if lags {
            let state = partition.state(&partition.producers.borrow());
            partition.log.borrow_mut().plan_checkpoint(state);
        }
        if !partition.log.borrow().checkpoint_waits() {
            return Ok(());
        }
        // If more than that is under way, it is stored when that is done.
        self.flusher.write_now(&partition.log).await
    }
}

/// What was aborted in all of a partition's log.
fn aborted_in(partition: &Partition) -> Aborted {
    let mut aborted = Aborted::default();
    let stable = partition.watermarks().stable;
    for txn in partition.producers.borrow().txns.aborted(0, stable) {
        aborted.add(txn.producer, txn.first, txn.last);
    }
    aborted
}
