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

#[test]
fn what_narrows_a_permit_takes_and_never_gives() {
    let wide = permit("c", &["deny both a/secret", "allow both a/#", "allow sub b/+"], Effect::Deny);
    let rules = [rule("allow both a/+"), rule("allow both ${client-id}/#"), rule("deny sub b/x")];
    let narrow = wide.clone().narrowed_by(&rules, Effect::Allow).unwrap();
    for (topic, expected) in
        [("a/b", true), ("a/secret", false), ("a/b/c", true), ("c/x", false), ("other", false)]
    {
        assert_eq!(publishes(&narrow, topic), expected, "{topic}");
    }
    for (filter, expected) in [
        ("a/+", false),
        ("a/b", true),
        ("$share/g/a/b", true),
        ("$share/g/a/secret", false),
        ("b/y", true),
        ("b/x", false),
        ("b/+", false),
        ("#", false),
    ] {
        assert_eq!(subscribes(&narrow, filter), expected, "{filter}");
    }
    assert!(subscribes(&wide, "b/+") && !narrow.has_rules_of(&wide), "the other one is as it was");
    let same = wide.clone().narrowed_by(
        &[rule("deny both a/secret"), rule("allow both a/#"), rule("allow sub b/+")],
        Effect::Deny,
    );
    assert!(same.unwrap().has_rules_of(&wide), "the same rules once more are no other rules");
    let nothing = wide.clone().narrowed_by(&[], Effect::Deny).unwrap();
    assert!(!publishes(&nothing, "a/b") && !subscribes(&nothing, "a/b"));
    assert!(wide.narrowed_by(&[rule("allow both a/#/b")], Effect::Deny).is_err());
}

#[test]
fn a_quality_that_one_does_not_allow_is_not_granted() {
    let b = TopicFilter::parse("b".into()).unwrap();
    let first = permit("c", &["allow sub b 011"], Effect::Deny);
    let lower = first.clone().narrowed_by(&[rule("allow sub b 101")], Effect::Deny).unwrap();
    assert_eq!(lower.granted_qos(&b, QoS::ExactlyOnce), Some(QoS::AtMostOnce));
    let none = first.narrowed_by(&[rule("allow sub b 100")], Effect::Deny).unwrap();
    assert_eq!(none.granted_qos(&b, QoS::ExactlyOnce), None);
    assert!(!none.may_receive(&TopicName::parse("b".into()).unwrap()));
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

    /// Of several grants each has to allow: whatever is published, subscribed to or received, by whichever name.
    #[test]
    fn an_intersection_allows_what_both_allow_and_nothing_else(
        client_id in prop::sample::select(vec!["a", "b", "+", "#", "a/b", "$s", ""]),
        first in list(),
        second in list(),
        asked in filter(),
        is_shared in any::<bool>(),
        topics in prop::collection::vec(topic(), 0..16),
    ) {
        let permit_of = |(rules, otherwise): &(Vec<AclRule>, Effect)| {
            Permit::granted_by(&granted(client_id, rules, *otherwise)).unwrap()
        };
        let (one, other) = (permit_of(&first), permit_of(&second));
        let both = one.clone().narrowed_by(&second.0, second.1).unwrap();
        let asked = if is_shared { format!("$share/g/{asked}") } else { asked };
        let asked = TopicFilter::parse(asked.into()).unwrap();
        let subscribes = |permit: &Permit| permit.may_subscribe(&asked, QoS::AtMostOnce);
        prop_assert_eq!(subscribes(&both), subscribes(&one) && subscribes(&other));
        for topic in topics {
            let topic = TopicName::parse(topic.into()).unwrap();
            let slow = [&first, &second].into_iter().all(|list| is_allowed(list, client_id, &topic));
            prop_assert_eq!(both.may_publish(&topic, QoS::AtMostOnce, false), slow, "{}", topic.as_str());
            prop_assert!(slow || !both.may_receive(&topic), "receives {}", topic.as_str());
            if subscribes(&both) && asked.matches(&topic) {
                prop_assert!(slow, "{} sees {}", asked.as_str(), topic.as_str());
            }
        }
    }
}

/// Rules with wildcards and a variable, and what happens when none of them matches.
fn list() -> impl Strategy<Value = (Vec<AclRule>, Effect)> {
    let effect = || any::<bool>().prop_map(|allow| if allow { Effect::Allow } else { Effect::Deny });
    let filter = (filter(), 0..6_usize).prop_map(|(filter, at)| {
        let levels = filter.split('/').enumerate().map(|(index, level)| match level {
            "#" => "#",
            _ if index == at => "${client-id}",
            other => other,
        });
        levels.collect::<Vec<_>>().join("/")
    });
    let rule =
        (effect(), filter).prop_map(|(effect, filter)| AclRule { effect, filter, ..rule("allow both x") });
    (prop::collection::vec(rule, 0..20), effect())
}

/// The first rule that matches, found the slow way.
fn is_allowed((rules, otherwise): &(Vec<AclRule>, Effect), client_id: &str, topic: &TopicName) -> bool {
    let is_literal =
        !client_id.is_empty() && !client_id.contains(['/', '+', '#']) && !client_id.starts_with('$');
    let decided = rules.iter().find(|rule| match rule.filter.contains("${client-id}") && !is_literal {
        // A name that could change what the filter means: nothing is allowed by it, and nothing escapes it.
        true => rule.effect == Effect::Deny,
        false => {
            let filter = rule.filter.replace("${client-id}", client_id);
            TopicFilter::parse(filter.into()).unwrap().matches(topic)
        }
    });
    match decided {
        Some(rule) => rule.effect == Effect::Allow,
        None => *otherwise == Effect::Allow && !topic.as_str().starts_with('$'),
    }
}
