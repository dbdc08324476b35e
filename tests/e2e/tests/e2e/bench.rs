//! `mqgate bench` against `mqgate`: each load runs, loses nothing and keeps the order.

use std::process::Command;

use mqgate_e2e::Broker;
use mqgate_e2e::broker::mqgate;
use serde_json::Value;

/// What a load reports; it must have worked.
fn report(broker: &Broker, load: &str, more: &[&str]) -> Value {
    let mut bench = Command::new(mqgate());
    bench.arg("bench").args(load.split(' ')).args(["--json", "--warm-up", "0.1", "--port"]);
    bench.arg(broker.port().to_string()).args(more);
    bench.args(["--pid", &std::process::id().to_string()]);
    let output = bench.output().expect("mqgate was built");
    assert!(output.status.success(), "{load}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("--json prints JSON")
}

async fn plain() -> Broker {
    Broker::builder().tcp().with_native("anonymous", "").start().await
}

#[tokio::test]
async fn messages_arrive_once_and_in_order() {
    let broker = plain().await;
    for load in [
        "pairs --pairs 3 -n 2000",
        "pairs --pairs 3 -q 1 -n 2000",
        "pairs --pairs 3 -q 2 -n 1000 -V 311",
        "pairs --pairs 2 -n 500 --rate 2000 -s 5000",
        "fan-in --publishers 5 -n 2000",
        "fan-in --publishers 5 -q 1 -n 1000",
        "fan-out --subscribers 5 -n 2000",
        "fan-out --subscribers 5 -q 1 -n 2000 -V 311",
        "shared --publishers 2 --groups 2 --members 3 -q 1 -n 2000",
    ] {
        let report = report(&broker, load, &["-h", "127.0.0.1"]);
        assert!(report["count"].as_u64() >= Some(500), "{load}: {report}");
        assert_eq!((&report["lost"], &report["out_of_order"]), (&0.into(), &0.into()), "{load}: {report}");
        assert!(report["latency_microseconds"]["max"].as_u64() > Some(0), "{load}: {report}");
        assert!(report["broker"]["resident_bytes"].as_u64() > Some(0), "{load}: {report}");
    }
}

#[tokio::test]
async fn what_is_kept_is_fetched() {
    let broker = plain().await;
    for load in
        ["retained --topics 50 --subscribers 2 -n 500", "sessions --clients 2 --messages 20 -n 80 -q 2"]
    {
        let report = report(&broker, load, &["-h", "127.0.0.1"]);
        assert!(report["count"].as_u64() >= Some(80), "{load}: {report}");
    }
    let left = Command::new(mqgate())
        .args(["bench", "sessions", "--clients", "1", "--messages", "1", "-n", "1", "--port"])
        .arg(broker.port().to_string())
        .output()
        .expect("mqgate was built");
    assert!(left.status.success(), "it tidies up behind itself: {}", String::from_utf8_lossy(&left.stderr));
}

#[tokio::test]
async fn connections_are_made_with_a_certificate() {
    let broker = Broker::builder().with_bundled_plugins().start().await;
    let device = broker.pki.device("bench");
    let (ca, certificate, key) = (broker.pki.ca(), device.certificate.clone(), device.key.clone());
    let files = [
        "-h",
        "localhost",
        "--cafile",
        ca.to_str().unwrap(),
        "--cert",
        certificate.to_str().unwrap(),
        "--key",
        key.to_str().unwrap(),
    ];
    let connects = report(&broker, "connect --at-once 4 -n 20", &files);
    assert_eq!((&connects["unit"], &connects["tls"]), (&"connection".into(), &true.into()), "{connects}");
    let idle = report(&broker, "idle --connections 20 --hold 0", &files);
    assert_eq!(idle["count"], 20, "{idle}");
}

#[tokio::test]
async fn what_is_wrong_is_said() {
    let broker = plain().await;
    let port = broker.port().to_string();
    for (arguments, code, text) in [
        (&["pairs", "-s", "3"][..], 2, "too small"),
        (&["pairs", "--pairs", "0"], 2, "the number of pairs must not be 0"),
        (&["pairs", "--pid", "-1"], 2, "--pid"),
        (&["pairs", "-d", "-1"], 2, "--duration"),
        (&["pairs", "-t", "a/#"], 2, "wildcard"),
        (&["pairs", "-u", "nobody", "-P", "x"], 1, "connection 1"),
    ] {
        let output =
            Command::new(mqgate()).arg("bench").args(arguments).args(["-p", &port]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(text), "{arguments:?}: {said}");
    }
}
