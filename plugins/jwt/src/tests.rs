//! What each token comes to, as the README has it. The golden cases (cases/) have more of them, signed elsewhere.

mod fixtures;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use mqgate_plugin_sdk::testing::{self, MemoryHost};
use mqgate_plugin_sdk::types::{ChainStatus, PluginContext};
use serde_json::{Value, json};

use super::*;
pub use fixtures::*;

const NOW: u64 = 1_767_312_000;
const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
/// Of `testing::certificate`.
const THUMBPRINT: &str = "ERERERERERERERERERERERERERERERERERERERERERE";

fn context(changes: Value) -> PluginContext {
    let mut config = json!({
        "keys": [
            {"algorithm": "ES256", "kid": "2026", "pem": P256},
            {"algorithm": "EdDSA", "pem": ED25519},
        ],
        "issuer": "https://id.example", "audience": "mqgate", "tenant": "${org}",
    });
    for (name, value) in changes.as_object().unwrap() {
        config[name] = value.clone();
    }
    let mut context = testing::context(&config.to_string());
    context.granted = vec!["credentials".into()];
    context
}

fn plugin(changes: Value) -> Jwt {
    Jwt::init(&context(changes), &MemoryHost::default()).unwrap()
}

fn sign(algorithm: &str, signed: &[u8]) -> Vec<u8> {
    use ed25519_dalek::Signer as _;
    match algorithm {
        "ES256" => {
            let key = p256::ecdsa::SigningKey::from_slice(&[7; 32]).unwrap();
            let signature: p256::ecdsa::Signature = p256::ecdsa::signature::Signer::sign(&key, signed);
            signature.to_bytes().to_vec()
        }
        "EdDSA" => ed25519_dalek::SigningKey::from_bytes(&[7; 32]).sign(signed).to_vec(),
        "HS256" => Hmac::<sha2::Sha256>::new_from_slice(SECRET)
            .unwrap()
            .chain_update(signed)
            .finalize()
            .into_bytes()
            .to_vec(),
        _ => Vec::new(),
    }
}

