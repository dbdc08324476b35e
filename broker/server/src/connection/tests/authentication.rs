//! Enhanced authentication through the driver and the gate.

use mqgate_identity::hooks::{
    Acl, AuthenticationStep, Authorization, ChainMember, ConnackReason, Connection as Facts,
    EnhancedAuthenticator, Exchange, Grant, HookFuture, HookSet, Identity, Secret,
};

use super::*;
use crate::testing::{FakeHook, denial, hooks, identity, member};

/// Asks how much two and two is.
struct Riddle(Vec<String>);

impl EnhancedAuthenticator for Riddle {
    fn methods(&self) -> &[String] {
        &self.0
    }

    fn step<'a>(&'a self, _: &'a Arc<Facts>, exchange: Exchange<'a>) -> HookFuture<'a, AuthenticationStep> {
        let step = match (exchange.round, exchange.data) {
            (0, _) => {
                AuthenticationStep::Continue { data: Some(b"2+2".to_vec()), state: Secret(b"4".to_vec()) }
            }
            (_, Some(b"again")) => {
                AuthenticationStep::Continue { data: None, state: Secret(exchange.state.to_vec()) }
            }
            // The same device, in the hands of another.
            (_, Some(b"moved")) => AuthenticationStep::Accept {
                identity: Identity { tenant: Some("other".into()), ..identity("riddler") },
                data: None,
            },
            (_, Some(data)) if data == exchange.state => {
                let word: &[u8] = if exchange.again { b"still you" } else { b"welcome" };
                AuthenticationStep::Accept { identity: identity("riddler"), data: Some(word.to_vec()) }
            }
            _ => AuthenticationStep::Deny(denial(ConnackReason::NotAuthorized)),
        };
        Box::pin(async move {
            tokio::task::yield_now().await;
            Ok(step)
        })
    }
}

fn world() -> World {
    World::gated(&chain())
}

fn chain() -> Arc<ArcSwap<HookSet>> {
    let grant = Grant {
        acl: Acl::Inline(Vec::new()),
        otherwise: RuleEffect::Allow,
        limits: GrantLimits::default(),
        assigned_client_id: None,
        valid_for: None,
        cache: None,
        attributes: Vec::new(),
    };
    let authorizer =
        Arc::new(FakeHook { authorization: Some(Ok(Authorization::Allow(grant))), ..FakeHook::default() });
    let everything = member("authorizer", &authorizer);
    let riddle = ChainMember {
        name: "riddle".into(),
        enhanced_authenticator: Some(Arc::new(Riddle(vec!["RIDDLE".to_owned()]))),
        ..ChainMember::clone(&everything)
    };
    hooks(vec![Arc::new(riddle), everything])
}

fn hello(method: &'static str) -> Packet {
    let Packet::Connect(mut connect) = Hello::v5("c").packet() else { unreachable!("it is a CONNECT") };
    connect.properties.authentication_method = Some(method.into());
    Packet::Connect(connect)
}

fn auth(reason: ReasonCode, data: &'static str) -> Packet {
    Packet::Auth(Auth {
        reason,
        authentication_method: Some("RIDDLE".into()),
        authentication_data: Some(Bytes::from_static(data.as_bytes())),
        reason_string: None,
        user_properties: Vec::new(),
    })
}

async fn challenge(peer: &mut Peer) -> Option<Bytes> {
    match peer.next().await {
        Packet::Auth(auth) => {
            assert_eq!(auth.reason, ReasonCode::CONTINUE_AUTHENTICATION);
            assert_eq!(auth.authentication_method.as_deref(), Some("RIDDLE"));
            auth.authentication_data
        }
        other => panic!("{other:?}"),
    }
}

const GO_ON: ReasonCode = ReasonCode::CONTINUE_AUTHENTICATION;

/// The answer to CONNECT, after as many challenges as there are `answers`.
async fn connack(world: &World, method: &'static str, answers: &[&'static str]) -> (Peer, ConnAck) {
    let mut peer = world.dial(ProtocolVersion::V5, 4096);
    peer.send(&hello(method)).await;
    for answer in answers {
        challenge(&mut peer).await;
        peer.send(&auth(GO_ON, answer)).await;
    }
    match peer.next().await {
        Packet::ConnAck(connack) => (peer, *connack),
        other => panic!("{other:?}"),
    }
}

