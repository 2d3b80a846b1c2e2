//! Who leads the partitions of a topic, and where: what a client of several brokers has to know.
//!
//! Invariants: every partition has one leader among the nodes, and every node leads something.
//! Connections are dealt to the nodes in turn, and there are equally many to each.

use std::net::SocketAddr;

use crate::admin::Admin;
use crate::failure::{Failure, Result};

/// The leaders of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaders {
    nodes: Vec<SocketAddr>,
    /// Of each partition the node that leads it.
    of: Vec<usize>,
}

impl Leaders {
    /// One broker leads all.
    pub fn alone(address: SocketAddr, partitions: i32) -> Leaders {
        Leaders {
            nodes: vec![address],
            of: vec![0; partitions.max(0) as usize],
        }
    }

    /// From the addresses of the partitions' leaders, in the partitions' order.
    pub fn of(addresses: &[SocketAddr]) -> Leaders {
        let mut nodes = addresses.to_vec();
        nodes.sort_unstable();
        nodes.dedup();
        let node = |address| nodes.iter().position(|node| node == address).unwrap_or(0);
        Leaders {
            of: addresses.iter().map(node).collect(),
            nodes,
        }
    }

    /// How many nodes lead something.
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// Which node leads a partition.
    pub fn node(&self, partition: i32) -> usize {
        let place = usize::try_from(partition).unwrap_or(usize::MAX);
        self.of.get(place).copied().unwrap_or(0)
    }

    /// The partitions that a node leads.
    pub fn led(&self, node: usize) -> impl Iterator<Item = i32> {
        let led = self.of.iter().enumerate();
        led.filter(move |(_, leader)| **leader == node)
            .map(|(partition, _)| partition as i32)
    }

    /// How many connections there are if about so many are wanted.
    pub fn connections(&self, wanted: usize) -> usize {
        wanted.next_multiple_of(self.nodes.len().max(1))
    }

    /// Where so many connections go.
    pub fn dealt(&self, connections: usize) -> Vec<SocketAddr> {
        let all = self.nodes.iter().cycle();
        all.take(connections).copied().collect()
    }

    /// The one broker that a load goes to.
    ///
    /// # Errors
    /// There are several.
    pub fn single(&self) -> Result<SocketAddr> {
        match self.nodes[..] {
            [one] => Ok(one),
            _ => Err(Failure::usage(format!(
                "this load is for a single broker, but the topic is led by {}: give it one \
                 partition, or a broker that is alone",
                self.nodes.len()
            ))),
        }
    }

    /// The end offsets of all partitions.
    ///
    /// # Errors
    /// A leader cannot be reached, refuses, or leaves partitions out.
    pub fn ends(&self, topic: &str) -> Result<Vec<i64>> {
        let mut ends = vec![-1; self.of.len()];
        for (node, address) in self.nodes.iter().enumerate() {
            let led: Vec<i32> = self.led(node).collect();
            for (partition, end) in Admin::connect(*address)?.ends(topic, &led)? {
                let place = usize::try_from(partition).unwrap_or(usize::MAX);
                if let Some(known) = ends.get_mut(place) {
                    *known = end;
                }
            }
        }
        match ends.iter().position(|end| *end < 0) {
            None => Ok(ends),
            Some(missing) => Err(Failure::new(format!(
                "the broker did not tell the end of {topic}-{missing}"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_dealt_to_those_that_lead() {
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let leaders = Leaders::of(&[at(3), at(1), at(3), at(2)]);
        assert_eq!(leaders.nodes(), 3);
        let led = |node| leaders.led(node).collect::<Vec<_>>();
        assert_eq!((led(0), led(1), led(2)), (vec![1], vec![3], vec![0, 2]));
        assert_eq!((leaders.node(2), leaders.node(3)), (2, 1));
        assert_eq!((leaders.connections(1), leaders.connections(4)), (3, 6));
        assert_eq!(leaders.dealt(4), [at(1), at(2), at(3), at(1)]);
        assert_eq!(leaders.single().unwrap_err().exit_code(), 2);
        let alone = Leaders::alone(at(9), 2);
        assert_eq!((alone.node(1), alone.connections(7)), (0, 7));
        assert_eq!(alone.single().unwrap(), at(9));
    }
}
