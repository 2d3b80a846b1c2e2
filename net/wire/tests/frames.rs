//! Headers, frames, holes, and what the encoder refuses.

mod common;

use common::Gen;
use streamd_wire::kafka::frame::encode_request;
use streamd_wire::kafka::*;

macro_rules! every_message {
    ($($request:ident $response:ident;)*) => {
        #[test]
        fn a_request_comes_back_out_of_its_frame() {
            $(
                let api = <$request>::API;
                let served = versions::served(api).into_iter();
                for version in served.flat_map(|s| s.accept_min..=s.max) {
                    let sent: $request = Gen::new(5).message(version);
                    let mut w = Writer::new();
                    encode_request(&sent, version, 77, Some("me"), &mut w).unwrap();
                    let frame = Frame::parse(behind_length(w.bytes())).unwrap();
                    let header = RequestHeader { api, version, correlation_id: 77,
                        client_id: Some("me") };
                    assert_eq!(frame.header, header);
                    assert_eq!(frame.decode::<$request>().unwrap(), sent);
                }
            )*
        }

        #[test]
        fn a_response_comes_back_out_of_its_frame() {
            $(
                for version in <$response>::VERSIONS.0..=<$response>::VERSIONS.1 {
                    let header = ResponseHeader { api: <$request>::API, version,
                        correlation_id: -5 };
                    let sent: $response = Gen::new(6).message(version);
                    let mut w = Writer::new();
                    header.encode(&sent, &mut w).unwrap();
                    let (id, body) = header.parse(behind_length(w.bytes())).unwrap();
                    assert_eq!(id, -5);
                    assert_eq!(<$response>::decode_body(body, version).unwrap(), sent);
                }
            )*
        }
    };
}

streamd_wire::for_every_api!(every_message);

fn behind_length(frame: &[u8]) -> &[u8] {
    let (length, rest) = frame.split_first_chunk::<4>().unwrap();
    assert_eq!(
        usize::try_from(i32::from_be_bytes(*length)).unwrap(),
        rest.len()
    );
    rest
}

#[test]
fn the_header_of_an_api_versions_response_never_has_tags() {
    let header = ResponseHeader {
        api: ApiKey::ApiVersions,
        version: 3,
        correlation_id: 1,
    };
    let mut w = Writer::new();
    header
        .encode(&ApiVersionsResponse::default(), &mut w)
        .unwrap();
    // Length, id, error, compact array of none, throttle time, no tags.
    assert_eq!(w.bytes(), [0, 0, 0, 12, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0]);
    let header = ResponseHeader {
        api: ApiKey::DescribeCluster,
        ..header
    };
    assert_eq!(header.parse(&[0, 0, 0, 9, 0, 42]), Ok((9, &[42][..])));
}

#[test]
fn requests_that_are_not_served_are_told_apart() {
    let correlation_id = 9;
    let parse = |key: u8, version: u8| {
        let frame = [0, key, 0, version, 0, 0, 0, 9, 0xff, 0xff, 0];
        Frame::parse(&frame).map(drop)
    };
    assert_eq!(
        parse(4, 0),
        Err(FrameError::Api {
            key: 4,
            correlation_id
        })
    );
    let api = ApiKey::ApiVersions;
    assert_eq!(
        parse(18, 99),
        Err(FrameError::Version {
            api,
            version: 99,
            correlation_id
        })
    );
    let api = ApiKey::Produce;
    assert_eq!(
        parse(0, 2),
        Err(FrameError::Version {
            api,
            version: 2,
            correlation_id
        })
    );
    assert_eq!(parse(0, 3), Ok(()));
    let error = FrameError::Version {
        api,
        version: 2,
        correlation_id,
    };
    assert_eq!(
        error.to_string(),
        "Produce version 2: versions 3 to 13 are served"
    );
    let error = Frame::parse(&[0, 18, 0]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "request header: byte 2: the field needs 2 bytes, 1 are left"
    );
}

#[test]
fn unknown_tagged_fields_are_skipped() {
    // DeleteRecords version 2: no topics, timeout 1, then tags 5 (two bytes) and 900 (none).
    let body = [1, 0, 0, 0, 1, 2, 5, 2, 0xaa, 0xbb, 0x84, 0x07, 0];
    let request = DeleteRecordsRequest::decode_body(&body, 2).unwrap();
    assert_eq!(request.timeout_ms, 1);
    // Tag 5 says three bytes more than there are.
    let body = [1, 0, 0, 0, 1, 1, 5, 3, 0xaa];
    let error = DeleteRecordsRequest::decode_body(&body, 2).unwrap_err();
    assert_eq!(
        error,
        DecodeError::Short {
            at: 8,
            need: 3,
            have: 1
        }
    );
}

