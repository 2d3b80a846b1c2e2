//! The whole image in binary form.

use std::sync::Arc;

use streamd_model::TopicId;

use super::cluster::Cluster;
use super::command::{get_configs, get_resource, put_configs, put_resource};
use super::image::{ClusterImage, Local, TopicMeta};
use crate::codec::{Damaged, In, Out};
use crate::config::{Layers, TopicConfig};

const VERSION: u8 = 1;

impl ClusterImage {
    /// The image in binary form, without what is local to this node. The same image gives the
    /// same bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Out::default();
        out.u8(VERSION);
        out.i64(self.version as i64);
        out.str(self.cluster_id().unwrap_or(""));
        out.u8(u8::from(self.cluster_id.is_some()));
        out.i64(self.next_producer_id);
        out.count(self.topics().len());
        for topic in self.topics() {
            out.raw(&topic.id.0);
            out.str(&topic.name);
            out.i32(topic.partitions);
            out.i64(topic.created_ms);
            put_configs(&mut out, &topic.configs);
        }
        out.count(self.brokers.len());
        for (resource, configs) in self.brokers.iter() {
            put_resource(&mut out, *resource);
            put_configs(&mut out, configs);
        }
        // Snapshots of before there were groups with settings end here.
        let cluster = !self.cluster.is_empty();
        if !self.groups.is_empty() || cluster {
            out.count(self.groups.len());
            for (group, configs) in self.groups.iter() {
                out.str(group);
                put_configs(&mut out, configs);
            }
        }
        // And those of before there were clusters here.
        if cluster {
            self.cluster.put(&mut out);
        }
        out.0
    }

    /// Reads an image, and adds what is local to this node.
    ///
    /// # Errors
    /// [`Damaged`] if the bytes are no image of a version that is known here.
    pub fn decode(bytes: &[u8], local: Local) -> Result<ClusterImage, Damaged> {
        let mut r = In(bytes);
        if r.u8("the version of a metadata snapshot")? != VERSION {
            return Err(r.damaged("a metadata snapshot of an unknown version"));
        }
        let mut image = ClusterImage::new(local);
        image.version = r.i64("the number of commands")? as u64;
        let cluster_id = r.str("the cluster's id")?;
        image.cluster_id =
            (r.u8("whether there is a cluster id")? != 0).then(|| Arc::from(cluster_id));
        image.next_producer_id = r.i64("the next producer id")?;
        for _ in 0..r.count(36, "the number of topics")? {
            let topic = TopicMeta {
                id: TopicId(r.array("a topic's id")?),
                name: r.str("a topic's name")?.to_owned(),
                partitions: r.i32("a number of partitions")?,
                created_ms: r.i64("a topic's time of creation")?,
                configs: get_configs(&mut r)?,
                config: TopicConfig::resolve(&Layers::default()),
            };
            if image.topic(&topic.name).is_some() || image.topic_by_id(topic.id).is_some() {
                return Err(r.damaged("a topic that is there twice"));
            }
            image.put(topic);
        }
        for _ in 0..r.count(5, "the number of brokers with settings")? {
            let resource = get_resource(&mut r)?;
            let configs = get_configs(&mut r)?;
            Arc::make_mut(&mut image.brokers).insert(resource, configs);
        }
        let groups = match r.0.is_empty() {
            true => 0,
            false => r.count(8, "the number of groups with settings")?,
        };
        for _ in 0..groups {
            let group = r.str("a group id")?.to_owned();
            let configs = get_configs(&mut r)?;
            Arc::make_mut(&mut image.groups).insert(group, configs);
        }
        if !r.0.is_empty() {
            image.cluster = Arc::new(Cluster::get(&mut r)?);
        }
        r.end("a metadata snapshot with bytes behind it")?;
        image.resolve_all();
        Ok(image)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Configs;
    use crate::meta::Command;
    use proptest::prelude::*;
    use streamd_model::NodeId;

    fn local() -> Local {
        Local {
            node: NodeId(1),
            configs: Configs::new(),
        }
    }

    proptest! {
        #[test]
        fn damage_is_refused_or_read_but_never_panics(
            at in 0usize..200,
            byte in any::<u8>(),
            cut in 0usize..200,
        ) {
            let mut image = ClusterImage::new(local());
            for n in 0..3u8 {
                image.apply(&Command::CreateTopic {
                    name: format!("topic-{n}"),
                    id: TopicId([n; 16]),
                    partitions: 3,
                    configs: [("retention.ms".to_owned(), n.to_string())].into(),
                    created_ms: 0,
                });
            }
            let good = image.encode();
            let cut = cut % good.len();
            prop_assert!(ClusterImage::decode(&good[..cut], local()).is_err());
            let mut bad = good.clone();
            let at = at % bad.len();
            bad[at] = byte;
            let _ = ClusterImage::decode(&bad, local());
        }
    }
}
