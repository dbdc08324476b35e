//! What `[audit]` must not say: members that are not personal, keys beside what they protect, nothing to sign.

use mqgate_audit::files::folder_of;
use mqgate_audit::record::MEMBERS;

use super::Checker;
use crate::config::model::Config;

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
    ] {
        if zero {
            checker.add(key, "nothing would go through: more than zero is needed", None);
        }
    }
}
