//! From settings to a running broker and back: the directory is locked, the system is looked at,
//! one shard per core is started, and a signal stops them all.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use std::{fs, io};

use futures_lite::future::or;
use streamd_io::mailbox::{Endpoint, mesh};
use streamd_io::{Class, DirLock, Env, RuntimeOptions, lock_dir, probe, signal};
use streamd_log::journal::JournalOptions;
use streamd_model::ShardId;
use streamd_shard::{Brakes, Envelope, Request, Settings, Shard};

use crate::admin::Admin;
use crate::broker::{Broker, Identity, Limits};
use crate::config::Config;
use crate::conn;
use crate::crowd::Crowd;
use crate::doors::{self, Door, Doors};
use crate::identity::identity;
use crate::native::peers::Links;
use crate::native::peers::book::Book;

/// Messages that may wait for one shard from each other.
const MAILBOX: usize = 1024;
/// How often a stopping shard looks whether it is closed.
const CLOSE_POLL: Duration = Duration::from_millis(5);
/// How often the main thread looks for signals and reports.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A start that takes so long says what it waits for.
const SAY_WAITS: Duration = Duration::from_secs(3);
/// How long connections get to finish when the broker stops.
const DRAIN: Duration = Duration::from_millis(200);

/// The most that the tails of a shard's partitions may take, bytes. What is written passes through
/// this memory again and again; were it larger, each byte would be written to memory that was never
/// touched before, which costs more than all else that is done with it.
const TAIL_MAX: usize = 48 << 20;
/// A file of a shard's journal, bytes. What it holds goes to the segments together: the larger it
/// is, the larger are the pieces.
const JOURNAL_FILE: u64 = 16 << 20;
/// A shard's journal files: one takes groups while others go to the segments.
const JOURNAL_FILES: usize = 4;

/// With fewer open files than this no broker gets far.
const OPEN_FILES_MIN: u64 = 256;
/// No shard keeps the files of more segments open: what is opened once a second costs nothing.
const SEGMENTS_OPEN_MAX: usize = 256;

/// The least memory for requests that a shard works with, bytes.
const REQUESTS_MIN: usize = 1 << 20;
/// How long a port in use is waited for: the system takes a moment to clear away a broker that was
/// killed.
const PORT_WAIT: Duration = Duration::from_secs(1);
/// How often it is tried again.
const PORT_POLL: Duration = Duration::from_millis(20);

/// What a shard tells the main thread.
enum Report {
    Listening(SocketAddr),
    Failed(String),
    /// It serves, and must not go on.
    Fatal(String),
}

/// What every shard is started with.
struct Plan {
    config: Config,
    identity: Arc<Identity>,
    /// Who other nodes are, if there is a way to them.
    book: Option<Arc<Book>>,
    /// The metadata is that of others, until it is here.
    joins: bool,
    shards: usize,
    /// How many segments of a shard may have their files open.
    segments_open: usize,
    /// How fast replicas are copied.
    brakes: Arc<Brakes>,
    crowd: Arc<Crowd>,
    endpoints: Mutex<Vec<Option<Endpoint<Envelope>>>>,
    report: Mutex<Sender<Report>>,
}

