//! How long a device stays connected after its certificate was revoked, while many others are connected. The
//! clients are in this process, the broker in another: each has its own limit of open files.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mqgate_client::Client;
use mqgate_codec::{QoS, ReasonCode};
use mqgate_e2e::{Broker, Identity, PATIENT, Pki, tools};
use tokio::sync::Semaphore;

const POLICY: &str = r#"
[[plugins.config.rules]]
match = { cn = "*" }
device_id = "${cn}"
publish = ["t"]
"#;

/// Each device has so many sessions. Some of the devices are revoked by an operator, one after the other, and others
/// all at once by a list that arrives.
struct Fleet {
    devices: usize,
    sessions: usize,
    by_command: usize,
    by_list: usize,
}

/// Connects them all, a few at a time; a row for each device.
async fn connect(broker: &Broker, devices: &[Identity], sessions: usize) -> Vec<Vec<Client>> {
    let places = Arc::new(Semaphore::new(64));
    let mut connecting = Vec::new();
    for (number, device) in devices.iter().enumerate() {
        let mut options = broker.options("", device);
        options.tls.as_mut().expect("these are options for TLS").read_once();
        options.connect_timeout = Duration::from_secs(120);
        options.keep_alive = Duration::ZERO;
        for session in 0..sessions {
            let options = options.clone_with_client_id(format!("device-{number}-{session}"));
            let places = Arc::clone(&places);
            connecting.push(tokio::spawn(async move {
                let _place = places.acquire_owned().await.expect("it is not closed");
                Client::connect(options).await.expect("it may come in").0
            }));
        }
    }
    let mut clients = Vec::new();
    for row in connecting.chunks_mut(sessions) {
        let mut row_of_clients = Vec::new();
        for client in row {
            row_of_clients.push(client.await.expect("it does not panic"));
        }
        clients.push(row_of_clients);
    }
    clients
}

/// Waits until all of them were told to go.
async fn gone(clients: &mut [Vec<Client>]) {
    let all = async {
        for client in clients.iter_mut().flatten() {
            assert_eq!(client.disconnected().await, Some(ReasonCode::NOT_AUTHORIZED));
        }
    };
    tokio::time::timeout(Duration::from_secs(60), all).await.expect("they are disconnected");
}

/// Compares what the histogram says of one trigger with the promise: p99 below a second.
async fn judge(broker: &Broker, trigger: &str, sessions: usize, seen: Duration) {
    let admin = broker.admin();
    let series = |what: &str| format!("mqgate_revocation_disconnect_latency_seconds_{what}");
    let labelled = |what: &str| admin.metric(&format!("{}{{trigger=\"{trigger}\"}}", series(what)));
    // It is written down after the client was told.
    let count = mqgate_e2e::eventually("each is measured", async || {
        let count = labelled("count");
        (count >= sessions as f64).then_some(count)
    })
    .await;
    assert_eq!(count, sessions as f64, "each is measured once");
    let (_, page) = admin.page("/metrics");
    let bucket = format!("{}{{trigger=\"{trigger}\",le=\"", series("bucket"));
    let p99 = page.lines().find_map(|line| {
        let (bound, rest) = line.strip_prefix(&bucket)?.split_once('"')?;
        let within: f64 = rest.split_whitespace().next_back()?.parse().ok()?;
        (within >= count * 0.99).then(|| bound.parse::<f64>().unwrap_or(f64::INFINITY))
    });
    let p99 = p99.expect("the last bucket holds all");
    tools::note(&format!(
        "{trigger}: {sessions} sessions told to go, p99 at most {p99} s, mean {:.1} ms; as seen from outside, the \
         command's start included, {seen:?} at most",
        labelled("sum") / count * 1000.0
    ));
    assert!(p99 <= 1.0, "p99 of {trigger} is between this and the bound below: {p99} s");
}

async fn revoke_among(fleet: Fleet) {
    let Fleet { devices, sessions, by_command: revoked, by_list: listed } = fleet;
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().to_path_buf();
    let pki = Pki::create(&folder.join("pki"), "test");
    fs::write(folder.join("ca.crl"), pki.revocation_list(1, 2090, &[])).unwrap();
    let broker = Broker::builder()
        .with_auto_register(PATIENT)
        .with_native("static-policy", POLICY)
        .listener("handshake_timeout = \"60s\"\nmax_handshakes = 1024\ncrl_check = true")
        .config("[crl]\nfiles = [\"ca.crl\"]\n")
        .start_in(folder, pki, Some(temporary))
        .await;
    let admin = broker.admin();
    let identities: Vec<_> =
        (0..devices).map(|number| broker.pki.device(&format!("device-{number}"))).collect();
    let mut clients = connect(&broker, &identities, sessions).await;
    assert_eq!(admin.metric("mqgate_clients_connected"), (devices * sessions) as f64);
    let (by_command, rest) = clients.split_at_mut(revoked);
    let (by_list, rest) = rest.split_at_mut(listed);

    let mut slowest = Duration::ZERO;
    for (device, clients) in identities.iter().zip(by_command.chunks_mut(1)) {
        let began = Instant::now();
        let revoke = async {
            tokio::task::block_in_place(|| admin.run(&["cert", "revoke", &device.fingerprint]));
        };
        tokio::join!(gone(clients), revoke);
        slowest = slowest.max(began.elapsed());
    }
    judge(&broker, "cert", revoked * sessions, slowest).await;

    let named: Vec<_> = identities[revoked..revoked + listed].iter().collect();
    let file = broker.folder.join("ca.crl");
    fs::write(file.with_extension("new"), broker.pki.revocation_list(2, 2090, &named)).unwrap();
    fs::rename(file.with_extension("new"), &file).unwrap();
    let began = Instant::now();
    tokio::task::block_in_place(|| admin.run(&["crl", "refresh"]));
    gone(by_list).await;
    judge(&broker, "crl", listed * sessions, began.elapsed()).await;

    // Nobody else had to go, and who went does not come back.
    for client in rest.iter().flatten() {
        let answer = client.publish("t", "x", QoS::AtLeastOnce, false).await;
        assert_eq!(answer, Ok(ReasonCode::NO_MATCHING_SUBSCRIBERS));
    }
    mqgate_e2e::eventually("the others are counted", async || {
        let connected = admin.metric("mqgate_clients_connected");
        (connected == ((devices - revoked - listed) * sessions) as f64).then_some(())
    })
    .await;
    for device in [&identities[0], &identities[revoked]] {
        assert!(Client::connect(broker.options("again", device)).await.is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_ends_its_sessions_within_a_second() {
    revoke_among(Fleet { devices: 40, sessions: 5, by_command: 10, by_list: 10 }).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "full: 10,000 TLS connections"]
async fn a_revocation_ends_its_sessions_within_a_second_among_ten_thousand() {
    revoke_among(Fleet { devices: 1_000, sessions: 10, by_command: 100, by_list: 10 }).await;
}
