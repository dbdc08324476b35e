//! What a path must be like, beyond being a path: the settings, and the rules that look at one certificate.

use std::time::Duration;

use super::Rejection;
use super::revocation::RevocationPolicy;
use super::strict;
use crate::certificate::{CertificateFacts, oid};
use crate::reason::Reason;

/// Certificates a client may send.
pub const MAX_CHAIN_CERTIFICATES: usize = 10;
/// Bytes of all of them together.
pub const MAX_CHAIN_BYTES: usize = 64 * 1024;
/// Bits of an RSA key; a longer one makes every handshake slow, and no algorithm takes it.
pub const MAX_RSA_BITS: u32 = 8192;

/// id-kp-clientAuth
pub const CLIENT_AUTH: &str = "1.3.6.1.5.5.7.3.2";
/// anyExtendedKeyUsage
pub const ANY_USAGE: &str = "2.5.29.37.0";

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PathPolicy {
    /// Intermediates allowed between the end entity and the anchor, those not counted whose subject is their
    /// issuer.
    pub max_depth: PathDepth,
    pub v1_leaf: V1Leaf,
    pub usage: UsageRule,
    /// Whether a CA's own certificate may identify a client.
    pub ca_as_leaf: CaAsLeaf,
    pub strictness: Strictness,
    /// Of every key on the path.
    pub min_rsa_bits: u32,
    /// How long before its validity a certificate is accepted.
    pub clock_skew: Duration,
    /// How long after its validity a certificate is accepted.
    pub expiry_skew: Duration,
    /// `None`: revocation lists are not asked.
    pub revocation: Option<RevocationPolicy>,
}

/// Number of intermediates, at most [`PathDepth::MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathDepth(u8);

/// End entities of X.509 version 1. They cannot say what they may be used for, but the common
/// `openssl x509 -req` without extensions makes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum V1Leaf {
    #[default]
    Allow,
    Deny,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum CaAsLeaf {
    Allow,
    #[default]
    Deny,
}

/// How far certificates must keep to what RFC 5280 asks of those who make them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum Strictness {
    /// As far as it matters for what a path proves.
    #[default]
    Standard,
    /// In form as well: what `openssl verify -x509_strict` looks at, and the rest of section 4.
    Strict,
}

/// What the extended key usage of a client's certificate must say; and those of the CAs above it, where they
/// have one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UsageRule {
    /// Dotted object identifiers, one of which must be there; anyExtendedKeyUsage stands for each. Empty: any
    /// usage will do.
    pub one_of: Vec<String>,
    /// Whether a client's certificate without the extension will do: it is for any use, by RFC 5280.
    pub absent: AbsentUsage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum AbsentUsage {
    #[default]
    Allow,
    Deny,
}

impl Default for UsageRule {
    fn default() -> Self {
        Self { one_of: vec![CLIENT_AUTH.to_owned()], absent: AbsentUsage::Allow }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    #[error(
        "a depth of {0} intermediates is not supported: the most is {max}, because the work of finding a path, \
         which a client asks for before it has proved anything, grows with each further level",
        max = PathDepth::MAX
    )]
    DepthTooLarge(u8),
    #[error("\"{0}\" is not an extended key usage: write a dotted object identifier, or one of {names}",
        names = USAGE_NAMES.map(|(name, _)| name).join(", "))]
    Usage(String),
    #[error("RSA keys of {0} bits: {min} to {max} are possible, for those are what signatures are checked with",
        min = PathPolicy::LEAST_RSA_BITS, max = MAX_RSA_BITS)]
    RsaBits(u32),
}

/// Names that configurations use for common usages.
const USAGE_NAMES: [(&str, &str); 7] = [
    ("clientAuth", CLIENT_AUTH),
    ("serverAuth", "1.3.6.1.5.5.7.3.1"),
    ("codeSigning", "1.3.6.1.5.5.7.3.3"),
    ("emailProtection", "1.3.6.1.5.5.7.3.4"),
    ("timeStamping", "1.3.6.1.5.5.7.3.8"),
    ("ocspSigning", "1.3.6.1.5.5.7.3.9"),
    ("anyExtendedKeyUsage", ANY_USAGE),
];

