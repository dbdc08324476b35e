//! Components that somebody signed, and those that nobody did.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use mqgate_identity::hooks::Reauthorize;
use mqgate_identity::time::UnixMillis;
use mqgate_plugin_host::{
    Change, Configured, HostSettings, PluginSettings, Position, Provenance, PublicKey, Signature, Source,
    Stage, StartOutcome, Trust, TrustedKey, statement,
};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::fixture::{Fixture, device_id, settings};
use crate::guest::accepts_as;

struct Signing(Ed25519KeyPair);

impl Signing {
    fn new(seed: u8) -> Self {
        Self(Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("a key"))
    }

    fn key(&self) -> PublicKey {
        PublicKey(self.0.public_key().as_ref().try_into().expect("32 bytes"))
    }

    fn sign(&self, component: &[u8]) -> Signature {
        let digest = format!("sha256:{}", hex::encode(Sha256::digest(component)));
        let signed_at = UnixMillis(1);
        let bytes = self.0.sign(&statement(&digest, signed_at)).as_ref().try_into().expect("64 bytes");
        Signature { digest, signed_at, key: self.key(), bytes }
    }
}

fn trust(keys: &[(&str, &Signing, Option<UnixMillis>)]) -> Trust {
    let keys = keys.iter().map(|(name, key, until)| {
        let name = (*name).to_owned();
        TrustedKey { name, key: key.key(), until: *until }
    });
    Trust { require_signed: true, keys: keys.collect() }
}

async fn begin(folder: &std::path::Path, trust: Trust) -> (Fixture, Vec<StartOutcome>) {
    let settings = HostSettings { store_dir: Some(folder.join("plugins")), trust, ..HostSettings::default() };
    let fixture = Fixture::with(settings, Vec::new());
    let started = fixture.host.start(Vec::new()).await;
    (fixture, started.into_iter().map(|one| one.outcome).collect())
}

fn signed(component: &[u8], signature: Option<Signature>) -> PluginSettings {
    PluginSettings { provenance: Provenance::New(signature), ..settings("p", component.to_vec()) }
}

#[tokio::test]
async fn only_what_a_trusted_key_signed_is_loaded() {
    let folder = tempfile::tempdir().expect("a folder");
    let (release, stranger, old) = (Signing::new(1), Signing::new(2), Signing::new(3));
    let rules = trust(&[("release", &release, None), ("old", &old, Some(UnixMillis(1_000)))]);
    let (fixture, _) = begin(folder.path(), rules).await;
    let component = accepts_as("d");
    let mut forged = release.sign(&component);
    forged.bytes[7] ^= 1;
    for (signature, said) in [
        (None, "no signature"),
        (Some(stranger.sign(&component)), "none of the trusted keys"),
        (Some(release.sign(b"another component")), "the component is sha256:"),
        (Some(old.sign(&component)), "`old` is trusted no longer"),
        (Some(forged), "does not hold"),
    ] {
        let plugin = signed(&component, signature);
        let error = fixture.host.load(plugin, Position::Last, "test").await.expect_err("refused");
        assert_eq!(error.stage, Stage::Verify);
        assert!(error.message.contains(said) && error.message.contains("release"), "{error}");
    }
    let plugin = signed(&component, Some(release.sign(&component)));
    let info = fixture.host.load(plugin, Position::Last, "test").await.expect("loads");
    assert_eq!(info.signer.as_deref(), Some("release"));
    let unsigned = fixture.host.swap("p", Change::by("test").to(accepts_as("e"))).await.expect_err("refused");
    assert!(unsigned.message.contains("no signature"), "{unsigned}");
    assert_eq!(device_id(fixture.authenticate("p", "l").await), "d");
}

#[tokio::test]
async fn what_was_accepted_goes_on_while_its_key_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let release = Signing::new(1);
    let component = accepts_as("d");
    let (first, _) = begin(folder.path(), trust(&[("release", &release, None)])).await;
    let plugin = signed(&component, Some(release.sign(&component)));
    first.host.load(plugin, Position::Last, "test").await.expect("loads");
    drop(first);
    // Its time is over: nothing new, and what runs goes on.
    let over = trust(&[("release", &release, Some(UnixMillis(2)))]);
    let (second, _) = begin(folder.path(), over).await;
    assert_eq!(device_id(second.authenticate("p", "l").await), "d");
    drop(second);
    // It was taken out of the configuration, as after a theft.
    let (third, started) = begin(folder.path(), trust(&[("other", &Signing::new(2), None)])).await;
    assert!(matches!(&started[0], StartOutcome::Failed { closes: true, .. }), "{started:?}");
    assert_eq!(third.host.hooks().load().missing.len(), 1);
}

#[tokio::test]
async fn what_comes_with_the_broker_needs_no_signature() {
    let folder = tempfile::tempdir().expect("a folder");
    let (fixture, _) = begin(folder.path(), trust(&[("release", &Signing::new(1), None)])).await;
    let file = folder.path().join("bundled.wasm");
    std::fs::write(&file, accepts_as("d")).expect("written");
    let mut bundled = PluginSettings { source: Source::File(file), ..settings("p", Vec::new()) };
    let configured =
        |settings: &PluginSettings| vec![Configured { settings: settings.clone(), missing: None }];
    let started = fixture.host.start(configured(&bundled)).await;
    assert!(matches!(started[0].outcome, StartOutcome::Failed { .. }), "{started:?}");
    fixture.host.unload("p", true).await.expect("gone");
    bundled.provenance = Provenance::Bundled;
    let started = fixture.host.start(configured(&bundled)).await;
    assert!(matches!(started[0].outcome, StartOutcome::Live { .. }), "{started:?}");
}

#[tokio::test]
async fn a_former_version_that_is_promoted_is_trusted_for_what_it_was() {
    let folder = tempfile::tempdir().expect("a folder");
    let release = Signing::new(1);
    let (fixture, _) = begin(folder.path(), trust(&[("release", &release, None)])).await;
    let (one, two) = (accepts_as("one"), accepts_as("two"));
    let plugin = signed(&one, Some(release.sign(&one)));
    let former = fixture.host.load(plugin, Position::Last, "test").await.expect("loads");
    let change = Change { signature: Some(release.sign(&two)), ..Change::by("test") };
    fixture.host.swap("p", change.to(two)).await.expect("swaps");
    // Of a version from before, and of the one that runs with other settings, nobody brings a signature again.
    let stored = Change { component: Some(Source::Stored(former.digest)), ..Change::by("test") };
    let configured = Change { config: Some(json!({ "n": 1 })), ..Change::by("test") };
    for (change, number, device) in [(stored, 3, "one"), (configured, 4, "one")] {
        fixture.host.shadow("p", change).await.expect("begun");
        let info = fixture.host.promote("p", "test", Reauthorize::None).await.expect("promoted");
        assert_eq!((info.number, info.signer.as_deref()), (number, Some("release")));
        assert_eq!(device_id(fixture.authenticate("p", "l").await), device);
    }
}
