//! Interim settings until the real ones land.
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use streamd_core::config::{BrokerConfig, Configs, Layers};
use streamd_core::meta::Local;
use streamd_model::NodeId;

#[derive(Parser)]
struct Args {
    #[arg(long, default_value = "127.0.0.1:9092")]
    listen: SocketAddr,
    #[arg(long, default_value = "streamd-data")]
    data_dir: PathBuf,
    #[arg(long)]
    cores: Option<usize>,
    #[arg(long, default_value_t = 1024)]
    memory: usize,
    #[arg(long)]
    set: Vec<String>,
}

/// Settings.
pub struct Config {
    pub listen: SocketAddr,
    pub data_dir: PathBuf,
    pub cores: Vec<usize>,
    pub memory: usize,
    pub node_id: i32,
    pub advertise: (String, u16),
    pub broker: BrokerConfig,
    pub local: Local,
}

/// Why not.
pub struct Stop(clap::Error);
impl Stop {
    pub fn exit(self) -> ExitCode {
        let _ = self.0.print();
        ExitCode::from(2)
    }
}

/// Reads.
pub fn load(args: std::env::ArgsOs) -> Result<Config, Stop> {
    let a = Args::try_parse_from(args).map_err(Stop)?;
    let mut cores = streamd_io::available_cores();
    if let Some(n) = a.cores {
        cores.truncate(n);
    }
    let configs: Configs = a
        .set
        .iter()
        .filter_map(|s| s.split_once('='))
        .map(|(k, v)| (k.into(), v.into()))
        .collect();
    let broker = BrokerConfig::resolve(&Layers {
        file: Some(&configs),
        ..Layers::default()
    });
    Ok(Config {
        listen: a.listen,
        data_dir: a.data_dir,
        cores,
        memory: a.memory << 20,
        node_id: 1,
        advertise: (a.listen.ip().to_string(), a.listen.port()),
        broker,
        local: Local {
            node: NodeId(1),
            configs,
        },
    })
}
