//! What people paste from a configuration of EMQX: its tables and key names, turned into ours before anything is
//! understood. What means nothing here is taken out, with a warning that says why.

use std::borrow::Cow;
use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::Problem;
use super::source::Source;

/// `[listeners.TYPE.NAME]`.
const TYPES: [&str; 5] = ["tcp", "ssl", "ws", "wss", "quic"];

/// Keys of `ssl_options` that have no counterpart, and why they need none.
pub const INERT: [(&str, &str); 9] = [
    (
        "dhfile",
        "there is no finite-field Diffie-Hellman; keys are agreed on with elliptic curves and ML-KEM (`groups`)",
    ),
    ("secure_renegotiate", "there is no renegotiation at all"),
    ("client_renegotiation", "there is no renegotiation at all"),
    ("hibernate_after", "connections are no Erlang processes"),
    ("gc_after_handshake", "there is no garbage collector"),
    ("log_level", "use `log.filter`"),
    (
        "user_lookup_fun",
        "it is for pre-shared keys (PSK), which are not spoken; use certificates or passwords",
    ),
    ("cacerts", "use `cacertfile`"),
    ("padding_check", "block ciphers in CBC mode, which it is for, are not spoken"),
];

/// Keys with another name here.
const RENAMED: [(&str, &str); 2] =
    [("reuse_sessions", "session_resumption"), ("session_tickets", "session_resumption")];

/// In `ocsp`.
const RENAMED_IN_OCSP: [(&str, &str); 1] = [("enable_ocsp_stapling", "enable")];

/// Turns the names of EMQX in `source` into ours; the answer is warnings.
pub fn adopt(source: &mut Source<'_>) -> Vec<Problem> {
    let Some(mut listeners) = take_table(&mut source.root, "listeners") else { return Vec::new() };
    flatten(listeners.get_mut());
    let mut found = Vec::new();
    for (name, listener) in listeners.get_mut().iter_mut() {
        let DeValue::Table(listener) = listener.get_mut() else { continue };
        hoist(listener);
        rename(listener, &RENAMED);
        if let Some(DeValue::Table(ocsp)) = get_mut(listener, "ocsp") {
            rename(ocsp, &RENAMED_IN_OCSP);
        }
        for (key, why) in INERT {
            if let Some((spanned, _)) = take(listener, key) {
                found.push((spanned.span(), format!("listeners.{}.{key}", name.get_ref()), why));
            }
        }
    }
    let (key, listeners) = (listeners.key, listeners.value);
    source.root.insert(key, Spanned::new(listeners.span(), DeValue::Table(listeners.into_inner())));
    found
        .into_iter()
        .map(|(span, key, why)| Problem {
            place: source.place_of(&span),
            key,
            what: format!("accepted and without meaning here: {why}"),
            remedy: Some(String::from("remove it")),
        })
        .collect()
}

/// A table with its key, taken out of another.
struct Taken<'t> {
    key: Spanned<Cow<'t, str>>,
    value: Spanned<DeTable<'t>>,
}

impl<'t> Taken<'t> {
    fn get_mut(&mut self) -> &mut DeTable<'t> {
        self.value.get_mut()
    }
}

fn take<'t>(table: &mut DeTable<'t>, name: &str) -> Option<(Spanned<Cow<'t, str>>, Spanned<DeValue<'t>>)> {
    let key = table.keys().find(|key| key.get_ref() == name)?.clone();
    let value = table.remove(&key)?;
    Some((key, value))
}

/// Leaves what is no table.
fn take_table<'t>(table: &mut DeTable<'t>, name: &str) -> Option<Taken<'t>> {
    let (key, value) = take(table, name)?;
    let span = value.span();
    match value.into_inner() {
        DeValue::Table(inner) => Some(Taken { key, value: Spanned::new(span, inner) }),
        other => {
            table.insert(key, Spanned::new(span, other));
            None
        }
    }
}

fn get_mut<'a, 't>(table: &'a mut DeTable<'t>, name: &str) -> Option<&'a mut DeValue<'t>> {
    table.iter_mut().find(|(key, _)| key.get_ref() == name).map(|(_, value)| value.get_mut())
}

