//! What a token says, once its signature is known to be good: when and for whom it holds, and the values in it.

use std::borrow::Cow;

use mqgate_plugin_sdk::types::{ClientCertificate, UnixMillis};
use serde_json::{Map, Value};

use crate::token::decode;

pub struct Claims(Map<String, Value>);

/// What a token must say of itself (RFC 7519, 4.1).
pub struct Required {
    pub issuer: String,
    pub audience: Vec<String>,
    /// Seconds by which clocks may differ.
    pub leeway: u32,
    /// Longest time between `iat` and `exp`, in seconds.
    pub longest_life: Option<u32>,
}

impl Claims {
    pub fn parse(payload: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(payload).map(Self).map_err(|_| "the claims are no JSON object".into())
    }

    /// The seconds for which it holds from now on, at least one.
    pub fn check(&self, required: &Required, now: UnixMillis) -> Result<u32, String> {
        if self.0.get("iss").and_then(Value::as_str) != Some(&required.issuer) {
            return Err(format!("iss is {}", self.shown("iss")));
        }
        let is_for_us =
            |audience: &Value| audience.as_str().is_some_and(|a| required.audience.iter().any(|b| a == b));
        let for_us = match self.0.get("aud") {
            Some(Value::Array(audience)) => audience.iter().any(is_for_us),
            Some(audience) => is_for_us(audience),
            None => false,
        };
        if !for_us {
            return Err(format!("aud is {}", self.shown("aud")));
        }
        let (now, leeway) = (now as f64 / 1000.0, f64::from(required.leeway));
        let expires = self.date("exp")?.ok_or("there is no exp")?;
        if expires + leeway <= now {
            return Err(format!("it expired {} s ago", (now - expires) as u64));
        }
        if self.date("nbf")?.is_some_and(|from| from - leeway > now) {
            return Err("it does not hold yet (nbf)".into());
        }
        let issued = self.date("iat")?;
        if issued.is_some_and(|at| at - leeway > now) {
            return Err("it was issued in the future (iat)".into());
        }
        if let Some(longest) = required.longest_life {
            let issued = issued.ok_or("there is no iat to tell how long it lives")?;
            if expires - issued > f64::from(longest) {
                return Err(format!("it lives for {} s, more than {longest}", (expires - issued) as u64));
            }
        }
        // Casts of floats end at the bounds.
        Ok(((expires + leeway - now).ceil() as u32).max(1))
    }

    /// RFC 8705, 3.1: a token that names a certificate is good with that one alone. Other ways of confirmation (RFC 7800)
    /// would have to be checked as well, and cannot.
    pub fn confirmed(&self, certificate: Option<&ClientCertificate>) -> Result<bool, String> {
        let Some(cnf) = self.0.get("cnf") else { return Ok(false) };
        let members = cnf.as_object().filter(|members| members.len() == 1);
        let thumbprint = members.and_then(|members| members.get("x5t#S256")).and_then(Value::as_str);
        let Some(thumbprint) = thumbprint.and_then(decode) else {
            return Err("cnf holds something else than one x5t#S256".into());
        };
        match certificate {
            Some(certificate) if certificate.leaf.fingerprint_sha256 == thumbprint => Ok(true),
            Some(_) => Err("it was issued for another certificate (cnf)".into()),
            None => Err("it was issued for a certificate (cnf), and the client has none".into()),
        }
    }

    /// A claim by its name, or by a JSON pointer where it begins with `/`.
    pub fn claim(&self, name: &str) -> Option<&Value> {
        match name.strip_prefix('/') {
            None => self.0.get(name),
            Some(rest) => {
                let unescaped = |part: &str| part.replace("~1", "/").replace("~0", "~");
                let mut parts = rest.split('/').map(unescaped);
                let first = self.0.get(&parts.next()?)?;
                parts.try_fold(first, |value, part| value.as_object()?.get(&part))
            }
        }
    }