/// Runs the broker until a signal ends it.
pub fn run(mut config: Config) -> Result<(), String> {
    let started = Instant::now();
    signal::block().map_err(|e| format!("cannot take charge of signals: {e}"))?;
    let files = open_files(&config)?;
    let dir = &config.data_dir;
    fs::create_dir_all(dir).map_err(|e| {
        let dir = dir.display();
        format!("cannot create the data directory {dir}: {e}. Choose another with --data-dir")
    })?;
    let _lock = lock(dir)?;
    probe(dir, config.cores.len()).map_err(|e| e.to_string())?;
    take_ports(&mut config)?;
    let (identity, contacts) = identity(&config)?;
    let identity = Arc::new(identity);
    announce(&config, &identity);
    let joins = !contacts.is_empty();
    let book = || Book::new(identity.clone(), config.local.clone(), contacts);
    let book = config.native_listen.map(|_| book());
    let admin = config.admin_listen.map(Admin::start).transpose()?;
    if let Some(admin) = &admin {
        eprintln!("  admin on http://{}/", admin.address());
    }
    let (report, reports) = channel();
    let shards = config.cores.len();
    let endpoints: Vec<Endpoint<Envelope>> = mesh(shards, MAILBOX);
    let stoppers: Vec<_> = (0..shards).map(|to| endpoints[0].sender(to)).collect();
    let endpoints = endpoints.into_iter().map(Some).collect();
    let mut options = RuntimeOptions::default();
    options.cores.clone_from(&config.cores);
    options.data_dir = Some(config.data_dir.clone());
    let plan = Arc::new(Plan {
        config,
        identity,
        book,
        joins,
        shards,
        segments_open: segments_open(files, shards),
        brakes: Arc::default(),
        crowd: Crowd::new(shards),
        endpoints: Mutex::new(endpoints),
        report: Mutex::new(report),
    });
    let shared = plan.clone();
    let runtime = streamd_io::start(options, move |env, shard| {
        run_shard(env, shard, shared.clone())
    })
    .map_err(|e| format!("cannot start the shards: {e}"))?;
    let ready = wait_ready(&reports, shards);
    let mut fatal = None;
    if let Ok(Some(listen)) = &ready {
        let serving = |yes| admin.iter().for_each(|a| a.set_ready(yes));
        serving(true);
        say_ready(&plan, *listen, started.elapsed());
        fatal = serve_on(&reports)?;
        serving(false);
        eprintln!("stopping: finishing writes");
    }
    for shard in &stoppers {
        shard.send_blocking(Envelope::Stop);
    }
    runtime.join().map_err(|e| format!("a shard failed: {e}"))?;
    if let Some(why) = fatal {
        return Err(why);
    }
    if ready.is_ok() {
        eprintln!("stopped cleanly");
    }
    ready.map(|_| ())
}

/// Waits for a signal, or for a shard that says why this process must not go on.
fn serve_on(reports: &Receiver<Report>) -> Result<Option<String>, String> {
    loop {
        let signal = signal::wait_timeout(LOOK_EVERY);
        if signal
            .map_err(|e| format!("cannot wait for signals: {e}"))?
            .is_some()
        {
            return Ok(None);
        }
        if let Ok(Report::Fatal(why)) = reports.try_recv() {
            return Ok(Some(why));
        }
    }
}

/// Raises the limit of open files as far as it goes; gives it.
fn open_files(config: &Config) -> Result<u64, String> {
    let limit = signal::raise_open_files()
        .map_err(|e| format!("cannot raise the limit of open files: {e}"))?;
    if limit < OPEN_FILES_MIN {
        return Err(format!(
            "this process may have {limit} files open; streamd needs {OPEN_FILES_MIN} at least. \
             Raise the hard limit: `ulimit -Hn 65536`, or LimitNOFILE=65536 in the unit of systemd"
        ));
    }
    let wanted = config.broker.connections.max as u64 + limit / 4;
    if wanted > limit && config.broker.connections.max < i32::MAX as usize {
        eprintln!(
            "note: max.connections={} and {} files of segments do not fit the limit of {limit} \
             open files: some connections may have to wait",
            config.broker.connections.max,
            limit / 4
        );
    }
    Ok(limit)
}

/// How many segments of each of so many shards may have their files, two at the most, open: an
/// eighth of the limit all together. Others are opened when they are read or written.
fn segments_open(limit: u64, shards: usize) -> usize {
    let each = limit / 16 / shards as u64;
    usize::try_from(each).map_or(SEGMENTS_OPEN_MAX, |n| n.clamp(4, SEGMENTS_OPEN_MAX))
}

/// The addresses to listen on, and to be told, are settled.
fn take_ports(config: &mut Config) -> Result<(), String> {
    config.listen = take_port(config.listen, "--listen")?;
    if config.advertise.1 == 0 {
        config.advertise.1 = config.listen.port();
    }
    if let Some(native) = &mut config.native_listen {
        *native = take_port(*native, "--native-listen")?;
    }
    Ok(())
}

/// Makes sure that nobody listens there, and chooses a port when 0 is asked for. The shards share
/// the port among themselves, so the system would let another process of this user share it too.
fn take_port(listen: SocketAddr, option: &str) -> Result<SocketAddr, String> {
    let until = Instant::now() + PORT_WAIT;
    let bound = loop {
        let bound = TcpListener::bind(listen).and_then(|l| l.local_addr());
        let busy = matches!(&bound, Err(e) if e.kind() == io::ErrorKind::AddrInUse);
        if !busy || Instant::now() >= until {
            break bound;
        }
        std::thread::sleep(PORT_POLL);
    };
    bound.map_err(|e| match e.kind() {
        io::ErrorKind::AddrInUse => format!(
            "{listen} is in use by another program. Stop that one, or choose another address \
             with {option} HOST:PORT"
        ),
        _ => format!("cannot listen on {listen}: {e}. Choose another with {option} HOST:PORT"),
    })
}

