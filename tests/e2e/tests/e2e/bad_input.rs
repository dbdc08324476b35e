//! Wrong configuration and wrong bytes: a clear error, and nothing else disturbed.

use std::process::Command;

use mqgate_client::{Client, RawConnection};
use mqgate_codec::{QoS, ReasonCode};
use mqgate_e2e::Broker;
use mqgate_e2e::broker::{PATIENT, mqgate};

/// `mqgate config check` on `text`; its exit code and what it said.
fn check(text: &str, more: &[&str]) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mqgate.toml");
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new(mqgate());
    let output = command.args(["config", "check"]).args(more).arg("--config").arg(&file).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_wrong_configuration_is_named_by_file_line_key_and_remedy() {
    for (text, expected) in [
        ("[listeners.main]\nbinnd = \"127.0.0.1:0\"\n", &["mqgate.toml:2", "binnd", "bind"][..]),
        ("[node]\nworkers = \"many\"\n", &["mqgate.toml:2", "workers"]),
        ("[node\n", &["mqgate.toml:1"]),
        (
            "[listeners.main]\ntype = \"tls\"\nbind = \"127.0.0.1:0\"\ncertfile = \"absent.pem\"\nkeyfile = \"absent.key\"\n",
            &["certfile", "absent.pem"],
        ),
        (
            "[listeners.a]\ntype = \"tls\"\nbind = \"127.0.0.1:0\"\nverify = \"verify_none\"\nfail_if_no_peer_cert = true\n",
            &["verify", "fail_if_no_peer_cert"],
        ),
    ] {
        let (code, said) = check(text, &[]);
        assert_eq!(code, Some(78), "{text}\n{said}");
        for word in expected {
            assert!(said.contains(word), "{word:?} is not in:\n{said}");
        }
    }
}

/// Settings that only the component can judge.
#[test]
fn what_a_plugin_does_not_take_is_told_without_a_broker() {
    xtask::components::path("cedar").expect("it is built with the bundled ones");
    let text = |policies: &str| {
        format!(
            "[listeners.main]\ntype = \"tcp\"\nbind = \"127.0.0.1:0\"\n\n[[plugins]]\nname = \"policies\"\n\
             source = \"bundled:cedar\"\n{PATIENT}\n\n[plugins.config]\npolicies = '''{policies}'''\ntopics = []\n"
        )
    };
    let plain = "permit (principal, action, resource);";
    assert_eq!(check(&text(plain), &["--plugins"]), (Some(0), String::new()));
    let slip = format!("{plain}\nforbid (principal in Tagg::\"x\", action, resource);");
    let (code, said) = check(&text(&slip), &["--plugins"]);
    assert_eq!(code, Some(78), "{said}");
    for word in ["policies", "line 2", "policy1", "Tagg"] {
        assert!(said.contains(word), "{word:?} is not in:\n{said}");
    }
    // Without it nothing runs, and nothing is known.
    assert_eq!(check(&text(&slip), &[]).0, Some(0));
}

/// Malformed packets close their connection with the right code, and are counted; the neighbour goes on.
#[tokio::test]
async fn malformed_packets_disturb_nobody_else() {
    let broker = Broker::builder().with_bundled_plugins().start().await;
    let device = broker.pki.device("device-1");
    let (neighbour, _) = Client::connect(broker.options("neighbour", &device)).await.unwrap();
    for (bytes, expected) in [
        // PUBLISH with QoS 3.
        (&[0x36, 0x05, 0x00, 0x01, b'a', 0x00, 0x01][..], ReasonCode::MALFORMED_PACKET),
        // SUBSCRIBE with the wrong flags.
        (&[0x80, 0x02, 0x00, 0x01], ReasonCode::MALFORMED_PACKET),
        // A remaining length of five bytes.
        (&[0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x01], ReasonCode::MALFORMED_PACKET),
        // A second CONNECT.
        (&[0x10, 0x0D, 0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 0, 0, 0, 0], ReasonCode::PROTOCOL_ERROR),
        // PUBLISH of 256 MiB.
        (&[0x30, 0xFF, 0xFF, 0xFF, 0x7F], ReasonCode::PACKET_TOO_LARGE),
    ] {
        let mut raw = RawConnection::open_and_connect(broker.options("raw", &device)).await.unwrap();
        raw.send_bytes(bytes).await.unwrap();
        assert_eq!(raw.disconnect_reason().await, Some(expected), "{bytes:02x?}");
    }
    assert!(!neighbour.publish("devices/device-1/x", "x", QoS::AtLeastOnce, false).await.unwrap().is_error());
    let admin = broker.admin();
    let malformed =
        admin.metric("mqgate_disconnects_total{initiator=\"server\",reason_code=\"malformed_packet\"}");
    assert!(malformed >= 3.0, "{}", admin.page("/metrics").1);
}
