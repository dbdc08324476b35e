//! Decides on client certificates: which device one belongs to, and what that device may publish and
//! subscribe to. README.md is the reference of its configuration.

mod config;
mod identity;
mod rules;

use mqgate_plugin_sdk::export_plugin;
use mqgate_plugin_sdk::host::Host;
use mqgate_plugin_sdk::plugin::{Authenticator, Authorizer, Plugin};
use mqgate_plugin_sdk::types::{
    Authenticated, Authentication, Authorization, ChainStatus, ClientCertificate, Connection, HookError,
    Identity, InitError, PluginContext,
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
        Ok(match identity {
            Ok(identity) => Authentication::Accept(Authenticated { identity, cache: None }),
            Err(denial) => Authentication::Deny(denial),
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
        Ok(match grant {
            Ok(grant) => Authorization::Allow(grant),
            Err(denial) => Authorization::Deny(denial),
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
    use mqgate_plugin_sdk::types::{Acl, Effect};

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