fn lock(dir: &Path) -> Result<DirLock, String> {
    lock_dir(dir).map_err(|e| match e.kind() {
        io::ErrorKind::WouldBlock => format!("another streamd is at work here: {e} (--data-dir)"),
        _ => format!("cannot lock the data directory {}: {e}", dir.display()),
    })
}

fn announce(config: &Config, identity: &Identity) {
    eprintln!(
        "streamd {}: node {} of cluster {}",
        env!("CARGO_PKG_VERSION"),
        identity.node_id,
        identity.cluster_id
    );
    eprintln!(
        "  data in {}, {} shard(s) on core(s) {}, memory {} MiB",
        config.data_dir.display(),
        config.cores.len(),
        config
            .cores
            .iter()
            .map(usize::to_string)
            .collect::<Vec<_>>()
            .join(","),
        config.memory >> 20
    );
    if !config.broker.durable {
        eprintln!(
            "  note: log.flush=written: a power failure can lose records that were acknowledged"
        );
    }
}

fn say_ready(plan: &Plan, listen: SocketAddr, took: Duration) {
    eprintln!("ready in {} ms listen={listen}", took.as_millis());
    if let Some(native) = plan.config.native_listen {
        eprintln!("  native protocol on {native}");
    }
    eprintln!("  try: streamctl --bootstrap {listen} topic create greetings");
    eprintln!("       echo hello | streamctl --bootstrap {listen} produce greetings");
    eprintln!("       streamctl --bootstrap {listen} consume greetings -n 1");
    eprintln!(
        "  or point any Kafka client at {}:{}",
        plan.identity.host, plan.identity.port
    );
}

/// Waits until every shard serves; `None` if a signal came before.
fn wait_ready(reports: &Receiver<Report>, shards: usize) -> Result<Option<SocketAddr>, String> {
    let mut waits_for = shards;
    loop {
        match reports.recv_timeout(LOOK_EVERY) {
            Ok(Report::Listening(at)) => {
                waits_for -= 1;
                if waits_for == 0 {
                    return Ok(Some(at));
                }
            }
            Ok(Report::Failed(why) | Report::Fatal(why)) => return Err(why),
            Err(RecvTimeoutError::Timeout) => {
                let signal = signal::wait_timeout(Duration::ZERO);
                if signal.is_ok_and(|s| s.is_some()) {
                    return Ok(None);
                }
            }
            Err(_) => return Err("a shard ended before it was ready".to_owned()),
        }
    }
}

async fn run_shard(env: Env, index: usize, plan: Arc<Plan>) {
    let tell = |report| {
        if let Ok(sender) = plan.report.lock() {
            // The main thread listens until it has heard of every shard.
            let _ = sender.send(report);
        }
    };
    match start_shard(&env, index, &plan).await {
        Ok((broker, doors)) => {
            let mut accepting = Vec::new();
            for (door, listener) in doors {
                let (broker, crowd) = (broker.clone(), plan.crowd.clone());
                let accept = async move {
                    // Other nodes have to come in before there is metadata of theirs.
                    if door == Door::Kafka {
                        broker.shard.opened().await;
                    }
                    doors::accept(broker, (door, listener), crowd).await;
                };
                accepting.push(env.spawn(Class::Latency, accept));
            }
            let take_over = doors::take_over(broker.clone(), plan.crowd.clone());
            let taking_over = env.spawn(Class::Latency, take_over);
            env.spawn(Class::Background, conn::sweep(broker.clone()))
                .detach();
            let shard = broker.shard.clone();
            let fails = async {
                tell(Report::Fatal(shard.failed().await));
                std::future::pending().await
            };
            if or(opens(&shard), fails).await {
                tell(Report::Listening(plan.config.listen));
                let fails = async {
                    tell(Report::Fatal(shard.failed().await));
                    std::future::pending().await
                };
                or(shard.mesh.stopped(), fails).await;
                drop((accepting, taking_over));
                env.sleep(DRAIN).await;
                stop_shard(&broker, index).await;
            } else {
                let why = "stopped before its partitions were open";
                tell(Report::Failed(why.to_owned()));
            }
        }
        Err(why) => {
            tell(Report::Failed(why));
        }
    }
}

