//! Reads into memory, for those who look at what they read before it is sent: the owner of the
//! partition reads it all, and whoever asked gets bytes.

use bytes::Bytes;
use streamd_core::producer::AbortedTxn;
use streamd_io::Part;
use streamd_model::{ErrorCode, Watermarks};

use crate::Refusal;
use crate::read::{ReadDone, ReadItem};
use crate::shard::Shard;

/// What came of one read.
pub struct ReadBytes {
    /// Where the log stands.
    pub marks: Watermarks,
    /// Batches back to back, the last one may be cut; or why not.
    pub bytes: Result<Bytes, Refusal>,
    /// Aborted transactions with records in it.
    pub aborted: Vec<AbortedTxn>,
}

impl Shard {
    /// Reads of partitions of this shard.
    pub async fn read_bytes(&self, items: Vec<ReadItem>) -> Vec<ReadBytes> {
        let mut done = Vec::with_capacity(items.len());
        for item in &items {
            done.push(self.read_into_memory(item).await);
        }
        done
    }

    async fn read_into_memory(&self, item: &ReadItem) -> ReadBytes {
        let ReadDone {
            marks,
            result,
            aborted,
            ..
        } = self.read_one(item, (item.bytes_max, false)).await;
        let bytes = match result {
            Ok(plan) => self.gather(item, plan.parts).await,
            Err(refusal) => Err(refusal),
        };
        ReadBytes {
            marks,
            bytes,
            aborted,
        }
    }

    async fn gather(&self, item: &ReadItem, mut parts: Vec<Part>) -> Result<Bytes, Refusal> {
        if let [Part::Bytes(one)] = &mut parts[..] {
            return Ok(std::mem::take(one));
        }
        let mut all = Vec::new();
        for part in parts {
            match part {
                Part::Bytes(bytes) => all.extend_from_slice(&bytes),
                Part::File { pos, len, .. } => {
                    let log = self.partition(item.partition)?.log.clone();
                    let file = log.borrow().reader_of(item.offset);
                    // It was deleted or compacted meanwhile: the next read finds its successor.
                    let Some(file) = file else { break };
                    let read = file.read_at(pos, len).await.map_err(|e| {
                        let text = format!("offset {}: {e}", item.offset);
                        Refusal::new(ErrorCode::KafkaStorageError, text)
                    })?;
                    all.extend_from_slice(&read);
                }
            }
        }
        Ok(all.into())
    }
}