/// `[listeners.ssl.default]` becomes `[listeners.default]` with `type = "ssl"`, and `[listeners.ssl-default]` where
/// there are more of that name.
fn flatten(listeners: &mut DeTable<'_>) {
    let mut found = Vec::new();
    for kind in TYPES {
        let nested = match get_mut(listeners, kind) {
            // Tables and nothing else: a listener that is called `tcp` has keys of its own.
            Some(DeValue::Table(inner)) => {
                !inner.is_empty()
                    && inner.iter().all(|(key, value)| {
                        key.get_ref() != "ocsp" && matches!(value.get_ref(), DeValue::Table(_))
                    })
            }
            _ => false,
        };
        if !nested {
            continue;
        }
        let Some(taken) = take_table(listeners, kind) else { continue };
        for (name, value) in taken.value.into_inner() {
            found.push((taken.key.clone(), name, value));
        }
    }
    let mut names: BTreeMap<String, usize> = BTreeMap::new();
    for (_, name, _) in &found {
        *names.entry(name.get_ref().to_string()).or_default() += 1;
    }
    for (kind, name, mut value) in found {
        let alone = names.get(&**name.get_ref()) == Some(&1);
        let taken = listeners.keys().any(|key| key.get_ref() == name.get_ref());
        let renamed = match alone && !taken {
            true => name.get_ref().to_string(),
            false => format!("{}-{}", kind.get_ref(), name.get_ref()),
        };
        if let DeValue::Table(listener) = value.get_mut()
            && !listener.keys().any(|key| key.get_ref() == "type")
        {
            listener.insert(
                Spanned::new(kind.span(), Cow::Borrowed("type")),
                Spanned::new(kind.span(), DeValue::String(kind.get_ref().clone())),
            );
        }
        listeners.insert(Spanned::new(name.span(), Cow::Owned(renamed)), value);
    }
}

/// Keys of `ssl_options` stand beside the others here.
fn hoist(listener: &mut DeTable<'_>) {
    let Some(options) = take_table(listener, "ssl_options") else { return };
    for (key, value) in options.value.into_inner() {
        if !listener.keys().any(|known| known.get_ref() == key.get_ref()) {
            listener.insert(key, value);
        }
    }
}

