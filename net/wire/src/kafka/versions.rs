//! Which APIs and versions the broker serves. The handlers implement these; nothing else is
//! advertised, whatever the codec knows. The ranges are those of Apache Kafka 4.4.

use super::generated::ApiKey;

/// The served versions of an API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served {
    /// The API.
    pub api: ApiKey,
    /// The oldest version that ApiVersions tells clients.
    pub advertise_min: i16,
    /// The oldest version that is accepted. Above `advertise_min` only for Produce: clients on
    /// librdkafka turn features off when they do not see old versions of it, so Kafka lists them.
    pub accept_min: i16,
    /// The newest version, told and accepted.
    pub max: i16,
}

const fn api(api: ApiKey, min: i16, max: i16) -> Served {
    Served {
        api,
        advertise_min: min,
        accept_min: min,
        max,
    }
}

/// Everything that is served, by API key.
pub const SERVED: &[Served] = &[
    Served {
        api: ApiKey::Produce,
        advertise_min: 0,
        accept_min: 3,
        max: 13,
    },
    api(ApiKey::Fetch, 4, 18),
    api(ApiKey::ListOffsets, 1, 11),
    api(ApiKey::Metadata, 0, 13),
    api(ApiKey::OffsetCommit, 2, 10),
    api(ApiKey::OffsetFetch, 1, 10),
    api(ApiKey::FindCoordinator, 0, 6),
    api(ApiKey::JoinGroup, 0, 9),
    api(ApiKey::Heartbeat, 0, 4),
    api(ApiKey::LeaveGroup, 0, 5),
    api(ApiKey::SyncGroup, 0, 5),
    api(ApiKey::DescribeGroups, 0, 6),
    api(ApiKey::ListGroups, 0, 5),
    api(ApiKey::ApiVersions, 0, 5),
    api(ApiKey::CreateTopics, 2, 7),
    api(ApiKey::DeleteTopics, 1, 6),
    api(ApiKey::DeleteRecords, 0, 2),
    // Version 6 (two-phase commit) is not stable in Kafka 4.4.
    api(ApiKey::InitProducerId, 0, 5),
    api(ApiKey::OffsetForLeaderEpoch, 2, 4),
    // Clients use the versions up to 3 of it, brokers those after.
    api(ApiKey::AddPartitionsToTxn, 0, 5),
    api(ApiKey::AddOffsetsToTxn, 0, 4),
    api(ApiKey::EndTxn, 0, 5),
    api(ApiKey::WriteTxnMarkers, 1, 2),
    api(ApiKey::TxnOffsetCommit, 0, 5),
    api(ApiKey::DescribeConfigs, 1, 4),
    api(ApiKey::AlterConfigs, 0, 2),
    api(ApiKey::DescribeLogDirs, 1, 5),
    api(ApiKey::CreatePartitions, 0, 3),
    api(ApiKey::DeleteGroups, 0, 2),
    api(ApiKey::ElectLeaders, 0, 2),
    api(ApiKey::IncrementalAlterConfigs, 0, 1),
    api(ApiKey::AlterPartitionReassignments, 0, 1),
    api(ApiKey::ListPartitionReassignments, 0, 0),
    api(ApiKey::OffsetDelete, 0, 0),
    api(ApiKey::UpdateFeatures, 0, 2),
    api(ApiKey::DescribeCluster, 0, 2),
    api(ApiKey::DescribeProducers, 0, 0),
    api(ApiKey::UnregisterBroker, 0, 0),
    api(ApiKey::DescribeTransactions, 0, 0),
    api(ApiKey::ListTransactions, 0, 2),
    api(ApiKey::ConsumerGroupHeartbeat, 0, 1),
    api(ApiKey::ConsumerGroupDescribe, 0, 1),
    api(ApiKey::ListConfigResources, 0, 1),
    api(ApiKey::DescribeTopicPartitions, 0, 0),
    // Version 0 of these was an early form.
    api(ApiKey::ShareGroupHeartbeat, 1, 1),
    api(ApiKey::ShareGroupDescribe, 1, 1),
    api(ApiKey::ShareFetch, 1, 2),
    api(ApiKey::ShareAcknowledge, 1, 2),
    api(ApiKey::DescribeShareGroupOffsets, 0, 1),
    api(ApiKey::AlterShareGroupOffsets, 0, 0),
    api(ApiKey::DeleteShareGroupOffsets, 0, 0),
];

/// What is served of an API, if anything.
pub fn served(api: ApiKey) -> Option<Served> {
    SERVED.iter().copied().find(|served| served.api == api)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn served_versions_are_known_to_the_codec_and_sorted() {
        for served in SERVED {
            let (min, max) = served.api.versions();
            assert!(min <= served.accept_min && served.max <= max, "{served:?}");
            assert!(served.advertise_min <= served.accept_min, "{served:?}");
        }
        assert!(SERVED.is_sorted_by_key(|served| served.api.code()));
    }
}
