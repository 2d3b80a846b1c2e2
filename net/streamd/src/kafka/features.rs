//! ApiVersions and UpdateFeatures: what this broker serves, which levels of which features there
//! are and in force, and the feature level of the cluster, which operators raise.

use std::rc::Rc;

use streamd_core::control::Ask;
use streamd_core::meta::{ClusterCommand, ClusterImage, Command, KNOWN, Levels};
use streamd_io::Part;
use streamd_model::ErrorCode;
use streamd_shard::Refusal;
use streamd_wire::kafka::ResponseHeader;
use streamd_wire::kafka::generated::api_versions_response::{
    ApiVersion, ApiVersionsResponse, FinalizedFeatureKey, SupportedFeatureKey,
};
use streamd_wire::kafka::generated::update_features_request::{
    FeatureUpdateKey, UpdateFeaturesRequest,
};
use streamd_wire::kafka::generated::update_features_response::{
    UpdatableFeatureResult, UpdateFeaturesResponse,
};
use streamd_wire::kafka::versions::{SERVED, Served};

use super::encode;
use crate::broker::Broker;

/// The feature level of the cluster. Kafka's tools take `metadata.version` for its own.
const LEVEL: &str = "streamd.version";

/// Features with the version that is in force, always. `group.version` 1 has the consumer protocol,
/// `share.version` 1 share groups;
/// `transaction.version` 2: partitions come into a transaction by being written to, its end
/// raises the epoch (KIP-890).
const FIXED: &[(&str, i16)] = &[
    ("group.version", 1),
    ("share.version", 1),
    ("transaction.version", 2),
];

/// The most features that one request may name.
const FEATURES_MAX: usize = 1_000;

/// What upgrades are (KIP-778); the other types are downgrades.
const UPGRADE: i8 = 1;
const DOWNGRADES: [i8; 2] = [2, 3];

/// How an API is told of.
pub fn api_version(served: &Served) -> ApiVersion {
    ApiVersion {
        api_key: served.api.code(),
        min_version: served.advertise_min,
        max_version: served.max,
    }
}

/// Answers ApiVersions, versions 0 to 5.
pub fn versions(broker: &Broker, header: ResponseHeader) -> Result<Vec<Part>, String> {
    encode(header, &told(&broker.shard.image(), header.version))
}

fn told(image: &ClusterImage, version: i16) -> ApiVersionsResponse<'static> {
    // Clients before Kafka 3.9, which ask in version 3 at most, fail on a feature that may be off.
    let least = i16::from(version < 4);
    let supported = FIXED.iter().map(|(name, max)| SupportedFeatureKey {
        name,
        min_version: least,
        max_version: *max,
    });
    let known = Levels::of(KNOWN);
    let level = SupportedFeatureKey {
        name: LEVEL,
        min_version: known.lowest,
        max_version: known.highest,
    };
    let agreed = (LEVEL, image.cluster().level());
    let finalized = FIXED.iter().copied().chain([agreed]);
    let finalized = finalized.map(|(name, version)| FinalizedFeatureKey {
        name,
        max_version_level: version,
        min_version_level: version,
    });
    ApiVersionsResponse {
        api_keys: SERVED.iter().map(api_version).collect(),
        supported_features: supported.chain([level]).collect(),
        finalized_features_epoch: i64::try_from(image.version()).unwrap_or(i64::MAX),
        finalized_features: finalized.collect(),
        ..ApiVersionsResponse::default()
    }
}

/// Answers UpdateFeatures, versions 0 to 2: all of the updates, or none.
pub async fn update(
    broker: &Rc<Broker>,
    header: ResponseHeader,
    request: &UpdateFeaturesRequest<'_>,
) -> Result<Vec<Part>, String> {
    super::check_items("features", request.feature_updates.len(), FEATURES_MAX)?;
    let done = match raised(&broker.shard.image(), header.version, request) {
        Ok(Some(level)) if !request.validate_only => {
            let ask = Ask::Propose {
                commands: vec![raise(level)],
                replication: None,
            };
            let decided = broker.shard.decide(ask).await.map(drop);
            decided.map_err(|r| Refusal::new(r.code, because(LEVEL, level, &r.text)))
        }
        checked => checked.map(drop),
    };
    let failed = done.err();
    let text = failed.as_ref().map(|refusal| {
        let first = "The update failed for all features since the following feature had an error:";
        format!("{first} {}", refusal.text)
    });
    let results = request.feature_updates.iter();
    let results = results.map(|update| UpdatableFeatureResult {
        feature: update.feature,
        error_code: 0,
        error_message: None,
    });
    let response = UpdateFeaturesResponse {
        error_code: failed.as_ref().map_or(0, |refusal| refusal.code.code()),
        error_message: text.as_deref(),
        results: match failed.is_none() && header.version < 2 {
            true => results.collect(),
            false => Vec::new().into(),
        },
        ..UpdateFeaturesResponse::default()
    };
    encode(header, &response)
}

fn raise(level: i16) -> Command {
    Command::Cluster(ClusterCommand::SetFeatureLevel(level))
}

fn because(feature: &str, level: i16, why: &str) -> String {
    format!("Invalid update version {level} for feature {feature}: {why}.")
}

/// The level that the cluster is to have, if that is another one than now.
fn raised(
    image: &ClusterImage,
    version: i16,
    request: &UpdateFeaturesRequest<'_>,
) -> Result<Option<i16>, Refusal> {
    let mut level = None;
    for update in &request.feature_updates {
        let to = update.max_version_level;
        let wanted = one(image, version, &update).map_err(|(code, why)| {
            let text = because(update.feature, to, &why);
            Refusal::new(code, text)
        })?;
        // Of two that name the same feature the first counts, as in Kafka.
        level = level.or(wanted);
    }
    Ok(level)
}

fn one(
    image: &ClusterImage,
    version: i16,
    update: &FeatureUpdateKey<'_>,
) -> Result<Option<i16>, (ErrorCode, String)> {
    let to = update.max_version_level;
    let invalid = |text: &str| Err((ErrorCode::InvalidUpdateVersion, text.to_owned()));
    let kind = match (version, update.allow_downgrade) {
        (0, true) => DOWNGRADES[0],
        (0, false) => UPGRADE,
        _ => update.upgrade_type,
    };
    if kind != UPGRADE && !DOWNGRADES.contains(&kind) {
        return invalid("the controller does not support the given upgrade type");
    }
    if to < 0 {
        return invalid("a feature version cannot be less than 0");
    }
    let fixed = FIXED.iter().find(|(name, _)| *name == update.feature);
    if let Some((_, always)) = fixed {
        return match to == *always {
            true => Ok(None),
            false => invalid(&format!("it is {always} in every cluster of streamd")),
        };
    }
    if update.feature != LEVEL {
        return invalid("the broker does not support this feature");
    }
    let now = image.cluster().level();
    if to == now {
        return Ok(None);
    }
    if to > now && kind != UPGRADE {
        return invalid(&format!("it is {now}: that is no downgrade"));
    }
    image.admit(&raise(to))?;
    Ok(Some(to))
}
