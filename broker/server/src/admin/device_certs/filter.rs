//! Filters of device certificates as requests say them, and the query that they make.

use std::time::Duration;

use mqgate_identity::certificate::CertificateFingerprint;
use mqgate_identity::registry::{Condition, DeviceQuery, DeviceState, Effective, RegistrationSource, Span};
use mqgate_identity::time::{UnixMillis, UnixSeconds};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::problem::{Code, Problem};
use super::super::{AdminParts, cas};
use crate::clock;
use crate::units::duration;

/// Which certificates; all that is given must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::admin) struct Filter {
    /// States, separated by commas: `PENDING_ACTIVATION`, `ACTIVE`, `INACTIVE`, `REVOKED`, `TOMBSTONE`; without one, all
    /// but tombstones.
    pub state: Option<String>,
    /// What it comes to now: `ok`, `barred`, or a condition such as `expired`.
    pub effective: Option<String>,
    /// Name or SHA-256 of the CA.
    pub ca: Option<String>,
    /// Common name.
    pub cn: Option<String>,
    /// Organizational unit.
    pub ou: Option<String>,
    /// Alternative name: `dns:meter-7.example`, or without the type.
    pub san: Option<String>,
    pub device_id: Option<String>,
    /// Bound to this client id.
    pub client_id: Option<String>,
    pub tenant: Option<String>,
    /// Serial number, hex.
    pub serial: Option<String>,
    /// SHA-256 of the SubjectPublicKeyInfo, hex.
    pub spki: Option<String>,
    /// Valid now, and not any more after this time: `30d`.
    pub expires_within: Option<String>,
    /// Its validity ends at this moment or later: `2027-01-31`, `2027-01-31T12:00:00Z`, or seconds since 1970.
    pub expires_from: Option<String>,
    /// Its validity ends before this moment.
    pub expires_until: Option<String>,
    /// Used within this time: `24h`.
    pub seen_within: Option<String>,
    /// Used once, and not within this time: `90d`.
    pub not_seen_for: Option<String>,
    /// `api`, `jit` or `import`.
    pub source: Option<String>,
    pub tag: Option<String>,
}

impl Filter {
    pub(in crate::admin) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The query, for one page after another.
    pub(in crate::admin) fn query(&self, parts: &AdminParts, limit: usize) -> Result<DeviceQuery, Problem> {
        let now = clock::now();
        let mut not_after = Span {
            from: self.expires_from.as_deref().map(|text| moment("expires_from", text)).transpose()?,
            until: self.expires_until.as_deref().map(|text| moment("expires_until", text)).transpose()?,
        };
        if let Some(within) = &self.expires_within {
            if !not_after.is_open() {
                let detail = "`expires_within` does not go together with `expires_from` or `expires_until`";
                return Err(Problem::new(Code::BadQuery, detail));
            }
            let within = i64::try_from(time("expires_within", within)?.as_secs()).unwrap_or(i64::MAX);
            let until = UnixSeconds(now.seconds().0.saturating_add(within));
            not_after = Span { from: Some(now.seconds()), until: Some(until) };
        }
        let before = |time: Duration| {
            UnixMillis(now.0.saturating_sub(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)))
        };
        let last_seen = Span {
            from: self.seen_within.as_deref().map(|text| time("seen_within", text)).transpose()?.map(before),
            until: self
                .not_seen_for
                .as_deref()
                .map(|text| time("not_seen_for", text))
                .transpose()?
                .map(before),
        };
        Ok(DeviceQuery {
            states: self.state.as_deref().map(states).transpose()?.unwrap_or_default(),
            ca: self.ca.as_deref().map(|ca| cas::id_of(parts, ca)).transpose()?,
            common_name: self.cn.clone(),
            san: self.san.clone(),
            organizational_unit: self.ou.clone(),
            device_id: self.device_id.clone(),
            client_id: self.client_id.clone(),
            tenant: self.tenant.clone(),
            serial: self.serial.as_deref().map(|text| hex("serial", text)).transpose()?,
            spki_sha256: self.spki.as_deref().map(spki).transpose()?,
            not_after,
            last_seen,
            source: self.source.as_deref().map(source).transpose()?,
            tag: self.tag.clone(),
            effective: self
                .effective
                .as_deref()
                .map(effective)
                .transpose()?
                .map(|wanted| parts.registry.effective_filter(wanted)),
            cursor: None,
            limit,
        })
    }
}

