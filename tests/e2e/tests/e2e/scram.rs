//! Enhanced authentication end to end: SCRAM-SHA-256, with a client written from RFC 5802 by itself.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use mqgate_client::{ConnectOptions, RawConnection};
use mqgate_codec::{
    Auth, ConnAck, Connect, ConnectProperties, Packet, PacketId, ProtocolVersion, Publish, PublishProperties,
    QoS, ReasonCode, TopicName,
};
use mqgate_e2e::Broker;
use mqgate_e2e::broker::{PATIENT, mqgate};
use sha2::{Digest, Sha256};

const METHOD: &str = "SCRAM-SHA-256";

fn mac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(message);
    mac.finalize().into_bytes().to_vec()
}

/// The client's last message, and what the server has to answer.
fn proof(user: &str, password: &str, server_first: &str) -> (String, String) {
    let field = |name: char| {
        let mut fields = server_first.split(',').filter_map(|field| field.split_once('='));
        fields.find(|(key, _)| key.starts_with(name)).unwrap().1
    };
    let (nonce, salt, rounds) = (field('r'), BASE64.decode(field('s')).unwrap(), field('i').parse().unwrap());
    assert!(nonce.starts_with("client") && nonce.len() > 20, "the server adds its own: {nonce}");
    let mut salted = [0; 32];
    pbkdf2::pbkdf2_hmac::<Sha256>(password.as_bytes(), &salt, rounds, &mut salted);
    let client_key = mac(&salted, b"Client Key");
    let without_proof = format!("c=biws,r={nonce}");
    let signed = format!("n={user},r=client,{server_first},{without_proof}");
    let signature = mac(&Sha256::digest(&client_key), signed.as_bytes());
    let proof: Vec<u8> = client_key.iter().zip(signature).map(|(left, right)| left ^ right).collect();
    let verifier = BASE64.encode(mac(&mac(&salted, b"Server Key"), signed.as_bytes()));
    (format!("{without_proof},p={}", BASE64.encode(proof)), format!("v={verifier}"))
}

fn auth(reason: ReasonCode, data: String) -> Packet {
    Packet::Auth(Auth {
        reason,
        authentication_method: Some(METHOD.into()),
        authentication_data: Some(data.into()),
        reason_string: None,
        user_properties: Vec::new(),
    })
}

async fn next(raw: &mut RawConnection) -> Option<Packet> {
    tokio::time::timeout(std::time::Duration::from_secs(30), raw.recv()).await.expect("an answer").unwrap()
}

/// Connects as `user`; gives CONNACK, and what the server has to prove.
async fn login(options: &ConnectOptions, user: &str, password: &str) -> (RawConnection, ConnAck, String) {
    let mut raw = RawConnection::open(options).await.unwrap();
    let connect = Connect {
        version: ProtocolVersion::V5,
        bridge: false,
        clean_start: true,
        keep_alive: 60,
        client_id: user.into(),
        will: None,
        user_name: None,
        password: None,
        properties: ConnectProperties {
            authentication_method: Some(METHOD.into()),
            authentication_data: Some(format!("n,,n={user},r=client").into()),
            ..ConnectProperties::default()
        },
    };
    raw.send(&Packet::Connect(Box::new(connect))).await.unwrap();
    let verifier = answer(&mut raw, user, password).await;
    match next(&mut raw).await {
        Some(Packet::ConnAck(connack)) => (raw, *connack, verifier),
        other => panic!("{other:?}"),
    }
}

/// Answers the challenge that is next; gives what the server has to prove.
async fn answer(raw: &mut RawConnection, user: &str, password: &str) -> String {
    let Some(Packet::Auth(challenge)) = next(raw).await else { panic!("a challenge is due") };
    assert_eq!(challenge.reason, ReasonCode::CONTINUE_AUTHENTICATION);
    let server_first = String::from_utf8(challenge.authentication_data.unwrap().to_vec()).unwrap();
    let (last, verifier) = proof(user, password, &server_first);
    raw.send(&auth(ReasonCode::CONTINUE_AUTHENTICATION, last)).await.unwrap();
    verifier
}

async fn publish(raw: &mut RawConnection, topic: &str) -> ReasonCode {
    raw.send(&Packet::Publish(Publish {
        dup: false,
        qos: QoS::AtLeastOnce,
        retain: false,
        topic: Some(TopicName::parse(topic.into()).unwrap()),
        packet_id: PacketId::new(1),
        payload: "x".into(),
        properties: PublishProperties::default(),
    }))
    .await
    .unwrap();
    match next(raw).await {
        Some(Packet::PubAck(ack)) => ack.reason,
        other => panic!("{other:?}"),
    }
}