/// [MQTT-4.12.0-1, MQTT-4.12.0-2, MQTT-4.12.0-4, MQTT-4.12.0-5]
#[tokio::test(start_paused = true)]
async fn a_client_proves_itself_step_by_step() {
    let world = world();
    let (mut peer, connack) = connack(&world, "RIDDLE", &["again", "4"]).await;
    assert_eq!(connack.code.reason(), ReasonCode::SUCCESS);
    assert_eq!(connack.properties.authentication_method.as_deref(), Some("RIDDLE"));
    assert_eq!(connack.properties.authentication_data.as_deref(), Some(&b"welcome"[..]));
    peer.is_quiet().await;
    assert_eq!(world.broker.connections().list()[0].device_id(), Some("riddler"));
    for (method, answers, code) in [
        ("RIDDLE", &["5"][..], ReasonCode::NOT_AUTHORIZED),
        ("RIDDLE", &["again", "again", "3"], ReasonCode::NOT_AUTHORIZED),
        ("OTHER", &[], ReasonCode::BAD_AUTHENTICATION_METHOD),
    ] {
        let (mut peer, connack) = self::connack(&world, method, answers).await;
        assert_eq!(connack.code.reason(), code, "{method} {answers:?}");
        assert_eq!(peer.receive().await, None);
    }
    peer.disconnect().await;
    let refused: Vec<_> =
        world.audited().iter().filter(|event| event["name"] == "connection.refused").cloned().collect();
    assert!(!refused.is_empty(), "refusals are written down");
}

/// [MQTT-4.12.1-2]
#[tokio::test(start_paused = true)]
async fn a_client_that_is_online_proves_itself_again_or_goes() {
    let world = world();
    let (mut peer, _) = connack(&world, "RIDDLE", &["4"]).await;
    peer.subscribe("t", qos(0)).await;
    peer.send(&auth(ReasonCode::RE_AUTHENTICATE, "")).await;
    assert_eq!(challenge(&mut peer).await.as_deref(), Some(&b"2+2"[..]));
    peer.is_quiet().await; // It goes on meanwhile.
    peer.send(&auth(GO_ON, "4")).await;
    match peer.next().await {
        Packet::Auth(auth) => {
            assert_eq!(auth.reason, ReasonCode::SUCCESS);
            assert_eq!(auth.authentication_data.as_deref(), Some(&b"still you"[..]));
        }
        other => panic!("{other:?}"),
    }
    peer.send(&auth(ReasonCode::RE_AUTHENTICATE, "")).await;
    challenge(&mut peer).await;
    peer.send(&auth(GO_ON, "5")).await;
    assert_eq!(peer.dismissal().await, ReasonCode::NOT_AUTHORIZED);
}

/// [MQTT 5.0, 4.12.1]
#[tokio::test(start_paused = true)]
async fn a_client_that_is_online_stays_who_it_is() {
    let world = world();
    let (mut peer, connack) = connack(&world, "RIDDLE", &["4"]).await;
    assert_eq!(connack.code.reason(), ReasonCode::SUCCESS);
    peer.send(&auth(ReasonCode::RE_AUTHENTICATE, "")).await;
    challenge(&mut peer).await;
    peer.send(&auth(GO_ON, "moved")).await;
    assert_eq!(peer.dismissal().await, ReasonCode::NOT_AUTHORIZED);
}

#[tokio::test(start_paused = true)]
async fn an_exchange_ends_with_the_chain_that_began_it() {
    let chain = chain();
    let world = World::gated(&chain);
    let mut begun = world.dial(ProtocolVersion::V5, 4096);
    begun.send(&hello("RIDDLE")).await;
    challenge(&mut begun).await;
    chain.store(Arc::new(HookSet { generation: 2, ..HookSet::default() }));
    begun.send(&auth(GO_ON, "4")).await;
    match begun.next().await {
        Packet::ConnAck(connack) => assert_eq!(connack.code.reason(), ReasonCode::SUCCESS),
        other => panic!("{other:?}"),
    }
    // Nobody serves it any more.
    let mut late = world.dial(ProtocolVersion::V5, 4096);
    late.send(&hello("RIDDLE")).await;
    match late.next().await {
        Packet::ConnAck(connack) => {
            assert_eq!(connack.code.reason(), ReasonCode::BAD_AUTHENTICATION_METHOD);
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_falls_silent_or_goes_ends_its_exchange() {
    let world = world();
    let mut silent = world.dial(ProtocolVersion::V5, 4096);
    silent.send(&hello("RIDDLE")).await;
    challenge(&mut silent).await;
    let begun = tokio::time::Instant::now();
    assert!(matches!(silent.next().await, Packet::ConnAck(connack) if connack.code.reason().is_error()));
    assert_eq!(begun.elapsed().as_secs(), 15, "the time for CONNECT");
    assert_eq!(silent.receive().await, None);
    let mut gone = world.dial(ProtocolVersion::V5, 4096);
    gone.send(&hello("RIDDLE")).await;
    challenge(&mut gone).await;
    gone.lose().await;
    assert!(world.broker.connections().is_empty());
    // An order to go reaches it in the middle of an exchange.
    let mut told = world.dial(ProtocolVersion::V5, 4096);
    told.send(&hello("RIDDLE")).await;
    challenge(&mut told).await;
    world.broker.connections().disconnect_where(|_| true, ReasonCode::NOT_AUTHORIZED, Reason::CertRevoked);
    assert!(matches!(told.next().await, Packet::ConnAck(connack) if connack.code.reason().is_error()));
}
