//! Asks one responder about one certificate.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ipnet::IpNet;
use mqgate_identity::evaluation::{OcspError, OcspGood, OcspQuestion, ocsp_responder};

use crate::clock;
use crate::fetch::{FetchError, FetchNames, FetchRules, Fetched, NamedBy, Validators, check_url};
use crate::tls::ServerCertificate;

/// Most bytes of an answer: one has a few hundred, with a responder's certificate a few thousand.
pub(super) const MOST_BYTES: usize = 64 * 1024;
/// Longer ones are posted: RFC 5019, section 5.
const LONGEST_GET: usize = 255;

const NAMES: FetchNames = FetchNames {
    hosts: "the address of the responder",
    networks: "`ocsp.allow_networks`",
    max_bytes: "nothing: no OCSP response is that long",
    accept: "application/ocsp-response",
};

/// How the certificates of one listener are stapled.
#[derive(Debug, Clone)]
pub struct OcspSettings {
    /// Instead of the responder that a certificate names.
    pub responder: Option<String>,
    /// DER of CAs, for chains that do not hold the issuer.
    pub issuers: Vec<Vec<u8>>,
    pub refresh: Duration,
    pub timeout: Duration,
    /// May be asked, although they are not public, where only a certificate names the responder.
    pub networks: Vec<IpNet>,
}

impl OcspSettings {
    /// For a certificate that another listener has as well.
    pub(super) fn join(&mut self, other: &Self) {
        self.responder = self.responder.take().or_else(|| other.responder.clone());
        self.issuers.extend_from_slice(&other.issuers);
        self.networks.extend_from_slice(&other.networks);
        self.refresh = self.refresh.min(other.refresh);
    }
}

/// What is sent along with a certificate.
#[derive(Debug, Clone)]
pub(super) struct Staple {
    pub(super) response: Vec<u8>,
    pub(super) good: OcspGood,
    pub(super) validators: Validators,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum Problem {
    #[error("the certificate names no responder: set `ocsp.responder_url`")]
    NoResponder,
    #[error(
        "the issuer's certificate is not at hand: put it behind the server's, or name it in `ocsp.issuer_pem`"
    )]
    NoIssuer,
    #[error("the answer is older than the one before")]
    Older,
    #[error("{0}")]
    Fetch(#[from] FetchError),
    #[error("{0}")]
    Answer(#[from] OcspError),
}

impl Problem {
    /// Label of metrics.
    pub(super) const fn as_str(&self) -> &'static str {
        match self {
            Self::NoResponder => "no_responder",
            Self::NoIssuer | Self::Answer(OcspError::Question(_)) => "no_issuer",
            Self::Older => "older",
            Self::Fetch(error) => error.kind(),
            Self::Answer(OcspError::Status(_)) => "error_status",
            Self::Answer(error) => error.as_str(),
        }
    }
}

/// The question about a certificate, if its issuer is known.
pub(super) fn question(certificate: &ServerCertificate, settings: &OcspSettings) -> Option<OcspQuestion> {
    let chain = certificate.chain();
    let sent = chain.iter().skip(1).map(AsRef::as_ref);
    let given = settings.issuers.iter().map(Vec::as_slice);
    sent.chain(given).find_map(|issuer| OcspQuestion::new(&certificate.facts().der, issuer).ok())
}

/// Asks, and checks the answer.
pub(super) async fn ask(
    certificate: &ServerCertificate,
    settings: &OcspSettings,
    known: Option<Staple>,
) -> Result<Staple, Problem> {
    let question = question(certificate, settings).ok_or(Problem::NoIssuer)?;
    let (url, rules, named_by) = match &settings.responder {
        // The operator wrote it down: it may be anywhere, and leads nowhere else.
        Some(url) => (url.clone(), rules(settings, Vec::new(), every_network()), NamedBy::Configuration),
        None => {
            let url = ocsp_responder(certificate.facts()).ok_or(Problem::NoResponder)?;
            let host = check_url(&url)?.host().unwrap_or_default().to_owned();
            (url, rules(settings, vec![host], settings.networks.clone()), NamedBy::Certificate)
        }
    };
    if question.request().len() <= LONGEST_GET {
        match get(&question, &url, &rules, named_by, known).await {
            // Some are only asked by POST; whoever cannot be reached is not asked twice.
            Err(
                Problem::Fetch(FetchError::Status(_))
                | Problem::Answer(OcspError::Malformed(_) | OcspError::Status("malformedRequest")),
            ) => {}
            answer => return answer,
        }
    }
    let posted = rules.post(&url, named_by, "application/ocsp-request", question.request()).await?;
    let good = question.check(&posted, clock::now().seconds())?;
    Ok(Staple { response: posted, good, validators: Validators::default() })
}

async fn get(
    question: &OcspQuestion,
    responder: &str,
    rules: &FetchRules,
    named_by: NamedBy,
    known: Option<Staple>,
) -> Result<Staple, Problem> {
    let url = get_url(responder, question.request());
    let validators = known.as_ref().map(|known| known.validators.clone()).unwrap_or_default();
    let (response, validators) = match (rules.get(&url, named_by, &validators).await?, known) {
        (Fetched::New { body, validators }, _) => (body, validators),
        (Fetched::NotModified, Some(known)) => (known.response, known.validators),
        (Fetched::NotModified, None) => {
            return Err(FetchError::Failed("nothing was answered".to_owned()).into());
        }
    };
    let good = question.check(&response, clock::now().seconds())?;
    Ok(Staple { response, good, validators })
}

/// RFC 6960, appendix A.1.
fn get_url(responder: &str, request: &[u8]) -> String {
    let mut url = responder.trim_end_matches('/').to_owned();
    url.push('/');
    for letter in STANDARD.encode(request).chars() {
        match letter {
            '+' => url.push_str("%2B"),
            '/' => url.push_str("%2F"),
            '=' => url.push_str("%3D"),
            letter => url.push(letter),
        }
    }
    url
}

fn rules(settings: &OcspSettings, hosts: Vec<String>, networks: Vec<IpNet>) -> FetchRules {
    FetchRules { timeout: settings.timeout, max_bytes: MOST_BYTES, hosts, networks, names: NAMES }
}

fn every_network() -> Vec<IpNet> {
    vec![IpNet::V4(ipnet::Ipv4Net::default()), IpNet::V6(ipnet::Ipv6Net::default())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_asked_by_get() {
        let url = get_url("http://pki.example/ocsp/", &[0xfb, 0xff, 0xfe, 0x00]);
        assert_eq!(url, "http://pki.example/ocsp/%2B%2F%2F%2BAA%3D%3D");
        assert_eq!(get_url("http://pki.example", &[0]), "http://pki.example/AA%3D%3D");
        let every = every_network();
        for address in ["10.0.0.1", "8.8.8.8", "::1", "2001:db8::1"] {
            let address: std::net::IpAddr = address.parse().unwrap();
            assert!(every.iter().any(|network| network.contains(&address)), "{address}");
        }
    }
}