fn rename(table: &mut DeTable<'_>, names: &[(&'static str, &'static str)]) {
    for (theirs, ours) in names {
        if let Some((key, value)) = take(table, theirs)
            && !table.keys().any(|known| known.get_ref() == *ours)
        {
            table.insert(Spanned::new(key.span(), Cow::Borrowed(*ours)), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Inputs;
    use crate::config::model::{AuthMode, SessionResumption, TlsVersion, Transport};

    const PASTED: &str = r#"
[listeners.tcp.default]
bind = "127.0.0.1:1883"
[listeners.ssl.default]
bind = "127.0.0.1:8883"
[listeners.ssl.default.ssl_options]
cacertfile = "etc/certs/rootCAs.pem"
certfile = "etc/certs/server-cert.pem"
keyfile = "etc/certs/server-key.pem"
password = "geheim"
verify = "verify_none"
fail_if_no_peer_cert = false
versions = ["tlsv1.3", "tlsv1.2"]
ciphers = ["TLS_AES_256_GCM_SHA384", "ECDHE-ECDSA-AES256-GCM-SHA384"]
depth = 1
honor_cipher_order = true
secure_renegotiate = true
client_renegotiation = true
reuse_sessions = true
handshake_timeout = "15s"
hibernate_after = "5s"
dhfile = "dh.pem"
user_lookup_fun = "emqx_tls_psk:lookup"
log_level = "notice"
gc_after_handshake = false
[listeners.ssl.default.ssl_options.ocsp]
enable_ocsp_stapling = true
responder_url = "http://127.0.0.1:9877"
issuer_pem = "etc/certs/ocsp-issuer.pem"
refresh_interval = "5m"
refresh_http_timeout = "15s"
[listeners.ssl.tenants]
bind = "127.0.0.1:8884"
ssl_options = { managed_certs = [{ bundle_name = "a", sni = "example.com" }, { namespace = "tenant-a", bundle_name = "b" }] }
"#;

    #[test]
    fn what_is_pasted_works_and_what_means_nothing_is_named() {
        let inputs = Inputs { text: PASTED.to_owned(), ..Inputs::default() };
        let loaded = inputs.load().unwrap_or_else(|problems| panic!("{problems}"));
        let listeners = &loaded.config.listeners;
        assert_eq!(listeners.keys().collect::<Vec<_>>(), ["ssl-default", "tcp-default", "tenants"]);
        assert_eq!(listeners["tcp-default"].kind, Transport::Tcp);
        let listener = &listeners["ssl-default"];
        assert_eq!((listener.kind, listener.mode()), (Transport::Tls, AuthMode::OneWay));
        assert_eq!(listener.password.as_deref(), Some("geheim"));
        assert_eq!(listener.versions.lowest, TlsVersion::Tls12);
        assert_eq!(listener.ciphers.0.len(), 2);
        assert_eq!(listener.session_resumption, Some(SessionResumption::Tickets));
        assert!(listener.ocsp.enable);
        assert_eq!(listener.ocsp.responder_url.as_deref(), Some("http://127.0.0.1:9877"));
        assert!(
            listener.ocsp.issuer_pem.as_ref().is_some_and(|path| path.ends_with("etc/certs/ocsp-issuer.pem"))
        );
        let managed = &listeners["tenants"].managed_certs;
        assert_eq!(managed[0].namespace, "global");
        assert_eq!((managed[1].namespace.as_str(), managed[1].bundle_name.as_str()), ("tenant-a", "b"));
        let warned: Vec<_> = loaded.warnings.list.iter().map(|problem| problem.key.as_str()).collect();
        for key in [
            "dhfile",
            "secure_renegotiate",
            "client_renegotiation",
            "hibernate_after",
            "gc_after_handshake",
            "log_level",
            "user_lookup_fun",
            "cacertfile",
            "depth",
        ] {
            assert!(warned.contains(&format!("listeners.ssl-default.{key}").as_str()), "{key}: {warned:?}");
        }
        // Those of a listener that is mutual and names no CA, too.
        assert!(warned.contains(&"listeners.tenants.cacertfile"), "{warned:?}");
        assert_eq!(warned.len(), 10, "{warned:?}");
        assert!(!loaded.warnings.to_string().contains("geheim"));
    }

    #[test]
    fn a_listener_may_be_called_like_a_type() {
        let text = "[listeners.tcp]\ntype = \"tcp\"\nbind = \"127.0.0.1:1883\"\n[listeners.ssl]\n";
        let inputs = Inputs { text: text.to_owned(), ..Inputs::default() };
        let loaded = inputs.load().unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(loaded.config.listeners.keys().collect::<Vec<_>>(), ["ssl", "tcp"]);
    }

    #[test]
    fn what_cannot_be_had_is_an_error_that_says_why() {
        let listener = |line: &str| {
            let text = format!("[listeners.a]\n{line}\n");
            let inputs = Inputs { text, ..Inputs::default() };
            inputs.load().map(drop).map_err(|problems| problems.to_string())
        };
        for (line, words) in [
            ("versions = [\"tlsv1.3\", \"tlsv1.1\"]", &["tlsv1.1", "RFC 8996"][..]),
            ("versions = [\"tlsv1\"]", &["tlsv1", "RFC 8996"]),
            ("versions = [\"dtlsv1.2\"]", &["DTLS"]),
            ("versions = []", &["no TLS version"]),
            ("versions = { min = \"1.3\", max = \"1.2\" }", &["`min` is above `max`"]),
            ("ciphers = [\"PSK-AES256-GCM-SHA384\"]", &["PSK"]),
            ("ciphers = \"AES128-SHA\"", &["AES128-SHA", "ECDHE-RSA-AES128-GCM-SHA256"]),
            ("ciphers = \"TLS_AES_128_GCM_SHA256\"", &["no cipher suite of TLS 1.2"]),
            ("groups = [\"X25519MLKEM768\"]", &["TLS 1.3 only"]),
            ("groups = [\"sect571r1\"]", &["sect571r1", "X25519"]),
            ("builtin_certificate = false", &["only where there is another"]),
            ("certfile = \"a.pem\"", &["private key"]),
            ("managed_certs = [{ bundle_name = \"a\", sni = \"a b\" }]", &["not a server name"]),
            (
                "ocsp = { enable = true, responder_url = \"https://x.example\" }",
                &["ocsp.responder_url", "http"],
            ),
            ("ocsp = { enable = true, allow_networks = [\"x\"] }", &["ocsp.allow_networks[0]"]),
            ("ocsp = { enable = true, refresh_interval = \"0s\" }", &["ocsp.refresh_interval"]),
            ("verify = \"verify_none\"\nfail_if_no_peer_cert = true", &["verify_peer", "one-way TLS"]),
        ] {
            let said = listener(line).expect_err(line);
            for word in words {
                assert!(said.contains(word), "{line}: `{word}` is not in\n{said}");
            }
        }
        for line in [
            "versions = \"tlsv1.2\"",
            "versions = { min = \"1.2\" }",
            "versions = [\"1.3\"]\nciphers = \"TLS_AES_128_GCM_SHA256\"\ngroups = [\"X25519MLKEM768\"]",
            "session_resumption = true",
            "session_tickets = \"stateless\"",
        ] {
            listener(line).unwrap_or_else(|said| panic!("{line}: {said}"));
        }
    }

    #[test]
    fn the_fourth_certificate_is_refused_by_the_name_of_the_limit() {
        let one = |name: &str| format!("{{ certfile = \"{name}.pem\", keyfile = \"{name}.key\" }}");
        let listeners = |last: &str| {
            let first = [one("a"), one("b")].join(", ");
            let second = [one("b"), one("c"), one(last)].join(", ");
            let text = format!(
                "[listeners.x]\ncertificates = [{first}]\n[listeners.y]\ncertificates = [{second}]\n"
            );
            Inputs { text, ..Inputs::default() }.load().map(drop).map_err(|problems| problems.to_string())
        };
        listeners("a").expect("three pairs of files");
        let said = listeners("d").expect_err("a fourth");
        assert!(
            said.contains("limits.server_certs") && said.contains("listeners.y.certificates[2]"),
            "{said}"
        );
    }
}