    /// The claim as text, where it is text or a whole number.
    pub fn text(&self, name: &str) -> Option<Cow<'_, str>> {
        match self.claim(name)? {
            Value::String(text) => Some(Cow::Borrowed(text)),
            Value::Number(number) if number.is_u64() || number.is_i64() => Some(number.to_string().into()),
            _ => None,
        }
    }

    /// A list of texts; one text is a list of one. No claim is no error, one that is something else is.
    pub fn texts(&self, name: &str) -> Result<Vec<&str>, String> {
        let wrong = || format!("the claim {name:?} is no list of texts");
        match self.claim(name) {
            None => Ok(Vec::new()),
            Some(Value::String(text)) => Ok(vec![text]),
            Some(Value::Array(values)) => {
                values.iter().map(|value| value.as_str().ok_or_else(wrong)).collect()
            }
            Some(_) => Err(wrong()),
        }
    }

    /// NumericDate: seconds, perhaps with a fraction.
    fn date(&self, name: &str) -> Result<Option<f64>, String> {
        match self.0.get(name) {
            None => Ok(None),
            Some(value) => match value.as_f64() {
                Some(seconds) if (0.0..=1e15).contains(&seconds) => Ok(Some(seconds)),
                _ => Err(format!("{name} is no time")),
            },
        }
    }

    /// For the audit record: short, and escaped as JSON is.
    fn shown(&self, name: &str) -> String {
        match self.0.get(name) {
            None => "not there".into(),
            Some(value) => value.to_string().chars().take(128).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use mqgate_plugin_sdk::testing;
    use serde_json::json;

    use super::*;

    const NOW: UnixMillis = 1_767_312_000_500;
    const S: u64 = 1_767_312_000;

    fn check(claims: Value) -> Result<u32, String> {
        let required = Required {
            issuer: "https://id.example".into(),
            audience: vec!["mqgate".into(), "mqtt".into()],
            leeway: 60,
            longest_life: Some(7200),
        };
        let mut all = json!({"iss": "https://id.example", "aud": "mqtt", "exp": S + 3600, "iat": S});
        for (name, value) in claims.as_object().unwrap() {
            all[name] = value.clone();
        }
        all.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        Claims::parse(all.to_string().as_bytes()).unwrap().check(&required, NOW)
    }

    #[test]
    fn times_are_bounds_with_leeway() {
        assert_eq!(check(json!({})), Ok(3660));
        assert_eq!(check(json!({"exp": S + 3600, "nbf": S + 60})), Ok(3660));
        assert_eq!(check(json!({"nbf": S + 61})), Err("it does not hold yet (nbf)".into()));
        assert_eq!(check(json!({"exp": S - 59})), Ok(1));
        assert_eq!(check(json!({"exp": S - 60})), Err("it expired 60 s ago".into()));
        assert_eq!(check(json!({"exp": S as f64 - 59.25})), Ok(1));
        assert_eq!(
            check(json!({"iat": S + 61, "exp": S + 100})),
            Err("it was issued in the future (iat)".into())
        );
        assert_eq!(check(json!({"iat": S - 3601})), Err("it lives for 7201 s, more than 7200".into()));
        assert_eq!(check(json!({"iat": null})), Err("there is no iat to tell how long it lives".into()));
        assert_eq!(check(json!({"exp": null})), Err("there is no exp".into()));
        for wrong in [json!("1767312000"), json!(-1), json!(1e300), json!(true), json!([S])] {
            assert_eq!(check(json!({"exp": wrong})), Err("exp is no time".into()), "{wrong}");
            assert_eq!(check(json!({"nbf": wrong})), Err("nbf is no time".into()), "{wrong}");
        }
    }

    #[test]
    fn issuer_and_audience_are_ours() {
        assert!(check(json!({"aud": ["x", "mqgate"]})).is_ok());
        for wrong in [json!(null), json!("mqtt2"), json!([]), json!(["x", 3]), json!({"mqtt": 1})] {
            assert!(check(json!({"aud": wrong})).unwrap_err().starts_with("aud is "), "{wrong}");
        }
        for wrong in [json!(null), json!("https://id.example/"), json!(["https://id.example"])] {
            assert!(check(json!({"iss": wrong})).unwrap_err().starts_with("iss is "), "{wrong}");
        }
        let long = check(json!({"iss": "\n".repeat(5000)})).unwrap_err();
        assert!(long.len() < 150 && !long.contains('\n'), "{long}");
    }

    #[test]
    fn a_named_certificate_is_the_only_one() {
        let confirmed = |cnf: Value, certificate: Option<&ClientCertificate>| {
            Claims::parse(json!({"cnf": cnf}).to_string().as_bytes()).unwrap().confirmed(certificate)
        };
        let certificate = testing::certificate(&[]);
        // 32 times 0x11.
        let thumbprint = "ERERERERERERERERERERERERERERERERERERERERERE";
        assert_eq!(confirmed(json!({"x5t#S256": thumbprint}), Some(&certificate)), Ok(true));
        let mut other = certificate.clone();
        other.leaf.fingerprint_sha256 = vec![0x12; 32];
        assert!(confirmed(json!({"x5t#S256": thumbprint}), Some(&other)).unwrap_err().contains("another"));
        assert!(confirmed(json!({"x5t#S256": thumbprint}), None).unwrap_err().contains("has none"));
        for wrong in [
            json!({}),
            json!(3),
            json!({"jkt": "x"}),
            json!({"x5t#S256": thumbprint, "jkt": "x"}),
            json!({"x5t#S256": "+"}),
        ] {
            assert!(
                confirmed(wrong.clone(), Some(&certificate)).unwrap_err().contains("something else"),
                "{wrong}"
            );
        }
        let none = Claims::parse(b"{}").unwrap();
        assert_eq!(none.confirmed(Some(&certificate)), Ok(false));
    }

    #[test]
    fn values_are_found_by_name_and_by_pointer() {
        let claims = json!({"sub": "a", "n": 7, "f": 1.5, "r": {"a/b": {"c": "deep"}}, "l": ["x", "y"], "m": ["x", 1]});
        let claims = Claims::parse(claims.to_string().as_bytes()).unwrap();
        let text = |name: &str| claims.text(name).map(Cow::into_owned);
        assert_eq!(text("sub").as_deref(), Some("a"));
        assert_eq!(text("n").as_deref(), Some("7"));
        assert_eq!(text("/r/a~1b/c").as_deref(), Some("deep"));
        for absent in ["f", "l", "r", "/r/a/b", "/x", "/", ""] {
            assert_eq!(text(absent), None, "{absent}");
        }
        assert_eq!(claims.texts("l"), Ok(vec!["x", "y"]));
        assert_eq!(claims.texts("sub"), Ok(vec!["a"]));
        assert_eq!(claims.texts("x"), Ok(vec![]));
        assert!(claims.texts("m").is_err() && claims.texts("n").is_err());
        assert!(Claims::parse(b"[]").is_err());
    }
}
