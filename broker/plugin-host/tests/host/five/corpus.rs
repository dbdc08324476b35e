//! The certificates and connections that are asked about, each with a name. What the answer is, nobody says here.

use std::sync::Arc;

use mqgate_identity::certificate::{ClientCertificate, GeneralName, NameAttribute};
use mqgate_identity::hooks::{Connection, TlsSession};

use super::certificates::{
    BMP, CN, IA5, Leaf, NUMERIC, O, OU, PRINTABLE, SERIAL_NUMBER, TELETEX, UNIVERSAL, UTF8, VISIBLE, device,
    encoded, nameless,
};
use super::der::{boolean, integer, name, oid, sequence, tlv};
use crate::fixture::connection;

pub struct Case {
    pub name: String,
    pub on: Arc<Connection>,
    /// What an earlier plugin said the device is; without it, what the authenticator itself says.
    pub claimed: Option<String>,
}

/// Collects cases, and keeps their names apart.
#[derive(Default)]
pub struct Corpus(pub Vec<Case>);

/// Text that a topic, a name or a reader must be protected from, or that only looks so.
const TEXTS: [(&str, &str); 53] = [
    ("plain", "device-7"),
    ("empty", ""),
    ("blank", " "),
    ("blanks-around", " device-7 "),
    ("hash", "#"),
    ("plus", "+"),
    ("slash", "/"),
    ("level", "a/b"),
    ("hash-after", "a#b"),
    ("plus-after", "a+"),
    ("slash-first-of-several", "a/b+c#"),
    ("plus-first-of-several", "a+b/c"),
    ("sys", "$SYS"),
    ("dollar-after", "a$"),
    ("placeholder", "${client-id}"),
    ("colon", ":"),
    ("colon-inside", "a:b"),
    ("colon-after", "a:"),
    ("dots", ".."),
    ("backslash", "a\\b"),
    ("quotes", "\"'`"),
    ("percent", "%2F%00"),
    ("markup", "<b>&amp;"),
    ("format", "%s%n{}{0}"),
    ("upper-case", "DEVICE-7"),
    ("nul", "a\0b"),
    ("nul-at-end", "device-7\0"),
    ("newline", "a\nb"),
    ("tab", "a\tb"),
    ("escape", "a\u{1b}[2Jb"),
    ("delete", "a\u{7f}"),
    ("next-line", "a\u{85}b"),
    ("c1-last", "a\u{9f}b"),
    ("no-break-space", "a\u{a0}b"),
    ("soft-hyphen", "a\u{ad}b"),
    ("arabic-mark", "a\u{61c}b"),
    ("mongolian-separator", "a\u{180e}b"),
    ("zero-width-space", "a\u{200b}b"),
    ("zero-width-joiner", "👩\u{200d}🚀"),
    ("right-to-left-override", "a\u{202e}b"),
    ("line-separator", "a\u{2028}b"),
    ("isolate", "a\u{2066}b\u{2069}"),
    ("word-joiner", "a\u{2060}b"),
    ("byte-order-mark", "\u{feff}a"),
    ("annotation", "a\u{fff9}b\u{fffb}"),
    ("replacement", "a\u{fffd}b"),
    ("hebrew", "מכשיר-7"),
    ("cyrillic-look-alike", "dеvice-7"),
    ("full-width-look-alike", "ｄｅｖｉｃｅ－７／＋＃"),
    ("composed", "Ger\u{e4}t"),
    ("decomposed", "Gera\u{308}t"),
    ("beyond-the-basic-plane", "😀\u{10ffff}"),
    ("tag-characters", "a\u{e0041}b"),
];

pub fn corpus() -> Corpus {
    let mut corpus = Corpus::default();
    corpus.common_names();
    corpus.alternative_names();
    corpus.serials_and_versions();
    corpus.tenants_and_groups();
    corpus.beyond_the_parser();
    corpus.connections();
    corpus.claims();
    corpus
}

impl Corpus {
    /// A client with this certificate and no client id of its own.
    pub(super) fn add(&mut self, name: impl Into<String>, leaf: Leaf) {
        self.add_on(name, leaf, |_| {});
    }

    pub(super) fn add_on(
        &mut self,
        name: impl Into<String>,
        leaf: Leaf,
        change: impl FnOnce(&mut Connection),
    ) {
        let name = name.into();
        let certificate = leaf.judged().unwrap_or_else(|error| panic!("{name}: {error}"));
        self.add_with(name, Some(certificate), None, change);
    }

