//! Limits how often clients connect and register. Never lets anybody in: it refuses, or has no opinion. README.md is the
//! reference of its configuration.

mod config;

use std::collections::BTreeSet;
use std::net::IpAddr;

use mqgate_plugin_sdk::certificate::{anchor, hex};
use mqgate_plugin_sdk::export_plugin;
use mqgate_plugin_sdk::host::{Host, KeyValue, Log};
use mqgate_plugin_sdk::plugin::{Authenticator, Authorizer, Plugin, Registrar};
use mqgate_plugin_sdk::rate::{Taken, unavailable};
use mqgate_plugin_sdk::types::{
    Attribute, Authentication, Authorization, ClientCertificate, ConnackReason, Connection, Denial,
    HookError, Identity, InitError, Level, PluginContext, RegistrationDecision,
};
use sha2::{Digest, Sha256};

use config::{Config, Counted, Limit, Subject, Unavailable};

/// Each value of a field is charged; a certificate with more is refused, so that what one client costs is bounded.
const MOST_VALUES: usize = 8;

pub struct RateGuard {
    config: Config,
}

impl Plugin for RateGuard {
    fn init<H: Host>(context: &PluginContext, _: &H) -> Result<Self, InitError> {
        Ok(Self { config: Config::read(context)? })
    }
}

impl Authenticator for RateGuard {
    fn authenticate<H: Host>(&self, on: &Connection, host: &H) -> Result<Authentication, HookError> {
        Ok(self.connects(on, host)?.map_or(Authentication::Abstain, Authentication::Deny))
    }
}

/// Who names an Authentication Method is judged by the one that serves it, and authenticators are not asked: without this
/// a client would name one and not be counted.
impl Authorizer for RateGuard {
    fn authorize<H: Host>(
        &self,
        on: &Connection,
        _: &Identity,
        host: &H,
    ) -> Result<Authorization, HookError> {
        if on.connect.authentication_method.is_none() {
            return Ok(Authorization::Abstain);
        }
        Ok(self.connects(on, host)?.map_or(Authorization::Abstain, Authorization::Deny))
    }
}

impl Registrar for RateGuard {
    fn register<H: Host>(
        &self,
        on: &Connection,
        _: Option<&Identity>,
        host: &H,
    ) -> Result<RegistrationDecision, HookError> {
        let denial = self.charge(Counted::Registrations, on, host)?;
        Ok(denial.map_or(RegistrationDecision::Abstain, RegistrationDecision::Deny))
    }
}

impl RateGuard {
    fn connects(&self, on: &Connection, host: &(impl KeyValue + Log)) -> Result<Option<Denial>, HookError> {
        // It connected once, and was counted then.
        match on.reauthorized_at() {
            Some(_) => Ok(None),
            None => self.charge(Counted::Connections, on, host),
        }
    }

    /// Takes a token from every bucket that the client belongs to; the first that is empty refuses it.
    fn charge(
        &self,
        of: Counted,
        on: &Connection,
        host: &(impl KeyValue + Log),
    ) -> Result<Option<Denial>, HookError> {
        for limit in self.config.limits.iter().filter(|limit| limit.of == of) {
            let values = match limit.values(on) {
                Ok(values) => values,
                Err(why) => return Ok(Some(Denial::new(ConnackReason::NotAuthorized, why))),
            };
            for value in values {
                match limit.rate.take(host, &limit.key(&value), on.accepted_at) {
                    Ok(Taken::Yes) => {}
                    Ok(taken) => return Ok(Some(limit.exceeded(&value, taken))),
                    Err(error) => match self.config.unavailable {
                        Unavailable::Refuse => return Err(unavailable(error)),
                        Unavailable::LetPass => {
                            let message = format!("not counted, and let pass: {error:?}");
                            host.log(Level::Warn, &message, &[Attribute::text("limit", &limit.name)]);
                        }
                    },
                }
            }
        }
        Ok(None)
    }
}

impl Limit {
    /// Whose buckets the client takes from; none where the limit is not about it.
    fn values(&self, on: &Connection) -> Result<Vec<String>, String> {
        // Anybody can write any name into a certificate that no anchor signed, and use up what is its owner's.
        let certificate = on.certificate.as_ref().filter(|certificate| anchor(certificate).is_some());
        if let Some(criteria) = &self.criteria {
            let Some(certificate) = certificate else { return Ok(Vec::new()) };
            if !criteria.hold(certificate).map_err(|error| error.to_string())? {
                return Ok(Vec::new());
            }
        }
        Ok(match self.per {
            Subject::Field(field) => match certificate {
                Some(certificate) => values_of(field, certificate)?,
                None => Vec::new(),
            },
            Subject::Address => vec![network(&on.peer.address)],
            Subject::Listener => vec![on.listener.clone()],
            Subject::Everybody => vec![String::new()],
        })
    }

    /// Hashed: a value may be longer than a key, and hold what a key should not.
    fn key(&self, value: &str) -> String {
        let mut hash = Sha256::new();
        hash.update(self.per.name());
        hash.update([0]);
        hash.update(value);
        format!("{}/{}", self.name, hex(&hash.finalize()))
    }

    fn exceeded(&self, value: &str, taken: Taken) -> Denial {
        let (name, rate, per) = (&self.name, self.rate, self.per.name());
        let whose = if value.is_empty() { per.to_owned() } else { format!("{per} {value:?}") };
        let detail = match taken {
            Taken::Contended => format!("{name}: too many at once for {whose}"),
            _ => format!("{name}: more than {} in {} s for {whose}", rate.tokens, rate.period),
        };
        let mut denial = Denial::new(ConnackReason::ConnectionRateExceeded, detail);
        denial.attributes = vec![Attribute::text("policy.limit", name)];
        denial
    }
}

/// Each value once. Certificates without the field share one bucket: to leave it out must not be a way around.
fn values_of(
    field: mqgate_plugin_sdk::certificate::Field,
    certificate: &ClientCertificate,
) -> Result<Vec<String>, String> {
    let values = field.values(certificate).map_err(|error| error.to_string())?;
    let values: BTreeSet<String> = values.into_iter().map(Into::into).collect();
    match values.len() {
        0 => Ok(vec![String::new()]),
        1..=MOST_VALUES => Ok(values.into_iter().collect()),
        several => {
            Err(format!("the certificate has {several} values for {}, more than {MOST_VALUES}", field.name()))
        }
    }
}

/// A host has as many addresses of version 6 as it likes, all of one network.
fn network(address: &str) -> String {
    match address.parse() {
        Ok(IpAddr::V6(address)) => {
            let [a, b, c, d, ..] = address.segments();
            format!("{}/64", IpAddr::from([a, b, c, d, 0, 0, 0, 0]))
        }
        // Of a listener on a Unix socket as well, whatever it is.
        Ok(IpAddr::V4(_)) | Err(_) => address.to_owned(),
    }
}

export_plugin!(RateGuard: authenticator, registrar, authorizer);

#[cfg(test)]
mod tests;
