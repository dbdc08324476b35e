//! Brings a database that was written before into the form that is read now: fills fields that records did not have,
//! and builds the indexes. Interrupted, it begins again; what was done then is done once more, to the same end.

use mqgate_identity::certificate::{CertificateFacts, certificates_from_pem};
use mqgate_identity::evaluation::key_ids;
use mqgate_identity::registry::{
    CaCertificate, DeviceCertificate, StorageError, alternative_names, common_name, organizational_units,
};

use crate::engine::Engine;
use crate::index;
use crate::keys::{INDEX_FORM, id_key, name_of_key};
use crate::records::{parse_ca, parse_device, put_device_payload, to_json};

/// The form of the indexes that this version writes.
const FORM: u64 = 1;
/// Records in one step.
const STEP: usize = 500;

/// How many device certificates were brought up to date.
pub(crate) fn run(engine: &Engine) -> Result<u64, StorageError> {
    let space = &engine.registry;
    let found = match space.get(INDEX_FORM, || name_of_key(INDEX_FORM))? {
        Some(digits) => {
            let digits = (*digits).try_into().map_err(|_| StorageError::Corrupt(name_of_key(INDEX_FORM)))?;
            u64::from_be_bytes(digits)
        }
        None => 0,
    };
    if found > FORM {
        return Err(StorageError::Corrupt(format!(
            "the indexes have form {found}, this mqgate knows form {FORM} (was it written by a newer one?)"
        )));
    }
    if found == FORM {
        return Ok(0);
    }
    let mut done = 0;
    let cas = cas(engine)?;
    let mut after: Option<Vec<u8>> = None;
    loop {
        let step: Vec<_> =
            space.scan(b"d", after.as_deref(), name_of_key).take(STEP).collect::<Result<_, _>>()?;
        let Some((last, _)) = step.last() else { break };
        after = Some(last.clone());
        done += step.len() as u64;
        engine.write(space, |batch| {
            for (key, payload) in &step {
                let mut record = parse_device(key, payload)?;
                complete(&mut record, &cas);
                put_device_payload(space, batch, &record)?;
                index::build(space, batch, &record)?;
            }
            Ok::<_, StorageError>(())
        })?;
    }
    engine.write(space, |batch| {
        for ca in &cas {
            batch.put(&id_key(b'c', &ca.id), &to_json(ca)?);
        }
        batch.put(INDEX_FORM, &FORM.to_be_bytes());
        Ok::<_, StorageError>(())
    })?;
    Ok(done)
}

fn cas(engine: &Engine) -> Result<Vec<CaCertificate>, StorageError> {
    engine
        .registry
        .scan(b"c", None, name_of_key)
        .map(|entry| {
            let (key, payload) = entry?;
            let mut ca = parse_ca(&key, &payload)?;
            if let Some(facts) = facts(&ca.pem)
                && ca.spki_sha256.is_empty()
            {
                ca.issuer.clone_from(&facts.issuer.display);
                ca.serial = hex::encode(&facts.serial);
                ca.spki_sha256 = hex::encode(facts.public_key.spki_sha256);
                let (subject_key_id, authority_key_id) = key_ids(&facts);
                ca.subject_key_id = subject_key_id.map(hex::encode);
                ca.authority_key_id = authority_key_id.map(hex::encode);
                ca.key_algorithm.clone_from(&facts.public_key.algorithm_oid);
                ca.key_bits = facts.public_key.bits;
                ca.is_self_issued = facts.subject.raw == facts.issuer.raw;
            }
            Ok(ca)
        })
        .collect()
}

fn complete(record: &mut DeviceCertificate, cas: &[CaCertificate]) {
    if record.issuer_key_id.is_empty()
        && let Some(ca) = cas.iter().find(|ca| ca.id == record.ca_id && ca.subject == record.issuer)
    {
        record.issuer_key_id.clone_from(&ca.spki_sha256);
    }
    if let Some(facts) = facts(&record.pem) {
        record.common_name = common_name(&facts);
        record.organizational_units = organizational_units(&facts);
        record.subject_alt_names = alternative_names(&facts);
    }
}

/// `None`: there is no certificate, or one that cannot be read; the record stays as it is.
fn facts(pem: &str) -> Option<CertificateFacts> {
    let der = certificates_from_pem(pem.as_bytes()).ok()?;
    CertificateFacts::parse(der.first()?).ok()
}

#[cfg(test)]
mod tests {
    use mqgate_identity::certificate::to_pem;
    use mqgate_identity::registry::{
        AutoRegistration, DeviceQuery, DeviceState, OnDeactivate, QueryIndex, Storage as _,
    };
    use mqgate_identity::time::UnixMillis;
    use rcgen::{CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};

