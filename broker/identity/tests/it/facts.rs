//! Reading certificates: every field, and nothing that panics.

use mqgate_identity::certificate::{
    CertificateError, CertificateFacts, CertificateFingerprint, GeneralName, certificates_from_pem, to_pem,
};
use mqgate_identity::evaluation::{PathPolicy, evaluate, subject_public_key_info};
use mqgate_identity::time::UnixSeconds;
use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CustomExtension, DnType, DnValue, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber, date_time_ymd,
};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::pki::{Authority, NOW, anchors, named};

fn rich() -> rcgen::CertificateParams {
    let mut params = named("device-7");
    params.distinguished_name.push(DnType::OrganizationalUnitName, "Meters, Ltd.");
    params.distinguished_name.push(DnType::CountryName, DnValue::PrintableString("CN".try_into().unwrap()));
    params.subject_alt_names = vec![
        SanType::DnsName("a.example".try_into().unwrap()),
        SanType::Rfc822Name("a@example.org".try_into().unwrap()),
        SanType::URI("urn:dev:7".try_into().unwrap()),
        SanType::IpAddress("127.0.0.1".parse().unwrap()),
        SanType::IpAddress("::1".parse().unwrap()),
        SanType::OtherName((vec![1, 3, 6, 1, 4, 1, 311, 20, 2, 3], "upn@example".into())),
    ];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyAgreement];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.serial_number = Some(SerialNumber::from_slice(&[0xff, 1, 2]));
    params.not_before = date_time_ymd(2020, 2, 29);
    params.not_after = date_time_ymd(2060, 1, 1);
    params
        .custom_extensions
        .push(CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]));
    params
}

#[test]
fn every_field_is_read() {
    let root = Authority::root("root");
    let der = root.sign(rich());
    let facts = CertificateFacts::parse(&der).unwrap();
    let (_, reference) = X509Certificate::from_der(&der).unwrap();
    assert_eq!(facts.certificate_fingerprint, CertificateFingerprint::of(&der));
    assert_eq!(facts.version, 3);
    assert_eq!(facts.serial, [0xff, 1, 2]);
    assert_eq!(facts.subject.display, "C=CN,OU=Meters\\, Ltd.,CN=device-7");
    assert_eq!(facts.subject.attributes[0].text.as_deref(), Some("device-7"));
    assert_eq!(facts.subject.attributes[0].oid, "2.5.4.3");
    assert_eq!(facts.subject.raw, reference.subject().as_raw());
    assert_eq!(facts.issuer.raw, reference.issuer().as_raw());
    assert_eq!(facts.issuer.display, "CN=root");
    assert_eq!(facts.not_before, UnixSeconds(1_582_934_400));
    assert_eq!(facts.not_after, UnixSeconds(2_840_140_800));
    assert_eq!(facts.subject_alt_names.len(), 6);
    assert_eq!(facts.subject_alt_names[2], GeneralName::Uri("urn:dev:7".into()));
    assert_eq!(facts.subject_alt_names[3], GeneralName::Ip(vec![127, 0, 0, 1]));
    assert!(
        matches!(&facts.subject_alt_names[5], GeneralName::Other(oid, _) if oid == "1.3.6.1.4.1.311.20.2.3")
    );
    let usage = facts.key_usage.unwrap();
    assert!(usage.digital_signature && usage.key_agreement && !usage.key_cert_sign && !usage.decipher_only);
    assert_eq!(facts.extended_key_usage, ["1.3.6.1.5.5.7.3.2"]);
    assert!(!facts.is_ca);
    assert_eq!(facts.public_key.algorithm_oid, "1.2.840.10045.2.1");
    assert_eq!(facts.public_key.bits, 256);
    assert_eq!(facts.public_key.spki_sha256, CertificateFingerprint::of(reference.public_key().raw).0);
    assert_eq!(subject_public_key_info(&der).unwrap().as_ref(), reference.public_key().raw);
    assert_eq!(facts.extensions.len(), reference.extensions().len());
    for (ours, theirs) in facts.extensions.iter().zip(reference.extensions()) {
        assert_eq!((&*ours.oid, ours.critical), (&*theirs.oid.to_id_string(), theirs.critical));
        assert_eq!(ours.raw, theirs.value);
    }
    assert_eq!(&*facts.der, &der);

    assert!(CertificateFacts::parse(&root.der).unwrap().is_ca);
    for (algorithm, bits) in [(&rcgen::PKCS_ED25519, 256), (&rcgen::PKCS_ECDSA_P384_SHA384, 384)] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let certificate = named("x").self_signed(&key).unwrap();
        assert_eq!(CertificateFacts::parse(certificate.der()).unwrap().public_key.bits, bits);
    }
}

