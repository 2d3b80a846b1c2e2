//! Three nodes on one simulated machine, their packets lost and late as it happens: they come
//! together by joining, any of them changes the metadata, who leads it is replaced when it is cut
//! off, who was away gets what it lacks, and what was answered is there after all were killed.

mod nodes;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use streamd_core::config::Configs;
use streamd_core::meta::{ClusterImage, Command, ConfigChange};
use streamd_io::sim::{Sim, SimOptions};
use streamd_io::{Class, Env};
use streamd_model::{ErrorCode, NodeId, TopicId};
use streamd_shard::Refusal;

use nodes::{NODES, Net, start, stop, three};

fn create(n: u64) -> Command {
    create_as(n, n)
}

fn create_as(id: u64, n: u64) -> Command {
    Command::CreateTopic {
        name: format!("t{n}"),
        id: TopicId::from_random(id, id),
        partitions: 3,
        configs: Configs::new(),
        created_ms: 5,
    }
}

fn has(image: &ClusterImage, n: u64) -> bool {
    image.topic(&format!("t{n}")).is_some()
}

/// Changes the metadata by way of a node; what it gives, and then has itself, has the change.
async fn change(net: &Net, node: NodeId, n: u64) -> Result<(), Refusal> {
    let image = net.shard(node).propose(create(n)).await?;
    assert!(has(&image, n));
    Ok(())
}

fn controller(net: &Net) -> Option<NodeId> {
    let cut = net.cut.borrow();
    let mut free = NODES.iter().filter(|node| !cut.contains(node));
    free.find_map(|node| {
        let leader = net.shard(*node).controller();
        leader.filter(|leader| !cut.contains(leader))
    })
}

#[test]
fn nodes_come_together_and_any_of_them_changes_the_metadata() {
    let mut lost = 0;
    for seed in 0..10 {
        lost += Sim::new(seed, SimOptions::default()).run(move |env| async move {
            let net = three(&env, seed % 3 * 5).await;
            for n in 0..12 {
                let node = NODES[n as usize % 3];
                change(&net, node, n).await.unwrap();
                let again = create_as(n + 1_000, n);
                let refused = net.shard(node).propose(again).await.unwrap_err();
                assert_eq!(refused.code, ErrorCode::TopicAlreadyExists);
            }
            net.loss.set(0);
            net.agree().await;
            assert!((0..12).all(|n| has(&net.image(NODES[2]), n)));
            net.lost.get()
        });
    }
    assert!(lost > 50, "only {lost} packets were lost");
}

#[test]
fn a_controller_that_is_cut_off_is_replaced_and_decides_nothing() {
    for seed in 0..10 {
        Sim::new(seed, SimOptions::default()).run(|env| async move {
            let net = three(&env, 2).await;
            change(&net, NODES[1], 1).await.unwrap();
            net.until("a controller", || controller(&net).is_some())
                .await;
            let old = controller(&net).unwrap();
            net.cut.borrow_mut().insert(old);
            let begun = env.now();
            let alone = {
                let net = net.clone();
                let ask = async move { change(&net, old, 100).await };
                env.spawn(Class::Latency, ask)
            };
            let others: Vec<NodeId> = NODES.into_iter().filter(|n| *n != old).collect();
            for (n, node) in [(2, others[0]), (3, others[1])] {
                change(&net, node, n).await.unwrap();
            }
            let took = env.now() - begun;
            assert!(took < Duration::from_secs(5), "it took {took:?}");
            assert_ne!(controller(&net), Some(old));
            let refused = alone.await.unwrap_err();
            let code = refused.code;
            let unsure = [ErrorCode::NotController, ErrorCode::RequestTimedOut];
            assert!(unsure.contains(&code), "{refused}");
            net.cut.borrow_mut().clear();
            net.agree().await;
            change(&net, old, 4).await.unwrap();
            assert!(!has(&net.image(old), 100), "what was refused is not there");
        });
    }
}

#[test]
fn a_controller_that_is_told_to_stop_hands_over_first() {
    for seed in 0..4 {
        Sim::new(seed, SimOptions::default()).run(|env| async move {
            let net = three(&env, 0).await;
            change(&net, NODES[1], 1).await.unwrap();
            let old = controller(&net).unwrap();
            stop(&net, old).await;
            let begun = env.now();
            let other = NODES.into_iter().find(|n| *n != old).unwrap();
            change(&net, other, 2).await.unwrap();
            let took = env.now() - begun;
            assert!(took < Duration::from_millis(300), "it took {took:?}");
            start(&net, old).await;
            net.agree().await;
        });
    }
}

#[test]
fn who_was_away_gets_what_it_lacks_in_one_piece_if_it_is_much() {
    for (seed, much) in [(1, false), (2, true)] {
        Sim::new(seed, SimOptions::default()).run(move |env| async move {
            let net = three(&env, 0).await;
            stop(&net, NODES[2]).await;
            let long = |n: u64| Command::AlterGroup {
                group: "g".to_owned(),
                changes: vec![ConfigChange {
                    name: "x".to_owned(),
                    value: Some(format!("{n}{}", "x".repeat(10_000))),
                }],
            };
            // The quorum begins its log anew after 4 MiB, and keeps 1,000 entries.
            let count = if much { 1_600 } else { 20 };
            for n in 0..count {
                net.shard(NODES[0]).propose(long(n)).await.unwrap();
            }
            start(&net, NODES[2]).await;
            net.agree().await;
            let image = net.image(NODES[2]);
            let value = image.group_configs("g").and_then(|c| c.get("x")).unwrap();
            assert_eq!(value.trim_end_matches('x'), (count - 1).to_string());
            change(&net, NODES[2], 7).await.unwrap();
        });
    }
}

#[test]
fn what_was_answered_is_there_after_all_were_killed() {
    for seed in 0..8 {
        let mut sim = Sim::new(seed, SimOptions::default());
        let answered = Rc::new(RefCell::new(BTreeSet::new()));
        for life in 0..4u64 {
            let answered = answered.clone();
            let work = move |env: Env| async move {
                let net = Net::new(&env, 0);
                let mut starts = Vec::new();
                for node in NODES {
                    let net = net.clone();
                    let start = async move { start(&net, node).await };
                    starts.push(env.spawn(Class::Latency, start));
                }
                for start in starts {
                    start.await;
                }
                net.agree().await;
                let image = net.image(NODES[0]);
                assert!(answered.borrow().iter().all(|n| has(&image, *n)));
                for n in life * 1_000.. {
                    let node = NODES[(n % 3) as usize];
                    match change(&net, node, n).await {
                        Ok(()) => answered.borrow_mut().insert(n),
                        Err(refused) => panic!("{refused}"),
                    };
                    if life == 3 {
                        return;
                    }
                }
            };
            match life {
                3 => sim.run(work),
                _ => drop(sim.run_turns(20_000 + 3_000 * seed, work)),
            }
            if seed % 2 == 0 {
                sim.power_cut();
            }
        }
        assert!(answered.borrow().len() > 5, "{:?}", answered.borrow());
    }
}