    use super::*;
    use crate::keys::{count_key, device_key};
    use crate::{FjallStorage, StorageOptions};

    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params
    }

    /// Records as they were written before there were indexes.
    #[test]
    fn a_database_of_an_older_version_is_brought_up_to_date() {
        let mut ca = params("factory");
        ca.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
        let mut device = params("meter-7");
        device.distinguished_name.push(DnType::OrganizationalUnitName, "north");
        device.subject_alt_names = vec![SanType::DnsName("Meter-7.example".try_into().unwrap())];
        let device = device.signed_by(&KeyPair::generate().unwrap(), &ca).unwrap();
        let [ca, device] = [ca.der(), device.der()].map(|der| CertificateFacts::parse(der).unwrap());
        let (id, ca_id) = (device.certificate_fingerprint, ca.certificate_fingerprint);
        let old_device = format!(
            r#"{{"id":"{id}","state":"ACTIVE","device_id":"meter-7","tags":["water"],"client_id":"c-7",
            "ca_id":"{ca_id}","subject":"{}","issuer":"{}","serial":"{}","spki_sha256":"{}","not_before":{},
            "not_after":{},"source":"jit","registered_at":5,"updated_at":6,"last_seen":7,"revision":3,
            "pem":"{}"}}"#,
            device.subject.display,
            device.issuer.display,
            hex::encode(&device.serial),
            hex::encode(device.public_key.spki_sha256),
            device.not_before.0,
            device.not_after.0,
            to_pem(&device.der).replace('\n', "\\n"),
        );
        let old_ca = format!(
            r#"{{"id":"{ca_id}","name":"factory","state":"ACTIVE","subject":"{}","not_before":{},
            "not_after":{},"created_at":1,"updated_at":2,"revision":1,"pem":"{}"}}"#,
            ca.subject.display,
            ca.not_before.0,
            ca.not_after.0,
            to_pem(&ca.der).replace('\n', "\\n"),
        );
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("registry");
        {
            let engine = Engine::open(&path, StorageOptions::default()).unwrap();
            let write: Result<(), StorageError> = engine.write(&engine.registry, |batch| {
                batch.put(&id_key(b'd', &id), old_device.as_bytes());
                batch.put(&id_key(b'c', &ca_id), old_ca.as_bytes());
                batch.put(&device_key("meter-7", &id), b"");
                batch.put(&count_key(&ca_id, DeviceState::Active), &1_u64.to_be_bytes());
                Ok(())
            });
            write.unwrap();
        }
        for migrated in [1, 0] {
            let storage = FjallStorage::open(&path, StorageOptions::default()).unwrap();
            assert_eq!(storage.migrated(), migrated, "once");
            let record = storage.device_certificate(&id).unwrap().unwrap();
            assert_eq!((record.revision, record.last_seen), (3, Some(UnixMillis(7))));
            assert_eq!(record.common_name.as_deref(), Some("meter-7"));
            assert_eq!(record.organizational_units, ["north"]);
            assert_eq!(record.subject_alt_names, ["dns:meter-7.example"]);
            assert_eq!(record.issuer_key_id, hex::encode(ca.public_key.spki_sha256));
            assert_eq!((&*record.namespace, &*record.trust_domain), ("default", "default"));
            let cas = storage.ca_certificates().unwrap();
            assert_eq!(cas[0].spki_sha256, hex::encode(ca.public_key.spki_sha256));
            assert_eq!(cas[0].settings.auto_registration, AutoRegistration::Active);
            assert_eq!(cas[0].settings.on_deactivate, OnDeactivate::BlockNewConnections);
            for (query, index) in [
                (
                    DeviceQuery { san: Some("METER-7.example".into()), ..DeviceQuery::default() },
                    QueryIndex::San,
                ),
                (
                    DeviceQuery { client_id: Some("c-7".into()), ..DeviceQuery::default() },
                    QueryIndex::ClientId,
                ),
                (DeviceQuery { ca: Some(ca_id), ..DeviceQuery::default() }, QueryIndex::CaState),
            ] {
                let page = storage.query_device_certificates(&query).unwrap();
                assert_eq!((page.records.len(), page.index), (1, index));
            }
            let counts = storage.device_certificate_counts().unwrap();
            assert_eq!(counts.into_iter().collect::<Vec<_>>(), [((ca_id, DeviceState::Active), 1)]);
        }
    }

    #[test]
    fn indexes_of_a_newer_version_are_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("registry");
        {
            let engine = Engine::open(&path, StorageOptions::default()).unwrap();
            let write: Result<(), StorageError> = engine.write(&engine.registry, |batch| {
                batch.put(INDEX_FORM, &(FORM + 1).to_be_bytes());
                Ok(())
            });
            write.unwrap();
        }
        let error = FjallStorage::open(&path, StorageOptions::default()).err().unwrap().to_string();
        assert!(error.contains("newer"), "{error}");
    }
}