    pub(super) fn add_with(
        &mut self,
        name: String,
        certificate: Option<Arc<ClientCertificate>>,
        claimed: Option<&str>,
        change: impl FnOnce(&mut Connection),
    ) {
        assert!(self.0.iter().all(|case| case.name != name), "two cases are called {name}");
        let mut on = (*connection("mqtts")).clone();
        on.id = self.0.len() as u64;
        on.tls = Some(TlsSession {
            version: 0x0304,
            cipher_suite: 0x1301,
            server_name: Some(String::from("broker.test")),
            alpn: None,
            resumed: false,
        });
        on.certificate = certificate;
        on.connect.client_id = String::new();
        change(&mut on);
        self.0.push(Case { name, on: Arc::new(on), claimed: claimed.map(str::to_owned) });
    }

    fn common_names(&mut self) {
        for (what, text) in TEXTS {
            self.add(format!("cn-{what}"), device(text));
        }
        let strings = [
            ("utf8", UTF8),
            ("numeric", NUMERIC),
            ("printable", PRINTABLE),
            ("teletex", TELETEX),
            ("ia5", IA5),
            ("visible", VISIBLE),
            ("universal", UNIVERSAL),
            ("bmp", BMP),
            ("octets", 0x04),
            ("integer", 0x02),
        ];
        for (what, string) in strings {
            for text in ["device-7", "12 3", "a_b@c", "Gerät"] {
                let leaf = nameless().subject_of(CN, string, &encoded(string, text));
                self.add(format!("cn-of-type-{what}-{text}"), leaf);
            }
        }
        for (what, string, content) in [
            ("not-utf8", UTF8, &b"a\xffb"[..]),
            ("overlong-nul", UTF8, b"a\xc0\x80b"),
            ("overlong-slash", UTF8, b"a\xc0\xafb"),
            ("surrogate-in-utf8", UTF8, b"\xed\xa0\x80"),
            ("cut-utf8", UTF8, b"a\xe2\x82"),
            ("beyond-unicode", UTF8, b"\xf5\x80\x80\x80"),
            ("latin1-in-printable", PRINTABLE, b"Ger\xe4t"),
            ("latin1-in-teletex", TELETEX, b"Ger\xe4t"),
            ("odd-bmp", BMP, b"\0a\0"),
            ("surrogates-in-bmp", BMP, b"\xd8\x3d\xde\x00"),
            ("beyond-unicode-in-universal", UNIVERSAL, b"\0\x11\0\0"),
            ("nul-in-bmp", BMP, b"\0a\0\0"),
            ("empty-bmp", BMP, b""),
        ] {
            self.add(format!("cn-{what}"), nameless().subject_of(CN, string, content));
        }
        for bytes in [1, 128, 255, 256, 257, 1024, 10_000] {
            self.add(format!("cn-of-{bytes}-bytes"), device(&"x".repeat(bytes)));
        }
        for (what, unit, most) in [("two", "é", 128), ("three", "ｘ", 85), ("four", "😀", 64)] {
            self.add(format!("cn-of-{most}-times-{what}-bytes"), device(&unit.repeat(most)));
            self.add(
                format!("cn-of-one-more-than-{most}-times-{what}-bytes"),
                device(&unit.repeat(most + 1)),
            );
        }
        self.add("cn-twice-the-same", device("device-7").subject(CN, "device-7"));
        self.add("cn-twice", device("device-7").subject(CN, "device-8"));
        self.add("cn-sixty-times", (1..60).fold(device("d"), |leaf, _| leaf.subject(CN, "d")));
        self.add("cn-good-and-unreadable", device("device-7").subject_of(CN, UTF8, b"\xff"));
        self.add("cn-unreadable-and-good", nameless().subject_of(CN, TELETEX, b"x").subject(CN, "device-7"));
        self.add("cn-good-and-empty", device("device-7").subject(CN, ""));
        self.add("cn-in-one-rdn-twice", nameless().multi_valued(&[(CN, "a"), (CN, "b")]));
        self.add("cn-in-one-rdn-with-others", nameless().multi_valued(&[(CN, "a"), (O, "acme"), (OU, "g")]));
        self.add("cn-hidden-in-another-attribute", nameless().subject(O, "acme,CN=device-7"));
        self.add("cn-of-the-issuer-only", nameless());
        self.add("cn-like-the-issuer", device("Fleet CA 1"));
        self.add(
            "surname-and-title-only",
            nameless().subject("2.5.4.4", "device-7").subject("2.5.4.12", "x"),
        );
        self.add("oid-that-looks-like-cn", nameless().subject("2.5.4.30", "device-7"));
        self.add("oid-below-cn", nameless().subject("2.5.4.3.1", "device-7"));
    }