impl UsageRule {
    /// Reads one usage: a common name, or an object identifier with or without `OID:` before it.
    pub fn usage(text: &str) -> Result<String, PolicyError> {
        let text = text.trim();
        if let Some((_, oid)) = USAGE_NAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)) {
            return Ok((*oid).to_owned());
        }
        let dotted = text.strip_prefix("OID:").or_else(|| text.strip_prefix("oid:")).unwrap_or(text);
        let mut arcs = dotted.split('.').map(|arc| {
            let is_number = !arc.is_empty() && arc.bytes().all(|byte| byte.is_ascii_digit());
            (is_number && (arc == "0" || !arc.starts_with('0'))).then(|| arc.parse::<u128>().ok()).flatten()
        });
        let fits = match (arcs.next().flatten(), arcs.next().flatten()) {
            (Some(0 | 1), Some(0..40)) | (Some(2), Some(_)) => arcs.all(|arc| arc.is_some()),
            _ => false,
        };
        fits.then(|| dotted.to_owned()).ok_or_else(|| PolicyError::Usage(text.to_owned()))
    }

    fn is_met_by(&self, usages: &[String]) -> bool {
        self.one_of.is_empty() || usages.iter().any(|usage| usage == ANY_USAGE || self.one_of.contains(usage))
    }

    fn wanted(&self) -> String {
        let name = |oid: &String| {
            let known = USAGE_NAMES.iter().find(|(_, known)| known == oid);
            known.map_or_else(|| oid.clone(), |(name, _)| (*name).to_owned())
        };
        self.one_of.iter().map(name).collect::<Vec<_>>().join(" or ")
    }
}

impl PathDepth {
    /// The path builder goes no deeper.
    pub const MAX: u8 = 6;

    pub const fn new(intermediates: u8) -> Result<Self, PolicyError> {
        if intermediates > Self::MAX {
            return Err(PolicyError::DepthTooLarge(intermediates));
        }
        Ok(Self(intermediates))
    }

    pub const fn get(self) -> u8 {
        self.0
    }
}

impl Default for PathPolicy {
    fn default() -> Self {
        Self {
            max_depth: PathDepth(PathDepth::MAX),
            v1_leaf: V1Leaf::Allow,
            usage: UsageRule::default(),
            ca_as_leaf: CaAsLeaf::Deny,
            strictness: Strictness::Standard,
            min_rsa_bits: 2048,
            clock_skew: Duration::from_secs(300),
            expiry_skew: Duration::ZERO,
            revocation: None,
        }
    }
}

/// Whose certificate a rule looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    EndEntity,
    Intermediate,
    Anchor,
}

impl Place {
    const fn whose(self) -> &'static str {
        match self {
            Self::EndEntity => "the client's",
            Self::Intermediate => "an intermediate's",
            Self::Anchor => "the trust anchor's",
        }
    }
}

impl PathPolicy {
    /// Signatures by shorter keys are not checked by the library.
    pub const LEAST_RSA_BITS: u32 = 2048;

    /// Checks a configured number of bits.
    pub const fn rsa_bits(bits: u32) -> Result<u32, PolicyError> {
        if bits < Self::LEAST_RSA_BITS || bits > MAX_RSA_BITS {
            return Err(PolicyError::RsaBits(bits));
        }
        Ok(bits)
    }

    pub(crate) fn clock_skew_seconds(&self) -> i64 {
        seconds(self.clock_skew)
    }

    pub(crate) fn expiry_skew_seconds(&self) -> i64 {
        seconds(self.expiry_skew)
    }

