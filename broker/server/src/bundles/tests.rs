use super::*;
use crate::testing::{MemoryStorage, TestCa, TestCertificate, metrics};
use crate::tls::{TlsSet, TlsSettings};
use crate::trust::TrustStore;

struct World {
    ca: TestCa,
    storage: Arc<MemoryStorage>,
    bundles: Arc<Bundles>,
}

impl World {
    async fn new() -> Self {
        let storage = Arc::new(MemoryStorage::default());
        let bundles = Self::open(&storage).await;
        Self { ca: TestCa::new("CA"), storage, bundles }
    }

    async fn open(storage: &Arc<MemoryStorage>) -> Arc<Bundles> {
        let storage = Arc::clone(storage) as Arc<dyn Storage>;
        let metrics = Arc::clone(&metrics().gate);
        Bundles::open(storage, Arc::new(AuditLog::default()), metrics, DEFAULT_LIMIT).await.unwrap()
    }

    async fn add(&self, name: &str) -> Result<BundleInfo, BundleError> {
        self.bundles.add(GLOBAL, name, material(&self.ca.server_named(&[name])), "admin").await
    }

    /// A listener with these bundles, watched.
    fn listener(&self, name: &str, bound: Vec<BoundCertificate>) -> Arc<TlsServer> {
        let trust = Arc::new(TrustStore::new(1));
        let set = TlsSet::new(TlsSettings::default(), CertificateSet::new(bound), trust).unwrap();
        let tls = Arc::new(TlsServer::new(set));
        self.bundles.watch(name, &tls);
        tls
    }
}

fn material(certificate: &TestCertificate) -> BundleMaterial {
    BundleMaterial { chain: certificate.pem(), key: certificate.key.serialize_pem(), password: None }
}

/// Fingerprints of what a listener serves.
fn served(tls: &TlsServer) -> Vec<String> {
    let set = tls.current();
    let enabled = set.certificates().iter().filter(|bound| bound.enabled);
    enabled.map(|bound| bound.certificate.facts().certificate_fingerprint.to_hex()).collect()
}

#[tokio::test]
async fn a_bundle_is_kept_and_its_key_is_not_shown() {
    let world = World::new().await;
    let added = world.add("shop.example").await.unwrap();
    let again = World::open(&world.storage).await;
    assert_eq!(again.list(), std::slice::from_ref(&added));
    assert_eq!(added.server_names, ["shop.example"]);
    let shown = serde_json::to_string(&added).unwrap();
    assert!(!shown.contains("PRIVATE"), "{shown}");
    let record = world.storage.server_bundles().unwrap().remove(0);
    assert!(record.key_pem.contains("PRIVATE KEY") && !format!("{record:?}").contains("PRIVATE"));
}

#[tokio::test]
async fn the_fourth_is_refused_by_the_name_of_the_limit() {
    let world = World::new().await;
    for name in ["a", "b", "c"] {
        world.add(name).await.unwrap();
    }
    let error = world.add("d").await.unwrap_err();
    assert!(matches!(error, BundleError::TooMany { known: 4, limit: 3 }), "{error}");
    assert!(error.to_string().contains("limits.server_certs"));
    world.bundles.remove(GLOBAL, "a", "admin").await.unwrap();
    world.add("d").await.unwrap();
    // Files of listeners count as well.
    world.bundles.remove(GLOBAL, "b", "admin").await.unwrap();
    let source = CertificateSource::Files { certificate: "x.pem".into(), key: "x.key".into(), label: None };
    let bound = world.ca.server().served().iter().next().unwrap().clone();
    let _tls = world.listener("main", vec![BoundCertificate { source, ..bound }]);
    assert!(matches!(world.add("e").await.unwrap_err(), BundleError::TooMany { .. }));
}

