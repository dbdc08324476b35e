//! One connection of the load generator: reads and writes in large pieces.

use std::io;
use std::pin::pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use mqgate_codec::{
    ConnAck, Decoder, Packet, PacketId, ProtocolVersion, Publish, PublishProperties, QoS, Subscribe,
    SubscriptionOptions, TopicFilter, TopicName, Unsubscribe, encode,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::BenchError;
use crate::transport::Stream;
use crate::{ConnectOptions, RawConnection};

/// Room for one read.
const READ_SIZE: usize = 64 * 1024;

pub(super) struct Wire {
    /// For error messages.
    pub(super) who: String,
    pub(super) version: ProtocolVersion,
    pub(super) connack: ConnAck,
    stream: Box<dyn Stream>,
    decoder: Decoder,
    input: BytesMut,
    pub(super) output: BytesMut,
    unflushed: bool,
}

impl Wire {
    /// Connects connection `number` of `of`.
    pub(super) async fn open(options: ConnectOptions, number: u32, of: u32) -> Result<Self, BenchError> {
        let failed = |source| BenchError::Connect { number: number + 1, of, source };
        let mut raw = RawConnection::open(&options).await.map_err(failed)?;
        let connack = raw.connect(&options).await.map_err(failed)?;
        Ok(Self {
            who: options.client_id.to_string(),
            version: options.version,
            connack,
            stream: raw.transport.stream,
            decoder: raw.decoder,
            input: raw.input,
            output: BytesMut::new(),
            unflushed: false,
        })
    }

    pub(super) fn lost(&self, cause: impl ToString) -> BenchError {
        BenchError::Lost { who: self.who.clone(), cause: cause.to_string() }
    }

    /// Writes everything that waits.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BenchError>> {
        while self.output.has_remaining() {
            match ready!(pin!(self.stream.write_buf(&mut self.output)).poll(cx)) {
                Ok(0) => return Poll::Ready(Err(self.lost("the broker closed it"))),
                Ok(_) => self.unflushed = true,
                Err(error) => return Poll::Ready(Err(self.lost(error))),
            }
        }
        if self.unflushed {
            ready!(pin!(self.stream.flush()).poll(cx)).map_err(|error| self.lost(error))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once; the packets are taken with [`Wire::packet`].
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BenchError>> {
        self.input.reserve(READ_SIZE);
        match ready!(pin!(self.stream.read_buf(&mut self.input)).poll(cx)) {
            Ok(0) => Poll::Ready(Err(self.lost("the broker closed it"))),
            Ok(_) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(self.lost(error))),
        }
    }

    /// The next packet that is there whole. A DISCONNECT is an error.
    pub(super) fn packet(&mut self) -> Result<Option<Packet>, BenchError> {
        match self.decoder.decode(&mut self.input) {
            Ok(Some(Packet::Disconnect(disconnect))) => {
                Err(self.lost(format!("the broker said {}", disconnect.reason)))
            }
            Ok(packet) => Ok(packet),
            Err(error) => Err(self.lost(error)),
        }
    }

    pub(super) async fn flush(&mut self) -> Result<(), BenchError> {
        std::future::poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Sends what waits and gives the next packet.
    pub(super) async fn receive(&mut self) -> Result<Packet, BenchError> {
        self.flush().await?;
        loop {
            if let Some(packet) = self.packet()? {
                return Ok(packet);
            }
            std::future::poll_fn(|cx| self.poll_fill(cx)).await?;
        }
    }

    /// Gives the next packet; what waits is sent only when nothing more has arrived.
    pub(super) async fn receive_lazily(&mut self) -> Result<Packet, BenchError> {
        match self.packet()? {
            Some(packet) => Ok(packet),
            None => self.receive().await,
        }
    }

    /// Nothing is expected for long: gives the memory back.
    pub(super) fn rest(&mut self) {
        self.input = BytesMut::new();
        self.output = BytesMut::new();
    }

    pub(super) fn push(&mut self, packet: &Packet) -> Result<(), BenchError> {
        Ok(encode(packet, self.version, &mut self.output)?)
    }

    /// Subscribes, and waits for the answer. Messages that come before it are dropped.
    pub(super) async fn subscribe(&mut self, filters: &[TopicFilter], qos: QoS) -> Result<(), BenchError> {
        self.push_subscribe(filters, qos)?;
        loop {
            if let Packet::SubAck(suback) = self.receive().await? {
                return self.subscribed(&suback);
            }
        }
    }

    pub(super) fn push_subscribe(&mut self, filters: &[TopicFilter], qos: QoS) -> Result<(), BenchError> {
        let filters = filters.iter().map(|filter| (filter.clone(), SubscriptionOptions::new(qos))).collect();
        let subscribe = Subscribe {
            packet_id: FIRST,
            filters,
            subscription_identifier: None,
            user_properties: Vec::new(),
        };
        self.push(&Packet::Subscribe(subscribe))
    }

    pub(super) fn subscribed(&self, suback: &mqgate_codec::SubAck) -> Result<(), BenchError> {
        match suback.reasons.iter().find(|reason| reason.is_error()) {
            Some(reason) => Err(BenchError::NotSubscribed { who: self.who.clone(), reason: *reason }),
            None => Ok(()),
        }
    }

    pub(super) fn push_unsubscribe(&mut self, filters: &[TopicFilter]) -> Result<(), BenchError> {
        let filters = filters.to_vec();
        self.push(&Packet::Unsubscribe(Unsubscribe {
            packet_id: FIRST,
            filters,
            user_properties: Vec::new(),
        }))
    }

    /// Answers what a subscriber has to answer; gives a PUBLISH back.
    pub(super) fn answer(&mut self, packet: Packet) -> Option<Publish> {
        match packet {
            Packet::Publish(publish) => {
                match (publish.qos, publish.packet_id) {
                    (QoS::AtLeastOnce, Some(id)) => self.push_short(0x40, id),
                    (QoS::ExactlyOnce, Some(id)) => self.push_short(0x50, id),
                    (QoS::AtMostOnce | QoS::AtLeastOnce | QoS::ExactlyOnce, _) => {}
                }
                Some(publish)
            }
            Packet::PubRel(ack) => {
                self.push_short(0x70, ack.packet_id);
                None
            }
            _ => None,
        }
    }

    /// An acknowledgement that says Success.
    pub(super) fn push_short(&mut self, first: u8, id: PacketId) {
        let [high, low] = id.get().to_be_bytes();
        self.output.extend_from_slice(&[first, 2, high, low]);
    }

    /// Says goodbye and closes.
    pub(super) async fn leave(mut self) -> Result<(), BenchError> {
        self.push(&Packet::Disconnect(mqgate_codec::Disconnect::new(mqgate_codec::ReasonCode::SUCCESS)))?;
        self.flush().await?;
        // The broker may be quicker.
        let _: io::Result<()> = self.stream.shutdown().await;
        Ok(())
    }
}

const FIRST: PacketId = PacketId(std::num::NonZeroU16::MIN);

/// A PUBLISH that is the same each time but for packet id and the beginning of the payload.
pub(super) struct Template {
    bytes: Vec<u8>,
    packet_id_at: Option<usize>,
    payload_at: usize,
}

impl Template {
    pub(super) fn new(
        topic: &TopicName,
        payload: usize,
        qos: QoS,
        retain: bool,
        version: ProtocolVersion,
    ) -> Result<Self, BenchError> {
        let publish = Publish {
            dup: false,
            qos,
            retain,
            topic: Some(topic.clone()),
            packet_id: (qos != QoS::AtMostOnce).then_some(FIRST),
            payload: vec![0; payload].into(),
            properties: PublishProperties::default(),
        };
        let mut bytes = BytesMut::new();
        encode(&Packet::Publish(publish), version, &mut bytes)?;
        let payload_at = bytes.len() - payload;
        // Behind the packet id there are no properties but their length, in MQTT 5.0.
        let properties = usize::from(version == ProtocolVersion::V5);
        let packet_id_at = (qos != QoS::AtMostOnce).then(|| payload_at - properties - 2);
        Ok(Self { bytes: bytes.into(), packet_id_at, payload_at })
    }

    pub(super) fn write(&self, packet_id: u16, stamp: &[u8], output: &mut BytesMut) {
        let start = output.len();
        output.extend_from_slice(&self.bytes);
        let message = &mut output[start..];
        if let Some(at) = self.packet_id_at {
            message[at..at + 2].copy_from_slice(&packet_id.to_be_bytes());
        }
        message[self.payload_at..self.payload_at + stamp.len()].copy_from_slice(stamp);
    }
}
