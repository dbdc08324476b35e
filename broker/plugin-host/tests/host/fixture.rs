//! A host with a fake storage, and short ways to ask its plugins.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use mqgate_identity::hooks::{
    Authentication, ChainMember, ConnectFacts, Connection, FailureKind, HookFailure, Occasion, Peer,
};
use mqgate_identity::time::UnixMillis;
use mqgate_plugin_host::{
    HostSettings, Isolation, LoadError, PluginHost, PluginInfo, PluginSettings, Position, Source,
};

use crate::storage::FakeStorage;

pub struct Fixture {
    pub host: Arc<PluginHost>,
    pub storage: Arc<FakeStorage>,
    pub metrics: prometheus::Registry,
}

impl Fixture {
    pub fn new() -> Self {
        Self::with(HostSettings::default(), Vec::new())
    }

    pub fn with(settings: HostSettings, natives: Vec<ChainMember>) -> Self {
        let storage = Arc::new(FakeStorage::default());
        let metrics = prometheus::Registry::new();
        // Every test has a host of its own: small ones, so that many fit into the address space.
        let settings = HostSettings { instances: settings.instances.min(32), ..settings };
        let host = PluginHost::new(settings, natives, storage.clone(), &metrics).expect("a host");
        Self { host: Arc::new(host), storage, metrics }
    }

    pub async fn load(&self, name: &str, component: Vec<u8>) -> Result<PluginInfo, LoadError> {
        self.host.load(settings(name, component), Position::Last, "test").await
    }

    /// Asks the authenticator of one plugin, on a listener of the given name.
    pub async fn authenticate(&self, plugin: &str, listener: &str) -> Result<Authentication, HookFailure> {
        self.authenticate_as(plugin, listener, "c").await
    }

    pub async fn authenticate_as(
        &self,
        plugin: &str,
        listener: &str,
        client_id: &str,
    ) -> Result<Authentication, HookFailure> {
        let mut on = (*connection(listener)).clone();
        on.connect.client_id = client_id.to_owned();
        self.ask(plugin, on).await
    }

    /// Asks what the authenticator would say, as an operator does.
    pub async fn explain(&self, plugin: &str, listener: &str) -> Result<Authentication, HookFailure> {
        let mut on = (*connection(listener)).clone();
        on.occasion = Occasion::Explanation;
        self.ask(plugin, on).await
    }

    async fn ask(&self, plugin: &str, on: Connection) -> Result<Authentication, HookFailure> {
        let set = self.host.hooks().load_full();
        let member = set.members.iter().find(|member| &*member.name == plugin).expect("the plugin is live");
        let authenticator = member.authenticator.clone().expect("it has the hook");
        authenticator.authenticate(&Arc::new(on)).await
    }

    /// Asks for a client from another address.
    pub async fn authenticate_from(&self, plugin: &str, address: u8) -> Result<Authentication, HookFailure> {
        self.authenticate_at(plugin, [192, 0, 2, address].into()).await
    }

    pub async fn authenticate_at(
        &self,
        plugin: &str,
        address: IpAddr,
    ) -> Result<Authentication, HookFailure> {
        let mut on = (*connection("l")).clone();
        on.peer.address = address;
        self.ask(plugin, on).await
    }

    pub async fn kind_of_failure(&self, plugin: &str) -> FailureKind {
        self.authenticate(plugin, "mqtts").await.expect_err("no answer").kind
    }

    /// Value of a series, as it stands in the text format.
    pub fn metric(&self, series: &str) -> Option<f64> {
        let text = self.metrics_text();
        let line =
            text.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    pub fn metrics_text(&self) -> String {
        prometheus::TextEncoder::new().encode_to_string(&self.metrics.gather()).expect("text")
    }

    /// Waits until every instance is gone; fails when one stays.
    pub async fn no_instance_left(&self) {
        let gone = async {
            while self.host.instances() > 0 {
                tokio::task::yield_now().await;
            }
        };
        let gone = tokio::time::timeout(Duration::from_secs(20), gone).await;
        assert!(gone.is_ok(), "{} instances stay alive", self.host.instances());
    }
}

/// Settings that a loaded machine does not turn into failures, and that ask the plugin every time, each time anew; tests
/// about a limit set that one.
pub fn settings(name: &str, component: Vec<u8>) -> PluginSettings {
    let mut settings = PluginSettings::new(name, Source::Bytes(component.into()));
    settings.limits.wall = Duration::from_secs(20);
    settings.limits.queue_wait = Duration::from_secs(20);
    settings.limits.init = Duration::from_secs(20);
    settings.limits.backoff = Duration::ZERO;
    // What a fresh instance costs on a loaded machine decides nothing.
    settings.isolation = Isolation::PerCall;
    settings
}

pub fn connection(listener: &str) -> Arc<Connection> {
    Arc::new(Connection {
        id: 1,
        trace_id: String::from("00000000000000000000000000000001"),
        listener: listener.into(),
        accepted_at: UnixMillis(1),
        peer: Peer { address: [127, 0, 0, 1].into(), port: 1, via_proxy: None },
        tls: None,
        certificate: None,
        connect: ConnectFacts {
            protocol_level: 5,
            client_id: String::from("c"),
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
    })
}

/// The device id of an acceptance.
pub fn device_id(answer: Result<Authentication, HookFailure>) -> String {
    match answer {
        Ok(Authentication::Accept { identity, .. }) => identity.device_id,
        other => panic!("not accepted: {other:?}"),
    }
}
