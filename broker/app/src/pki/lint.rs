//! What is to be said of a certificate that somebody made: rules with a name, each finding with a remedy.

use mqgate_identity::certificate::{CertificateFacts, GeneralName};
use mqgate_identity::time::UnixSeconds;
use serde::Serialize;

const DAY: i64 = 86_400;
const SERVER_AUTH: &str = "1.3.6.1.5.5.7.3.1";
const CLIENT_AUTH: &str = "1.3.6.1.5.5.7.3.2";
const ANY_USAGE: &str = "2.5.29.37.0";
const COMMON_NAME: &str = "2.5.4.3";
const RSA: &str = "1.2.840.113549.1.1.1";
const RSA_PSS: &str = "1.2.840.113549.1.1.10";
const EC: &str = "1.2.840.10045.2.1";
const ED25519: &str = "1.3.101.112";
/// Signatures over hashes for which collisions are known.
const BROKEN_SIGNATURES: [(&str, &str); 6] = [
    ("1.2.840.113549.1.1.2", "MD2"),
    ("1.2.840.113549.1.1.4", "MD5"),
    ("1.2.840.113549.1.1.5", "SHA-1"),
    ("1.3.14.3.2.29", "SHA-1"),
    ("1.2.840.10045.4.1", "SHA-1"),
    ("1.2.840.10040.4.3", "SHA-1"),
];
/// Key usage, alternative names, basic constraints, name constraints, distribution points, extended key usage.
const UNDERSTOOD: [&str; 6] = ["2.5.29.15", "2.5.29.17", "2.5.29.19", "2.5.29.30", "2.5.29.31", "2.5.29.37"];
/// As many as the path builder follows.
const MOST_INTERMEDIATES: usize = 6;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Good to know.
    Notice,
    /// It works, and will bite.
    Warning,
    /// It is refused, or should be.
    Error,
}

/// What a certificate is looked at as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    Ca,
    Server,
    Device,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Of which certificate of the file, from 1.
    pub certificate: usize,
    pub severity: Severity,
    pub rule: &'static str,
    pub what: String,
    pub remedy: &'static str,
}

struct Linter<'a> {
    number: usize,
    facts: &'a CertificateFacts,
    findings: Vec<Finding>,
}

/// Looks at each certificate of a file, and at how they belong together. Without a `kind` each says itself
/// what it is.
pub fn lint(ders: &[Vec<u8>], kind: Option<Kind>, now: UnixSeconds) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut chain = Vec::new();
    for (index, der) in ders.iter().enumerate() {
        let facts = match CertificateFacts::parse(der) {
            Ok(facts) => facts,
            Err(error) => {
                findings.push(Finding {
                    certificate: index + 1,
                    severity: Severity::Error,
                    rule: "malformed",
                    what: error.to_string(),
                    remedy: "have it issued again; every strict reader refuses it",
                });
                continue;
            }
        };
        let mut linter = Linter { number: index + 1, facts: &facts, findings: Vec::new() };
        // What is asked for is asked of the first; those after it are the CAs that signed it.
        let kind = kind.filter(|_| index == 0).unwrap_or_else(|| kind_of(&facts));
        linter.everyone(now);
        match kind {
            Kind::Ca => linter.ca(),
            Kind::Server => linter.server(),
            Kind::Device => linter.device(),
        }
        findings.append(&mut linter.findings);
        chain.push((index + 1, facts));
    }
    order(&chain, &mut findings);
    findings
}

fn kind_of(facts: &CertificateFacts) -> Kind {
    let has = |usage: &str| facts.extended_key_usage.iter().any(|known| known == usage);
    if facts.is_ca || facts.key_usage.is_some_and(|usage| usage.key_cert_sign) {
        Kind::Ca
    } else if has(SERVER_AUTH) {
        Kind::Server
    } else {
        Kind::Device
    }
}

