//! Asks Apache Kafka who leads its metadata quorum: DescribeQuorum, version 0. Its brokers name any
//! of themselves as the controller in their metadata, so that is no way to know.

use crate::admin::{Admin, error_name};
use crate::failure::{Failure, Result};

const API_KEY: i16 = 55;
/// The topic of the metadata; it has one partition.
const TOPIC: &[u8] = b"__cluster_metadata";

/// The node that leads the quorum.
///
/// # Errors
/// The broker does not answer, or with an error.
pub fn leader(admin: &mut Admin) -> Result<i32> {
    let frame = admin.exchange(API_KEY, 0, &request())?;
    // The tagged fields of the header, of which there are none.
    let body = frame.get(5..).unwrap_or_default();
    read(body)
}

fn request() -> Vec<u8> {
    // Tagged fields of the header; one topic, its name, one partition, and the ends of all three.
    let mut body = vec![0, 2, TOPIC.len() as u8 + 1];
    body.extend_from_slice(TOPIC);
    body.extend_from_slice(&[2, 0, 0, 0, 0, 0, 0, 0]);
    body
}

/// Reads an answer about one topic with one partition.
fn read(body: &[u8]) -> Result<i32> {
    let wrong = || Failure::new("the broker's DescribeQuorum cannot be read");
    let i16_at = |at: usize| {
        let bytes = body.get(at..)?.first_chunk()?;
        Some(i16::from_be_bytes(*bytes))
    };
    let code = i16_at(0).ok_or_else(wrong)?;
    // Behind the code the number of topics, the name with its length, the number of partitions.
    let partition = 2 + 1 + 1 + TOPIC.len() + 1;
    let of_partition = match code {
        0 => i16_at(partition + 4).ok_or_else(wrong)?,
        code => code,
    };
    if of_partition != 0 {
        let error = error_name(of_partition);
        return Err(Failure::new(format!(
            "the broker does not say who leads the quorum: {error}"
        )));
    }
    let leader = body.get(partition + 6..).and_then(<[u8]>::first_chunk);
    leader.map(|id| i32::from_be_bytes(*id)).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(code: u8, of_partition: u8, leader: u8) -> Vec<u8> {
        let mut body = vec![0, code, 2, TOPIC.len() as u8 + 1];
        body.extend_from_slice(TOPIC);
        body.extend_from_slice(&[2, 0, 0, 0, 0, 0, of_partition, 0, 0, 0, leader, 0, 0, 0, 9]);
        body
    }

    #[test]
    fn the_leader_is_read_and_errors_are_told() {
        assert_eq!(read(&answer(0, 0, 3)).unwrap(), 3);
        for wrong in [answer(35, 0, 3), answer(0, 6, 3)] {
            assert!(read(&wrong).unwrap_err().to_string().contains("who leads"));
        }
        assert!(read(&answer(0, 0, 3)[..20]).is_err());
        assert!(read(&[]).is_err());
    }
}
