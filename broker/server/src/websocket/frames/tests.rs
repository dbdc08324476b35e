use futures_util::{SinkExt as _, StreamExt as _};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::*;

const LIMITS: FrameLimits = FrameLimits { frame: 1000, message: 1500 };

fn pair(room: usize) -> (DuplexStream, WebSocket<DuplexStream>) {
    let (theirs, ours) = tokio::io::duplex(room);
    (theirs, WebSocket::new(ours, Bytes::new(), LIMITS))
}

/// A client's frame: first byte as given, masked.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        length @ ..=125 => bytes.push(0x80 | u8::try_from(length).unwrap()),
        length => {
            bytes.push(0x80 | 126);
            bytes.extend(u16::try_from(length).unwrap().to_be_bytes());
        }
    }
    let mask = [0x12, 0x34, 0x56, 0x78];
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

const FINAL: u8 = 0x80;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;

/// What the server side makes of some bytes, and what it answers.
async fn hear(bytes: &[u8]) -> (Vec<u8>, io::Result<usize>, Vec<u8>) {
    let (mut client, mut server) = pair(64 * 1024);
    client.write_all(bytes).await.unwrap();
    client.shutdown().await.unwrap();
    let mut heard = Vec::new();
    let outcome = server.read_to_end(&mut heard).await;
    drop(server);
    let mut answered = Vec::new();
    client.read_to_end(&mut answered).await.unwrap();
    (heard, outcome, answered)
}

fn closed_with(code: u16) -> Vec<u8> {
    [&[FINAL | CLOSE, 2][..], &code.to_be_bytes()].concat()
}

/// [MQTT-6.0.0-2; MQTT 3.1.1: MQTT-6.0.0-2]
#[tokio::test]
async fn packets_lie_across_frames_as_they_like() {
    // [MQTT-6.0.0-1]
    let bytes = [
        frame(BINARY, b"one "),
        frame(FINAL | PING, b"are you there"),
        frame(0, b"message "),
        frame(FINAL, b"in three"),
        frame(FINAL | BINARY, &[b'x'; 300]),
        frame(FINAL | BINARY, b""),
        frame(FINAL | CLOSE, &[0x03, 0xE8]),
    ]
    .concat();
    let (heard, outcome, answered) = hear(&bytes).await;
    assert!(outcome.is_ok());
    assert_eq!(heard, [b"one message in three".as_slice(), &[b'x'; 300]].concat());
    let pong = [&[FINAL | 10, 13][..], b"are you there"].concat();
    // Both were asked for in one breath: the pong may be left out before the end, the close may not.
    assert!(answered.ends_with(&closed_with(1000)), "{answered:?}");
    assert!(answered == closed_with(1000) || answered == [pong, closed_with(1000)].concat(), "{answered:?}");
}

#[tokio::test]
async fn a_ping_is_answered_though_nobody_writes() {
    let (mut client, mut server) = pair(64);
    let reading = tokio::spawn(async move {
        let mut byte = [0];
        server.read_exact(&mut byte).await.unwrap();
        (server, byte)
    });
    for number in 0..3_u8 {
        client.write_all(&frame(FINAL | PING, &[number])).await.unwrap();
        let mut pong = [0; 3];
        client.read_exact(&mut pong).await.unwrap();
        assert_eq!(pong, [FINAL | 10, 1, number]);
    }
    client.write_all(&frame(FINAL | BINARY, b"!")).await.unwrap();
    assert_eq!(reading.await.unwrap().1, *b"!");
}

#[tokio::test]
async fn pings_that_come_together_are_all_answered() {
    let pings: Vec<u8> = (0..10_u8).flat_map(|number| frame(FINAL | PING, &[number])).collect();
    let pongs: Vec<u8> = (0..10_u8).flat_map(|number| [FINAL | 10, 1, number]).collect();
    assert_eq!(hear(&pings).await.2, pongs);
}

