//! `[policy.chain]`, and what a listener has of its own.

use mqgate_server::gate::{ChainMode, ChainModes};

use super::*;

#[test]
fn how_a_chain_decides_is_of_all_listeners_or_of_one() {
    let text = r#"
[policy.chain]
authorizer = "all"
enhanced_authenticator = "first"
[listeners.main]
[listeners.other]
bind = "127.0.0.1:8884"
chain = { authorizer = "first", registrar = "all", without = ["one"] }
[[plugins]]
name = "one"
source = "bundled:cert-acl"
"#;
    let config = inputs(text, &[]).load().expect("it is right").config;
    let gate = crate::run::build::gate_settings(&config);
    let modes = |name: &str| gate.chains[name].modes;
    let (first, all) = (ChainMode::First, ChainMode::All);
    assert_eq!(modes("main"), ChainModes { authenticator: first, registrar: first, authorizer: all });
    assert_eq!(modes("other"), ChainModes { authenticator: first, registrar: all, authorizer: first });
    let without = |name: &str| gate.chains[name].without.as_ref().map(|names| names.contains("one"));
    assert_eq!((without("main"), without("other")), (None, Some(true)));
    let typo = inputs(&text.replace("[\"one\"]", "[\"on\"]"), &[]).load().expect("it may be loaded later");
    assert!(typo.warnings.to_string().contains("listeners.other.chain.without"), "{}", typo.warnings);
    for (text, key) in [
        ("[listeners.main]\n[policy.chain]\nenhanced_authenticator = \"all\"", "policy.chain."),
        ("[listeners.main]\nchain = { enhanced_authenticator = \"all\" }", "listeners.main.chain."),
        ("[listeners.main]\nchain = { authorizer = \"any\" }", "any"),
    ] {
        let said = problems(text, &[]);
        assert!(said.contains(key) && said.contains("first"), "{text}: {said}");
    }
}
