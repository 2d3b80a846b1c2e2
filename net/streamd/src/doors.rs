//! Where connections come in, and which shard gets them: the one that has the fewest, or, of the
//! native protocol, the one that their Hello asks for.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_lite::future;
use streamd_io::{Accepted, Class, Env, Listener, Stream};
use streamd_model::ShardId;

use crate::broker::Broker;
use crate::config::Config;
use crate::conn;
use crate::crowd::{Crowd, Seat};
use crate::native;

/// Connections of the native protocol may be so many more than all together.
const FOR_NODES: usize = 256;
/// A Hello that takes longer is waited for where its connection is.
const HELLO_WAIT: Duration = Duration::from_secs(1);

/// Which protocol a connection speaks: that of the listener that it came through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// Kafka's.
    Kafka = 0,
    /// The native one.
    Native = 1,
    /// The native one, and the connection is where its Hello wants it.
    Seated = 2,
}

impl Door {
    fn of(number: u8) -> Door {
        let mut doors = [Door::Native, Door::Seated].into_iter();
        let found = doors.find(|door| *door as u8 == number);
        found.unwrap_or(Door::Kafka)
    }
}

/// The listeners of a shard.
pub type Doors = Vec<(Door, Listener)>;

/// Opens the listeners of a shard.
///
/// # Errors
/// A sentence for the operator.
pub async fn open(env: &Env, config: &Config) -> Result<Doors, String> {
    let mut doors = vec![(Door::Kafka, listen(env, config, config.listen).await?)];
    if let Some(native) = config.native_listen {
        doors.push((Door::Native, listen(env, config, native).await?));
    }
    Ok(doors)
}

async fn listen(env: &Env, config: &Config, at: SocketAddr) -> Result<Listener, String> {
    let listener = env
        .listen(at)
        .await
        .map_err(|e| format!("cannot listen on {at}: {e}"))?;
    if let Some(bytes) = config.broker.connections.send_buffer {
        listener
            .set_send_buffer(bytes)
            .map_err(|e| format!("cannot set socket.send.buffer.bytes={bytes}: {e}"))?;
    }
    Ok(listener)
}

/// Takes connections, for ever, and gives each to the shard that has the fewest.
pub async fn accept(broker: Rc<Broker>, (door, listener): (Door, Listener), crowd: Arc<Crowd>) {
    let env = broker.shard.env.clone();
    let here = usize::from(broker.shard.mesh.id().0);
    loop {
        let accepted = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(e) => {
                // Out of file descriptors, most likely: what is open must end first.
                broker.complain_text(&format!("cannot accept: {e}"));
                env.sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        env.yield_if_needed().await;
        let max = broker.shard.image().broker().connections.max;
        // Clients of Kafka's protocol cannot keep the nodes of a cluster from each other.
        let room = match door {
            Door::Kafka => max,
            Door::Native | Door::Seated => max.saturating_add(FOR_NODES),
        };
        match crowd.seat(here, room) {
            None => broker.complain_text(&format!("{max} are open (max.connections)")),
            Some(seat) if seat.shard() == here => serve(&broker, (accepted, door), seat),
            Some(seat) => hand_over(&broker, (accepted, door), seat).await,
        }
    }
}

/// Takes the connections that other shards give to this one, for ever.
pub async fn take_over(broker: Rc<Broker>, crowd: Arc<Crowd>) {
    let here = usize::from(broker.shard.mesh.id().0);
    loop {
        let (accepted, door) = broker.shard.mesh.next_connection().await;
        let seat = crowd.passed_on(here);
        serve(&broker, (accepted, Door::of(door)), seat);
    }
}

/// Gives a connection to the shard where its place is.
async fn hand_over(broker: &Broker, (accepted, door): (Accepted, Door), seat: Seat) {
    let to = ShardId(seat.pass_on() as u16);
    let mesh = &broker.shard.mesh;
    mesh.hand_over(to, (accepted, door as u8)).await;
}

fn serve(broker: &Rc<Broker>, (accepted, door): (Accepted, Door), seat: Seat) {
    let env = &broker.shard.env;
    // The peer may be gone by now.
    let Ok(stream) = env.adopt(accepted) else {
        return;
    };
    let broker = broker.clone();
    let serve = async move {
        match door {
            Door::Kafka => conn::serve(broker, stream).await,
            Door::Seated => native::serve(broker, stream).await,
            Door::Native => return find_place(broker, stream, seat).await,
        }
        drop(seat);
    };
    env.spawn(Class::Latency, serve).detach();
}

/// Serves a connection of the native protocol, or has the shard do it that it asks for: what it has
/// to say is for the partitions there, and need not go from core to core.
async fn find_place(broker: Rc<Broker>, mut stream: Stream, seat: Seat) {
    let mesh = &broker.shard.mesh;
    let wanted = {
        let mut head = [0; native::HELLO_HEAD];
        let late = async {
            broker.shard.env.sleep(HELLO_WAIT).await;
            Ok(0)
        };
        let seen = future::or(stream.peek(&mut head), late).await;
        let shard = native::wanted_shard(&head[..seen.unwrap_or(0)]);
        shard.map_or(seat.shard(), |shard| shard % mesh.shards())
    };
    if wanted == seat.shard() {
        native::serve(broker, stream).await;
        drop(seat);
    } else if let Ok(accepted) = stream.pass_on() {
        hand_over(&broker, (accepted, Door::Seated), seat.moved(wanted)).await;
    }
}
