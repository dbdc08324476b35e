//! A WebSocket client, from its HTTP request on or from its first frame: what arrives does not depend on how the
//! bytes are cut, and what we answer are frames that a client may be sent.

use std::time::Duration;

use bytes::Bytes;
use mqgate_server::websocket::{FrameLimits, WebSocket, WebSocketSettings, upgrade};
use tokio::io::AsyncReadExt as _;

use super::stream::{self, Script};
use crate::engine::Target;

pub const TARGET: Target = Target { name: "websocket", dictionary: WORDS, longest: 2048, seeds, run };

const WORDS: &[&[u8]] = &[
    b"GET /mqtt HTTP/1.1\r\n",
    b"Host: h\r\n",
    b"Connection: Upgrade\r\n",
    b"Upgrade: websocket\r\n",
    b"Sec-WebSocket-Version: 13\r\n",
    b"Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEA==\r\n",
    b"Sec-WebSocket-Protocol: mqtt\r\n",
    b"Origin: http://a.example\r\n",
    b"X-Forwarded-For: 192.0.2.7, 10.0.0.1\r\n",
    b"Content-Length: 3\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"\r\n\r\n",
    b"\x82\x80\0\0\0\0",
    b"\x02\x81\0\0\0\0x",
    b"\x80\x81\0\0\0\0y",
    b"\x89\x80\0\0\0\0",
    b"\x8a\x80\0\0\0\0",
    b"\x88\x82\0\0\0\0\x03\xe8",
    b"\x82\xfe\x00\x80\0\0\0\0",
    b"\x82\xff\0\0\0\0\0\x01\0\0\0\0\0\0",
];
const LIMITS: FrameLimits = FrameLimits { frame: 300, message: 500 };

/// The first byte says where it begins and how the bytes are cut.
fn run(data: &[u8]) {
    let [how, bytes @ ..] = data else { return };
    let talk = |piece: usize| match how & 1 {
        0 => stream::run(frames(bytes, piece)),
        _ => stream::run(request(bytes, piece)),
    };
    let whole = talk(usize::MAX);
    let pieces = talk(usize::from(how >> 1).max(1));
    assert_eq!(whole.arrived, pieces.arrived, "cut, something else arrives");
    assert_eq!(whole.ended, pieces.ended, "cut, it ends in another way");
    assert!(whole.arrived.len() <= bytes.len());
    for talk in [&whole, &pieces] {
        answers_are_frames(&talk.answered);
    }
}

#[derive(Debug, PartialEq)]
struct Talk {
    arrived: Vec<u8>,
    ended: Result<(), String>,
    /// Frames; without the answer to the request.
    answered: Vec<u8>,
}

async fn frames(bytes: &[u8], piece: usize) -> Talk {
    let (script, heard) = Script::new(bytes, piece);
    let (arrived, ended) = read(WebSocket::new(script, Bytes::new(), LIMITS)).await;
    let answered = heard.lock().expect("nobody panics while holding it").clone();
    Talk { arrived, ended, answered }
}

async fn read(mut socket: WebSocket<Script>) -> (Vec<u8>, Result<(), String>) {
    let mut arrived = Vec::new();
    let ended = socket.read_to_end(&mut arrived).await.map(|_| ()).map_err(|error| error.kind().to_string());
    (arrived, ended)
}

async fn request(bytes: &[u8], piece: usize) -> Talk {
    let settings = WebSocketSettings {
        path: "/mqtt".into(),
        require_subprotocol: true,
        origins: [String::from("http://a.example")].into(),
        limits: LIMITS,
        trusted_proxies: ["10.0.0.0/8".parse().expect("a network")].into(),
        timeout: Duration::from_secs(5),
    };
    let (script, heard) = Script::new(bytes, piece);
    let taken = || std::mem::take(&mut *heard.lock().expect("nobody panics while holding it"));
    match upgrade(script, [10, 0, 0, 1].into(), &settings).await {
        Err(error) => {
            let answer = taken();
            assert!(
                answer.is_empty() || answer.starts_with(b"HTTP/1.1 4") || answer.starts_with(b"HTTP/1.0 4"),
                "refused, and answered {answer:?}"
            );
            let kind = format!("{error:?}");
            let kind = kind.split('(').next().unwrap_or_default().to_owned();
            Talk { arrived: Vec::new(), ended: Err(kind), answered: Vec::new() }
        }
        Ok(upgraded) => {
            let answer = taken();
            assert!(answer.starts_with(b"HTTP/1.1 101 "), "granted, and answered {answer:?}");
            let (arrived, ended) = read(WebSocket::new(upgraded.stream, upgraded.early, LIMITS)).await;
            Talk { arrived, ended, answered: taken() }
        }
    }
}

/// Pongs, and one Close at the end: unmasked, whole and short [RFC 6455, 5.1, 5.5].
fn answers_are_frames(mut answered: &[u8]) {
    while let [first, length, rest @ ..] = answered {
        assert!(matches!(first, 0x8A | 0x88), "answered with {first:#x}");
        let length = usize::from(*length);
        assert!(
            length <= 125 && rest.len() >= length,
            "an answer of {length} bytes, {} are there",
            rest.len()
        );
        assert!(*first == 0x8A || (rest.len() == length && length != 1), "something follows the Close");
        answered = &rest[length..];
    }
    assert!(answered.is_empty(), "half an answer");
}

fn seeds() -> Vec<Vec<u8>> {
    let head = b"GET /mqtt HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEA==\r\nSec-WebSocket-Protocol: mqtt\r\n";
    let ping_and_more = b"\x89\x81\x01\x02\x03\x04\x05\x02\x82\x01\x02\x03\x04ab\x80\x81\x01\x02\x03\x04c\x88\x82\0\0\0\0\x03\xe8";
    let mut long = b"\x82\xfe\x01\x00\x01\x02\x03\x04".to_vec();
    long.extend([7; 256]);
    vec![
        [&[6], &ping_and_more[..]].concat(),
        [&[8], &long[..]].concat(),
        [&[21], &head[..], b"\r\n", ping_and_more].concat(),
        [
            &[21],
            &head[..],
            b"Origin: http://a.example\r\nX-Forwarded-For: 192.0.2.7, 10.0.0.1\r\n\r\n",
            ping_and_more,
        ]
        .concat(),
        [&[21], &head[..], b"Origin: http://b.example\r\n\r\n"].concat(),
        b"\x15POST /mqtt HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc".to_vec(),
        b"\x15GET /other HTTP/1.1\r\nHost: h\r\n\r\n".to_vec(),
    ]
}
