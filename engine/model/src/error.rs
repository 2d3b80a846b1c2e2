//! Kafka's error codes, with the numbers of `org.apache.kafka.common.protocol.Errors` (Kafka 4.x).
//!
//! Every layer speaks them: a state machine that refuses something says with which code, so that
//! no mapping at the edge can blur it.

use std::fmt;

macro_rules! codes {
    ($($code:literal $name:ident $text:literal,)*) => {
        /// An error code of the Kafka protocol. `None` is success.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(i16)]
        pub enum ErrorCode {
            $(#[doc = $text] $name = $code,)*
        }

        impl ErrorCode {
            /// A sentence for a person.
            pub fn message(self) -> &'static str {
                match self { $(ErrorCode::$name => $text,)* }
            }

            /// The code with this number, if there is one.
            pub fn from_code(code: i16) -> Option<ErrorCode> {
                match code { $($code => Some(ErrorCode::$name),)* _ => None }
            }
        }
    };
}

codes! {
    -1 UnknownServerError "The server met an error that it did not expect.",
    0 None "No error.",
    1 OffsetOutOfRange "The offset is outside the range of offsets that the server keeps.",
    2 CorruptMessage "The record batch failed its CRC, has a wrong size, or has another defect.",
    3 UnknownTopicOrPartition "This server does not host this topic or partition.",
    4 InvalidFetchSize "The fetch size is not valid.",
    5 LeaderNotAvailable "There is no leader for this partition right now.",
    6 NotLeaderOrFollower "This node is not the leader or follower for this partition.",
    7 RequestTimedOut "The request timed out.",
    8 BrokerNotAvailable "The broker is not available.",
    9 ReplicaNotAvailable "The replica is not available.",
    10 MessageTooLarge "The record batch is larger than max.message.bytes.",
    11 StaleControllerEpoch "The controller moved to another broker.",
    12 OffsetMetadataTooLarge "The metadata field of the offset commit is too large.",
    13 NetworkException "The connection broke before the answer came.",
    14 CoordinatorLoadInProgress "The coordinator is loading.",
    15 CoordinatorNotAvailable "The coordinator is not available.",
    16 NotCoordinator "This is not the right coordinator.",
    17 InvalidTopicException "The topic name is not valid.",
    18 RecordListTooLarge "The request holds a batch larger than the configured segment size.",
    19 NotEnoughReplicas "Fewer in-sync replicas than required.",
    20 NotEnoughReplicasAfterAppend "Written, but to fewer in-sync replicas than required.",
    21 InvalidRequiredAcks "acks must be -1, 0 or 1.",
    22 IllegalGeneration "The generation of the group is not valid.",
    23 InconsistentGroupProtocol "The member's protocols do not fit those of the group.",
    24 InvalidGroupId "The group id is not valid.",
    25 UnknownMemberId "The coordinator does not know this member.",
    26 InvalidSessionTimeout "The session timeout is outside the allowed range.",
    27 RebalanceInProgress "The group is rebalancing.",
    28 InvalidCommitOffsetSize "The committed offset data is too large.",
    29 TopicAuthorizationFailed "Not authorized for this topic.",
    30 GroupAuthorizationFailed "Not authorized for this group.",
    31 ClusterAuthorizationFailed "Not authorized for the cluster.",
    32 InvalidTimestamp "The timestamp of a record is out of the allowed range.",
    33 UnsupportedSaslMechanism "The SASL mechanism is not supported.",
    34 IllegalSaslState "The request is not valid in this SASL state.",
    35 UnsupportedVersion "The version of the API is not supported.",
    36 TopicAlreadyExists "A topic with this name exists already.",
    37 InvalidPartitions "The number of partitions is not valid.",
    38 InvalidReplicationFactor "The replication factor is not valid.",
    39 InvalidReplicaAssignment "The replica assignment is not valid.",
    40 InvalidConfig "The configuration is not valid.",
    41 NotController "This is not the controller.",
    42 InvalidRequest "The request is not valid.",
    43 UnsupportedForMessageFormat "The message format does not support this.",
    44 PolicyViolation "The request breaks a policy.",
    45 OutOfOrderSequenceNumber "The sequence number is out of order.",
    46 DuplicateSequenceNumber "The sequence number was seen before.",
    47 InvalidProducerEpoch "The epoch of the producer is older than the current one.",
    48 InvalidTxnState "The transaction is not in a state that allows this.",
    49 InvalidProducerIdMapping "The producer id does not belong to this transactional id.",
    50 InvalidTransactionTimeout "The transaction timeout is larger than allowed.",
    51 ConcurrentTransactions "Another transaction of this producer is still going on.",
    52 TransactionCoordinatorFenced "The transaction coordinator is fenced.",
    53 TransactionalIdAuthorizationFailed "Not authorized for this transactional id.",
    54 SecurityDisabled "Security features are disabled.",
    55 OperationNotAttempted "The operation was not attempted.",
    56 KafkaStorageError "The log directory of the partition failed.",
    57 LogDirNotFound "The log directory is not known.",
    58 SaslAuthenticationFailed "SASL authentication failed.",
    59 UnknownProducerId "The broker has no state for this producer id.",
    60 ReassignmentInProgress "A reassignment of the partition is going on.",
    61 DelegationTokenAuthDisabled "Delegation tokens are disabled.",
    62 DelegationTokenNotFound "The delegation token is not known.",
    63 DelegationTokenOwnerMismatch "The delegation token belongs to another principal.",
    64 DelegationTokenRequestNotAllowed "Delegation token requests are not allowed here.",
    65 DelegationTokenAuthorizationFailed "Not authorized for this delegation token.",
    66 DelegationTokenExpired "The delegation token is expired.",
    67 InvalidPrincipalType "The principal type is not supported.",
    68 NonEmptyGroup "The group is not empty.",
    69 GroupIdNotFound "The group does not exist.",
    70 FetchSessionIdNotFound "The fetch session is not known.",
    71 InvalidFetchSessionEpoch "The epoch of the fetch session is not the expected one.",
    72 ListenerNotFound "The leader has no such listener.",
    73 TopicDeletionDisabled "Topic deletion is disabled.",
    74 FencedLeaderEpoch "The leader epoch in the request is older than the broker's.",
    75 UnknownLeaderEpoch "The leader epoch in the request is newer than the broker's.",
    76 UnsupportedCompressionType "The compression type is not supported for this version.",
    77 StaleBrokerEpoch "The broker epoch is stale.",
    78 OffsetNotAvailable "The leader's high watermark has not caught up.",
    79 MemberIdRequired "The member must rejoin with the id that it was given.",
    80 PreferredLeaderNotAvailable "The preferred leader is not available.",
    81 GroupMaxSizeReached "The group is full.",
    82 FencedInstanceId "The static member was replaced.",
    83 EligibleLeadersNotAvailable "No eligible leader is available.",
    84 ElectionNotNeeded "No election is needed.",
    85 NoReassignmentInProgress "No reassignment is going on.",
    86 GroupSubscribedToTopic "The group is subscribed to the topic.",
    87 InvalidRecord "A record failed validation.",
    88 UnstableOffsetCommit "There are pending transactional offsets.",
    89 ThrottlingQuotaExceeded "The quota is exceeded.",
    90 ProducerFenced "A newer producer with the same transactional id exists.",
    91 ResourceNotFound "The resource does not exist.",
    92 DuplicateResource "The resource exists already.",
    93 UnacceptableCredential "The credential is not acceptable.",
    94 InconsistentVoterSet "The voter sets differ.",
    95 InvalidUpdateVersion "The update version is not valid.",
    96 FeatureUpdateFailed "The feature update failed.",
    97 PrincipalDeserializationFailure "The principal could not be read.",
    98 SnapshotNotFound "The snapshot does not exist.",
    99 PositionOutOfRange "The position is out of range.",
    100 UnknownTopicId "This server does not host a topic with this id.",
    101 DuplicateBrokerRegistration "The broker id is in use.",
    102 BrokerIdNotRegistered "The broker id is not registered.",
    103 InconsistentTopicId "The topic id does not match the topic.",
    104 InconsistentClusterId "The cluster id does not match.",
    105 TransactionalIdNotFound "The transactional id is not known.",
    106 FetchSessionTopicIdError "The fetch session mixes topic ids and names.",
    107 IneligibleReplica "The replica is not eligible for the in-sync set.",
    108 NewLeaderElected "A new leader was elected.",
    109 OffsetMovedToTieredStorage "The offset moved to tiered storage.",
    110 FencedMemberEpoch "The member epoch is fenced.",
    111 UnreleasedInstanceId "Another member still uses this instance id.",
    112 UnsupportedAssignor "The assignor is not supported.",
    113 StaleMemberEpoch "The member epoch is stale.",
    114 MismatchedEndpointType "The request went to an endpoint of the wrong type.",
    115 UnsupportedEndpointType "The endpoint type is not supported.",
    116 UnknownControllerId "The controller id is not known.",
    117 UnknownSubscriptionId "The telemetry subscription is not known.",
    118 TelemetryTooLarge "The telemetry is too large.",
    119 InvalidRegistration "The registration is not valid.",
    120 TransactionAbortable "The transaction can be aborted and tried again.",
    121 InvalidRecordState "The record is not in a state that allows this.",
    122 ShareSessionNotFound "The share session is not known.",
    123 InvalidShareSessionEpoch "The epoch of the share session is not the expected one.",
    124 FencedStateEpoch "The state epoch is fenced.",
    125 InvalidVoterKey "The voter key is not valid.",
    126 DuplicateVoter "The voter exists already.",
    127 VoterNotFound "The voter is not known.",
    128 InvalidRegularExpression "The regular expression is not valid.",
    129 RebootstrapRequired "The client must bootstrap again.",
    133 ShareSessionLimitReached "There are too many share sessions.",
}

impl ErrorCode {
    /// The number on the wire.
    pub fn code(self) -> i16 {
        self as i16
    }

    /// Whether this is an error at all.
    pub fn is_err(self) -> bool {
        self != ErrorCode::None
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} ({}): {}", self, self.code(), self.message())
    }
}

impl std::error::Error for ErrorCode {}
