//! What follows from a certificate being used: its predecessors go, its record moves, its name stays its device's. Each
//! test has the name of its case in docs/registry-edge-cases.md.

use mqgate_identity::registry::{CaSettings, EventKind};

use super::pipeline::{holds, later, registers, soon};
use super::*;
use crate::registry::OnMaxActive;

#[tokio::test]
async fn rotation_new_key_same_cn_same_ca() {
    let world = World::new().await;
    let gate = world.gate_with(&[&registers("d"), &allow()], |_| {});
    let (old, new) = (world.ca.device("d"), world.ca.device("d"));
    assert_eq!(world.says(&gate, &old, "a").await, "admitted a as d");
    later().await;
    assert_eq!(world.says(&gate, &new, "b").await, "admitted b as d");
    let superseded = soon(async || world.record(&old).await.unwrap().superseded).await;
    assert_eq!(superseded.by, new.id());
    assert_eq!(superseded.ends_at.0 - superseded.at.0, 600_000, "the overlap");
    // Both are good meanwhile.
    assert_eq!(world.says(&gate, &old, "a").await, "admitted a as d");
    assert_eq!(world.record(&new).await.unwrap().superseded, None, "an older one supersedes nothing");
    let events = world.events().await;
    assert!(events.contains(&EventKind::CertSuperseded), "{events:?}");
}

#[tokio::test]
async fn older_cert_reconnects_after_supersession() {
    let world = World::new().await;
    let gate = world.gate_with(&[&registers("d"), &allow()], |settings| {
        settings.rotation.overlap = Duration::ZERO;
    });
    let (old, new) = (world.ca.device("d"), world.ca.device("d"));
    world.says(&gate, &old, "a").await;
    later().await;
    let barred = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = Arc::clone(&barred);
    world.registry.on_change(move |change| {
        if let RegistryChange::DeviceBarred { reason, .. } = change {
            seen.lock().unwrap().push(reason);
        }
    });
    world.says(&gate, &new, "a").await;
    soon(async || (world.record(&old).await.unwrap().state == DeviceState::Inactive).then_some(())).await;
    soon(async || (!barred.lock().unwrap().is_empty()).then_some(())).await;
    assert_eq!(*barred.lock().unwrap(), [Reason::CertSuperseded], "its connections are closed");
    assert_eq!(world.says(&gate, &old, "a").await, "refused cert_superseded 0x87");
    // An operator may take that back, and it stays taken back when the new one comes again.
    world.registry.reinstate(old.id(), "admin:test").await.unwrap();
    assert_eq!(world.says(&gate, &old, "a").await, "admitted a as d");
    assert_eq!(world.says(&gate, &new, "a").await, "admitted a as d");
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(world.record(&old).await.unwrap().superseded, None);
}

#[tokio::test]
async fn what_registered_while_a_newer_one_waited_goes_at_its_first_use() {
    let world = World::new().await;
    let holding = world.gate_with(&[&holds("d"), &allow()], |_| {});
    let gate = world.gate_with(&[&registers("d"), &allow()], |_| {});
    let old = world.ca.device("d");
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, "d");
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = rcgen::date_time_ymd(2024, 1, 1);
    let new = world.ca.certify(&params, rcgen::KeyPair::generate().unwrap());
    let waits = world.says(&holding, &new, "b").await;
    assert!(waits.starts_with("refused "), "{waits}");
    assert_eq!(world.says(&gate, &old, "a").await, "admitted a as d");
    world.registry.activate(new.id(), "admin:test").await.unwrap();
    assert_eq!(world.says(&gate, &new, "b").await, "admitted b as d");
    let superseded = soon(async || world.record(&old).await.unwrap().superseded).await;
    assert_eq!(superseded.by, new.id());
}

#[tokio::test]
async fn a_device_has_so_many_certificates_in_use() {
    for policy in [OnMaxActive::SupersedeOldest, OnMaxActive::RejectNew] {
        let world = World::new().await;
        let gate = world.gate_with(&[&registers("d"), &allow()], |settings| {
            settings.rotation.max_active = 2;
            settings.rotation.on_max_active = policy;
        });
        let devices = [world.ca.device("d"), world.ca.device("d"), world.ca.device("d")];
        for device in &devices[..2] {
            assert_eq!(world.says(&gate, device, "a").await, "admitted a as d");
            later().await;
        }
        let third = world.says(&gate, &devices[2], "a").await;
        match policy {
            OnMaxActive::SupersedeOldest => {
                assert_eq!(third, "admitted a as d");
                let first = world.record(&devices[0]).await.unwrap();
                assert_eq!(first.state, DeviceState::Inactive, "the oldest is out of use at once");
                assert_eq!(world.says(&gate, &devices[0], "a").await, "refused cert_superseded 0x87");
            }
            OnMaxActive::RejectNew => {
                assert_eq!(third, "refused provision_quota 0x97");
                assert!(world.record(&devices[2]).await.is_none());
                assert_eq!(world.says(&gate, &devices[0], "a").await, "admitted a as d");
            }
        }
    }
}

