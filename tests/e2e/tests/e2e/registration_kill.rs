//! `kill -9` while devices register themselves: afterwards each is registered or not, never half, and whoever was told
//! that it is connected is registered.

use std::collections::BTreeMap;
use std::time::Duration;

use mqgate_client::{Client, ConnectOptions};
use mqgate_e2e::{Broker, Identity, PATIENT};
use serde_json::Value;
use tokio::sync::watch;

/// A device that comes for the first time while the broker may die any moment; whether it heard a yes.
async fn comes(mut options: ConnectOptions, admitted: watch::Sender<usize>) -> bool {
    options.connect_timeout = Duration::from_secs(30);
    let accepted = Client::connect(options).await.is_ok();
    if accepted {
        admitted.send_modify(|admitted| *admitted += 1);
    }
    accepted
}

/// The list of certificates, by fingerprint.
fn listed(broker: &Broker) -> BTreeMap<String, Value> {
    let list = broker.admin().json(&["cert", "list"]);
    let rows = list.as_array().expect("a list").clone();
    rows.into_iter().map(|row| (row["id"].as_str().expect("it has an id").to_owned(), row)).collect()
}

async fn survives(rounds: usize, crowd: usize) {
    let mut broker = Broker::builder().with_auto_register(PATIENT).with_cert_acl(PATIENT).start().await;
    let (mut told, mut untold, mut written_and_untold) = (0, 0, 0);
    for round in 0..rounds {
        let devices: Vec<Identity> =
            (0..crowd).map(|number| broker.pki.device(&format!("device-{round}-{number}"))).collect();
        let (admitted, mut so_far) = watch::channel(0);
        let mut clients = tokio::task::JoinSet::new();
        for (number, device) in devices.iter().enumerate() {
            let connecting = comes(broker.options("c", device), admitted.clone());
            clients.spawn(async move { (number, connecting.await) });
        }
        // Each round at another point: after so many have got through, the others are anywhere on the way.
        let enough = round * crowd / rounds;
        so_far.wait_for(|so_far| *so_far >= enough).await.expect("a sender is here");
        broker.kill_and_restart();
        let mut heard = vec![false; crowd];
        while let Some(result) = clients.join_next().await {
            let (number, yes) = result.unwrap();
            heard[number] = yes;
        }

        let list = listed(&broker);
        let count = broker
            .admin()
            .metric("mqgate_device_certificates{ca=\"ca\",namespace=\"default\",state=\"active\"}");
        assert_eq!(count, list.len() as f64, "round {round}: what is counted is what is listed");
        for (device, yes) in devices.iter().zip(heard) {
            let shown = broker.admin().try_run(&["cert", "show", &device.fingerprint, "--json"]);
            let record: Option<Value> = serde_json::from_slice(&shown.stdout).ok();
            let is_listed = list.contains_key(&device.fingerprint);
            match record.filter(|_| shown.status.success()) {
                Some(record) => {
                    assert!(
                        is_listed,
                        "round {round}: the record is there, and its place in the list is not"
                    );
                    assert_eq!(record["state"], "ACTIVE", "{record}");
                    assert_eq!(record["source"], "jit", "{record}");
                    assert!(
                        record["device_id"].as_str().is_some_and(|id| id.starts_with("device-")),
                        "{record}"
                    );
                }
                None => {
                    assert!(!is_listed, "round {round}: it is listed, and its record is not there");
                    assert!(!yes, "round {round}: it heard a yes, and is forgotten");
                }
            }
            match (yes, is_listed) {
                (true, _) => told += 1,
                (false, true) => written_and_untold += 1,
                (false, false) => untold += 1,
            }
        }
        // Nobody is stuck: each of them gets in now, whatever it heard.
        for device in &devices {
            let mut options = broker.options("again", device);
            options.connect_timeout = Duration::from_secs(30);
            Client::connect(options).await.expect("it is registered, or registers now");
        }
        assert_eq!(listed(&broker).len(), (round + 1) * crowd);
    }
    mqgate_e2e::tools::note(&format!(
        "heard a yes: {told}; registered and not told: {written_and_untold}; not registered: {untold}"
    ));
    assert!(told > 0 && untold + written_and_untold > 0, "the broker died in the middle of something");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_during_registration_leaves_nothing_half_done() {
    survives(3, 8).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "full: 25 rounds of 30 devices"]
async fn a_kill_at_any_point_of_registration_leaves_nothing_half_done() {
    survives(25, 30).await;
}
