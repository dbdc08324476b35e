//! docs/audit.md: the schema of records, made from the catalogue that the code uses.

use std::fmt::Write as _;

use mqgate_identity::audit::names;
use mqgate_identity::reason::Reason;

use crate::record::MEMBERS;

/// The page. What is not a table stands in `page.md`.
pub fn page() -> String {
    let mut members = String::from("| member | is |\n|---|---|\n");
    for member in MEMBERS {
        let personal = if member.personal { " (may be personal)" } else { "" };
        let _ = writeln!(members, "| `{}` | {}{personal} |", member.name, member.text);
    }
    let mut events = String::from("| name | category | when |\n|---|---|---|\n");
    for kind in names::KINDS {
        let _ = writeln!(events, "| `{}` | {} | {} |", kind.name, kind.category.as_str(), kind.when);
    }
    let mut reasons = String::from("| code | means |\n|---|---|\n");
    for reason in Reason::ALL {
        let _ = writeln!(reasons, "| `{}` | {} |", reason.as_str(), reason.explanation());
    }
    include_str!("page.md")
        .replace("{{members}}", members.trim_end())
        .replace("{{events}}", events.trim_end())
        .replace("{{reasons}}", reasons.trim_end())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_page_is_what_the_code_says() {
        let page = super::page();
        assert!(!page.contains("{{"), "a place of page.md is not filled");
        let there = include_str!("../../../docs/audit.md");
        assert!(there == page, "docs/audit.md is out of date: `mqgate audit docs > docs/audit.md`");
    }
}