    fn alternative_names(&mut self) {
        let plain = || device("by-name");
        for uri in [
            "urn:device:7",
            "URN:DEVICE:7",
            "urn:Device:7",
            "urn:device:",
            "urn:device",
            "urn:devices:7",
            " urn:device:7",
            "urn:device:a/b",
            "urn:device:a:b",
            "urn:device:+",
            "urn:device:#",
            "urn:device:$SYS",
            "urn:device:%2F",
            "urn:device:urn:device:7",
            "spiffe://example.org/device/7",
            "https://example.org/urn:device:7",
        ] {
            self.add(format!("uri {uri}"), plain().uri(uri));
        }
        self.add("uri-of-256-bytes", plain().uri(&format!("urn:device:{}", "x".repeat(256))));
        self.add("uri-of-257-bytes", plain().uri(&format!("urn:device:{}", "x".repeat(257))));
        self.add("uri-twice", plain().uri("urn:device:7").uri("urn:device:8"));
        self.add("uri-twice-the-same", plain().uri("urn:device:7").uri("urn:device:7"));
        self.add("uri-among-foreign-ones", plain().uri("https://x").uri("urn:device:7").uri("urn:x"));
        self.add("uri-before-an-unreadable-cn", nameless().subject_of(CN, UTF8, b"\xff").uri("urn:device:7"));
        self.add(
            "uri-foreign-before-an-unreadable-cn",
            nameless().subject_of(CN, UTF8, b"\xff").uri("urn:x"),
        );
        self.add("uri-and-no-other-name", nameless().uri("urn:device:7"));

        for dns in
            ["d.example", "*.example", "a_b.example", "D.EXAMPLE", "..", "xn--mller-kva.example", "a/b"]
        {
            self.add(format!("dns {dns}"), nameless().dns(dns));
        }
        self.add("dns-and-cn", device("by-name").dns("d.example"));
        self.add("dns-twice", nameless().dns("a.example").dns("b.example"));
        self.add("dns-and-serial-number", nameless().subject(SERIAL_NUMBER, "sn-1").dns("d.example"));
        for (what, der) in [
            ("email", tlv(0x81, b"a@example")),
            ("ip4", tlv(0x87, &[192, 0, 2, 1])),
            ("ip6", tlv(0x87, &[0x20; 16])),
            ("ip-of-five-bytes", tlv(0x87, &[1; 5])),
            ("registered-id", tlv(0x88, &oid("1.2.3.4")[2..])),
            ("directory", tlv(0xa4, &name(&[(CN, "device-7")]))),
            (
                "other-name",
                tlv(0xa0, &[oid("1.3.6.1.4.1.311.20.2.3"), tlv(0xa0, &tlv(0x0c, b"u@x"))].concat()),
            ),
            ("x400", tlv(0xa3, &sequence(&[]))),
            ("edi-party", tlv(0xa5, &tlv(0xa1, &tlv(0x0c, b"party")))),
            ("empty-dns", tlv(0x82, b"")),
            ("nul-in-dns", tlv(0x82, b"d.example\0.test")),
            ("newline-in-uri", tlv(0x86, b"urn:device:a\nb")),
            ("not-ascii-in-uri", tlv(0x86, "urn:device:ü".as_bytes())),
            ("not-ascii-in-email", tlv(0x81, b"\xff")),
            ("unknown-kind", tlv(0x8f, b"?")),
        ] {
            self.add(format!("alt-name-{what}-only"), nameless().alt_name(der.clone()));
            self.add(format!("alt-name-{what}-beside-a-uri"), plain().uri("urn:device:7").alt_name(der));
        }
        let many = |count: usize| (0..count).fold(plain(), |leaf, at| leaf.dns(&format!("d{at}.example")));
        self.add("255-dns-and-a-cn", many(255));
        self.add("255-dns-and-a-uri", many(255).uri("urn:device:7"));
        self.add("256-dns-and-no-cn", (0..256).fold(nameless(), |leaf, at| leaf.dns(&format!("d{at}"))));
    }

    fn serials_and_versions(&mut self) {
        let long = [&[0x7f][..], &[0xff; 63]].concat();
        for (what, content) in [
            ("zero", &[0][..]),
            ("one", &[1]),
            ("sign-byte", &[0, 0x80]),
            ("negative", &[0xff]),
            ("of-twenty-bytes", &[0x11; 20]),
            ("of-sixty-four-bytes", &long),
        ] {
            self.add(format!("serial-{what}"), nameless().serial(content));
        }
        for (what, text) in [("plain", "sn-1"), ("hash", "#"), ("empty", ""), ("nul", "a\0")] {
            self.add(format!("serial-number-{what}"), nameless().subject(SERIAL_NUMBER, text));
        }
        self.add("serial-number-twice", nameless().subject(SERIAL_NUMBER, "a").subject(SERIAL_NUMBER, "b"));
        self.add("serial-number-and-cn", device("by-name").subject(SERIAL_NUMBER, "#"));
        self.add("version-1", device("device-7").version(1));
        self.add("version-1-without-a-name", nameless().version(1));
        self.add("version-2", device("device-7").version(2));
        self.add("ca", device("device-7").ca());
        self.add("ca-with-a-hostile-name", device("#").ca());
        self.add("not-a-ca-and-it-says-so", device("device-7").extension("2.5.29.19", true, sequence(&[])));
        let usage = tlv(0x03, &[0, 0x86]);
        self.add("key-usage-of-a-ca", device("device-7").extension("2.5.29.15", true, usage));
        let server = sequence(&[&oid("1.3.6.1.5.5.7.3.1")]);
        self.add("for-servers-only", device("device-7").extension("2.5.29.37", false, server));
        self.add(
            "unknown-critical",
            device("device-7").extension("1.3.6.1.4.1.99999.1", true, boolean(true)),
        );
        let large = tlv(0x04, &[0x5a; 30_000]);
        self.add("large-extension", device("device-7").extension("1.3.6.1.4.1.99999.2", false, large));
        for anchor in ["", "other-ca", "#", "Kärnten", "${anchor}"] {
            self.add(format!("anchor {anchor}"), device("device-7").anchor(anchor));
        }
    }

