//! A CA and the server's certificate are replaced while 500 clients come and go.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mqgate_client::{Client, ConnectOptions};
use mqgate_codec::ReasonCode;
use mqgate_e2e::{Broker, PATIENT, Pki};

const CLIENTS: usize = 500;
/// So many of those with the old certificates connect once and stay.
const HOLDERS: usize = 5;

fn now() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// What everybody has to agree with.
#[derive(Default)]
struct Score {
    /// When the transition ends, Unix milliseconds; 0 before it has begun.
    ends_at: AtomicU64,
    /// Milliseconds of the end of the test; 0: go on.
    over: AtomicU64,
    refused_too_early: AtomicUsize,
    let_in_too_late: AtomicUsize,
    refused_new: AtomicUsize,
    connects_before: AtomicUsize,
    refusals_after: AtomicUsize,
}

/// Comes and goes. `of_old` says whose certificate it has.
#[expect(clippy::print_stderr, reason = "says what a failed test should show")]
async fn come_and_go(options: ConnectOptions, of_old: bool, stays: bool, score: Arc<Score>) {
    loop {
        let began = now();
        let result = Client::connect(options.clone()).await;
        let (ended, ends_at) = (now(), score.ends_at.load(Ordering::SeqCst));
        match (&result, of_old) {
            (Err(error), true) if ends_at == 0 || ended < ends_at => {
                eprintln!("refused before the end: {error}");
                score.refused_too_early.fetch_add(1, Ordering::SeqCst);
            }
            (Err(error), false) => {
                eprintln!("a new one was refused: {error}");
                score.refused_new.fetch_add(1, Ordering::SeqCst);
            }
            (Err(_), true) => drop(score.refusals_after.fetch_add(1, Ordering::SeqCst)),
            // The end and the second that is promised.
            (Ok(_), true) if ends_at != 0 && began > ends_at + 1_000 => {
                score.let_in_too_late.fetch_add(1, Ordering::SeqCst);
            }
            (Ok(_), _) => drop(score.connects_before.fetch_add(1, Ordering::SeqCst)),
        }
        if score.over.load(Ordering::SeqCst) != 0 {
            return;
        }
        match result {
            // Half of them hold their connection until it is taken from them.
            Ok((mut client, _)) if stays => {
                let gone = tokio::time::timeout(Duration::from_secs(2), client.disconnected()).await;
                drop(gone);
            }
            Ok((client, _)) => drop(client.disconnect().await),
            Err(_) => {}
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "full: 500 clients for half a minute"]
async fn who_should_get_in_is_not_refused_before_the_end_and_who_should_not_is_after_it() {
    let broker = Broker::builder()
        .with_auto_register(PATIENT)
        .with_cert_acl(PATIENT)
        .listener("handshake_timeout = \"60s\"")
        .config("[reload]\nwatch = \"0s\"\n")
        .start()
        .await;
    let next = Pki::create(&broker.folder.join("next"), "next");
    let both = broker.folder.join("both.pem");
    let text = |path: &std::path::Path| std::fs::read_to_string(path).unwrap();
    std::fs::write(&both, text(&broker.pki.ca()) + &text(&next.ca())).unwrap();
    let score = Arc::new(Score::default());
    let mut clients = tokio::task::JoinSet::new();
    let start = |pki: &Pki, number: usize, of_old: bool, clients: &mut tokio::task::JoinSet<()>| {
        let name = format!("{}-{number}", if of_old { "old" } else { "new" });
        let mut options = broker.options(&name, &pki.device(&name));
        options.tls.as_mut().unwrap().ca_file = Some(both.clone());
        options.connect_timeout = Duration::from_secs(60);
        clients.spawn(come_and_go(options, of_old, number.is_multiple_of(2), Arc::clone(&score)));
    };
    for number in 0..CLIENTS / 2 {
        start(&broker.pki, number, true, &mut clients);
    }
    // Whoever is connected stays until the end, and not longer.
    let mut holders = tokio::task::JoinSet::new();
    for number in 0..HOLDERS {
        let name = format!("holder-{number}");
        let mut options = broker.options(&name, &broker.pki.device(&name));
        options.connect_timeout = Duration::from_secs(60);
        let (mut client, _) = Client::connect(options).await.expect("it may come in");
        holders.spawn(async move { (client.disconnected().await, now()) });
    }
    // Every one of them has been in.
    while score.connects_before.load(Ordering::SeqCst) < CLIENTS / 2 {
        assert_eq!(score.refused_too_early.load(Ordering::SeqCst), 0);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for (from, to) in [("ca.pem", "ca.pem"), ("server.pem", "server.pem"), ("server.key", "server.key")] {
        std::fs::copy(broker.folder.join("next").join(from), broker.folder.join("pki").join(to)).unwrap();
    }
    let report = broker.admin().json(&["reload", "--grace", "15s"]);
    let ends_at =
        report["transitions"].as_array().unwrap().iter().map(|one| one["ends_at"].as_u64().unwrap());
    let ends_at = ends_at.max().expect("a CA and a certificate are in transition");
    score.ends_at.store(ends_at, Ordering::SeqCst);
    for number in 0..CLIENTS / 2 {
        start(&next, number, false, &mut clients);
    }
    tokio::time::sleep(Duration::from_millis(ends_at.saturating_sub(now()) + 8_000)).await;
    score.over.store(now(), Ordering::SeqCst);
    while let Some(held) = holders.join_next().await {
        let (reason, at) = held.expect("it does not panic");
        assert_eq!(reason, Some(ReasonCode::NOT_AUTHORIZED), "the server told it why");
        assert!(at >= ends_at, "it was sent away {} ms before the end", ends_at - at);
        // A second is promised; 500 others take their share of the machine.
        assert!(at < ends_at + 5_000, "it stayed {} ms too long", at - ends_at);
    }
    while clients.join_next().await.is_some() {}

    let read = |count: &AtomicUsize| count.load(Ordering::SeqCst);
    eprintln!(
        "let in {}, refused after the end {}",
        read(&score.connects_before),
        read(&score.refusals_after)
    );
    assert_eq!(read(&score.refused_too_early), 0);
    assert_eq!(read(&score.refused_new), 0);
    assert_eq!(read(&score.let_in_too_late), 0);
    assert!(read(&score.refusals_after) >= CLIENTS / 2, "every old one was refused at least once");
    assert_eq!(broker.admin().json(&["transition", "list"]).as_array().map(Vec::len), Some(0));
}
