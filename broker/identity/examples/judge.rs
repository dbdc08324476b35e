//! Judges one chain, as a listener would: for collections of test chains, and for whoever wants to see a verdict
//! without a broker.
//!
//! ```text
//! judge --anchors CAS.pem --chain CHAIN.pem [--at UNIX_SECONDS] [--usage NAME_OR_OID]... [--any-usage]
//!       [--depth N] [--strict] [--ca-as-leaf] [--crl LIST.der]... [--chain-scope]
//! ```
//!
//! Prints `accepted` or `refused STEP REASON DETAIL`, and answers 0 or 1; 2 if the arguments are of no use.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use mqgate_identity::certificate::{CertificateFacts, certificates_from_pem};
use mqgate_identity::evaluation::{
    Anchor, CaAsLeaf, DEFAULT_MAX_LIST_BYTES, PathDepth, PathPolicy, RevocationList, RevocationLists,
    RevocationPolicy, RevocationScope, Strictness, TrustAnchors, UsageRule, explain,
};
use mqgate_identity::time::UnixSeconds;

struct Question {
    anchors: TrustAnchors,
    chain: Vec<Vec<u8>>,
    policy: PathPolicy,
    at: UnixSeconds,
}

fn main() -> ExitCode {
    let question = match read(std::env::args().skip(1)) {
        Ok(question) => question,
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::from(2);
        }
    };
    let explanation = explain(&question.chain, &question.anchors, &question.policy, question.at);
    match (explanation.verdict, explanation.refused_at) {
        (Ok(_), _) => {
            println!("accepted");
            ExitCode::SUCCESS
        }
        (Err(rejection), step) => {
            let step = step.map_or("", |step| step.as_str());
            println!("refused {step} {} {}", rejection.reason, rejection.detail);
            ExitCode::FAILURE
        }
    }
}

fn read(mut arguments: impl Iterator<Item = String>) -> Result<Question, String> {
    let (mut anchors, mut chain, mut lists) = (Vec::new(), Vec::new(), Vec::new());
    let mut usages = Vec::new();
    // A verdict at a moment is asked for, so that no clock is tolerated.
    let mut policy = PathPolicy { clock_skew: std::time::Duration::ZERO, ..PathPolicy::default() };
    let mut scope = RevocationScope::Leaf;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut at = UnixSeconds(i64::try_from(now).unwrap_or(i64::MAX));
    let file = |path: &str| std::fs::read(path).map_err(|error| format!("{path}: {error}"));
    let pem = |path: &str| certificates_from_pem(&file(path)?).map_err(|error| format!("{path}: {error}"));
    while let Some(option) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{option} needs a value"));
        match option.as_str() {
            "--anchors" => anchors.extend(pem(&value()?)?),
            "--chain" => chain.extend(pem(&value()?)?),
            "--at" => at = UnixSeconds(value()?.parse().map_err(|_| "--at needs a number of seconds")?),
            "--usage" => usages.push(UsageRule::usage(&value()?).map_err(|error| error.to_string())?),
            "--any-usage" => policy.usage.one_of.clear(),
            "--depth" => {
                let depth = value()?.parse().map_err(|_| "--depth needs a number")?;
                policy.max_depth = PathDepth::new(depth).map_err(|error| error.to_string())?;
            }
            "--strict" => policy.strictness = Strictness::Strict,
            "--ca-as-leaf" => policy.ca_as_leaf = CaAsLeaf::Allow,
            "--crl" => lists.push(file(&value()?)?),
            "--chain-scope" => scope = RevocationScope::Chain,
            option => return Err(format!("{option} is not known: see the head of judge.rs")),
        }
    }
    if !usages.is_empty() {
        policy.usage.one_of = usages;
    }
    let anchors = anchors
        .into_iter()
        .enumerate()
        .map(|(at, der)| Anchor { name: format!("anchor-{at}").into(), der: der.into() });
    let mut anchors = TrustAnchors::new(anchors.collect()).map_err(|error| error.to_string())?;
    if !lists.is_empty() {
        policy.revocation = Some(RevocationPolicy { scope, ..RevocationPolicy::default() });
        let lists: Result<Vec<_>, _> = lists
            .iter()
            .map(|der| RevocationList::parse(der, DEFAULT_MAX_LIST_BYTES).map(Arc::new))
            .collect();
        let lists = lists.map_err(|error| error.to_string())?;
        let cas: Vec<CertificateFacts> = anchors.iter().map(|(_, facts)| facts.clone()).collect();
        let cas: Vec<_> = cas.iter().collect();
        anchors = anchors.with_revocation_lists(Arc::new(RevocationLists::new(lists, &cas)));
    }
    Ok(Question { anchors, chain, policy, at })
}
