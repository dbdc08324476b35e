use mqgate_identity::hooks::RetainMatch;
use proptest::prelude::*;

use super::*;

fn rule(text: &str) -> AclRule {
    let mut words = text.split(' ');
    let effect = match words.next() {
        Some("allow") => Effect::Allow,
        _ => Effect::Deny,
    };
    let (publish, subscribe) = match words.next() {
        Some("pub") => (true, false),
        Some("sub") => (false, true),
        _ => (true, true),
    };
    let filter = words.next().unwrap().to_owned();
    let mut rule = AclRule { effect, publish, subscribe, filter, qos: 0b111, retain: RetainMatch::Any };
    for word in words {
        match word {
            "live" => rule.retain = RetainMatch::OnlyLive,
            "retained" => rule.retain = RetainMatch::OnlyRetained,
            bits => rule.qos = u8::from_str_radix(bits, 2).unwrap(),
        }
    }
    rule
}

fn granted<'a>(client_id: &'static str, rules: &'a [AclRule], otherwise: Effect) -> Granted<'a> {
    Granted {
        client_id: ByteString::from_static(client_id),
        assigned: false,
        device_id: "device-7",
        tenant: None,
        certificate_fingerprint: None,
        rules,
        otherwise,
        limits: GrantLimits::default(),
        valid_for: None,
        generation: 1,
    }
}

fn permit(client_id: &'static str, rules: &[&str], otherwise: Effect) -> Permit {
    let rules: Vec<_> = rules.iter().map(|text| rule(text)).collect();
    Permit::granted_by(&granted(client_id, &rules, otherwise)).unwrap()
}

fn publishes(permit: &Permit, topic: &str) -> bool {
    permit.may_publish(&TopicName::parse(topic.into()).unwrap(), QoS::AtMostOnce, false)
}

fn subscribes(permit: &Permit, filter: &str) -> bool {
    permit.may_subscribe(&TopicFilter::parse(filter.into()).unwrap(), QoS::AtMostOnce)
}

#[test]
fn a_device_publishes_below_its_own_name_only() {
    let permit = permit("meter-7", &["allow both devices/${device-id}/#"], Effect::Deny);
    for (topic, expected) in [
        ("devices/device-7/up", true),
        ("devices/device-7", true),
        ("devices/device-8/up", false),
        ("devices/device-70/up", false),
        ("other", false),
    ] {
        assert_eq!(publishes(&permit, topic), expected, "{topic}");
    }
    for (filter, expected) in [
        ("devices/device-7/#", true),
        ("devices/device-7/+/x", true),
        ("$share/group/devices/device-7/+", true),
        ("$share/group/devices/+/a", false),
        ("devices/#", false),
        ("devices/+/up", false),
        ("#", false),
    ] {
        assert_eq!(subscribes(&permit, filter), expected, "{filter}");
    }
}

#[test]
fn the_first_rule_that_matches_decides() {
    let permit = permit("c", &["deny pub a/secret", "allow both a/#", "deny both a/late"], Effect::Deny);
    assert!(!publishes(&permit, "a/secret"));
    assert!(publishes(&permit, "a/late"));
    assert!(subscribes(&permit, "a/secret"), "the rule is about publishing");
}

#[test]
fn a_filter_that_could_see_something_denied_is_refused() {
    let permit = permit("c", &["deny sub a/secret/+", "allow both a/#"], Effect::Deny);
    for (filter, expected) in [
        ("a/b", true),
        ("a/secret", true),
        ("a/secret/x/y", true),
        ("a/secret/x", false),
        ("a/+/x", false),
        ("a/+/+", false),
        ("a/#", false),
        ("+/secret/x", false),
    ] {
        assert_eq!(subscribes(&permit, filter), expected, "{filter}");
    }
}

#[test]
fn a_value_cannot_smuggle_levels_or_wildcards() {
    for client_id in ["a/b", "+", "#", "$SYS", "", "a\u{1}", "x/#"] {
        let allowed = permit(client_id, &["allow both ${client-id}/up"], Effect::Deny);
        for topic in ["a/b/up", "x/up", "$SYS/up", "/up", "x/y"] {
            assert!(!publishes(&allowed, topic), "{client_id:?} {topic}");
            assert!(!subscribes(&allowed, topic), "{client_id:?} {topic}");
        }
        assert!(!subscribes(&allowed, "+/up") && !subscribes(&allowed, "#"));
        let denied = permit(client_id, &["deny both no/${client-id}", "allow both #"], Effect::Allow);
        assert!(!publishes(&denied, "anything"), "a denial that cannot be compiled closes: {client_id:?}");
        assert!(!subscribes(&denied, "anything"));
    }
    assert!(!publishes(&permit("c", &["allow both t/${tenant}/a"], Effect::Deny), "t//a"), "absent");
}

