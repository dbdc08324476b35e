//! Decides on client certificates: which device one belongs to, and what that device may publish and
//! subscribe to. README.md is the reference of its configuration.

mod config;
mod identity;
mod rules;

use mqgate_plugin_sdk::export_plugin;
use mqgate_plugin_sdk::host::Host;
use mqgate_plugin_sdk::plugin::{Authenticator, Authorizer, Plugin};
use mqgate_plugin_sdk::types::{
    Authenticated, Authentication, Authorization, ChainStatus, ClientCertificate, Connection, Denial, Grant,
    HookError, Identity, InitError, PluginContext,
};

use config::Config;

pub struct CertAcl {
    config: Config,
}

impl Plugin for CertAcl {
    fn init<H: Host>(context: &PluginContext, _: &H) -> Result<Self, InitError> {
        Ok(Self { config: Config::read(context)? })
    }
}

impl Authenticator for CertAcl {
    fn authenticate<H: Host>(&self, on: &Connection, _: &H) -> Result<Authentication, HookError> {
        let Some(certificate) = trusted(on) else { return Ok(Authentication::Abstain) };
        let identity = self
            .config
            .identity(certificate)
            .and_then(|identity| self.config.check_session(on, &identity.device_id).map(|()| identity));
        let cache = self.config.cache();
        Ok(match identity {
            Ok(identity) => Authentication::Accept(Authenticated { identity, cache }),
            Err(denial) => Authentication::Deny(Denial { cache, ..denial }),
        })
    }
}

impl Authorizer for CertAcl {
    fn authorize<H: Host>(&self, on: &Connection, who: &Identity, _: &H) -> Result<Authorization, HookError> {
        let Some(certificate) = trusted(on) else { return Ok(Authorization::Abstain) };
        // Once more: another plugin may have said who this is.
        let grant = self
            .config
            .check_session(on, &who.device_id)
            .and_then(|()| self.config.grant(on, certificate, &who.device_id));
        let cache = self.config.cache();
        Ok(match grant {
            Ok(grant) => Authorization::Allow(Grant { cache, ..grant }),
            Err(denial) => Authorization::Deny(Denial { cache, ..denial }),
        })
    }
}

/// The certificate, if a trust anchor vouches for what it says. Anybody can write any name into one that no
/// anchor signed.
fn trusted(on: &Connection) -> Option<&ClientCertificate> {
    on.certificate.as_ref().filter(|certificate| matches!(certificate.chain, ChainStatus::Verified(_)))
}

export_plugin!(CertAcl: authenticator, authorizer);

#[cfg(test)]
mod tests {
    use mqgate_plugin_sdk::testing::{self, MemoryHost};
    use mqgate_plugin_sdk::types::{Acl, CacheScope, Effect};

    use super::*;

    fn plugin(config: &str) -> CertAcl {
        CertAcl::init(&testing::context(config), &MemoryHost::default()).unwrap()
    }

    #[test]
    fn without_configuration_a_device_has_its_own_topics() {
        let (plugin, host) = (plugin("{}"), MemoryHost::default());
        let on = testing::connection(Some(testing::certificate(&[("cn", "device-7")])));
        let Ok(Authentication::Accept(accepted)) = plugin.authenticate(&on, &host) else {
            panic!("not accepted")
        };
        assert_eq!(accepted.identity.device_id, "device-7");

        let Ok(Authorization::Allow(grant)) = plugin.authorize(&on, &accepted.identity, &host) else {
            panic!("not allowed")
        };
        let Acl::Inline(lines) = &grant.acl else { panic!("a named list") };
        let filters: Vec<&str> = lines.iter().map(|line| line.filter.as_str()).collect();
        assert_eq!(filters, ["devices/${device-id}/#", "devices/${device-id}/#"]);
        assert_eq!(grant.otherwise, Effect::Deny);
    }

    #[test]
    fn an_answer_holds_for_the_certificate_unless_client_id_or_user_name_count() {
        let hints = |config: &str| {
            let (plugin, host) = (plugin(config), MemoryHost::default());
            let mut on = testing::connection(Some(testing::certificate(&[("cn", "device-7")])));
            on.connect.client_id = "device-7".into();
            on.connect.user_name = Some("device-7".into());
            let Ok(Authentication::Accept(accepted)) = plugin.authenticate(&on, &host) else {
                panic!("not accepted")
            };
            let Ok(Authorization::Allow(grant)) = plugin.authorize(&on, &accepted.identity, &host) else {
                panic!("not allowed")
            };
            assert_eq!(accepted.cache, grant.cache);
            grant.cache.map(|hint| (hint.scope, hint.ttl))
        };
        assert_eq!(hints("{}"), Some((CacheScope::Certificate, 300)));
        assert_eq!(hints(r#"{"cache": 10}"#), Some((CacheScope::Certificate, 10)));
        assert_eq!(hints(r#"{"cache": 0}"#), None);
        assert_eq!(hints(r#"{"client-id": "equals-device-id"}"#), None);
        assert_eq!(hints(r#"{"client-id": "starts-with-device-id"}"#), None);
        assert_eq!(hints(r#"{"require-username-matches": "${device-id}"}"#), None);
    }

    #[test]
    fn without_a_trusted_certificate_it_has_no_opinion() {
        let (plugin, host) = (plugin("{}"), MemoryHost::default());
        let mut forged = testing::certificate(&[("cn", "device-7")]);
        forged.chain = ChainStatus::Unverified("unknown issuer".into());
        for certificate in [None, Some(forged)] {
            let on = testing::connection(certificate);
            assert_eq!(plugin.authenticate(&on, &host), Ok(Authentication::Abstain));
            let who = Identity::new("device-7");
            assert_eq!(plugin.authorize(&on, &who, &host), Ok(Authorization::Abstain));
        }
    }
}
