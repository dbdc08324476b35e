//! Checks of the ways in, and of those who watch them: listeners, rules, plugins, audit log, admin API.

use super::facts::{AdminFacts, Facts, PluginFacts, RuleFacts};
use super::{Check, Finding, Severity};

pub(super) fn judge(facts: &Facts, found: &mut Vec<Finding>) {
    for listener in &facts.listeners {
        let name = listener.name.as_str();
        if !listener.has_tls && !listener.is_local {
            let reason = "what is said there, passwords included, can be read and changed on the way";
            found.push(Check::ListenerWithoutTls.finds("listener", name, reason));
        }
        if listener.asks_for_certificate && !listener.requires_certificate {
            let reason = "a client without a certificate gets as far as the chain, which has to refuse it";
            found.push(Check::OptionalClientCert.finds("listener", name, reason));
        }
        if listener.shows_builtin && !listener.is_local {
            let reason = "its clients trust a CA that this broker made for itself, or they check nothing";
            found.push(Check::DefaultCertInUse.finds("listener", name, reason));
        }
    }
    if facts.listeners.iter().any(|listener| listener.registers) {
        for registrar in
            facts.registrars.iter().filter(|registrar| !registrar.has_pattern && !registrar.holds)
        {
            let reason = "it registers whatever a trusted CA has signed: a CA with other customers lets all of them in";
            found.push(Check::AutoRegistrationWithoutPattern.finds("plugin", &*registrar.name, reason));
        }
    }
    facts.rules.iter().filter_map(too_broad).for_each(|finding| found.push(finding));
    facts.plugins.iter().for_each(|plugin| judge_plugin(plugin, found));
    for sink in &facts.audit.sinks {
        if let Some(problem) = &sink.problem {
            let reason = format!("{problem}; records that wait: {}", sink.lag);
            found.push(
                Check::AuditSinkDown.finds("sink", &*sink.name, reason).helped_by("mqgate audit sinks"),
            );
        }
    }
    match &facts.audit.publishes {
        Some(Ok(())) => {}
        Some(Err(problem)) => {
            found.push(Check::AuditNoExternalCheckpoint.finds("audit", "checkpoints", problem.as_str()));
        }
        None => {
            let reason = "no place is configured: whoever owns this machine can cut the log's end off and sign it again";
            found.push(Check::AuditNoExternalCheckpoint.finds("audit", "checkpoints", reason));
        }
    }
    if let Some(finding) = facts.admin.as_ref().and_then(without_second_factor) {
        found.push(finding);
    }
}

/// Whether a filter takes in every topic, `$`-topics aside.
fn is_everything(filter: &str) -> bool {
    matches!(filter, "#" | "+/#")
}

fn too_broad(rule: &RuleFacts) -> Option<Finding> {
    if !is_everything(&rule.filter) {
        return None;
    }
    let (what, severity) = match (rule.publish, rule.subscribe) {
        (true, true) => ("publish and subscribe to", Severity::High),
        (true, false) => ("publish to", Severity::High),
        (false, true) => ("subscribe to", Severity::Medium),
        (false, false) => return None,
    };
    let reason = format!("it lets whom it is about {what} every topic, those of others included");
    Some(Check::RuleTooBroad.finds("rule", &*rule.origin, reason).severe(severity))
}

fn judge_plugin(plugin: &PluginFacts, found: &mut Vec<Finding>) {
    if plugin.is_signed == Some(false) {
        let reason = "who made it, and whether it was changed since, is not known";
        let finding = Check::PluginUnsigned.finds("plugin", &*plugin.name, reason);
        found.push(finding.helped_by("mqgate plugin sign --key KEY COMPONENT.wasm"));
    }
    let grown: Vec<&str> = plugin.capabilities.difference(&plugin.accepted).map(String::as_str).collect();
    if !grown.is_empty() {
        let reason = format!("it may use what it could not before: {}", grown.join(", "));
        let finding = Check::PluginCapabilityGrew.finds("plugin", &*plugin.name, reason);
        found.push(finding.helped_by(format!("mqgate audit accept {}", plugin.name)));
    }
}

fn without_second_factor(admin: &AdminFacts) -> Option<Finding> {
    if admin.is_local || admin.asks_for_certificate {
        return None;
    }
    let (reason, severity) = match admin.has_tls {
        false => ("others can reach it, and the token goes over the net in the clear", Severity::Critical),
        true => {
            ("others can reach it, and the token alone opens it: set `admin.tls.cacertfile`", Severity::High)
        }
    };
    Some(Check::AdminWithoutMfa.finds("admin", &*admin.bind, reason).severe(severity))
}