#[tokio::test]
async fn a_replaced_bundle_is_served_at_once_everywhere_and_nowhere_else() {
    let world = World::new().await;
    for name in ["a", "b"] {
        world.add(name).await.unwrap();
    }
    let [a, b] = ["a", "b"].map(|name| world.bundles.bind(GLOBAL, name).unwrap());
    let both = world.listener("both", vec![b.clone(), a.clone()]);
    let one = world.listener("one", vec![b.clone()]);
    let before = served(&both);
    let new = world.ca.server_named(&["a"]);
    let (info, _) = world.bundles.replace(GLOBAL, "a", material(&new), None, "admin").await.unwrap();
    assert_eq!((info.revision, info.used_by.as_slice()), (2, &[String::from("both")][..]));
    assert_eq!(served(&both), [before[0].clone(), new.id().to_hex()]);
    assert_eq!(served(&one), [before[0].clone()]);

    // What cannot be served changes nothing.
    let mut broken = material(&world.ca.server_named(&["a"]));
    broken.key = world.ca.server().key.serialize_pem();
    assert!(matches!(
        world.bundles.replace(GLOBAL, "a", broken, None, "admin").await.unwrap_err(),
        BundleError::Material(MaterialError::KeyMismatch { .. })
    ));
    assert_eq!(served(&both)[1], new.id().to_hex());
}

#[tokio::test]
async fn what_a_listener_needs_stays() {
    let world = World::new().await;
    for name in ["a", "b"] {
        world.add(name).await.unwrap();
    }
    let [a, b] = ["a", "b"].map(|name| world.bundles.bind(GLOBAL, name).unwrap());
    let both = world.listener("both", vec![a, b.clone()]);
    let error = world.bundles.remove(GLOBAL, "a", "admin").await.unwrap_err();
    assert!(matches!(&error, BundleError::InUse { used_by } if used_by == &["both"]), "{error}");
    world.bundles.enable(GLOBAL, "a", false, "admin").await.unwrap();
    assert_eq!(served(&both).len(), 1);
    let error = world.bundles.enable(GLOBAL, "b", false, "admin").await.unwrap_err();
    assert!(matches!(&error, BundleError::LastOne { used_by } if used_by == &["both"]), "{error}");
    world.bundles.enable(GLOBAL, "a", true, "admin").await.unwrap();
    assert_eq!(served(&both).len(), 2);
    world.bundles.forget("both");
    world.bundles.remove(GLOBAL, "a", "admin").await.unwrap();
    assert!(matches!(world.bundles.show(GLOBAL, "a"), Err(BundleError::NotFound { .. })));
}

#[tokio::test]
async fn the_builtin_goes_only_where_there_is_another() {
    let world = World::new().await;
    let builtin = world.ca.server().served().iter().next().unwrap().certificate.clone();
    world.bundles.set_builtin(builtin).unwrap();
    world.add("a").await.unwrap();
    let alone = world.listener("alone", vec![world.bundles.bind_builtin().unwrap()]);
    let error = world.bundles.enable_builtin(false, "admin").await.unwrap_err();
    assert!(matches!(&error, BundleError::LastOne { used_by } if used_by == &["alone"]), "{error}");
    world.bundles.forget("alone");
    drop(alone);
    let two = vec![world.bundles.bind(GLOBAL, "a").unwrap(), world.bundles.bind_builtin().unwrap()];
    let both = world.listener("both", two);
    world.bundles.enable_builtin(false, "admin").await.unwrap();
    assert_eq!(served(&both).len(), 1);
    // Also after a restart.
    let again = World::open(&world.storage).await;
    again.set_builtin(world.ca.server().served().iter().next().unwrap().certificate.clone()).unwrap();
    assert!(!again.bind_builtin().unwrap().enabled);
    let renewed = world.ca.server().served().iter().next().unwrap().certificate.clone();
    world.bundles.enable_builtin(true, "admin").await.unwrap();
    world.bundles.set_builtin(renewed.clone()).unwrap();
    assert_eq!(served(&both)[1], renewed.facts().certificate_fingerprint.to_hex());
}

#[tokio::test]
async fn names_are_names() {
    let world = World::new().await;
    for name in ["", "A", "-a", "a/b", "a b", "ü", &"a".repeat(65)] {
        let material = material(&world.ca.server());
        let error = world.bundles.add(GLOBAL, name, material, "admin").await.unwrap_err();
        assert!(matches!(error, BundleError::Name(_)), "{name}: {error}");
    }
    world.bundles.add("tenant-a", "a.b_c-1", material(&world.ca.server()), "admin").await.unwrap();
    let again = world.bundles.add("tenant-a", "a.b_c-1", material(&world.ca.server()), "admin").await;
    assert!(matches!(again.unwrap_err(), BundleError::Exists { .. }));
}
