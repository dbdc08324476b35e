//! What becomes of one unknown certificate.
//!
//! What costs nothing is judged first; then the rate, which bounds how often the rest can be asked for; the
//! quota, for which the registry is asked, comes last.

use mqgate_plugin_sdk::certificate::{anchor, hex};
use mqgate_plugin_sdk::host::{KeyValue, Registry};
use mqgate_plugin_sdk::rate::{Rate, Taken, unavailable};
use mqgate_plugin_sdk::select::Source;
use mqgate_plugin_sdk::types::{
    Attribute, Certificate, ClientCertificate, ConnackReason, Connection, Denial, HookError, Identity,
    Registration, RegistrationDecision, TrustAnchor,
};

use crate::config::{Ca, Config, Mode};
use crate::quota::{self, Room};

const DAY: i64 = 86_400;

pub fn decide(
    config: &Config,
    on: &Connection,
    claimed: Option<&Identity>,
    host: &(impl KeyValue + Registry),
) -> Result<RegistrationDecision, HookError> {
    let Some(certificate) = &on.certificate else { return Ok(RegistrationDecision::Abstain) };
    let Some(anchor) = anchor(certificate) else {
        return Ok(deny(ConnackReason::NotAuthorized, "no trust anchor vouches for the certificate"));
    };
    let (ca, mut identity) = match judge(config, certificate, anchor, claimed) {
        Ok(Some(judged)) => judged,
        Ok(None) => return Ok(RegistrationDecision::Abstain),
        Err(detail) => return Ok(deny(ConnackReason::NotAuthorized, detail)),
    };

    let authority = hex(&anchor.fingerprint_sha256);
    let bucket = format!("rate/{authority}");
    let rate = Rate::per_minute(ca.registrations_per_minute, ca.burst);
    if rate.take(host, &bucket, on.accepted_at).map_err(unavailable)? != Taken::Yes {
        let detail =
            format!("{} registers more than {} per minute", anchor.name, ca.registrations_per_minute);
        return Ok(deny(ConnackReason::ConnectionRateExceeded, detail));
    }
    let tag = format!("ca:{authority}");
    if quota::room(host, &tag, ca.maximum_devices)? == Room::Full {
        let detail = format!("{} has {} devices, its maximum", anchor.name, ca.maximum_devices);
        return Ok(deny(ConnackReason::QuotaExceeded, detail));
    }

    identity.tenant.clone_from(&ca.tenant);
    identity.tags.clone_from(&ca.tags);
    identity.tags.push(tag);
    let registration = Registration {
        identity,
        on_conflict: ca.on_conflict.into(),
        attributes: vec![Attribute::text("registration.anchor", &anchor.name)],
    };
    Ok(match ca.mode {
        Mode::Active => RegistrationDecision::Register(registration),
        Mode::Pending => RegistrationDecision::Hold(registration),
    })
}

/// The entry that applies and the device; `None` when the authority is none of ours, or why it is refused.
fn judge<'c>(
    config: &'c Config,
    certificate: &ClientCertificate,
    anchor: &TrustAnchor,
    claimed: Option<&Identity>,
) -> Result<Option<(&'c Ca, Identity)>, String> {
    let mut ours = false;
    for ca in config.cas.iter().filter(|ca| ca.is(anchor)) {
        ours = true;
        if !ca.criteria.hold(certificate).map_err(|error| error.to_string())? {
            continue;
        }
        lifetime(&certificate.leaf, ca.maximum_lifetime_days)?;
        let named = Source::first(&ca.device_id, certificate).map_err(|error| error.to_string())?;
        let device_id = named.ok_or("the certificate names no device")?;
        // Two opinions on who this is: neither goes into the registry.
        if let Some(claimed) = claimed.filter(|claimed| claimed.device_id != device_id) {
            return Err(format!(
                "the certificate is that of {device_id:?}, the client that of {:?}",
                claimed.device_id
            ));
        }
        return Ok(Some((ca, Identity::new(device_id))));
    }
    if ours { Err("no entry of its authority takes the certificate".into()) } else { Ok(None) }
}

fn lifetime(leaf: &Certificate, maximum_days: Option<u32>) -> Result<(), String> {
    let Some(maximum) = maximum_days else { return Ok(()) };
    let seconds = i128::from(leaf.not_after) - i128::from(leaf.not_before);
    if seconds > i128::from(maximum) * i128::from(DAY) {
        let days = seconds / i128::from(DAY);
        return Err(format!("the certificate lives for {days} days, more than {maximum}"));
    }
    Ok(())
}

fn deny(reason: ConnackReason, detail: impl Into<String>) -> RegistrationDecision {
    RegistrationDecision::Deny(Denial::new(reason, detail))
}

#[cfg(test)]
mod tests {
    use mqgate_plugin_sdk::testing::{self, MemoryHost};
    use mqgate_plugin_sdk::types::{ChainStatus, ConflictPolicy};

    use super::*;

    fn ask_with(
        json: &str,
        certificate: ClientCertificate,
        claimed: Option<&str>,
        host: &MemoryHost,
    ) -> String {
        let config = Config::read(&testing::context(json)).ok().unwrap();
        let on = testing::connection(Some(certificate));
        match decide(&config, &on, claimed.map(Identity::new).as_ref(), host) {
            Ok(RegistrationDecision::Register(registration)) => {
                format!("register {}", registration.identity.device_id)
            }
            Ok(RegistrationDecision::Hold(registration)) => {
                format!("hold {}", registration.identity.device_id)
            }
            Ok(RegistrationDecision::Deny(denial)) => {
                format!("{:?}: {}", denial.reason, denial.audit_detail.unwrap())
            }
            Ok(RegistrationDecision::Abstain) => "abstain".into(),
            Err(error) => format!("{error:?}"),
        }
    }