#[test]
fn a_dollar_inside_a_level_is_an_ordinary_letter() {
    let permit = permit("$7", &["allow both n-${client-id}/up"], Effect::Deny);
    assert!(publishes(&permit, "n-$7/up"));
}

#[test]
fn special_topics_need_a_rule_of_their_own() {
    let open = permit("c", &["allow both #"], Effect::Allow);
    assert!(publishes(&open, "a") && !publishes(&open, "$SYS/a"));
    assert!(subscribes(&open, "#") && !subscribes(&open, "$SYS/#"));
    let named = permit("c", &["allow sub $SYS/#"], Effect::Deny);
    assert!(subscribes(&named, "$SYS/a/+") && !publishes(&named, "$SYS/a"));
    // Nor events, which only who was given them by name reads.
    assert!(!subscribes(&open, "$events/#") && !publishes(&open, "$events/certs/revoked/ab"));
    let named = permit("c", &["allow sub $events/certs/#", "allow pub $events/#"], Effect::Allow);
    assert!(subscribes(&named, "$events/certs/revoked/+") && !subscribes(&named, "$events/clients/#"));
    assert!(!publishes(&named, "$events/certs/revoked/ab"));
}

#[test]
fn quality_and_retain_are_part_of_a_rule() {
    let permit = permit("c", &["allow pub a 011 live", "allow sub b 001"], Effect::Deny);
    let a = TopicName::parse("a".into()).unwrap();
    assert!(permit.may_publish(&a, QoS::AtLeastOnce, false));
    assert!(!permit.may_publish(&a, QoS::AtLeastOnce, true));
    assert!(!permit.may_publish(&a, QoS::ExactlyOnce, false));
    let b = TopicFilter::parse("b".into()).unwrap();
    assert_eq!(permit.granted_qos(&b, QoS::ExactlyOnce), Some(QoS::AtMostOnce));
}

#[test]
fn a_wrong_rule_is_named() {
    for (filter, expected) in [
        ("a/#/b", "rule 1: filter \"a/#/b\" holds a wildcard where none may stand"),
        ("${nobody}/a", "rule 1: filter \"${nobody}/a\" names the unknown variable \"nobody\""),
        ("${client-id", "rule 1: filter \"${client-id\" has a variable without its closing brace"),
        ("a${client-id}+", "rule 1: filter \"a${client-id}+\" holds a wildcard where none may stand"),
        (
            "$share/g/a",
            "rule 1: filter \"$share/g/a\" names a group of a shared subscription; a rule names the filter inside",
        ),
    ] {
        let rules = [rule("allow both fine"), AclRule { filter: filter.into(), ..rule("deny both x") }];
        let error = Permit::granted_by(&granted("c", &rules, Effect::Deny)).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
}

fn level() -> impl Strategy<Value = String> {
    prop_oneof![4 => "[ab]", 2 => Just("+".to_owned()), 1 => Just("$s".to_owned()), 1 => Just(String::new())]
}

fn filter() -> impl Strategy<Value = String> {
    (prop::collection::vec(level(), 1..4), any::<bool>()).prop_filter_map("a filter", |(mut levels, rest)| {
        if rest {
            levels.push("#".into());
        }
        let text = levels.join("/");
        TopicFilter::parse(text.clone().into()).is_ok().then_some(text)
    })
}

fn topic() -> impl Strategy<Value = String> {
    prop::collection::vec(prop_oneof!["[ab]", Just("$s".to_owned()), Just(String::new())], 1..5)
        .prop_map(|levels| levels.join("/"))
        .prop_filter("a topic", |text| !text.is_empty())
}

proptest! {
    /// Whoever may subscribe to a filter sees no topic that a rule before the allowing one denies, and the
    /// index answers as the plain list does.
    #[test]
    fn a_subscription_never_sees_what_is_denied(
        rules in prop::collection::vec((any::<bool>(), filter()), 0..24),
        asked in filter(),
        topics in prop::collection::vec(topic(), 0..16),
    ) {
        let rules: Vec<_> = rules
            .into_iter()
            .map(|(allow, filter)| rule(&format!("{} both {filter}", if allow { "allow" } else { "deny" })))
            .collect();
        let permit = Permit::granted_by(&granted("c", &rules, Effect::Deny)).unwrap();
        let asked = TopicFilter::parse(asked.into()).unwrap();
        let subscribes = permit.may_subscribe(&asked, QoS::AtMostOnce);
        for topic in topics {
            let topic = TopicName::parse(topic.into()).unwrap();
            let slow = rules
                .iter()
                .find(|rule| TopicFilter::parse(rule.filter.clone().into()).unwrap().matches(&topic))
                .is_some_and(|rule| rule.effect == Effect::Allow);
            prop_assert_eq!(permit.may_publish(&topic, QoS::AtMostOnce, false), slow);
            if subscribes && asked.matches(&topic) {
                prop_assert!(slow, "{} sees {}", asked.as_str(), topic.as_str());
            }
        }
    }
}
