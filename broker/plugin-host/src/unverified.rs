//! A certificate whose chain did not verify, shown to the components of `plugins/cert-core`. No broker shows one to a plugin
//! today, so nothing in front of the host can; the ABI has it, and a plugin that trusts it would be a hole on the day one does.

#[path = "../tests/host/built.rs"]
mod built;

use std::path::Path;

use mqgate_identity::hooks::{ConnectFacts, Connection, Occasion, Peer};
use mqgate_identity::time::UnixMillis;
use rcgen::{CertificateParams, DnType, KeyPair};
use wasmtime::component::{Component, Instance, InstancePre, Linker};
use wasmtime::{Engine, Store};

use self::built::component;
use crate::bindings::exports::mqgate::plugin::authenticator::Authentication;
use crate::bindings::exports::mqgate::plugin::authorizer::Authorization;
use crate::bindings::exports::mqgate::plugin::lifecycle;
use crate::engine::base;
use crate::hook_exports::{Authenticate, Authorize, Function, Init, interface};
use crate::question::records::{ChainStatus, Identity, TrustAnchor};
use crate::question::{self, Credentials};

/// A client with a certificate that names a device.
fn device() -> Connection {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "device-7");
    let leaf = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
    let leaf = mqgate_identity::certificate::CertificateFacts::parse(leaf.der()).unwrap();
    Connection {
        id: 1,
        trace_id: String::from("t"),
        listener: "l".into(),
        accepted_at: UnixMillis(1),
        peer: Peer { address: [127, 0, 0, 1].into(), port: 1, via_proxy: None },
        tls: None,
        certificate: Some(std::sync::Arc::new(mqgate_identity::certificate::ClientCertificate {
            anchor: mqgate_identity::certificate::MatchedAnchor {
                name: "a".into(),
                certificate_fingerprint: leaf.certificate_fingerprint,
            },
            intermediates: Vec::new(),
            issuer_key: [0; 32],
            not_after: leaf.not_after,
            judged_by: 1,
            leaf,
        })),
        connect: ConnectFacts {
            protocol_level: 5,
            client_id: String::from("device-7"),
            clean_start: true,
            keep_alive: 60,
            user_name: None,
            password: None,
            will: None,
            session_expiry: None,
            receive_maximum: None,
            maximum_packet_size: None,
            authentication_method: None,
            user_properties: Vec::new(),
        },
        attributes: Vec::new(),
        occasion: Occasion::Admission,
    }
}

async fn call<F: Function>(
    store: &mut Store<()>,
    pre: &InstancePre<()>,
    instance: &Instance,
    asked: F::Asked<'_>,
) -> F::Told {
    let component = pre.component();
    let interface = component.get_export_index(None, interface::<F>()).unwrap();
    let function = component.get_export_index(Some(&interface), F::NAME).unwrap();
    let function = instance.get_typed_func::<F::Asked<'_>, F::Told>(&mut *store, function).unwrap();
    function.call_async(store, asked).await.unwrap()
}

/// Both answers about a device, in a word each.
async fn answers(component: &Path, chain: ChainStatus<'_>) -> [&'static str; 2] {
    let on = device();
    let mut on = question::connection(&on, Credentials::Hidden);
    on.certificate.as_mut().expect("it has one").chain = chain;
    let engine = Engine::new(&base(64 << 20)).unwrap();
    let component = Component::from_file(&engine, component).unwrap();
    let mut linker = Linker::<()>::new(&engine);
    linker.define_unknown_imports_as_traps(&component).unwrap();
    let pre = linker.instantiate_pre(&component).unwrap();
    let mut store = Store::new(&engine, ());
    store.set_epoch_deadline(u64::MAX / 2);
    let instance = pre.instantiate_async(&mut store).await.unwrap();
    let context = lifecycle::PluginContext {
        name: String::from("p"),
        digest: String::new(),
        broker_version: String::new(),
        config: String::from("{}"),
        granted: Vec::new(),
        trial: false,
        attributes: Vec::new(),
    };
    let (begun,) = call::<Init>(&mut store, &pre, &instance, (&context,)).await;
    begun.unwrap();
    let (answer,) = call::<Authenticate>(&mut store, &pre, &instance, (&on,)).await;
    let who = match answer {
        Ok(Authentication::Accept(_)) => "accept",
        Ok(Authentication::Deny(_)) => "deny",
        Ok(Authentication::Abstain) => "abstain",
        Err(_) => "error",
    };
    let device = Identity { device_id: "device-7", tenant: None, tags: &[], attributes: Vec::new() };
    let (answer,) = call::<Authorize>(&mut store, &pre, &instance, (&on, &device)).await;
    let may = match answer {
        Ok(Authorization::Allow(_)) => "allow",
        Ok(Authorization::Deny(_)) => "deny",
        Ok(Authorization::Abstain) => "abstain",
        Err(_) => "error",
    };
    [who, may]
}

async fn only_the_verified_one_counts(language: &str) {
    let Some(component) = component(&format!("cert-core-{language}.wasm")) else { return };
    let anchor = TrustAnchor { name: "a", fingerprint_sha256: &[7; 32] };
    let verified = answers(&component, ChainStatus::Verified(anchor)).await;
    assert_eq!(verified, ["accept", "allow"], "{language}");
    let forged = answers(&component, ChainStatus::Unverified("unknown issuer")).await;
    assert_eq!(forged, ["abstain", "abstain"], "{language}");
}

#[tokio::test]
async fn rust_and_c_trust_no_chain_that_did_not_verify() {
    for language in ["rust", "c"] {
        only_the_verified_one_counts(language).await;
    }
}

#[tokio::test]
#[ignore = "wants the tool chains of five languages; `cargo xtask test --full` builds the components and runs it"]
async fn no_language_trusts_a_chain_that_did_not_verify() {
    for language in ["javascript", "starlingmonkey", "python", "go"] {
        only_the_verified_one_counts(language).await;
    }
}
