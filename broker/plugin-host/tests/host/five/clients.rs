//! The part of the corpus that is about connections: one and the same certificate, and clients of all kinds.

use mqgate_identity::hooks::{Attribute, Connection, Occasion, Secret, Value, WillFacts};

use super::certificates::{CN, OU, UTF8, device, nameless};
use super::corpus::Corpus;

impl Corpus {
    pub(super) fn connections(&mut self) {
        let meter = || device("device-7").subject(OU, "meters");
        let with =
            |client_id: &'static str| move |on: &mut Connection| on.connect.client_id = client_id.into();
        for client_id in [
            "device-7",
            "device-7:",
            "device-7:2",
            "device-7:#",
            "device-7::",
            "device-7/2",
            "device-77",
            "device-",
            "DEVICE-7",
            "device-8",
            " device-7",
            "device-7 ",
            ":device-7",
            "#",
            "dеvice-7",
            "device-7\u{0}",
            "device-7\u{200b}",
        ] {
            self.add_on(format!("client id {client_id:?}"), meter(), with(client_id));
        }
        self.add_on("client-id-of-65535-bytes", meter(), |on| on.connect.client_id = "x".repeat(65_535));
        self.add_on("client-id-long-and-right", meter(), |on| {
            on.connect.client_id = format!("device-7:{}", "x".repeat(60_000));
        });
        self.add_on("client-id-composed-otherwise", device("Ger\u{e4}t"), with("Gera\u{308}t"));
        self.add_on("client-id-composed-alike", device("Gera\u{308}t"), with("Gera\u{308}t"));
        self.add_on("client-id-is-a-part-of-a-character", device("é"), with("é:x"));
        self.add_on("client-id-of-a-device-with-a-colon", device("a:b"), with("a:b"));
        for level in [3, 4, 5, 6] {
            self.add_on(format!("protocol-level-{level}"), meter(), |on| {
                on.connect.protocol_level = level;
                on.connect.client_id = "device-7".into();
            });
            self.add_on(format!("protocol-level-{level}-without-client-id"), meter(), |on| {
                on.connect.protocol_level = level;
            });
        }
        self.add_with("no-certificate".into(), None, None, |_| {});
        self.add_with("no-certificate-and-a-name".into(), None, None, |on| {
            on.connect.client_id = "device-7".into();
            on.connect.user_name = Some("device-7".into());
            on.connect.password = Some(Secret(b"device-7".to_vec()));
        });
        self.add_with("no-tls".into(), None, None, |on| on.tls = None);
        self.add_on("no-tls-and-a-certificate", meter(), |on| on.tls = None);
        self.add_on("resumed", meter(), |on| on.tls.as_mut().expect("it has one").resumed = true);
        self.add_on("tls-1.2", meter(), |on| on.tls.as_mut().expect("it has one").version = 0x0303);
        self.add_on("hostile-server-name", meter(), |on| {
            let tls = on.tls.as_mut().expect("it has one");
            (tls.server_name, tls.alpn) = (Some("#/\u{202e}".into()), Some("\u{0}".into()));
        });
        self.add_on("by-a-proxy", meter(), |on| on.peer.via_proxy = Some([10, 0, 0, 1].into()));
        self.add_on("by-a-proxy-from-version-6", meter(), |on| {
            on.peer.address = [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into();
            on.peer.via_proxy = Some([0, 0, 0, 0, 0, 0, 0, 1].into());
        });
        self.add_on("on-another-listener", meter(), |on| on.listener = "#".into());
        self.add_on("explained", meter(), |on| on.occasion = Occasion::Explanation);
        self.add_on("with-everything-in-connect", meter(), |on| {
            let connect = &mut on.connect;
            connect.clean_start = false;
            connect.keep_alive = u16::MAX;
            connect.user_name = Some("\u{202e}#".into());
            connect.password = Some(Secret(vec![0xff; 1000]));
            connect.will =
                Some(WillFacts { topic: "a/b".into(), qos: 2, retain: true, payload_length: u32::MAX });
            connect.session_expiry = Some(u32::MAX);
            connect.receive_maximum = Some(u16::MAX);
            connect.maximum_packet_size = Some(u32::MAX);
            connect.authentication_method = Some("x".into());
            connect.user_properties = (0..200).map(|at| (format!("k{at}"), "v".repeat(100))).collect();
        });
        self.add_on("with-attributes-of-all-kinds", meter(), |on| {
            let values = [
                Value::Text("#".into()),
                Value::Integer(i64::MIN),
                Value::Integer(i64::MAX),
                Value::Boolean(true),
                Value::Blob(vec![0, 255]),
                Value::Texts(vec![String::new(), "x".into()]),
            ];
            on.attributes = values
                .into_iter()
                .enumerate()
                .map(|(at, value)| Attribute { name: format!("a.n{at}"), value })
                .collect();
        });
        self.add_on("with-the-largest-numbers", meter(), |on| {
            (on.id, on.accepted_at.0, on.peer.port) = (u64::MAX, u64::MAX, u16::MAX);
        });
        self.add_on("with-the-smallest-numbers", meter(), |on| {
            (on.id, on.accepted_at.0, on.peer.port) = (0, 0, 0);
            on.trace_id = String::new();
        });
    }

    /// What an authorizer is told by the plugin before it, which need not agree with the certificate.
    pub(super) fn claims(&mut self) {
        for claimed in [
            "",
            "device-7",
            "device-8",
            "a/b",
            "+",
            "#",
            "$SYS",
            "a:b",
            "a\u{0}",
            "a\u{200b}",
            "ü",
            "${tenant}",
        ] {
            let certificate = device("device-7").subject(OU, "meters").judged().expect("it is read");
            self.add_with(format!("claimed {claimed:?}"), Some(certificate), Some(claimed), |on| {
                on.connect.client_id = "device-8".into();
            });
        }
        let certificate = || device("device-7").judged().expect("it is read");
        let long = "x".repeat(257);
        self.add_with("claimed-of-257-bytes".into(), Some(certificate()), Some(&long), |_| {});
        self.add_with("claimed-of-256-bytes".into(), Some(certificate()), Some(&long[1..]), |_| {});
        self.add_with("claimed-without-a-certificate".into(), None, Some("device-7"), |_| {});
        let unreadable = nameless().subject_of(CN, UTF8, b"\xff").judged().expect("it is read");
        self.add_with("claimed-for-an-unreadable-cn".into(), Some(unreadable), Some("device-7"), |_| {});
        let group = device("device-7").subject_of(OU, UTF8, b"\xff").judged().expect("it is read");
        self.add_with("claimed-for-an-unreadable-ou".into(), Some(group), Some("device-7"), |_| {});
    }
}
