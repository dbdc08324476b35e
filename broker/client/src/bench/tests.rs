use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Wake, Waker};

use bytes::BytesMut;
use mqgate_codec::{DecodeLimits, Decoder, Packet, PacketId, ProtocolVersion, QoS, TopicName};

use super::ledger::Ledger;
use super::wire::Template;

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_template_is_a_publish_with_its_own_id_and_stamp() {
    let topic = TopicName::parse("bench/1".into()).unwrap();
    for version in [ProtocolVersion::V3_1_1, ProtocolVersion::V5] {
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let template = Template::new(&topic, 200, qos, false, version).unwrap();
            let mut bytes = BytesMut::new();
            template.write(7, &[1; 16], &mut bytes);
            template.write(8, &[2; 16], &mut bytes);
            let mut decoder = Decoder::either(Some(version), DecodeLimits::default());
            for (id, stamp) in [(7, 1), (8, 2)] {
                let Some(Packet::Publish(publish)) = decoder.decode(&mut bytes).unwrap() else {
                    panic!("no PUBLISH")
                };
                assert_eq!(publish.packet_id.map(PacketId::get), (qos != QoS::AtMostOnce).then_some(id));
                assert_eq!((publish.qos, publish.topic), (qos, Some(topic.clone())));
                assert_eq!(publish.payload[..16], [stamp; 16]);
                assert_eq!(publish.payload[16..], [0; 184]);
            }
            assert!(bytes.is_empty());
        }
    }
}

#[test]
fn a_publisher_waits_for_all_its_receivers() {
    let ledger = Ledger::new([2].into_iter(), 3, false);
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let cx = Context::from_waker(&waker);
    let stamps: Vec<_> = (0..3).map(|_| ledger.publish(0, 0).1).collect();
    assert_eq!(ledger.room(0, &cx), 0);
    let (mut one, mut other) = ([0], [0]);
    ledger.start(u64::MAX);
    for stamp in &stamps {
        ledger.deliver(stamp, &mut one, 5_000_000);
    }
    assert_eq!((woken.0.load(Ordering::Relaxed), ledger.room(0, &cx)), (0, 0), "the other has nothing yet");
    ledger.deliver(&stamps[0], &mut other, 5_000_000);
    assert_eq!((woken.0.load(Ordering::Relaxed), ledger.room(0, &cx)), (1, 1));
    let counts = ledger.counts();
    assert_eq!((counts.delivered, counts.out_of_order, counts.latency.min()), (4, 0, 5000));
}

#[test]
fn what_is_lost_late_or_doubled_is_counted() {
    let ledger = Ledger::new([1].into_iter(), 10, false);
    let stamps: Vec<_> = (0..4).map(|_| ledger.publish(0, 0).1).collect();
    let mut seen = [0];
    for at in [0, 2, 1, 2] {
        ledger.deliver(&stamps[at], &mut seen, 0);
    }
    ledger.give_up();
    let counts = ledger.counts();
    assert_eq!((counts.out_of_order, counts.lost, ledger.under_way()), (2, 2, 0));
    ledger.deliver(b"not ours", &mut seen, 0);
    ledger.deliver(&[0xFF; 16], &mut seen, 0);
    assert_eq!(ledger.counts().out_of_order, 2, "what others publish is not counted");
}

#[test]
fn a_rate_holds_back_as_the_window_does() {
    let ledger = Ledger::new([1].into_iter(), 10, true);
    let cx = Context::from_waker(Waker::noop());
    assert_eq!(ledger.room(0, &cx), 0);
    ledger.allow(0, 2);
    assert_eq!(ledger.room(0, &cx), 2);
    ledger.stop();
    assert_eq!(ledger.room(0, &cx), 0, "it is over");
}