#[test]
fn a_known_tagged_field_must_fill_its_size() {
    // ApiVersions response version 3, tag 1 is a 64-bit epoch; here with nine bytes.
    let mut body = vec![0, 0, 1, 0, 0, 0, 0, 1, 1, 9];
    body.extend([0; 9]);
    let error = ApiVersionsResponse::decode_body(&body, 3).unwrap_err();
    assert_eq!(error, DecodeError::Tag { tag: 1, left: 1 });
}

fn fetch_response<'a>(records: [Records<'a>; 3]) -> FetchResponse<'a> {
    let partitions =
        records
            .into_iter()
            .enumerate()
            .map(|(i, records)| fetch_response::PartitionData {
                partition_index: i as i32,
                high_watermark: 100,
                current_leader: fetch_response::LeaderIdAndEpoch {
                    leader_id: 1,
                    leader_epoch: 4,
                },
                records: Some(records),
                ..Default::default()
            });
    let topic = fetch_response::FetchableTopicResponse {
        partitions: partitions.collect(),
        ..Default::default()
    };
    FetchResponse {
        responses: vec![topic].into(),
        ..Default::default()
    }
}

#[test]
fn holes_stand_where_the_records_would() {
    let elsewhere: [&[u8]; 3] = [&[1; 1000], &[], &[3; 70_000]];
    let header = ResponseHeader {
        api: ApiKey::Fetch,
        version: 16,
        correlation_id: 1,
    };
    let (mut whole, mut holed) = (Writer::new(), Writer::new());
    // Twice, as two responses that wait to be sent together.
    for _ in 0..2 {
        header
            .encode(&fetch_response(elsewhere.map(Records::Bytes)), &mut whole)
            .unwrap();
        let holes = elsewhere.map(|bytes| Records::Hole(bytes.len()));
        header.encode(&fetch_response(holes), &mut holed).unwrap();
    }
    assert_eq!(
        holed.holes().iter().map(|h| h.len).collect::<Vec<_>>(),
        [1000, 70_000].repeat(2)
    );
    let mut sent = Vec::new();
    for part in holed.parts() {
        match part {
            Part::Bytes(bytes) => sent.extend_from_slice(bytes),
            Part::Hole(i) => sent.extend_from_slice(elsewhere[if i % 2 == 0 { 0 } else { 2 }]),
        }
    }
    assert!(sent == whole.bytes(), "the parts together are the response");
    assert!(holed.bytes().len() < 400);
}

#[test]
fn what_a_version_cannot_carry_is_refused_and_leaves_no_trace() {
    let mut w = Writer::new();
    w.put(b"before");
    let request = MetadataRequest {
        allow_auto_topic_creation: false,
        ..Default::default()
    };
    let error = encode_request(&request, 3, 1, None, &mut w).unwrap_err();
    let field = "AllowAutoTopicCreation";
    assert_eq!(error, EncodeError::Lacks { field, version: 3 });

    let request = MetadataRequest {
        topics: None,
        ..Default::default()
    };
    let error = encode_request(&request, 0, 1, None, &mut w).unwrap_err();
    assert_eq!(
        error,
        EncodeError::Null {
            field: "Topics",
            version: 0
        }
    );
    encode_request(&request, 1, 1, None, &mut Writer::new()).unwrap();

    let long = "x".repeat(40_000);
    let header = ResponseHeader {
        api: ApiKey::Produce,
        version: 8,
        correlation_id: 1,
    };
    let topic = produce_response::TopicProduceResponse {
        name: &long,
        ..Default::default()
    };
    let response = ProduceResponse {
        responses: vec![topic].into(),
        ..Default::default()
    };
    let error = header.encode(&response, &mut w).unwrap_err();
    assert_eq!(error, EncodeError::TooLong { length: 40_000 });

    let huge = fetch_response([Records::Hole(1 << 30); 3]);
    let header = ResponseHeader {
        api: ApiKey::Fetch,
        version: 16,
        ..header
    };
    assert!(matches!(
        header.encode(&huge, &mut w),
        Err(EncodeError::TooLong { .. })
    ));

    let error = request.encode_body(99, &mut Writer::new()).unwrap_err();
    assert_eq!(error.to_string(), "Metadata has no version 99");
    assert_eq!(w.bytes(), b"before");
    assert!(w.holes().is_empty());
}

#[test]
fn an_ignorable_field_is_dropped_where_a_version_lacks_it() {
    let response = MetadataResponse {
        throttle_time_ms: 7,
        error_code: 3,
        ..Default::default()
    };
    let mut w = Writer::new();
    response.encode_body(2, &mut w).unwrap();
    let back = MetadataResponse::decode_body(w.bytes(), 2).unwrap();
    assert_eq!((back.throttle_time_ms, back.error_code), (0, 0));
}
