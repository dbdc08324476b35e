//! Certificate signing requests (PKCS #10): what is taken over from one, and what is not.
//!
//! Taken over: the public key, the subject and the alternative names. What a certificate may be used for is
//! not for its holder to say: every other wish is named and left out, and a wish to be a CA is refused.

use anyhow::{Context, Result};
use rcgen::{DistinguishedName, DnType, SanType, SubjectPublicKeyInfo};
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;

use super::alternative_name;
use crate::exit::Failure;

const SMALLEST_RSA: usize = 2_048;

/// A request whose signature holds.
#[derive(Debug, Clone)]
pub struct Request {
    pub subject: DistinguishedName,
    pub alternative_names: Vec<SanType>,
    pub public_key: SubjectPublicKeyInfo,
    /// What it asks for and does not get.
    pub left_out: Vec<String>,
}

fn refused(message: impl Into<String>) -> anyhow::Error {
    Failure::refused(message).into()
}

impl Request {
    /// Reads PEM or DER. Fails unless whoever made it holds the key that it is for.
    pub fn parse(file: &[u8]) -> Result<Self> {
        let der = match CertificateSigningRequestDer::from_pem_slice(file) {
            Ok(der) => der.to_vec(),
            Err(_) if file.first() == Some(&0x30) => file.to_vec(),
            Err(_) => {
                return Err(refused("no certificate request: there is no BEGIN CERTIFICATE REQUEST in it"));
            }
        };
        let (rest, parsed) = X509CertificationRequest::from_der(&der)
            .map_err(|_| refused("no readable certificate request"))?;
        if !rest.is_empty() {
            return Err(refused("no readable certificate request: bytes follow it"));
        }
        let info = &parsed.certification_request_info;
        let weak = match info.subject_pki.parsed() {
            Ok(PublicKey::RSA(key)) => key.key_size() < SMALLEST_RSA,
            Ok(_) => false,
            Err(_) => return Err(refused("its public key cannot be read")),
        };
        if weak {
            return Err(refused(format!(
                "its RSA key is too small: at least {SMALLEST_RSA} bits are needed"
            )));
        }
        parsed.verify_signature().map_err(|error| {
            refused(format!("its signature does not hold, so its sender may not have the key ({error})"))
        })?;
        let public_key = SubjectPublicKeyInfo::from_der(info.subject_pki.raw).map_err(|_| {
            refused("its kind of key is not supported: ECDSA (P-256, P-384, P-521), Ed25519 and RSA are")
        })?;
        let mut request = Self {
            subject: subject(&info.subject)?,
            alternative_names: Vec::new(),
            public_key,
            left_out: Vec::new(),
        };
        for extension in parsed.requested_extensions().into_iter().flatten() {
            request.consider(extension)?;
        }
        Ok(request)
    }

    fn consider(&mut self, extension: &ParsedExtension<'_>) -> Result<()> {
        let left_out = match extension {
            ParsedExtension::SubjectAlternativeName(names) => {
                for name in &names.general_names {
                    self.alternative_names.push(general_name(name)?);
                }
                return Ok(());
            }
            ParsedExtension::BasicConstraints(constraints) if constraints.ca => {
                return Err(refused(
                    "it asks to be a CA, which a request cannot: make one with `mqgate pki ca --signed-by`",
                ));
            }
            // What it says here is what every certificate gets anyway.
            ParsedExtension::BasicConstraints(_) | ParsedExtension::SubjectKeyIdentifier(_) => return Ok(()),
            ParsedExtension::KeyUsage(usage) => format!("key usage ({usage})"),
            ParsedExtension::ExtendedKeyUsage(_) => String::from("extended key usage"),
            ParsedExtension::ParseError { .. } => {
                return Err(refused("one of the extensions that it asks for cannot be read"));
            }
            ParsedExtension::UnsupportedExtension { oid } => format!("extension {oid}"),
            ParsedExtension::CertificatePolicies(_) => String::from("certificate policies"),
            ParsedExtension::NameConstraints(_) => String::from("name constraints"),
            _ => String::from("an extension of another kind"),
        };
        self.left_out.push(left_out);
        Ok(())
    }
}

/// The name, attribute by attribute, as UTF-8.
fn subject(name: &x509_parser::x509::X509Name<'_>) -> Result<DistinguishedName> {
    let mut taken = DistinguishedName::new();
    for rdn in name.iter_rdn() {
        for attribute in rdn.iter() {
            let oid: Vec<u64> =
                attribute.attr_type().iter().context("an identifier of its name is too long")?.collect();
            let text = attribute
                .as_str()
                .ok()
                .filter(|text| !text.is_empty() && !text.chars().any(char::is_control))
                .ok_or_else(|| refused("an attribute of its subject is no readable text"))?;
            let kind = DnType::from_oid(&oid);
            if taken.get(&kind).is_some() {
                return Err(refused(format!(
                    "its subject has two attributes of one kind ({}), which cannot be written here: give the \
                     subject by --cn, --ou and --org",
                    attribute.attr_type()
                )));
            }
            match kind {
                DnType::CountryName => {
                    let text = text.try_into().map_err(|_| refused("its country is no printable text"))?;
                    taken.push(kind, rcgen::DnValue::PrintableString(text));
                }
                _ => taken.push(kind, text),
            }
        }
    }
    Ok(taken)
}

fn general_name(name: &GeneralName<'_>) -> Result<SanType> {
    match name {
        GeneralName::DNSName(text) => alternative_name(&format!("dns:{text}")),
        GeneralName::RFC822Name(text) => alternative_name(&format!("email:{text}")),
        GeneralName::URI(text) => alternative_name(&format!("uri:{text}")),
        GeneralName::IPAddress(bytes) => match (<[u8; 4]>::try_from(*bytes), <[u8; 16]>::try_from(*bytes)) {
            (Ok(bytes), _) => Ok(SanType::IpAddress(bytes.into())),
            (_, Ok(bytes)) => Ok(SanType::IpAddress(bytes.into())),
            _ => Err(refused("an IP address among its alternative names has neither 4 nor 16 bytes")),
        },
        _ => Err(refused(
            "one of its alternative names is neither DNS name, IP address, URI nor e-mail address: give them by --san",
        )),
    }
}
