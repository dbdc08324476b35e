//! `docs/registry-howto.md`, as a new user types it: each line is run, and prints what the page says.

use std::process::Command;

use mqgate_e2e::Broker;
use mqgate_e2e::broker::mqgate;

const PAGE: &str = include_str!("../../../../docs/registry-howto.md");

/// A command of the page and the lines that it is to print.
struct Step {
    line: String,
    printed: Vec<String>,
}

/// Of every block that is a session at a terminal, in order.
fn steps() -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut inside = false;
    for line in PAGE.lines() {
        match line {
            "```console" => inside = true,
            "```" => inside = false,
            _ if !inside => {}
            line => match line.strip_prefix("$ ") {
                Some(command) => steps.push(Step { line: command.to_owned(), printed: Vec::new() }),
                None => steps.last_mut().expect("a command comes first").printed.push(line.to_owned()),
            },
        }
    }
    steps
}

/// Whether a text is as the page has it: `…` stands for anything, runs of blanks for each other.
fn fits(pattern: &str, text: &str) -> bool {
    let plain = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (pattern, text) = (plain(pattern), plain(text));
    let mut parts = pattern.split('…');
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap_or_default().trim_end()) else { return false };
    let parts: Vec<&str> = parts.map(str::trim).collect();
    for part in &parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    // Without a gap at the end nothing may follow.
    rest.is_empty() || parts.last().is_some_and(|last| last.is_empty())
}

/// Line by line; a line that is nothing but `…` stands for any number of lines.
fn is_printed(expected: &[String], printed: &[&str]) -> bool {
    match (expected.split_first(), printed.split_first()) {
        (None, None) => true,
        (None, Some(_)) => false,
        (Some((line, more)), _) if line.trim() == "…" => {
            (0..=printed.len()).any(|skipped| is_printed(more, &printed[skipped..]))
        }
        (Some((line, more)), Some((first, rest))) => fits(line, first) && is_printed(more, rest),
        (Some(_), None) => false,
    }
}

/// As a shell takes a line apart, as far as the page needs it.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '"' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            c => words.last_mut().expect("there is one").push(c),
        }
    }
    words
}

#[tokio::test(flavor = "multi_thread")]
async fn every_step_of_the_page_is_one_command() {
    // A device that waits is told at once to come again: the page does not show how long it may wait.
    let told_at_once = "[provisioning]\npark_timeout = \"0s\"";
    let broker =
        Broker::builder().with_auto_register("").with_cert_acl("").config(told_at_once).start().await;
    let steps = steps();
    assert!(steps.len() > 15, "the page lost its commands");
    let port = broker.port().to_string();
    for Step { line, printed } in steps {
        let line = line.replace("-p 8883", &format!("-p {port}"));
        let words = words(&line);
        assert_eq!(words[0], "mqgate", "{line}");
        let output = tokio::task::block_in_place(|| {
            Command::new(mqgate())
                .args(&words[1..])
                .current_dir(&broker.folder)
                .env("MQGATE_CONFIG", broker.folder.join("mqgate.toml"))
                .output()
                .expect("mqgate was built")
        });
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            is_printed(&printed, &lines),
            "$ {line}\n--- the page says\n{}\n--- it prints\n{text}",
            printed.join("\n")
        );
    }
}

#[test]
fn what_fits() {
    for (pattern, text, expected) in [
        ("a … c", "a b c", true),
        ("a … c", "a  b   c d", false),
        ("registered: factory (…, ACTIVE)", "registered: factory (0a, ACTIVE)", true),
        ("registered: factory (…, ACTIVE)", "registered: factory (0a, INACTIVE)", false),
        ("x…", "xyz", true),
        ("x", "xyz", false),
        ("", "", true),
    ] {
        assert_eq!(fits(pattern, text), expected, "{pattern} {text}");
    }
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    assert!(is_printed(&lines("a\n…\nd"), &["a", "b", "c", "d"]));
    assert!(!is_printed(&lines("a\n…\nd"), &["a", "b", "c"]));
    assert!(!is_printed(&lines("a"), &["a", "b"]));
}