/// Waits until a shard has an image; false if the process stops before: another shard may have
/// failed, or no node of the cluster has answered.
async fn opens(shard: &Rc<Shard>) -> bool {
    let opened = async {
        shard.opened().await;
        true
    };
    let stopped = async {
        shard.mesh.stopped().await;
        false
    };
    let says = async {
        shard.env.sleep(SAY_WAITS).await;
        if shard.mesh.id() == ShardId(0) {
            eprintln!("waiting for the controller of the cluster to let this node in");
        }
        std::future::pending().await
    };
    or(or(opened, stopped), says).await
}

async fn start_shard(env: &Env, index: usize, plan: &Plan) -> Result<(Rc<Broker>, Doors), String> {
    let endpoint = plan
        .endpoints
        .lock()
        .ok()
        .and_then(|mut all| all[index].take());
    let endpoint = endpoint.ok_or("the shard was started twice")?;
    streamd_log::open_files::set_max(plan.segments_open);
    let config = &plan.config;
    let memory = config.memory / plan.shards;
    let settings = Settings {
        data_dir: config.data_dir.clone(),
        tail_bytes: (memory / 4).min(TAIL_MAX),
        local: config.local.clone(),
        told: plan.identity.told(),
        joins: plan.joins,
        journal: JournalOptions {
            file_bytes: JOURNAL_FILE,
            files_max: JOURNAL_FILES,
            durable: config.broker.durable,
        },
        retention_check: Duration::from_millis(config.broker.retention.check_ms),
        brakes: plan.brakes.clone(),
    };
    let id = ShardId(index as u16);
    let shard = Shard::new(env.clone(), id, plan.shards, endpoint, settings);
    let links = plan.book.clone().map(|book| Links::new(&shard, book));
    if let Some(links) = &links {
        shard.set_peers(links.clone());
    }
    env.spawn(Class::Latency, shard.clone().run()).detach();
    work_behind(env, &shard);
    if index == 0 {
        shard.lead().await?;
    }
    let limits = Limits {
        request_memory: request_memory(config, plan.shards),
        request_bytes_max: config.broker.request_bytes_max,
        fetch_bytes_max: config.broker.fetch_bytes_max,
        sessions: config.broker.fetch_sessions_max.div_ceil(plan.shards),
    };
    let broker = Broker::new(shard, plan.identity.clone(), limits);
    if let Some(links) = links {
        // Nobody else sets it.
        let _ = broker.links.set(links);
    }
    Ok((broker, doors::open(env, config).await?))
}

/// Begins what a shard does behind the scenes for as long as it lives.
pub fn work_behind(env: &Env, shard: &Rc<Shard>) {
    env.spawn(Class::Background, shard.clone().retain())
        .detach();
    env.spawn(Class::Background, shard.clone().compact())
        .detach();
    env.spawn(Class::Background, shard.clone().watch_disk())
        .detach();
    env.spawn(Class::Background, shard.clone().scrub()).detach();
}

/// Bytes of requests that a shard holds at once: a quarter of its memory, unless
/// `queued.max.request.bytes` says how many all shards hold.
fn request_memory(config: &Config, shards: usize) -> usize {
    let told = config.broker.queued_request_bytes_max;
    let told = told.and_then(|bytes| usize::try_from(bytes).ok());
    told.map_or(config.memory / shards / 4, |bytes| {
        (bytes / shards).max(REQUESTS_MIN)
    })
}

/// Every shard closes its own partitions; shard 0 closes last, since the metadata is there.
async fn stop_shard(broker: &Rc<Broker>, index: usize) {
    if index > 0 {
        // Shard 0 asks for it, so that nobody is gone while others still need an answer.
        while !broker.shard.is_closed() {
            broker.shard.env.sleep(CLOSE_POLL).await;
        }
        return;
    }
    broker.shard.leave().await;
    for other in 1..broker.shard.mesh.shards() {
        if let Some(answer) = Some(broker.begin(other, Request::Close).await) {
            answer.await;
        }
    }
    broker.shard.close().await;
}
