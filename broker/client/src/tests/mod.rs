//! Tests against a server that does as it is told.

mod commands;
mod flows;
mod tls;

use bytes::{Bytes, BytesMut};
use mqgate_codec::{
    Ack, ConnAck, ConnAckCode, ConnAckProperties, ConnectReturnCode, DecodeLimits, Decoder, Packet, PacketId,
    ProtocolVersion, Publish, PublishProperties, QoS, ReasonCode, TopicName, encode,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};

use crate::{Client, ConnectError, ConnectOptions, Transport};

/// The other end. Says nothing by itself.
struct FakeServer<S = DuplexStream> {
    stream: S,
    decoder: Decoder,
    input: BytesMut,
}

impl<S: AsyncRead + AsyncWrite + Unpin> FakeServer<S> {
    fn new(stream: S) -> Self {
        Self { stream, decoder: Decoder::server(DecodeLimits::default()), input: BytesMut::new() }
    }

    /// The next packet; `None` at the end.
    async fn next(&mut self) -> Option<Packet> {
        loop {
            if let Some(packet) =
                self.decoder.decode(&mut self.input).expect("the client sends what is right")
            {
                return Some(packet);
            }
            if self.stream.read_buf(&mut self.input).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    async fn expect(&mut self, packet: Packet) {
        assert_eq!(self.next().await, Some(packet));
    }

    async fn send(&mut self, packet: Packet) {
        let mut bytes = BytesMut::new();
        let version = self.decoder.version().expect("CONNECT came first");
        encode(&packet, version, &mut bytes).expect("the test's packet can be written");
        self.send_bytes(&bytes).await;
    }

    async fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("the client still reads");
        self.stream.flush().await.expect("the client still reads");
    }

    /// Takes CONNECT and says yes.
    async fn accept(&mut self, properties: ConnAckProperties) {
        let connect = self.next().await;
        assert!(matches!(connect, Some(Packet::Connect(_))), "{connect:?}");
        self.send(accepted(self.decoder.version(), properties)).await;
    }
}

fn accepted(version: Option<ProtocolVersion>, properties: ConnAckProperties) -> Packet {
    let code = match version {
        Some(ProtocolVersion::V5) => ConnAckCode::V5(ReasonCode::SUCCESS),
        _ => ConnAckCode::V3(ConnectReturnCode::Accepted),
    };
    Packet::ConnAck(Box::new(ConnAck { session_present: false, code, properties }))
}

fn pipe() -> (Transport, FakeServer) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    (Transport::over(near), FakeServer::new(far))
}

fn options() -> ConnectOptions {
    ConnectOptions::new("nowhere", 0)
}

async fn connected(options: ConnectOptions, properties: ConnAckProperties) -> (Client, FakeServer) {
    let (transport, mut server) = pipe();
    let (client, ()) = tokio::join!(Client::connect_over(transport, options), server.accept(properties));
    (client.expect("the server said yes").0, server)
}

async fn plainly_connected() -> (Client, FakeServer) {
    connected(options(), ConnAckProperties::default()).await
}

fn id(value: u16) -> PacketId {
    PacketId::new(value).expect("not 0")
}

fn ack(value: u16) -> Ack {
    Ack::success(id(value))
}

fn message(qos: QoS, packet_id: u16, payload: &'static str) -> Publish {
    Publish {
        dup: false,
        qos,
        retain: false,
        topic: Some(TopicName::parse("t".into()).expect("a topic")),
        packet_id: PacketId::new(packet_id),
        payload: Bytes::from_static(payload.as_bytes()),
        properties: PublishProperties::default(),
    }
}

fn refusal(code: ConnAckCode, text: Option<&str>) -> Packet {
    let properties =
        ConnAckProperties { reason_string: text.map(Into::into), ..ConnAckProperties::default() };
    Packet::ConnAck(Box::new(ConnAck { session_present: false, code, properties }))
}

async fn refused(options: ConnectOptions, answer: Packet) -> ConnectError {
    let (transport, mut server) = pipe();
    let answering = async {
        server.next().await;
        server.send(answer).await;
    };
    let (result, ()) = tokio::join!(Client::connect_over(transport, options), answering);
    result.err().expect("the server said no")
}

#[tokio::test]
async fn a_refusal_carries_the_servers_reason() {
    let mut options = options();
    let answer = refusal(ConnAckCode::V5(ReasonCode::NOT_AUTHORIZED), Some("not registered"));
    let error = refused(options.clone(), answer).await;
    assert_eq!((error.reason_code(), error.return_code()), (Some(ReasonCode::NOT_AUTHORIZED), None));
    assert_eq!(error.to_string(), "the server refused the connection: Not authorized (0x87): not registered");
    options.version = ProtocolVersion::V3_1_1;
    let answer = refusal(ConnAckCode::V3(ConnectReturnCode::NotAuthorized), None);
    let error = refused(options, answer).await;
    assert_eq!(error.return_code(), Some(ConnectReturnCode::NotAuthorized));
    assert_eq!(error.reason_code(), Some(ReasonCode::NOT_AUTHORIZED));
    assert_eq!(error.to_string(), "the server refused the connection: Not authorized (return code 5)");
}

#[tokio::test]
async fn anything_but_connack_is_no_connection() {
    let error =
        refused(options(), Packet::Disconnect(mqgate_codec::Disconnect::new(ReasonCode::SUCCESS))).await;
    assert!(matches!(error, ConnectError::Unexpected(mqgate_codec::PacketType::Disconnect)), "{error}");
    let (transport, server) = pipe();
    drop(server);
    let error = Client::connect_over(transport, options()).await.err().expect("nobody is there");
    assert!(matches!(error, ConnectError::Closed | ConnectError::Io { .. }), "{error}");
}

#[tokio::test]
async fn a_wrong_will_topic_is_told_before_connecting() {
    let mut options = options();
    options.set_will("a/#", "x", QoS::AtMostOnce, false);
    let error = Client::connect_over(pipe().0, options).await.err().expect("it has a wildcard");
    assert_eq!(error.to_string(), "the topic of the will holds a wildcard where none may stand");
}

#[tokio::test]
async fn a_closed_port_is_named() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let error = Client::connect(ConnectOptions::new("127.0.0.1", port)).await.err().expect("it is closed");
    assert!(error.to_string().contains(&format!("127.0.0.1:{port}")), "{error}");
}