fn token_with(header: Value, changes: Value) -> String {
    let mut claims = json!({
        "iss": "https://id.example", "aud": "mqgate", "sub": "meter-7", "org": "acme",
        "iat": NOW, "exp": NOW + 3600, "cnf": {"x5t#S256": THUMBPRINT},
    });
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", encode(&header), encode(&claims));
    let signature = sign(header["alg"].as_str().unwrap(), signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn token(changes: Value) -> String {
    token_with(json!({"alg": "ES256"}), changes)
}

fn client(password: &str) -> Connection {
    let mut on = testing::connection(Some(testing::certificate(&[("cn", "meter-7")])));
    on.connect.password = Some(password.as_bytes().to_vec());
    on
}

fn authenticated(plugin: &Jwt, on: &Connection) -> String {
    match plugin.authenticate(on, &MemoryHost::default()).unwrap() {
        Authentication::Accept(accepted) => {
            assert_eq!(accepted.cache, None, "the password counts");
            let who = accepted.identity;
            format!("{} of {:?} {:?}", who.device_id, who.tenant, who.tags)
        }
        Authentication::Deny(denial) => format!("{:?}: {}", denial.reason, denial.audit_detail.unwrap()),
        Authentication::Abstain => "abstain".into(),
    }
}

fn says(config: Value, password: &str) -> String {
    authenticated(&plugin(config), &client(password))
}

fn granted(plugin: &Jwt, on: &Connection, who: &Identity) -> Result<(Vec<String>, Grant), String> {
    match plugin.authorize(on, who, &MemoryHost::default()).unwrap() {
        Authorization::Allow(grant) => {
            assert_eq!((grant.otherwise, &grant.cache), (Effect::Deny, &None));
            let Acl::Inline(lines) = &grant.acl else { panic!("a named list") };
            let show = |line: &AclRule| {
                let action = if line.actions == Actions::PUBLISH { "publish" } else { "subscribe" };
                format!("{:?} {action} {}", line.effect, line.filter).replace("Effect::", "")
            };
            Ok((lines.iter().map(show).collect(), grant))
        }
        Authorization::Deny(denial) => Err(denial.audit_detail.unwrap()),
        Authorization::Abstain => Err("abstain".into()),
    }
}

fn meter() -> Identity {
    Identity { tenant: Some("acme".into()), ..Identity::new("meter-7") }
}

const HELLO: &str = "meter-7 of Some(\"acme\") []";
const BAD: &str = "ConnackReason::BadUserNameOrPassword: ";
const NOT: &str = "ConnackReason::NotAuthorized: ";

#[test]
fn without_the_grant_it_is_of_no_use_and_says_so() {
    let mut context = context(json!({}));
    context.granted.clear();
    let Err(InitError::Failed(why)) = Jwt::init(&context, &MemoryHost::default()) else { panic!("taken") };
    assert!(why.contains("credentials"), "{why}");
}

#[test]
fn each_algorithm_is_verified_by_its_keys_alone() {
    assert_eq!(says(json!({}), &token(json!({}))), HELLO);
    assert_eq!(says(json!({}), &token_with(json!({"alg": "EdDSA"}), json!({}))), HELLO);
    let secret = json!({"keys": [{"algorithm": "HS256", "secret": STANDARD.encode(SECRET)}]});
    assert_eq!(says(secret.clone(), &token_with(json!({"alg": "HS256"}), json!({}))), HELLO);
    for (algorithm, good, other) in [("RS256", RS256_TOKEN, PS256_TOKEN), ("PS256", PS256_TOKEN, RS256_TOKEN)]
    {
        let config = json!({"keys": [{"algorithm": algorithm, "pem": RSA}], "binding": "none"});
        assert_eq!(says(config.clone(), good), HELLO);
        let refused = says(config.clone(), other);
        assert!(refused.starts_with(&format!("{BAD}there is no key for")), "{refused}");
        // The same signature under the other name.
        let (head, rest) =
            (URL_SAFE_NO_PAD.encode(json!({"alg": algorithm}).to_string()), other.split_once('.').unwrap().1);
        assert_eq!(
            says(config, &format!("{head}.{rest}")),
            format!("{BAD}its signature ({algorithm}) is not good")
        );
    }
    // A public key is no secret, and a secret is configured or not there.
    assert_eq!(
        says(json!({}), &token_with(json!({"alg": "HS256"}), json!({}))),
        format!("{BAD}there is no key for HS256 and no kid")
    );
    assert_eq!(says(secret, &token(json!({}))), format!("{BAD}there is no key for ES256 and no kid"));
    for none in ["none", "None", "", "es256", "ES384", "HS512"] {
        let refused = says(json!({}), &token_with(json!({"alg": none}), json!({})));
        assert_eq!(refused, format!("{BAD}its algorithm is {none:?}"));
    }
}

#[test]
fn a_signature_is_good_or_it_is_not() {
    let good = token(json!({}));
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let with = |bytes: &[u8]| says(json!({}), &format!("{signed}.{}", URL_SAFE_NO_PAD.encode(bytes)));
    assert_eq!(with(&bytes), HELLO);
    for at in [0, 31, 32, 63] {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        assert_eq!(with(&changed), format!("{BAD}its signature (ES256) is not good"));
    }
    // Zeros once passed for a good one elsewhere (CVE-2022-21449).
    for wrong in [&[][..], &[0; 64], &[0xff; 64], &bytes[..63], &[bytes.as_slice(), &[0]].concat()] {
        assert_eq!(with(wrong), format!("{BAD}its signature (ES256) is not good"));
    }
}

#[test]
fn the_header_says_which_key_and_nothing_else() {
    let header = |header: Value| says(json!({"type": "at+jwt"}), &token_with(header, json!({})));
    assert_eq!(header(json!({"alg": "ES256", "typ": "application/AT+JWT", "kid": "2026"})), HELLO);
    assert_eq!(
        header(json!({"alg": "ES256", "typ": "JWT"})),
        format!("{BAD}typ of its header is not \"at+jwt\"")
    );
    assert_eq!(header(json!({"alg": "ES256"})), format!("{BAD}typ of its header is not \"at+jwt\""));
    let kid = says(json!({}), &token_with(json!({"alg": "ES256", "kid": "2025"}), json!({})));
    assert_eq!(kid, format!("{BAD}there is no key for ES256 and kid \"2025\""));
    let crit =
        says(json!({}), &token_with(json!({"alg": "ES256", "crit": ["b64"], "b64": false}), json!({})));
    assert_eq!(crit, format!("{BAD}its header has crit, and no extension is understood"));
}

#[test]
fn what_is_no_token_is_left_to_others_unless_one_is_required() {
    let strict = || json!({"required": true});
    for password in ["", "secret", "a.b.c"] {
        assert_eq!(says(json!({}), password), "abstain");
        assert_eq!(says(strict(), password), format!("{BAD}the password is no token"));
    }
    let mut on = client("");
    on.connect.password = None;
    assert_eq!(authenticated(&plugin(json!({})), &on), "abstain");
    assert_eq!(granted(&plugin(json!({})), &on, &meter()).unwrap_err(), "abstain");
    assert_eq!(granted(&plugin(strict()), &on, &meter()).unwrap_err(), "the password is no token");
}

#[test]
fn a_token_holds_for_its_time_issuer_and_audience() {
    let with = |changes: Value| says(json!({}), &token(changes));
    assert_eq!(with(json!({"exp": NOW - 61})), format!("{BAD}it expired 61 s ago"));
    assert_eq!(with(json!({"nbf": NOW + 61})), format!("{BAD}it does not hold yet (nbf)"));
    assert_eq!(with(json!({"exp": null})), format!("{BAD}there is no exp"));
    assert_eq!(with(json!({"iss": "x"})), format!("{BAD}iss is \"x\""));
    assert_eq!(with(json!({"aud": "x"})), format!("{BAD}aud is \"x\""));
    let short = json!({"maximum-lifetime": 60, "leeway": 0});
    assert_eq!(says(short, &token(json!({}))), format!("{BAD}it lives for 3600 s, more than 60"));
}

#[test]
fn a_token_is_bound_to_the_certificate() {
    let with = |binding: Value, changes: Value, change: fn(&mut Connection)| {
        let mut on = client(&token(changes));
        change(&mut on);
        authenticated(&plugin(json!({"binding": binding})), &on)
    };
    let other: fn(&mut Connection) = |on| on.certificate.as_mut().unwrap().leaf.fingerprint_sha256[0] = 0;
    let none: fn(&mut Connection) = |on| on.certificate = None;
    let same: fn(&mut Connection) = |_| {};
    let another = format!("{NOT}it was issued for another certificate (cnf)");
    assert_eq!(with(json!("thumbprint"), json!({}), other), another);
    assert_eq!(
        with(json!("thumbprint"), json!({"cnf": null}), same),
        format!("{NOT}it names no certificate (cnf)")
    );
    // What the issuer asked for holds, whatever is configured.
    assert_eq!(with(json!("none"), json!({}), other), another);
    assert_eq!(with(json!("none"), json!({"cnf": null}), none), HELLO);
    let by_name = || json!({"claim": "sub", "field": "cn"});
    assert_eq!(with(by_name(), json!({"cnf": null}), same), HELLO);
    assert_eq!(with(by_name(), json!({}), other), another);
    assert_eq!(
        with(by_name(), json!({"cnf": null, "sub": "x"}), same),
        format!("{NOT}the claim \"sub\" is not cn of the certificate")
    );
    assert_eq!(
        with(by_name(), json!({"cnf": null, "sub": null}), same),
        format!("{NOT}there is no claim \"sub\" to compare with the certificate")
    );
    let missing = format!("{NOT}there is no certificate to compare it with");
    assert_eq!(with(by_name(), json!({"cnf": null}), none), missing);
    let forged: fn(&mut Connection) =
        |on| on.certificate.as_mut().unwrap().chain = ChainStatus::Unverified("unknown issuer".into());
    assert_eq!(with(by_name(), json!({"cnf": null}), forged), missing);
    let nameless: fn(&mut Connection) = |on| on.certificate = Some(testing::certificate(&[("o", "x")]));
    assert_eq!(with(by_name(), json!({"cnf": null}), nameless), format!("{NOT}the certificate has no cn"));
}

#[test]
fn claims_name_device_tenant_and_tags() {
    let config = || json!({"device-id": "${/device/id}:${n}", "tags-claim": "roles"});
    let claims = json!({"device": {"id": "m"}, "n": 7, "roles": ["a", "b"]});
    assert_eq!(says(config(), &token(claims)), "m:7 of Some(\"acme\") [\"a\", \"b\"]");
    assert_eq!(says(config(), &token(json!({"n": 7}))), format!("{NOT}claims: there is no /device/id"));
    for hostile in ["a/#", "+", "", "$SYS", "a\0"] {
        let refused = says(json!({}), &token(json!({"sub": hostile})));
        assert!(refused.starts_with(&format!("{NOT}claims: sub ")), "{hostile:?}: {refused}");
    }
    assert!(says(json!({}), &token(json!({"sub": ["meter-7"]}))).ends_with("there is no sub"));
    assert!(says(json!({}), &token(json!({"org": null}))).ends_with("there is no org"));
    let tags = |roles: Value| says(json!({"tags-claim": "roles"}), &token(json!({"roles": roles})));
    assert_eq!(tags(json!(null)), HELLO);
    for wrong in [
        json!([3]),
        json!({"a": 1}),
        json!([""]),
        json!(["a\n"]),
        json!(vec!["t"; 65]),
        json!(["x".repeat(129)]),
    ] {
        assert!(tags(wrong.clone()).starts_with(NOT), "{wrong}");
    }
    let long = says(json!({"device-id": "${sub}${sub}"}), &token(json!({"sub": "x".repeat(129)})));
    assert_eq!(long, format!("{NOT}the device id is longer than 256 bytes"));
}

#[test]
fn a_user_name_can_be_tied_to_the_token() {
    let plugin = plugin(json!({"require-username-matches": "${org}/x".replace('/', "-")}));
    let mut on = client(&token(json!({})));
    assert_eq!(authenticated(&plugin, &on), format!("{BAD}the user name is not \"acme-x\""));
    on.connect.user_name = Some("acme-x".into());
    assert_eq!(authenticated(&plugin, &on), HELLO);
}

fn topics() -> Value {
    json!({"topics": {
        "allow-publish": ["m/${sub}/${/device/kind}/#"], "deny-publish": ["m/${sub}/x"],
        "allow-subscribe": ["c/${device-id}/${tenant}"],
        "publish-claim": "pub", "publish-within": ["own/${device-id}/#", "org/${org}/+"],
        "subscribe-claim": "/acl/sub", "subscribe-within": ["news/#"],
    }})
}

#[test]
fn topics_come_from_configuration_and_token() {
    let claims =
        |publish: Value| token(json!({"device": {"kind": "k"}, "pub": publish, "acl": {"sub": "news/+"}}));
    let plugin = plugin(topics());
    let (lines, grant) =
        granted(&plugin, &client(&claims(json!(["own/meter-7/a/#", "org/acme/+"]))), &meter()).unwrap();
    assert_eq!(
        lines,
        [
            "Deny publish m/meter-7/x",
            "Allow publish m/meter-7/k/#",
            "Allow subscribe c/${device-id}/${tenant}",
            "Allow publish own/meter-7/a/#",
            "Allow publish org/acme/+",
            "Allow subscribe news/+",
        ]
    );
    assert_eq!(grant.valid_for, Some(3660));
    for outside in [
        "#",
        "own/#",
        "own/meter-8/a",
        "org/acme/a/b",
        "news/a",
        "own/meter-7/${tenant}",
        "own/meter-7/a#",
        "",
        "$share/g/own/meter-7/a",
    ] {
        let refused =
            granted(&plugin, &client(&claims(json!(["org/acme/a", outside]))), &meter()).unwrap_err();
        assert_eq!(refused, format!("{outside:?} in the claim \"pub\" is more than a token may grant"));
    }
    assert!(granted(&plugin, &client(&claims(json!(3))), &meter()).unwrap_err().contains("no list of texts"));
    let many = token(json!({"device": {"kind": "k"}, "acl": {"sub": vec!["news"; 1000]}}));
    let many = granted(&plugin, &client(&many), &meter()).unwrap_err();
    assert_eq!(many, "the token grants more than 1000 topics");
    let missing = granted(&plugin, &client(&token(json!({}))), &meter()).unwrap_err();
    assert_eq!(missing, "claims: there is no /device/kind");
}

#[test]
fn what_is_out_of_bounds_can_be_left_out() {
    let mut config = topics();
    config["topics"]["outside"] = json!("leave-out");
    let claims = json!({"device": {"kind": "k"}, "pub": ["#", "org/acme/a", "other/system"]});
    let (lines, _) = granted(&plugin(config), &client(&token(claims)), &meter()).unwrap();
    assert_eq!(lines[3..], ["Allow publish org/acme/a"]);
}

#[test]
fn a_token_is_no_word_about_another_device() {
    let plugin = plugin(json!({}));
    let on = client(&token(json!({})));
    let who = |who: Identity| granted(&plugin, &on, &who).map(|_| ()).unwrap_err();
    assert_eq!(
        who(Identity::new("meter-8")),
        "the token is that of \"meter-7\", the client that of \"meter-8\""
    );
    assert_eq!(who(Identity::new("meter-7")), "the token is that of another tenant");
}

#[test]
fn a_live_session_ends_with_its_token() {
    let plugin = plugin(json!({}));
    let at = |seconds: u64| {
        let on = testing::reauthorized(client(&token(json!({}))), (NOW + seconds) * 1000);
        granted(&plugin, &on, &meter()).map(|(_, grant)| grant.valid_for)
    };
    assert_eq!(at(3000), Ok(Some(660)));
    assert_eq!(at(3659), Ok(Some(1)));
    assert_eq!(at(3660), Err("it expired 60 s ago".into()));
}