    fn tenants_and_groups(&mut self) {
        for (kind, field) in [("o", O), ("ou", OU)] {
            for (what, text) in TEXTS {
                self.add(format!("{kind}-{what}"), device("device-7").subject(field, text));
            }
            self.add(format!("{kind}-of-257-bytes"), device("device-7").subject(field, &"x".repeat(257)));
            self.add(format!("{kind}-twice"), device("device-7").subject(field, "a").subject(field, "b"));
            let unreadable = device("device-7").subject_of(field, TELETEX, b"acme");
            self.add(format!("{kind}-unreadable"), unreadable);
        }
        self.add("o-and-ou", device("device-7").subject(O, "acme").subject(OU, "meters"));
        self.add(
            "everything-wrong-at-once",
            device("#").subject(O, "#").subject(OU, "#").uri("urn:device:#").ca(),
        );
    }

    /// What the broker's parser lets no certificate have. A plugin need not believe that.
    fn beyond_the_parser(&mut self) {
        let attribute = |text: Option<&str>| NameAttribute {
            oid: CN.to_owned(),
            text: text.map(str::to_owned),
            raw: vec![0x0c, 0],
        };
        for (what, text) in TEXTS {
            let text = text.to_owned();
            let leaf = nameless().altered(move |facts| facts.subject.attributes.push(attribute(Some(&text))));
            self.add(format!("cn-said-to-be-text-{what}"), leaf);
        }
        for (what, dns) in [("control", "a\u{1}b"), ("invisible", "a\u{200b}b"), ("empty", ""), ("wide", "ü")]
        {
            let leaf =
                nameless().altered(move |facts| facts.subject_alt_names.push(GeneralName::Dns(dns.into())));
            self.add(format!("dns-said-to-be-text-{what}"), leaf);
        }
        let control = || GeneralName::Uri("https://x/\u{7}".into());
        let spoilt = device("device-7").uri("urn:device:7");
        self.add(
            "control-in-a-foreign-uri",
            spoilt.altered(move |facts| facts.subject_alt_names.push(control())),
        );
        self.add(
            "1000-alternative-names",
            device("by-name").altered(|facts| {
                let names = (0..999).map(|at| GeneralName::Dns(format!("d{at}.example")));
                facts.subject_alt_names = names.collect();
                facts.subject_alt_names.push(GeneralName::Uri("urn:device:7".into()));
            }),
        );
        self.add(
            "1000-common-names",
            nameless().altered(move |facts| {
                facts.subject.attributes = (0..1000).map(|at| attribute(Some(&format!("d{at}")))).collect();
            }),
        );
        for (what, bytes) in [("none", 0), ("128", 128), ("129", 129), ("10000", 10_000)] {
            let leaf = nameless().altered(move |facts| facts.serial = vec![0xab; bytes]);
            self.add(format!("serial-said-to-have-bytes-{what}"), leaf);
        }
        self.add("version-255", device("device-7").altered(|facts| facts.version = 255));
        self.add("version-0", device("device-7").altered(|facts| facts.version = 0));
    }
}

/// What the parser refuses: such a certificate reaches no plugin.
pub fn refused_by_the_parser() -> Vec<(&'static str, Leaf)> {
    vec![
        ("1000 alternative names", (0..1000).fold(device("d"), |leaf, at| leaf.dns(&format!("d{at}")))),
        ("65 attributes", (0..65).fold(nameless(), |leaf, _| leaf.subject(CN, "d"))),
        ("a serial number of 65 bytes", device("d").serial(&[0x11; 65])),
        ("a serial number with zeros before it", device("d").serial(&[0, 0, 1])),
        ("no serial number", device("d").serial(&[])),
        ("version 7", device("d").version(7)),
        (
            "a CA that is none",
            device("d").extension("2.5.29.19", true, sequence(&[&integer(1), &boolean(true)])),
        ),
    ]
}
