//! A network of its own on this machine: namespaces on a bridge, each with an address, between
//! which packets can be made to get lost. What it made is gone when it is dropped.

use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use crate::noise::Noise;

/// Where a process runs: its namespace and its address.
#[derive(Clone, Debug)]
pub struct Place {
    namespace: String,
    address: Ipv4Addr,
}

/// Namespaces whose packets reach each other and this machine.
pub struct Net {
    bridge: String,
    places: Vec<Place>,
    macs: Vec<String>,
}

fn ip(arguments: &str) -> Result<String, String> {
    call("ip", arguments)
}

fn call(program: &str, arguments: &str) -> Result<String, String> {
    let words = arguments.split_whitespace();
    let mut command = Command::new(program);
    let out = command.args(words).stdin(Stdio::null()).output();
    let out = out.map_err(|e| format!("{program} {arguments}: {e}"))?;
    match out.status.success() {
        true => Ok(String::from_utf8_lossy(&out.stdout).into_owned()),
        false => Err(format!(
            "{program} {arguments}: {}",
            String::from_utf8_lossy(&out.stderr).trim()
        )),
    }
}

impl Place {
    /// The address.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// A command that runs `program` there, as the very process that is started.
    #[must_use]
    pub fn command(&self, program: &std::path::Path) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.namespace])
            .arg(program);
        command
    }
}

impl Net {
    /// A network of so many namespaces.
    ///
    /// # Errors
    /// Why there is none: not every user may make one.
    pub fn new(count: u8) -> Result<Self, String> {
        let id = std::process::id();
        let mut noise = Noise::new(id.into());
        let (a, b) = (noise.below(256), noise.below(256));
        let mut net = Self {
            bridge: format!("sd{id}"),
            places: Vec::new(),
            macs: Vec::new(),
        };
        let bridge = net.bridge.clone();
        ip(&format!("link add {bridge} type bridge"))?;
        ip(&format!("addr add 10.{a}.{b}.254/24 dev {bridge}"))?;
        ip(&format!("link set {bridge} up"))?;
        for n in 1..=count {
            let (namespace, veth) = (format!("{bridge}n{n}"), format!("{bridge}v{n}"));
            let address = Ipv4Addr::new(10, a as u8, b as u8, n);
            let mac = format!("02:5d:00:00:00:{n:02x}");
            ip(&format!("netns add {namespace}"))?;
            net.places.push(Place {
                namespace: namespace.clone(),
                address,
            });
            net.macs.push(mac.clone());
            ip(&format!(
                "link add {veth} type veth peer name eth0 address {mac} netns {namespace}"
            ))?;
            ip(&format!("link set {veth} master {bridge} up"))?;
            ip(&format!("-n {namespace} addr add {address}/24 dev eth0"))?;
            ip(&format!("-n {namespace} link set eth0 up"))?;
            ip(&format!("-n {namespace} link set lo up"))?;
        }
        Ok(net)
    }

    /// The namespaces.
    #[must_use]
    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// What one sends to the other gets lost from now on.
    ///
    /// # Panics
    /// When the system refuses.
    pub fn cut(&self, from: usize, to: usize) {
        self.neighbour((from, to), "02:5d:ff:ff:ff:ff");
    }

    /// It arrives again.
    ///
    /// # Panics
    /// When the system refuses.
    pub fn heal(&self, from: usize, to: usize) {
        self.neighbour((from, to), &self.macs[to]);
    }

    /// So many kbit/s leave the namespace from now on; what would wait for longer than half a
    /// second gets lost.
    ///
    /// # Panics
    /// When the system refuses.
    pub fn slow(&self, from: usize, kbits: u64) {
        let shape = format!("root tbf rate {kbits}kbit burst 16kb latency 500ms");
        self.discipline(from, &format!("replace dev eth0 {shape}"));
    }

    /// All that is sent leaves at once again.
    ///
    /// # Panics
    /// As [`Net::slow`], which must have been called before.
    pub fn fast(&self, from: usize) {
        self.discipline(from, "del dev eth0 root");
    }

    fn discipline(&self, from: usize, order: &str) {
        let namespace = &self.places[from].namespace;
        call("tc", &format!("-n {namespace} qdisc {order}")).expect("a namespace of ours");
    }

    /// Packets for an address that no card has are lost without a word.
    fn neighbour(&self, (from, to): (usize, usize), mac: &str) {
        let (namespace, address) = (&self.places[from].namespace, self.places[to].address);
        let order =
            format!("-n {namespace} neigh replace {address} lladdr {mac} nud permanent dev eth0");
        ip(&order).expect("a namespace of ours");
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        // Their ends of the cables go with them.
        for place in &self.places {
            let _ = ip(&format!("netns del {}", place.namespace));
        }
        let _ = ip(&format!("link del {}", self.bridge));
    }
}