#[tokio::test]
async fn renewal_with_the_same_key() {
    let world = World::new().await;
    let tagged = Registration {
        identity: Identity {
            tags: vec!["meter".into()],
            tenant: Some("acme".into()),
            attributes: vec![Attribute { name: "site".into(), value: Value::Text("north".into()) }],
            ..identity("d")
        },
        ..registration("d", ConflictPolicy::AddCertificate)
    };
    let tagged = registrar(Ok(RegistrationDecision::Register(tagged)));
    let gate = world.gate_with(&[&tagged, &allow()], |settings| {
        settings.bind_client_id = BindClientId::FirstConnect;
    });
    let old = world.ca.device("d");
    assert_eq!(world.says(&gate, &old, "mine").await, "admitted mine as d");
    // Another certificate for the same key; nothing is said of all that any more.
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, "d");
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    params.serial_number = Some(rcgen::SerialNumber::from(4711_u64));
    let key = rcgen::KeyPair::try_from(old.key.serialize_der()).unwrap();
    let renewed = world.ca.certify(&params, key);
    assert_ne!(renewed.id(), old.id());
    let plain = world.gate_with(&[&registers("d"), &allow()], |_| {});
    assert_eq!(world.says(&plain, &renewed, "").await, "admitted mine as d", "it inherits the binding");
    let record = world.record(&renewed).await.unwrap();
    assert_eq!((record.client_id.as_deref(), record.tags), (Some("mine"), vec!["meter".to_owned()]));
    assert_eq!(record.tenant.as_deref(), Some("acme"));
    assert_eq!(record.attributes.get("site").map(String::as_str), Some("north"));
    assert!(world.events().await.contains(&EventKind::CertRenewed));
}

#[tokio::test]
async fn a_record_whose_ca_has_gone_moves_to_the_ca_that_its_path_ends_in() {
    let world = World::new().await;
    let hook = registers("d");
    let gate = world.gate_with(&[&hook, &allow()], |_| {});
    let device = world.ca.device("d");
    assert_eq!(world.says(&gate, &device, "c").await, "admitted c as d");
    // The CA's certificate was renewed with the same key, and the old one removed.
    let renewed = world.ca.renewed("devices");
    world.trust.configure(vec![renewed.anchor()]).unwrap();
    let comes = world.comes_under(&renewed, &device);
    assert_eq!(said(&gate.admit(&comes, &connect("c")).await), "admitted c as d");
    let moved = soon(async || {
        world.record(&device).await.map(|record| record.ca_id).filter(|ca| *ca == renewed.id())
    })
    .await;
    assert_eq!(moved, renewed.id());
    assert!(world.events().await.contains(&EventKind::CertReparented));
}

#[tokio::test]
async fn same_cn_different_trust_domain_is_another_device() {
    let world = World::new().await;
    let hook = registers("pump-1");
    let gate = world.gate_with(&[&hook, &allow()], |settings| {
        settings.bind_client_id = BindClientId::CommonName;
        settings.rotation.overlap = Duration::ZERO;
    });
    let ours = world.ca.device("pump-1");
    assert_eq!(world.says(&gate, &ours, "pump-1").await, "admitted pump-1 as pump-1");
    let stranger = world.registered_ca("stranger", CaSettings::default()).await;
    let theirs = stranger.device("pump-1");
    let comes = world.comes_under(&stranger, &theirs);
    let refused = said(&gate.admit(&comes, &connect("pump-1")).await);
    assert_eq!(refused, "refused clientid_mismatch 0x85", "the client id is bound to another device");
    soon(async || world.events().await.contains(&EventKind::CertIdentityConflict).then_some(())).await;
    // Under client ids of their own they are let in, and supersede each other and not ours.
    let free = world.gate_with(&[&hook, &allow()], |settings| settings.rotation.overlap = Duration::ZERO);
    let newer = stranger.device("pump-1");
    for (device, client_id) in [(&theirs, "x"), (&newer, "y")] {
        let comes = world.comes_under(&stranger, device);
        let admitted = said(&free.admit(&comes, &connect(client_id)).await);
        assert_eq!(admitted, format!("admitted {client_id} as pump-1"));
        later().await;
    }
    soon(async || (world.record(&theirs).await.unwrap().state == DeviceState::Inactive).then_some(())).await;
    assert_eq!(world.record(&ours).await.unwrap().superseded, None);
    assert_eq!(world.says(&gate, &ours, "pump-1").await, "admitted pump-1 as pump-1");
}