/// Each must have signed the one before it, and a root has no place among them.
fn order(chain: &[(usize, CertificateFacts)], findings: &mut Vec<Finding>) {
    let mut say = |certificate, severity, rule, what: String, remedy| {
        findings.push(Finding { certificate, severity, rule, what, remedy });
    };
    for pair in chain.windows(2) {
        let [(_, below), (number, above)] = pair else { continue };
        if chain.iter().any(|(other, facts)| other < number && facts.der == above.der) {
            say(
                *number,
                Severity::Warning,
                "chain_duplicate",
                String::from("it is there twice"),
                "remove one",
            );
        } else if below.issuer.raw != above.subject.raw {
            let what = format!(
                "the one before it was issued by \"{}\", and this is \"{}\"",
                below.issuer.display, above.subject.display
            );
            say(
                *number,
                Severity::Warning,
                "chain_order",
                what,
                "put each certificate right before its issuer's",
            );
        } else {
            if !is_signed_by(below, above) {
                let what = format!(
                    "it has the name of the issuer before it, but its key did not sign \"{}\"",
                    below.subject.display
                );
                let remedy = "take the issuer's certificate with the right key (it may have been renewed)";
                say(*number, Severity::Error, "chain_signature", what, remedy);
            }
            if below.not_after > above.not_after {
                let what = format!("it ends {}, before \"{}\" does", above.not_after, below.subject.display);
                say(
                    *number,
                    Severity::Warning,
                    "outlived",
                    what,
                    "renew the CA, or issue for a shorter time",
                );
            }
        }
    }
    let intermediates =
        chain.iter().skip(1).filter(|(_, facts)| facts.subject.raw != facts.issuer.raw).count();
    if intermediates > MOST_INTERMEDIATES {
        let what = format!("{intermediates} intermediates; at most {MOST_INTERMEDIATES} are followed");
        say(1, Severity::Error, "chain_depth", what, "issue from a CA nearer to the root");
    }
    if let Some((number, _)) = chain.iter().skip(1).find(|(_, facts)| facts.subject.raw == facts.issuer.raw) {
        let what = String::from("a root in a chain is sent for nothing: who trusts it has it");
        say(*number, Severity::Notice, "chain_root", what, "leave it out of what is sent");
    }
}

fn is_signed_by(below: &CertificateFacts, above: &CertificateFacts) -> bool {
    let parse = |facts: &CertificateFacts| {
        let (_, parsed) = x509_parser::parse_x509_certificate(&facts.der).ok()?;
        let (_, signer) = x509_parser::parse_x509_certificate(&above.der).ok()?;
        match parsed.verify_signature(Some(signer.public_key())) {
            Err(x509_parser::error::X509Error::SignatureVerificationError) => Some(false),
            // A signature that cannot be checked here is not said to be wrong.
            _ => Some(true),
        }
    };
    parse(below).unwrap_or(false)
}