/// Writes the file of credentials with `ann` in it.
fn written_by_passwd(folder: &Path) -> PathBuf {
    let file = folder.join("scram.txt");
    let mut passwd = Command::new(mqgate())
        .args(["passwd", "add", "--scram"])
        .arg(&file)
        .arg("ann")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    passwd.stdin.take().unwrap().write_all(b"correct horse").unwrap();
    assert!(passwd.wait().unwrap().success());
    assert!(std::fs::read_to_string(&file).unwrap().starts_with("ann:SCRAM-SHA-256$"));
    file
}

/// What holds whoever serves the method: `ann` comes in, may use `users/ann/#`, and proves herself again.
async fn ann_and_nobody_else_comes_in(broker: &Broker) {
    let options = broker.plain_options("ann");

    let (mut raw, connack, verifier) = login(&options, "ann", "correct horse").await;
    assert_eq!(connack.code.reason(), ReasonCode::SUCCESS);
    assert_eq!(connack.properties.authentication_method.as_deref(), Some(METHOD));
    assert_eq!(
        connack.properties.authentication_data.as_deref(),
        Some(verifier.as_bytes()),
        "it knows it too"
    );
    assert!(!publish(&mut raw, "users/ann/x").await.is_error());
    assert_eq!(publish(&mut raw, "users/bob/x").await, ReasonCode::NOT_AUTHORIZED);

    // Once more on the same connection, and then with a wrong password.
    raw.send(&auth(ReasonCode::RE_AUTHENTICATE, "n,,n=ann,r=client".into())).await.unwrap();
    let verifier = answer(&mut raw, "ann", "correct horse").await;
    match next(&mut raw).await {
        Some(Packet::Auth(auth)) => {
            assert_eq!(auth.reason, ReasonCode::SUCCESS);
            assert_eq!(auth.authentication_data.as_deref(), Some(verifier.as_bytes()));
        }
        other => panic!("{other:?}"),
    }
    raw.send(&auth(ReasonCode::RE_AUTHENTICATE, "n,,n=ann,r=client".into())).await.unwrap();
    answer(&mut raw, "ann", "wrong").await;
    match next(&mut raw).await {
        Some(Packet::Disconnect(disconnect)) => assert_eq!(disconnect.reason, ReasonCode::NOT_AUTHORIZED),
        other => panic!("{other:?}"),
    }
    for (user, password) in [("ann", "wrong"), ("eve", "correct horse")] {
        let (_, connack, _) = login(&options, user, password).await;
        assert_eq!(connack.code.reason(), ReasonCode::NOT_AUTHORIZED, "{user}");
    }
    assert!(mqgate_client::Client::connect(options).await.is_err(), "nobody without a method");
}

#[tokio::test]
async fn scram_lets_in_who_knows_the_password_and_proves_it_does() {
    let temporary = tempfile::tempdir().unwrap();
    let file = written_by_passwd(temporary.path());
    let member = format!("config = {{ file = {:?}, acl = \"users\" }}", file.display().to_string());
    let acl = "[[policy.acls.users.rules]]\ntopic = \"users/${device-id}/#\"\n";
    let broker = Broker::builder().tcp().config(acl).with_native("scram", &member).start().await;
    ann_and_nobody_else_comes_in(&broker).await;
}

/// The bundled component, with the line that `mqgate passwd` writes; another member of the chain says what a proved user
/// may do.
#[tokio::test]
async fn the_bundled_scram_lets_in_the_same() {
    let temporary = tempfile::tempdir().unwrap();
    let line = std::fs::read_to_string(written_by_passwd(temporary.path())).unwrap();
    let credentials = line.trim().strip_prefix("ann:").unwrap();
    let scram = format!(
        "{PATIENT}\nconfig = {{ decoy-secret = \"0123456789abcdef0123456789abcdef\", users = {{ ann = \"{credentials}\" }} }}"
    );
    let policy =
        r#"config = { rules = [{ match = { user_name = "*" }, publish = ["users/${device-id}/#"] }] }"#;
    let broker = Broker::builder()
        .tcp()
        .with_plugin("scram", "bundled:scram", &scram)
        .with_native("static-policy", policy)
        .start()
        .await;
    ann_and_nobody_else_comes_in(&broker).await;

    let challenges =
        "mqgate_plugin_calls_total{hook=\"enhanced-authenticator\",plugin=\"scram\",result=\"challenge\"}";
    assert!((broker.admin().metric(challenges) - 5.0).abs() < 0.1, "one for each exchange");
}