    pub(super) fn check_end_entity(&self, facts: &CertificateFacts) -> Result<(), Rejection> {
        match (facts.version, self.v1_leaf) {
            (3, _) | (1, V1Leaf::Allow) => {}
            (1, V1Leaf::Deny) => {
                return Err(Rejection::new(
                    Reason::CertV1,
                    "an X.509 version 1 certificate, which x509_v1_leaf = \"deny\" refuses: sign it with \
                     extensions (openssl x509 -req … -extfile …)",
                ));
            }
            (version, _) => {
                return Err(Rejection::new(
                    Reason::CertV1,
                    format!("X.509 version {version} is not supported: version 3 is needed"),
                ));
            }
        }
        if facts.is_ca && self.ca_as_leaf == CaAsLeaf::Deny {
            return Err(Rejection::new(
                Reason::CertCaAsLeaf,
                "a CA certificate (CA:TRUE) cannot identify a client",
            ));
        }
        check_form(facts, Place::EndEntity)?;
        if facts.key_usage.is_some_and(|usage| !usage.digital_signature && !usage.key_agreement) {
            return Err(Rejection::new(
                Reason::CertPurpose,
                "the key usage allows neither digitalSignature nor keyAgreement",
            ));
        }
        self.check_usage(facts, Place::EndEntity)?;
        self.check_key(facts, Place::EndEntity)?;
        strict::check(self.strictness, facts, Place::EndEntity)
    }

    /// A CA below the anchor. How many CAs are below it, and whether it is valid now, the path knows.
    pub(super) fn check_intermediate(&self, facts: &CertificateFacts) -> Result<(), Rejection> {
        let refuse =
            |reason, what: &str| Err(Rejection::new(reason, format!("\"{}\" {what}", facts.subject.display)));
        match (facts.version, facts.basic_constraints()) {
            (3, Some((true, _))) => {}
            (3, _) => return refuse(Reason::CertPurpose, "is not a CA certificate, but has signed one"),
            _ => return refuse(Reason::CertV1, "is an intermediate of X.509 version 1 or 2"),
        }
        if facts.key_usage.is_some_and(|usage| !usage.key_cert_sign) {
            return refuse(Reason::CertPurpose, "has a key usage that does not allow keyCertSign");
        }
        self.check_any_ca(facts, Place::Intermediate)
    }

    /// The operator's word makes an anchor a CA; what its certificate says beyond that holds.
    pub(super) fn check_anchor(&self, facts: &CertificateFacts) -> Result<(), Rejection> {
        self.check_any_ca(facts, Place::Anchor)
    }

    fn check_any_ca(&self, facts: &CertificateFacts, place: Place) -> Result<(), Rejection> {
        check_form(facts, place)?;
        self.check_usage(facts, place)?;
        self.check_key(facts, place)?;
        strict::check(self.strictness, facts, place)
    }

    fn check_usage(&self, facts: &CertificateFacts, place: Place) -> Result<(), Rejection> {
        let problem = match facts.extension(oid::EXTENDED_KEY_USAGE) {
            None if place != Place::EndEntity || self.usage.one_of.is_empty() => return Ok(()),
            None if self.usage.absent == AbsentUsage::Allow => return Ok(()),
            None => "has no extended key usage",
            Some(_) if self.usage.is_met_by(&facts.extended_key_usage) => return Ok(()),
            Some(_) => "has an extended key usage without it",
        };
        Err(Rejection::new(
            Reason::CertPurpose,
            format!(
                "{} certificate must be for {}: \"{}\" {problem}",
                place.whose(),
                self.usage.wanted(),
                facts.subject.display
            ),
        ))
    }

    fn check_key(&self, facts: &CertificateFacts, place: Place) -> Result<(), Rejection> {
        match self.key_problem(facts) {
            Some(problem) => Err(Rejection::new(Reason::CertSigAlg, format!("{} {problem}", place.whose()))),
            None => Ok(()),
        }
    }

    /// What is wrong with a key, as the end of a sentence.
    pub(super) fn key_problem(&self, facts: &CertificateFacts) -> Option<String> {
        let (kind, bits) = (facts.public_key.algorithm_oid.as_str(), facts.public_key.bits);
        match kind {
            oid::RSA_ENCRYPTION if bits < self.min_rsa_bits => {
                Some(format!("RSA key has {bits} bits; at least {} are required", self.min_rsa_bits))
            }
            oid::RSA_ENCRYPTION if bits > MAX_RSA_BITS => {
                Some(format!("RSA key has {bits} bits; at most {MAX_RSA_BITS} are accepted"))
            }
            oid::RSA_ENCRYPTION | oid::ED25519 => None,
            oid::EC_PUBLIC_KEY if bits > 0 => None,
            oid::EC_PUBLIC_KEY => {
                Some("key is on a curve that is not accepted: use P-256, P-384 or P-521".into())
            }
            oid::RSA_PSS => Some("key is for RSASSA-PSS only, which no TLS library here can use".into()),
            kind => Some(format!("key is of a kind that is not accepted ({kind})")),
        }
    }

