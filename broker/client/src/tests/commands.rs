//! What the command line does.

use std::ops::ControlFlow;

use mqgate_codec::{Disconnect, SubAck};
use tokio::net::TcpListener;

use super::*;
use crate::cli::{self, CommandError, PublishOptions, SubscribeOptions};

async fn listen() -> (TcpListener, ConnectOptions) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, ConnectOptions::new("127.0.0.1", port))
}

#[tokio::test]
async fn lines_become_messages() {
    let (listener, connect) = listen().await;
    let serving = tokio::spawn(async move {
        let mut server = FakeServer::new(listener.accept().await.unwrap().0);
        server.accept(ConnAckProperties::default()).await;
        let mut payloads = Vec::new();
        while let Some(Packet::Publish(publish)) = server.next().await {
            payloads.push(String::from_utf8(publish.payload.to_vec()).unwrap());
            server.send(Packet::PubAck(Ack::success(publish.packet_id.unwrap()))).await;
        }
        payloads
    });
    let options = PublishOptions { connect, topic: "t".into(), qos: QoS::AtLeastOnce, retain: false };
    let count = cli::publish_lines(options, &b"one\r\ntwo\n\nlast"[..]).await.unwrap();
    assert_eq!(count, 4);
    assert_eq!(serving.await.unwrap(), ["one", "two", "", "last"]);
}

#[tokio::test]
async fn a_message_that_is_not_taken_is_an_error() {
    let (listener, connect) = listen().await;
    tokio::spawn(async move {
        let mut server = FakeServer::new(listener.accept().await.unwrap().0);
        server.accept(ConnAckProperties::default()).await;
        server.next().await;
        server.send(Packet::PubAck(Ack::new(id(1), ReasonCode::NOT_AUTHORIZED))).await;
        server.next().await;
    });
    let options = PublishOptions { connect, topic: "t".into(), qos: QoS::AtLeastOnce, retain: false };
    let error = cli::publish(options, "x").await.unwrap_err();
    assert_eq!(error.to_string(), "the server did not take the message for t: Not authorized (0x87)");
}

#[tokio::test]
async fn messages_are_handed_on_until_it_is_enough() {
    let (listener, connect) = listen().await;
    let serving = tokio::spawn(async move {
        let mut server = FakeServer::new(listener.accept().await.unwrap().0);
        server.accept(ConnAckProperties::default()).await;
        server.next().await;
        let reasons = vec![ReasonCode::SUCCESS];
        let suback = SubAck { packet_id: id(1), reasons, reason_string: None, user_properties: vec![] };
        server.send(Packet::SubAck(suback)).await;
        for payload in ["one", "two", "three"] {
            server.send(Packet::Publish(message(QoS::AtMostOnce, 0, payload))).await;
        }
        server.expect(Packet::Disconnect(Disconnect::new(ReasonCode::SUCCESS))).await;
    });
    let mut seen = Vec::new();
    let mut subscribed = false;
    let options = SubscribeOptions { connect, filters: vec!["t".into()], qos: QoS::AtMostOnce };
    let on_message = |message: &crate::Message| {
        seen.push(message.payload.clone());
        if seen.len() == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    cli::subscribe(options, std::future::pending(), || subscribed = true, on_message).await.unwrap();
    assert_eq!((subscribed, seen), (true, vec!["one".into(), "two".into()]));
    serving.await.unwrap();
}

#[tokio::test]
async fn a_refused_subscription_is_an_error() {
    let (listener, connect) = listen().await;
    tokio::spawn(async move {
        let mut server = FakeServer::new(listener.accept().await.unwrap().0);
        server.accept(ConnAckProperties::default()).await;
        server.next().await;
        let reasons = vec![ReasonCode::NOT_AUTHORIZED];
        let suback = SubAck { packet_id: id(1), reasons, reason_string: None, user_properties: vec![] };
        server.send(Packet::SubAck(suback)).await;
        server.next().await;
    });
    let options = SubscribeOptions { connect, filters: vec!["#".into()], qos: QoS::AtMostOnce };
    let result = cli::subscribe(options, std::future::pending(), || {}, |_| ControlFlow::Continue(())).await;
    assert!(matches!(result, Err(CommandError::NotSubscribed { .. })), "{result:?}");
}