fn states(text: &str) -> Result<Vec<DeviceState>, Problem> {
    let one = |word: &str| {
        let known = DeviceState::ALL.into_iter().find(|state| state.as_str().eq_ignore_ascii_case(word));
        known.ok_or_else(|| {
            let known = DeviceState::ALL.map(|state| state.as_str().to_uppercase()).join(", ");
            bad("state", word, &format!("the states are {known}"))
        })
    };
    text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(one).collect()
}

fn effective(word: &str) -> Result<Effective, Problem> {
    match word {
        "ok" => Ok(Effective::Ok),
        "barred" => Ok(Effective::Barred),
        word => {
            let known = Condition::ALL.into_iter().find(|condition| condition.as_str() == word);
            known.map(Effective::Condition).ok_or_else(|| {
                let known = Condition::ALL.map(Condition::as_str).join(", ");
                bad("effective", word, &format!("it is ok, barred, or one of {known}"))
            })
        }
    }
}

fn source(word: &str) -> Result<RegistrationSource, Problem> {
    let known = RegistrationSource::ALL.into_iter().find(|source| source.as_str() == word);
    known.ok_or_else(|| bad("source", word, "it is api, jit or import"))
}

/// Hex digits without separators, in lower case and without leading zeros, as records have them.
fn hex(name: &'static str, text: &str) -> Result<String, Problem> {
    let digits = text.replace(':', "").to_ascii_lowercase();
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(bad(name, text, "hex digits are needed"));
    }
    let digits = if digits.len() % 2 == 1 { format!("0{digits}") } else { digits };
    let bytes = ::hex::decode(&digits).unwrap_or_default();
    let start = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
    Ok(::hex::encode(&bytes[start..]))
}

fn spki(text: &str) -> Result<String, Problem> {
    let parsed = CertificateFingerprint::from_hex(text);
    let parsed = parsed.ok_or_else(|| bad("spki", text, "a SHA-256 has 64 hex digits"))?;
    Ok(parsed.to_hex())
}

fn time(name: &'static str, text: &str) -> Result<Duration, Problem> {
    duration(text).ok_or_else(|| bad(name, text, "write a number and a unit, for example 30d"))
}

/// A date, a moment, or seconds since 1970.
fn moment(name: &'static str, text: &str) -> Result<UnixSeconds, Problem> {
    if let Ok(seconds) = text.parse() {
        return Ok(UnixSeconds(seconds));
    }
    if let Ok(moment) = text.parse::<jiff::Timestamp>() {
        return Ok(UnixSeconds(moment.as_second()));
    }
    let day = text.parse::<jiff::civil::Date>().ok();
    let midnight = day.and_then(|day| day.to_zoned(jiff::tz::TimeZone::UTC).ok());
    midnight
        .map(|midnight| UnixSeconds(midnight.timestamp().as_second()))
        .ok_or_else(|| bad(name, text, "write 2027-01-31, 2027-01-31T12:00:00Z, or seconds since 1970"))
}

fn bad(name: &'static str, value: &str, what: &str) -> Problem {
    let value: String = value.chars().take(64).collect();
    Problem::new(Code::BadParameter, format!("`{name}`: `{value}`: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_times() {
        assert_eq!(states("active, REVOKED,").unwrap(), [DeviceState::Active, DeviceState::Revoked]);
        assert_eq!(effective("expired").unwrap(), Effective::Condition(Condition::Expired));
        assert_eq!(effective("barred").unwrap(), Effective::Barred);
        assert_eq!(hex("serial", "00:0A:ff").unwrap(), "0aff");
        assert_eq!(hex("serial", "abc").unwrap(), "0abc");
        for (text, seconds) in [
            ("0", 0),
            ("-5", -5),
            ("1970-01-02", 86_400),
            ("1970-01-02T00:00:01Z", 86_401),
            ("1970-01-02T01:00:00+01:00", 86_400),
        ] {
            assert_eq!(moment("expires_from", text).unwrap(), UnixSeconds(seconds), "{text}");
        }
        for refused in [
            states("sleeping").map(drop),
            effective("fine").map(drop),
            source("mail").map(drop),
            hex("serial", "xyz").map(drop),
            hex("serial", "").map(drop),
            spki("ab").map(drop),
            time("seen_within", "soon").map(drop),
            moment("expires_until", "2027-13-01").map(drop),
        ] {
            assert_eq!(refused.unwrap_err().code, Code::BadParameter);
        }
    }
}
