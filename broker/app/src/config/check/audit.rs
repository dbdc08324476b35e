//! What `[audit]` must not say: members that are not personal, keys beside what they protect, nothing to sign, rules
//! that cannot be or never count, sinks without a place, checks that there are not.

use mqgate_audit::files::folder_of;
use mqgate_audit::record::MEMBERS;
use mqgate_identity::audit::policy::PolicyWarning;
use mqgate_identity::posture::Check;

use super::Checker;
use crate::audit::policy;
use crate::audit::target::Target;
use crate::config::model::{AuditSink, AuditSinkKind, Config};

pub(super) fn check(checker: &mut Checker<'_, '_>, config: &Config) {
    let audit = &config.audit;
    for (index, name) in audit.personal.members.iter().enumerate() {
        let key = format!("audit.personal.members[{index}]");
        let member = MEMBERS.iter().find(|member| member.name == name);
        if member.is_some_and(|member| !member.personal) {
            let personal: Vec<&str> =
                MEMBERS.iter().filter(|member| member.personal).map(|member| member.name).collect();
            let remedy =
                format!("what can be encrypted is {}, and fields by their names", personal.join(", "));
            checker.add(&key, format!("`{name}` is needed to read the log"), Some(&remedy));
        } else if name.is_empty() {
            checker.add(&key, "an empty name", None);
        }
    }
    rules(checker, config);
    for (name, sink) in &audit.sinks {
        one(checker, name, sink);
    }
    for (index, name) in audit.checks.disable.iter().enumerate() {
        if Check::from_name(name).is_none() {
            checker.add(
                &format!("audit.checks.disable[{index}]"),
                format!("there is no check `{name}`"),
                Some("`mqgate audit checks` lists those there are"),
            );
        }
    }
    for (key, path) in
        [("audit.personal.key_folder", config.audit_subjects()), ("audit.key_file", config.audit_key_file())]
    {
        if path.starts_with(folder_of(&config.audit_file())) {
            let remedy = "name a place outside of it";
            checker.add(
                key,
                "is in the folder of the log: whoever copies the log would copy the key",
                Some(remedy),
            );
        }
    }
    for (key, zero) in [
        ("audit.checkpoint_records", audit.checkpoint_records == 0),
        ("audit.rotate_size", audit.rotate_size.0 == 0),
        ("audit.queue", audit.queue == 0),
        ("audit.checks.interval", audit.checks.interval.0.is_zero()),
        ("audit.checks.max_findings", audit.checks.max_findings == 0),
    ] {
        if zero {
            checker.add(key, "nothing would go through: more than zero is needed", None);
        }
    }
}

fn rules(checker: &mut Checker<'_, '_>, config: &Config) {
    let audit = &config.audit;
    let mut sound = true;
    for (index, rule) in audit.rules.iter().enumerate() {
        if let Err(error) = policy::rule(rule) {
            sound = false;
            checker.add(&format!("audit.rules[{index}]"), error.to_string(), None);
        }
        for name in rule.sinks.iter().flatten() {
            let is_auditor = name.strip_prefix("auditor-").is_some();
            if !is_auditor && !audit.sinks.contains_key(name) {
                checker.add(
                    &format!("audit.rules[{index}].sinks"),
                    format!("there is no sink `{name}`"),
                    Some("name a table [audit.sinks.NAME], or `auditor-NAME` for an auditor plugin"),
                );
            }
        }
    }
    if sound && let Ok(policy) = policy::policy(config) {
        for warning in policy.warnings() {
            let (index, what) = match warning {
                PolicyWarning::Unreachable { rule, by } => {
                    (rule, format!("never counts: rule {by} matches everything that it does"))
                }
                PolicyWarning::WithoutEffect { rule } => {
                    (rule, String::from("without effect: these records are always written down in full"))
                }
            };
            checker.warn(
                &format!("audit.rules[{index}]"),
                &what,
                Some("`mqgate audit policy check` shows all rules"),
            );
        }
    }
}

fn one(checker: &mut Checker<'_, '_>, name: &str, sink: &AuditSink) {
    let key = |field: &str| format!("audit.sinks.{name}.{field}");
    let fits = (1..=64).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    if !fits || name.starts_with("auditor-") {
        checker.add(
            &format!("audit.sinks.{name}"),
            "a sink's name is made of up to 64 letters, digits, `-` and `_`, and does not begin with `auditor-`",
            Some("it is a label of metrics and the name of a file"),
        );
    }
    if let Err((field, what)) = Target::new(sink) {
        checker.add(&key(field), what, None);
    }
    // What stands there and means nothing for this type is a slip.
    let is = |kinds: &[AuditSinkKind]| kinds.contains(&sink.kind);
    use AuditSinkKind::{File, Journald, Mqtt, Otlp, Syslog, Webhook};
    for (field, set, kinds) in [
        ("path", sink.path.is_some(), &[File, Journald][..]),
        ("url", sink.url.is_some(), &[Webhook, Otlp]),
        ("headers", !sink.headers.is_empty(), &[Webhook, Otlp]),
        ("secret", sink.secret.is_some(), &[Webhook]),
        ("address", sink.address.is_some(), &[Syslog, Mqtt]),
        ("hostname", sink.hostname.is_some(), &[Syslog]),
        ("username", sink.username.is_some(), &[Mqtt]),
        ("password", sink.password.is_some(), &[Mqtt]),
        ("client_id", sink.client_id.is_some(), &[Mqtt]),
        ("checkpoints", sink.checkpoints, &[Webhook, Mqtt]),
    ] {
        if set && !is(kinds) {
            let what = format!("without effect: a sink of type `{}` has none", sink.kind.as_str());
            checker.add(&key(field), what, Some("remove this key"));
        }
    }
    if sink.min_backoff.0.is_zero() {
        checker.add(
            &key("min_backoff"),
            "without a pause the other side would be stormed",
            Some("\"500ms\""),
        );
    }
    if sink.max_backoff.0 < sink.min_backoff.0 {
        checker.add(&key("max_backoff"), "shorter than `min_backoff`", None);
    }
    for (field, zero) in [
        ("batch", sink.batch == 0),
        ("batch_bytes", sink.batch_bytes.0 == 0),
        ("timeout", sink.timeout.0.is_zero()),
        ("rotate_size", sink.rotate_size.0 == 0),
    ] {
        if zero {
            checker.add(&key(field), "nothing would go through: more than zero is needed", None);
        }
    }
}