/// What waits for a client that takes no answers is bounded; that to the last ping is always there.
#[test]
fn pongs_that_nobody_takes_are_forgotten_but_for_the_last() {
    let mut incoming = pair(1).1.incoming;
    let mut answers = Outgoing::default();
    let mut last = Vec::new();
    for number in 0..2000_u16 {
        let payload = [&number.to_be_bytes()[..], &[0; 100]].concat();
        incoming.take(&mut frame(FINAL | PING, &payload), LIMITS, &mut answers);
        last = [&[FINAL | 10, 102][..], &payload].concat();
        assert!(answers.control.ends_with(&last));
        assert!(answers.control.len() < 3 * ANSWERS, "{}", answers.control.len());
        // A client that takes them slowly.
        answers.written = (answers.written + 50).min(answers.control.len());
    }
    assert!(answers.control.ends_with(&last) && answers.control.len() - answers.written > ANSWERS);
}

#[tokio::test]
async fn what_comes_after_the_end_is_thrown_away() {
    let (mut client, mut server) = pair(64 * 1024);
    client.write_all(&frame(FINAL | 3, b"")).await.unwrap();
    assert!(server.read(&mut [0; 8]).await.is_err());
    client.write_all(&frame(FINAL | BINARY, b"more")).await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0);
    let mut left = Vec::new();
    server.inner.read_to_end(&mut left).await.unwrap();
    assert_eq!(left, b"");
}

/// [MQTT-6.0.0-1; MQTT 3.1.1: MQTT-6.0.0-1]
#[tokio::test]
async fn what_breaks_a_rule_is_closed_with_its_code() {
    let mut unmasked = frame(FINAL | BINARY, b"");
    unmasked[1] &= 0x7F;
    let long_length = [&[FINAL | BINARY, 0x80 | 126, 0, 5][..], &[0; 9]].concat();
    let very_long_length = [&[FINAL | BINARY, 0x80 | 127, 0, 0, 0, 0, 0, 0, 1, 0][..], &[0; 16]].concat();
    let huge = [&[FINAL | BINARY, 0x80 | 127, 0x80, 0, 0, 0, 0, 0, 0, 0][..], &[0; 4]].concat();
    for (what, bytes, code) in [
        ("text [MQTT-6.0.0-1]", frame(FINAL | 1, b"hello"), 1003),
        ("no mask", unmasked, 1002),
        ("a reserved bit", frame(FINAL | 0x40 | BINARY, b""), 1002),
        ("a reserved operation", frame(FINAL | 3, b""), 1002),
        ("a reserved control operation", frame(FINAL | 11, b""), 1002),
        ("a ping in parts", frame(PING, b""), 1002),
        ("a long ping", frame(FINAL | PING, &[0; 126]), 1002),
        ("nothing to continue", frame(FINAL, b"x"), 1002),
        ("two messages in one", [frame(BINARY, b"x"), frame(FINAL | BINARY, b"y")].concat(), 1002),
        ("a length of two bytes that needs none", long_length, 1002),
        ("a length of eight bytes that needs two", very_long_length, 1002),
        ("half a close code", frame(FINAL | CLOSE, &[3]), 1002),
        ("a close code that may not be sent", frame(FINAL | CLOSE, &1005_u16.to_be_bytes()), 1002),
        ("a close reason that is no text", frame(FINAL | CLOSE, &[3, 0xE8, 0xFF]), 1007),
        ("a frame beyond the limit", frame(FINAL | BINARY, &[0; 1001]), 1009),
        ("a length that no frame has", huge, 1009),
    ] {
        let (heard, outcome, answered) = hear(&bytes).await;
        assert!(outcome.is_err(), "{what}");
        assert_eq!(answered, closed_with(code), "{what}");
        assert!(heard.len() < 2, "{what}: {heard:?}");
    }
    let message = [frame(BINARY, &[1; 1000]), frame(FINAL, &[1; 501])].concat();
    let (heard, _, answered) = hear(&message).await;
    assert_eq!((heard.len(), answered), (1000, closed_with(1009)));
    let at_the_limit = [frame(BINARY, &[1; 1000]), frame(FINAL, &[1; 500])].concat();
    assert_eq!(hear(&at_the_limit).await.0.len(), 1500);
}

