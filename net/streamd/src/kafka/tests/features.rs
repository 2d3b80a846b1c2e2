//! UpdateFeatures, and what ApiVersions tells of features.

use streamd_model::ErrorCode;
use streamd_wire::kafka::ApiKey;
use streamd_wire::kafka::generated::update_features_request::{
    FeatureUpdateKey, UpdateFeaturesRequest,
};
use streamd_wire::kafka::generated::update_features_response::UpdateFeaturesResponse;
use streamd_wire::kafka::generated::{ApiVersionsRequest, ApiVersionsResponse};

use super::{ask, code, versions, with_broker};

const UPGRADE: i8 = 1;
const UNSAFE_DOWNGRADE: i8 = 3;

fn update(feature: &str, level: i16, upgrade_type: i8) -> FeatureUpdateKey<'_> {
    FeatureUpdateKey {
        feature,
        max_version_level: level,
        allow_downgrade: false,
        upgrade_type,
    }
}

fn request<'a>(updates: &[FeatureUpdateKey<'a>]) -> UpdateFeaturesRequest<'a> {
    UpdateFeaturesRequest {
        feature_updates: updates.to_vec().into(),
        ..UpdateFeaturesRequest::default()
    }
}

#[test]
fn what_cannot_be_is_refused_as_kafka_does() {
    // The broker's build, as far as it has told, is of before there were levels.
    with_broker(&[], |broker| async move {
        let level = "streamd.version";
        for (feature, to, kind, why) in [
            (
                level,
                2,
                UPGRADE,
                "not every node knows feature level 2: node 1 knows level 1",
            ),
            (level, 0, UPGRADE, "does not fall"),
            (level, -1, UPGRADE, "cannot be less than 0"),
            (level, 2, UNSAFE_DOWNGRADE, "that is no downgrade"),
            (level, 2, 0, "upgrade type"),
            (
                "group.version",
                0,
                UNSAFE_DOWNGRADE,
                "it is 1 in every cluster",
            ),
            (
                "metadata.version",
                30,
                UPGRADE,
                "does not support this feature",
            ),
        ] {
            // What is fine beside it does not happen either.
            let updates = [
                update("group.version", 1, UPGRADE),
                update(feature, to, kind),
            ];
            let answer = ask(&broker, 2, &request(&updates)).await;
            let r: UpdateFeaturesResponse<'_> = answer.decode();
            let case = format!("{feature} {to} {kind}: {r:?}");
            assert_eq!(
                code(r.error_code),
                ErrorCode::InvalidUpdateVersion,
                "{case}"
            );
            let said = r.error_message.expect("a sentence");
            assert!(said.contains(why), "{case}");
            assert!(
                said.contains(&format!("version {to} for feature {feature}")),
                "{case}"
            );
            assert!(r.results.is_empty(), "{case}");
        }
        let answer = ask(&broker, 4, &ApiVersionsRequest::default()).await;
        let r: ApiVersionsResponse<'_> = answer.decode();
        let now = r.finalized_features.iter().find(|f| f.name == level);
        assert_eq!(now.map(|f| f.max_version_level), Some(1));
        let known = r.supported_features.iter().find(|f| f.name == level);
        assert_eq!(known.map(|f| (f.min_version, f.max_version)), Some((1, 2)));
    });
}

#[test]
fn what_is_so_already_is_done() {
    with_broker(&[], |broker| async move {
        for version in versions(ApiKey::UpdateFeatures) {
            let now = [update("streamd.version", 1, UPGRADE)];
            let answer = ask(&broker, version, &request(&now)).await;
            let r: UpdateFeaturesResponse<'_> = answer.decode();
            assert_eq!((r.error_code, r.error_message), (0, None), "{version}");
            let named = r.results.iter().map(|one| (one.feature, one.error_code));
            let named: Vec<_> = named.collect();
            match version {
                0 | 1 => assert_eq!(named, [("streamd.version", 0)]),
                _ => assert_eq!(named, []),
            }
        }
        // Version 0 has a flag in place of the type.
        let mut down = update("streamd.version", 2, UPGRADE);
        down.allow_downgrade = true;
        let answer = ask(&broker, 0, &request(&[down])).await;
        let r: UpdateFeaturesResponse<'_> = answer.decode();
        assert_eq!(code(r.error_code), ErrorCode::InvalidUpdateVersion);
        assert!(r.error_message.is_some_and(|m| m.contains("no downgrade")));
    });
}