    /// `depth` counts intermediates that are not self-issued.
    pub(super) fn check_depth(&self, depth: usize) -> Result<(), Rejection> {
        if depth > usize::from(self.max_depth.0) {
            return Err(Rejection::new(
                Reason::CertDepth,
                format!("{depth} intermediates on the path; at most {} are allowed", self.max_depth.0),
            ));
        }
        Ok(())
    }
}

/// Extensions whose meaning is applied, or is of no consequence here; any other that is critical refuses.
pub(super) const KNOWN_EXTENSIONS: [&str; 10] = [
    oid::KEY_USAGE,
    oid::SUBJECT_ALT_NAME,
    oid::BASIC_CONSTRAINTS,
    oid::NAME_CONSTRAINTS,
    oid::CRL_DISTRIBUTION_POINTS,
    oid::EXTENDED_KEY_USAGE,
    oid::CERTIFICATE_POLICIES,
    oid::POLICY_MAPPINGS,
    oid::POLICY_CONSTRAINTS,
    oid::INHIBIT_ANY_POLICY,
];

/// What refuses a certificate in any place and under any policy.
fn check_form(facts: &CertificateFacts, place: Place) -> Result<(), Rejection> {
    let malformed = |what: String| Err(Rejection::new(Reason::CertMalformed, what));
    let subject = &facts.subject.display;
    for extension in facts.extensions.iter().filter(|extension| extension.critical) {
        if !KNOWN_EXTENSIONS.contains(&extension.oid.as_str()) {
            return malformed(format!(
                "a critical extension of \"{subject}\" is not known here, or must not be critical ({})",
                extension.oid
            ));
        }
        if extension.oid == oid::NAME_CONSTRAINTS && place == Place::EndEntity && !facts.is_ca {
            return malformed(format!("\"{subject}\" has name constraints, but is no CA"));
        }
    }
    // RFC 5280, 4.1.2.4 and 4.1.2.6.
    if facts.issuer.attributes.is_empty() {
        return malformed(format!("\"{subject}\" names no issuer"));
    }
    if place != Place::EndEntity && facts.subject.attributes.is_empty() {
        return malformed("a CA certificate has no subject".to_owned());
    }
    if facts.extension(oid::SUBJECT_ALT_NAME).is_some() && facts.subject_alt_names.is_empty() {
        return malformed(format!("the list of alternative names of \"{subject}\" is empty"));
    }
    Ok(())
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usages_have_names_and_numbers() {
        for (text, oid) in [
            ("clientAuth", Some(CLIENT_AUTH)),
            ("CLIENTAUTH", Some(CLIENT_AUTH)),
            ("anyExtendedKeyUsage", Some(ANY_USAGE)),
            ("1.3.6.1.4.1.99999.1", Some("1.3.6.1.4.1.99999.1")),
            ("OID:1.2.3", Some("1.2.3")),
            ("2.999", Some("2.999")),
            ("0.40", None),
            ("3.1", None),
            ("1", None),
            ("1.2.", None),
            ("1.02", None),
            ("1.-2", None),
            ("tlsClient", None),
            ("", None),
        ] {
            assert_eq!(UsageRule::usage(text).ok().as_deref(), oid, "{text}");
        }
        let error = UsageRule::usage("tlsClient").unwrap_err().to_string();
        assert!(error.contains("tlsClient") && error.contains("clientAuth"), "{error}");
    }

    #[test]
    fn rsa_keys_have_bounds() {
        assert_eq!(PathPolicy::rsa_bits(2048), Ok(2048));
        assert_eq!(PathPolicy::rsa_bits(8192), Ok(8192));
        assert_eq!(PathPolicy::rsa_bits(2047), Err(PolicyError::RsaBits(2047)));
        assert_eq!(PathPolicy::rsa_bits(8193), Err(PolicyError::RsaBits(8193)));
    }
}