impl Linter<'_> {
    fn say(&mut self, severity: Severity, rule: &'static str, what: impl Into<String>, remedy: &'static str) {
        self.findings.push(Finding { certificate: self.number, severity, rule, what: what.into(), remedy });
    }

    fn everyone(&mut self, now: UnixSeconds) {
        let facts = self.facts;
        if facts.not_after < now {
            self.say(Severity::Error, "expired", format!("it ended {}", facts.not_after), "have it renewed");
        } else if facts.not_after.0 - now.0 < 30 * DAY {
            let left = (facts.not_after.0 - now.0) / DAY;
            self.say(Severity::Warning, "expires_soon", format!("it ends in {left} days"), "renew it now");
        }
        if facts.not_before > now {
            let what = format!("it begins only {}", facts.not_before);
            self.say(Severity::Warning, "not_yet_valid", what, "check the clock of whoever issued it");
        }
        self.key_and_signature();
        match facts.serial.as_slice() {
            [] | [0] => {
                let what = "the serial number is 0";
                self.say(Severity::Error, "serial_zero", what, "let the CA choose random serial numbers");
            }
            serial if serial.len() > 20 => {
                let what = format!("the serial number has {} bytes; RFC 5280 allows 20", serial.len());
                self.say(Severity::Warning, "serial_long", what, "let the CA choose shorter ones");
            }
            serial if serial.len() < 8 => {
                let what = "the serial number is short: it can be guessed, or be given twice";
                self.say(Severity::Notice, "serial_short", what, "let the CA choose 20 random bytes");
            }
            _ => {}
        }
        for extension in &facts.extensions {
            if extension.critical && !UNDERSTOOD.contains(&extension.oid.as_str()) {
                let what = format!("critical extension {} is not known here: it is refused", extension.oid);
                self.say(Severity::Error, "critical_extension", what, "issue it without, or not critical");
            }
        }
        let unreadable = |name: &&GeneralName| matches!(name, GeneralName::Malformed(..));
        if facts.subject.attributes.iter().any(|part| part.text.is_none()) {
            let what = "a part of its subject is no readable text (control characters, wrong encoding)";
            self.say(Severity::Error, "subject_unreadable", what, "issue it with plain UTF-8 text");
        }
        if facts.subject_alt_names.iter().any(|name| unreadable(&name)) {
            let what = "one of its alternative names is no readable text";
            self.say(Severity::Error, "san_unreadable", what, "issue it with plain ASCII names");
        }
        let has = |oid: &str| facts.extensions.iter().any(|extension| extension.oid == oid);
        if facts.version == 3 && facts.subject.raw != facts.issuer.raw && !has("2.5.29.35") {
            let what = "no authority key identifier: two CAs of one name cannot be told apart by it";
            self.say(Severity::Notice, "no_aki", what, "issue it with authorityKeyIdentifier = keyid");
        }
    }

    fn key_and_signature(&mut self) {
        let key = &self.facts.public_key;
        match key.algorithm_oid.as_str() {
            RSA | RSA_PSS if key.bits < 2_048 => {
                let what = format!("its RSA key has {} bits", key.bits);
                self.say(
                    Severity::Error,
                    "weak_key",
                    what,
                    "make a key of 2048 bits or more, or ECDSA P-256",
                );
            }
            EC if key.bits == 0 => {
                let what = "its key is on a curve that is not known here";
                self.say(Severity::Error, "unknown_key", what, "use P-256 or P-384");
            }
            RSA | RSA_PSS | EC | ED25519 => {}
            other => {
                let what = format!("its key is of kind {other}, which is not known here");
                self.say(Severity::Error, "unknown_key", what, "use ECDSA, Ed25519 or RSA");
            }
        }
        let signature = x509_parser::parse_x509_certificate(&self.facts.der)
            .map(|(_, parsed)| parsed.signature_algorithm.algorithm.to_id_string())
            .unwrap_or_default();
        if let Some((_, hash)) = BROKEN_SIGNATURES.iter().find(|(oid, _)| *oid == signature) {
            // What signs itself is trusted for being there, not for its signature.
            let severity = match self.facts.subject.raw == self.facts.issuer.raw {
                true => Severity::Notice,
                false => Severity::Error,
            };
            let what = format!("it is signed over {hash}");
            self.say(severity, "broken_hash", what, "have it issued with SHA-256 or better");
        }
    }

    fn ca(&mut self) {
        let facts = self.facts;
        if facts.version < 3 {
            let what = format!("an X.509 version {} certificate does not say that it is a CA", facts.version);
            self.say(Severity::Error, "ca_version", what, "make a new one: `mqgate pki ca`");
        } else if !facts.is_ca {
            let what = "it does not say that it is a CA (basic constraints CA:TRUE)";
            self.say(Severity::Error, "ca_not_marked", what, "make a new one: `mqgate pki ca`");
        }
        if let Some(usage) = facts.key_usage {
            if !usage.key_cert_sign {
                let what = "its key usage does not allow signing certificates (keyCertSign)";
                self.say(Severity::Error, "ca_key_usage", what, "make a new one: `mqgate pki ca`");
            } else if !usage.crl_sign {
                let what = "its key usage does not allow signing revocation lists (cRLSign)";
                self.say(Severity::Notice, "ca_no_crl_sign", what, "add cRLSign if it is to revoke");
            }
        } else if facts.version == 3 {
            let what = "it has no key usage; RFC 5280 asks it of every CA (4.2.1.3)";
            self.say(Severity::Warning, "ca_no_key_usage", what, "make a new one: `mqgate pki ca`");
        }
        if facts.version == 3 && !facts.extensions.iter().any(|extension| extension.oid == "2.5.29.14") {
            let what = "no subject key identifier: RFC 5280 asks it of every CA (4.2.1.2)";
            self.say(Severity::Warning, "ca_no_ski", what, "make a new one: `mqgate pki ca`");
        }
        self.lifetime(25 * 365, "a CA of more than 25 years outlives its algorithms");
    }

    fn leaf(&mut self, usage: &'static str, name: &'static str) {
        let facts = self.facts;
        if facts.is_ca {
            let what = "it is a CA certificate (CA:TRUE), and cannot identify a server or client";
            self.say(Severity::Error, "ca_as_leaf", what, "issue a certificate of its own for the holder");
        }
        if facts.key_usage.is_some_and(|usage| !usage.digital_signature) {
            let what = "its key usage does not allow digitalSignature, which TLS needs";
            self.say(Severity::Error, "no_digital_signature", what, "issue it with digitalSignature");
        }
        let usages = &facts.extended_key_usage;
        if facts.version == 3 && usages.is_empty() {
            let what = "no extended key usage: it may be used for anything, a server's too";
            self.say(Severity::Notice, "no_eku", what, "issue it with the one usage it is for");
        } else if !usages.is_empty() && !usages.iter().any(|known| known == usage || known == ANY_USAGE) {
            let what = format!("its extended key usage does not allow {name}");
            self.say(
                Severity::Error,
                "eku",
                what,
                "issue it with clientAuth for devices, serverAuth for servers",
            );
        }
    }

    fn server(&mut self) {
        self.leaf(SERVER_AUTH, "serverAuth");
        let facts = self.facts;
        if facts.version < 3 {
            let what =
                format!("an X.509 version {} certificate names no host: clients refuse it", facts.version);
            self.say(
                Severity::Error,
                "server_version",
                what,
                "issue it with -extfile, or by `mqgate pki server`",
            );
            return;
        }
        let names = &facts.subject_alt_names;
        let is_host = |name: &GeneralName| matches!(name, GeneralName::Dns(_) | GeneralName::Ip(_));
        if !names.iter().any(is_host) {
            let what = "no DNS name or IP address among its alternative names: clients look nowhere else";
            self.say(
                Severity::Error,
                "no_san",
                what,
                "issue it with a subject alternative name for each host",
            );
        } else if let Some(common) = self.common_name()
            && common.contains('.')
            && !common.contains(' ')
            && !names
                .iter()
                .any(|name| matches!(name, GeneralName::Dns(dns) if dns.eq_ignore_ascii_case(common)))
            && common.parse::<std::net::IpAddr>().is_err()
        {
            let what = format!("its common name {common} is not among its alternative names");
            self.say(
                Severity::Warning,
                "cn_not_in_san",
                what,
                "add it: the common name itself is not looked at",
            );
        }
        let wild = |name: &GeneralName| matches!(name, GeneralName::Dns(dns) if dns.strip_prefix("*.").unwrap_or(dns).contains('*'));
        if names.iter().any(wild) {
            let what = "`*` is understood only as the whole first label of a name";
            self.say(Severity::Error, "wildcard", what, "write *.example.org");
        }
        self.lifetime(825, "clients of some makers refuse a server certificate of more than 825 days");
    }

    fn device(&mut self) {
        self.leaf(CLIENT_AUTH, "clientAuth");
        let facts = self.facts;
        if facts.version < 3 {
            let what = format!(
                "an X.509 version {} certificate; it gets in only where `x509_v1_leaf` is \"allow\"",
                facts.version
            );
            self.say(Severity::Warning, "v1_leaf", what, "issue it with -extfile, or by `mqgate pki device`");
        }
        match self.common_name() {
            None if facts.subject_alt_names.is_empty() => {
                let what = "neither common name nor alternative name: nothing says which device it is";
                self.say(Severity::Warning, "no_name", what, "issue it with a common name");
            }
            Some(name) if name.contains(['+', '#', '/']) || name.starts_with('$') => {
                let what = format!(
                    "its common name {name:?} has a character of topics in it: a topic rule with it never matches"
                );
                self.say(Severity::Warning, "topic_characters", what, "leave out + # / and a leading $");
            }
            _ => {}
        }
        self.lifetime(25 * 365, "a device certificate of more than 25 years outlives its algorithms");
    }

    fn lifetime(&mut self, days: i64, why: &'static str) {
        let lifetime = (self.facts.not_after.0 - self.facts.not_before.0) / DAY;
        if lifetime > days {
            let what = format!("it is valid for {lifetime} days: {why}");
            self.say(Severity::Notice, "lifetime", what, "issue it for a shorter time, and renew it");
        }
    }

    fn common_name(&self) -> Option<&str> {
        let parts = &self.facts.subject.attributes;
        parts.iter().rev().find(|part| part.oid == COMMON_NAME)?.text.as_deref()
    }
}