#[test]
fn what_is_not_one_certificate_is_refused() {
    let root = Authority::root("root");
    let mut trailing = root.der.clone();
    trailing.push(0);
    let mut doubled = named("x");
    for _ in 0..2 {
        doubled.custom_extensions.push(CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]));
    }
    let mut backwards = named("x");
    (backwards.not_before, backwards.not_after) = (date_time_ymd(2030, 1, 1), date_time_ymd(2020, 1, 1));
    let mut many = named("x");
    for number in 0..65 {
        many.custom_extensions.push(CustomExtension::from_oid_content(&[1, 2, 3, number], vec![5, 0]));
    }
    let mut names = named("x");
    names.subject_alt_names = vec![SanType::IpAddress("127.0.0.1".parse().unwrap()); 257];
    let malformed = |der: &[u8]| matches!(CertificateFacts::parse(der), Err(CertificateError::Malformed(_)));
    let too_large = |der: &[u8]| matches!(CertificateFacts::parse(der), Err(CertificateError::TooLarge(..)));
    assert!(malformed(b"") && malformed(b"hello") && malformed(&[0x30, 0x00]));
    assert!(malformed(&trailing));
    assert!(malformed(&root.sign(doubled)));
    assert!(malformed(&root.sign(backwards)));
    assert!(too_large(&root.sign(many)));
    assert!(too_large(&root.sign(names)));
    assert!(too_large(&vec![0x30; 64 * 1024 + 1]));
}

#[test]
fn pem_there_and_back() {
    let (one, two) = (Authority::root("one").der, Authority::root("two").der);
    let text = format!("a comment\n{}{}", to_pem(&one), to_pem(&two));
    assert_eq!(certificates_from_pem(text.as_bytes()).unwrap(), [one.clone(), two]);
    assert!(to_pem(&one).lines().all(|line| line.len() <= 64));
    assert_eq!(to_pem(&[]), "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n");
    for bad in ["", "hello", "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n"] {
        assert!(certificates_from_pem(bad.as_bytes()).is_err(), "{bad}");
    }
}

fn specimens() -> &'static [Vec<u8>] {
    static SPECIMENS: std::sync::OnceLock<Vec<Vec<u8>>> = std::sync::OnceLock::new();
    SPECIMENS.get_or_init(|| {
        let root = Authority::root("root");
        let mut ca = rich();
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        vec![root.sign(rich()), root.sign(ca), root.leaf("x"), root.der]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = CertificateFacts::parse(&bytes);
        let _ = certificates_from_pem(&bytes);
        let _ = evaluate(&bytes, &[&bytes], &anchors(&[]), &PathPolicy::default(), NOW);
    }

    #[test]
    fn mutated_certificates_never_panic(
        which in 0..4_usize,
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let mut der = specimens()[which].clone();
        for (at, byte) in edits {
            let at = at.index(der.len());
            der[at] = byte;
        }
        if let Some(cut) = cut {
            der.truncate(cut.index(der.len()));
        }
        if let Ok(facts) = CertificateFacts::parse(&der) {
            prop_assert!(!facts.subject.display.chars().any(char::is_control));
            prop_assert!(!facts.issuer.display.chars().any(char::is_control));
        }
        let trusted = anchors(&[("root", &specimens()[3])]);
        let _ = evaluate(&der, &[&specimens()[1], &der], &trusted, &PathPolicy::default(), NOW);
    }
}