#[tokio::test]
async fn the_end_without_a_close_frame_is_an_end() {
    let (heard, outcome, answered) = hear(&frame(FINAL | BINARY, b"x")).await;
    assert_eq!((heard.as_slice(), outcome.unwrap(), answered.len()), (b"x".as_slice(), 1, 0));
}

#[tokio::test]
async fn shutting_down_says_so_once() {
    let (mut client, mut server) = pair(64);
    server.write_all(b"bye").await.unwrap();
    server.shutdown().await.unwrap();
    assert!(server.write_all(b"more").await.is_err());
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes).await.unwrap();
    assert_eq!(bytes, [&[FINAL | BINARY, 3][..], b"bye", &closed_with(1000)].concat());
    client.write_all(&frame(FINAL | CLOSE, &[3, 0xE8])).await.unwrap();
    assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0);
}

/// Another implementation is the client; what is sent comes out again, whatever pieces it travels in.
async fn echo(messages: Vec<Vec<u8>>, room: usize, vectored: bool) -> Vec<u8> {
    let (theirs, ours) = tokio::io::duplex(room);
    let limits = FrameLimits { frame: 1 << 20, message: 1 << 20 };
    let mut server = WebSocket::new(ours, Bytes::new(), limits);
    let total: usize = messages.iter().map(Vec::len).sum();
    let serving = tokio::spawn(async move {
        let mut heard = Vec::new();
        while heard.len() < total {
            assert!(server.read_buf(&mut heard).await.unwrap() > 0);
        }
        if vectored {
            let (front, back) = heard.split_at(heard.len() / 2);
            let mut both = Buf::chain(front, back);
            while both.has_remaining() {
                server.write_buf(&mut both).await.unwrap();
            }
        } else {
            server.write_all(&heard).await.unwrap();
        }
        server.shutdown().await.unwrap();
        let _ = server.read(&mut [0; 64]).await;
    });
    let mut client = WebSocketStream::from_raw_socket(theirs, Role::Client, None).await;
    let mut received = Vec::new();
    for message in messages {
        client.send(Message::binary(message)).await.unwrap();
    }
    while let Some(Ok(message)) = client.next().await {
        if message.is_binary() {
            received.extend(message.into_data());
        }
    }
    drop(client);
    serving.await.unwrap();
    received
}

#[tokio::test]
async fn another_implementation_understands_it() {
    for room in [1, 7, 4096, 1 << 20] {
        for vectored in [false, true] {
            let messages = vec![b"a".to_vec(), vec![7; 130], vec![9; if room == 1 { 500 } else { 70_000 }]];
            let sent = messages.concat();
            assert_eq!(echo(messages, room, vectored).await, sent, "room {room}");
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_break_it(bytes in proptest::collection::vec(any::<u8>(), 0..200), piece in 1_usize..40) {
        let mut incoming = pair(1).1.incoming;
        let mut answers = Outgoing::default();
        for chunk in bytes.chunks(piece) {
            let mut chunk = chunk.to_vec();
            let kept = incoming.take(&mut chunk, LIMITS, &mut answers);
            prop_assert!(kept <= chunk.len());
            prop_assert!(incoming.control.len() <= LONGEST_CONTROL);
            prop_assert!(answers.control.len() <= ANSWERS + LONGEST_CONTROL + 2);
        }
    }

    #[test]
    fn pieces_make_no_difference(sizes in proptest::collection::vec(0_usize..300, 1..6), piece in 1_usize..50) {
        let payloads: Vec<Vec<u8>> = sizes.iter().enumerate().map(|(index, size)| vec![index as u8; *size]).collect();
        let bytes: Vec<u8> = payloads.iter().flat_map(|payload| frame(FINAL | BINARY, payload)).collect();
        let mut incoming = pair(1).1.incoming;
        let mut answers = Outgoing::default();
        let mut heard: Vec<u8> = Vec::new();
        for chunk in bytes.chunks(piece) {
            let mut chunk = chunk.to_vec();
            let kept = incoming.take(&mut chunk, LIMITS, &mut answers);
            heard.extend(&chunk[..kept]);
        }
        prop_assert!(incoming.end.is_none());
        prop_assert_eq!(heard, payloads.concat());
    }
}