    fn ask(json: &str, certificate: ClientCertificate) -> String {
        ask_with(json, certificate, None, &MemoryHost::default())
    }

    fn meter() -> ClientCertificate {
        testing::certificate(&[("cn", "meter-7"), ("ou", "meters")])
    }

    #[test]
    fn a_new_device_is_registered_or_held() {
        assert!(ask("{}", meter()).ends_with("register meter-7"));
        assert!(
            ask(r#"{"cas": [{"anchor": "test-ca", "mode": "pending"}]}"#, meter()).ends_with("hold meter-7")
        );
    }

    #[test]
    fn what_is_written_is_what_was_configured() {
        let config =
            r#"{"cas": [{"tenant": "acme", "tags": ["new"], "on-conflict": "replace-certificates"}]}"#;
        let config = Config::read(&testing::context(config)).ok().unwrap();
        let on = testing::connection(Some(meter()));
        let Ok(RegistrationDecision::Register(written)) = decide(&config, &on, None, &MemoryHost::default())
        else {
            panic!("not registered")
        };
        assert_eq!(written.identity.tenant.as_deref(), Some("acme"));
        assert_eq!(written.identity.tags, ["new".to_owned(), format!("ca:{}", "33".repeat(32))]);
        assert_eq!(written.on_conflict, ConflictPolicy::ReplaceCertificates);
    }

    #[test]
    fn only_a_verified_chain_of_a_known_authority() {
        let mut forged = meter();
        forged.chain = ChainStatus::Unverified("unknown issuer".into());
        assert_eq!(
            ask("{}", forged),
            "ConnackReason::NotAuthorized: no trust anchor vouches for the certificate"
        );
        assert_eq!(ask(r#"{"cas": [{"anchor": "other"}]}"#, meter()), "abstain");
        assert_eq!(ask(r#"{"cas": []}"#, meter()), "abstain");
        let config = Config::read(&testing::context("{}")).ok().unwrap();
        let nobody = decide(&config, &testing::connection(None), None, &MemoryHost::default());
        assert_eq!(nobody, Ok(RegistrationDecision::Abstain));
    }

    #[test]
    fn names_and_lifetimes_are_checked() {
        let only =
            |pattern: &str| format!(r#"{{"cas": [{{"match": {{"cn": {{"pattern": "{pattern}"}}}}}}]}}"#);
        assert_eq!(ask(&only("meter-[0-9]+"), meter()), "register meter-7");
        let refused = "ConnackReason::NotAuthorized: no entry of its authority takes the certificate";
        assert_eq!(ask(&only("pump-[0-9]+"), meter()), refused);

        let days = |days: u32| format!(r#"{{"cas": [{{"maximum-lifetime-days": {days}}}]}}"#);
        assert_eq!(ask(&days(30), meter()), "register meter-7");
        assert!(ask(&days(29), meter()).contains("lives for 30 days, more than 29"));
        let mut endless = meter();
        (endless.leaf.not_before, endless.leaf.not_after) = (i64::MIN, i64::MAX);
        assert!(ask(&days(29), endless).contains("more than 29"));
    }

    #[test]
    fn hostile_names_are_not_registered() {
        for hostile in ["#", "a/b", "+", "", "a\0", "$SYS"] {
            let answer = ask("{}", testing::certificate(&[("cn", hostile)]));
            assert!(answer.starts_with("ConnackReason::NotAuthorized"), "{hostile:?}: {answer}");
        }
        let two = testing::certificate(&[("cn", "a"), ("cn", "b")]);
        assert!(ask("{}", two).contains("2 values for cn"));
    }

    #[test]
    fn a_client_that_is_known_as_another_device_is_refused() {
        let host = MemoryHost::default();
        assert_eq!(ask_with("{}", meter(), Some("meter-7"), &host), "register meter-7");
        assert!(ask_with("{}", meter(), Some("meter-8"), &host).starts_with("ConnackReason::NotAuthorized"));
    }

    #[test]
    fn rate_and_quota_have_reasons_of_their_own() {
        let host = MemoryHost::default();
        let slow = r#"{"cas": [{"registrations-per-minute": 1, "burst": 2}]}"#;
        assert_eq!(ask_with(slow, meter(), None, &host), "register meter-7");
        assert_eq!(ask_with(slow, meter(), None, &host), "register meter-7");
        assert!(ask_with(slow, meter(), None, &host).starts_with("ConnackReason::ConnectionRateExceeded"));

        let none = r#"{"cas": [{"maximum-devices": 0}]}"#;
        assert!(ask(none, meter()).starts_with("ConnackReason::QuotaExceeded"));

        *host.unavailable.borrow_mut() = true;
        assert!(ask_with("{}", meter(), None, &host).starts_with("HookError::Transient"));
    }

    #[test]
    fn a_refused_certificate_costs_no_registration() {
        let host = MemoryHost::default();
        let config = r#"{"cas": [{"match": {"ou": "pumps"}, "burst": 1, "registrations-per-minute": 1}]}"#;
        for _ in 0..3 {
            assert!(ask_with(config, meter(), None, &host).starts_with("ConnackReason::NotAuthorized"));
        }
        assert!(host.entries.borrow().is_empty());
    }
}
