//! `mqgate plugin replay`: what another component would have answered to calls that were recorded.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use mqgate_plugin_host::case::{Answer, Case, Difference, Lines, Verdict};
use mqgate_plugin_host::offline::{Instance, Offline, OfflineError};
use serde::Serialize;
use serde_json::{Value, json};

use super::ConfigArgs;
use super::offline::{self, LimitArgs};
use super::run::shown;
use crate::cli::output::{self, printable, say};
use crate::exit::{Exit, Failure};

/// Clients that are shown of each kind, unless all are asked for.
const SHOWN: usize = 20;

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  mqgate plugin replay captures.ndjson --against my-policy-2.wasm --config-file my-policy.json
  mqgate plugin replay captures.ndjson --against bundled:cert-acl --config-file new.json --json

It exits with 0 when all answers are the same, with 1 when there are differences, and with 2 when it could not be found
out for some. A recording has no configuration in it, for that may hold secrets: give the one to run with.")]
pub struct Args {
    /// What `mqgate plugin record` wrote
    captures: PathBuf,
    /// The component (.wasm) that is asked, or bundled:NAME
    #[arg(long, value_name = "FILE")]
    against: PathBuf,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    limits: LimitArgs,
    /// Ask each call on an instance of its own; without it, one instance is asked all, as long as it lasts
    #[arg(long)]
    fresh: bool,
    /// List every difference
    #[arg(long)]
    all: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What a difference means to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    NewlyRefused,
    NewlyAdmitted,
    /// The same word with other topics, or another rule set.
    Topics,
    /// Another verdict that neither lets in nor keeps out, such as an abstention.
    Verdict,
    /// Another identity, reason, limit.
    Other,
    /// It cannot be known.
    Undecided,
}

impl Kind {
    const ALL: [Self; 6] =
        [Self::NewlyRefused, Self::NewlyAdmitted, Self::Topics, Self::Verdict, Self::Other, Self::Undecided];

    const fn title(self) -> &'static str {
        match self {
            Self::NewlyRefused => "newly refused",
            Self::NewlyAdmitted => "newly admitted",
            Self::Topics => "other topics",
            Self::Verdict => "another verdict",
            Self::Other => "otherwise different",
            Self::Undecided => "not decided",
        }
    }

    fn of(before: &Answer, after: &Answer, differences: &[Difference]) -> Self {
        let (was, is) = (before.verdict, after.verdict);
        let has = |names: &[&str]| differences.iter().any(|it| names.contains(&it.field.as_str()));
        if is.refuses() && !was.refuses() {
            Self::NewlyRefused
        } else if is.admits() && !was.admits() {
            Self::NewlyAdmitted
        } else if is != was {
            Self::Verdict
        } else if has(&["rules", "acl", "otherwise"]) {
            Self::Topics
        } else {
            Self::Other
        }
    }
}

/// One call that is answered otherwise, or cannot be.
#[derive(Serialize)]
struct Found {
    kind: Kind,
    case: String,
    hook: &'static str,
    client_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    device_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fingerprint: Option<String>,
    before: String,
    after: String,
    differences: Vec<Difference>,
    /// What is not known.
    unknown: Vec<String>,
}

#[derive(Default)]
struct Totals {
    asked: u64,
    same: u64,
    /// Verdicts before and after.
    verdicts: BTreeMap<(Verdict, Verdict), u64>,
}

pub fn run(args: &Args) -> Result<()> {
    let begun = Instant::now();
    let config = args.config.read()?;
    let instance = if args.fresh { Instance::Fresh } else { Instance::Reused };
    let mut plugin = could(offline::open(&args.against, &args.limits))?;
    let (mut found, mut totals, mut has_config) = (Vec::new(), Totals::default(), config.is_some());
    for case in Lines::open(&args.captures).map_err(offline::unreadable)? {
        let mut case = case.map_err(offline::unreadable)?;
        if let Some(config) = &config {
            case.plugin.config = Some(config.clone());
        }
        has_config |= case.plugin.config.is_some();
        if let Some(one) = ask(&mut plugin, &case, instance, &mut totals)? {
            found.push(one);
        }
    }
    if totals.asked == 0 {
        let what = format!("{}: there is no recorded call in it", args.captures.display());
        return Err(Failure::new(Exit::Usage, what).into());
    }
    if !has_config {
        output::warn(
            "the recording has no configuration in it: the component ran without; give it with --config-file",
        );
    }
    found.sort_by_key(|one| one.kind);
    print(args, &plugin, &found, &totals, begun)?;
    let undecided = found.iter().filter(|one| one.kind == Kind::Undecided).count();
    match (found.len() - undecided, undecided) {
        (0, 0) => Ok(()),
        (0, _) => Err(Failure::new(Exit::Usage, format!("{undecided} calls could not be decided")).into()),
        (count, _) => Err(Failure::refused(format!("{count} of {} calls differ", totals.asked)).into()),
    }
}

/// What cannot be done is no difference.
fn could<T>(outcome: Result<T>) -> Result<T> {
    outcome.map_err(|error| Failure::new(Exit::Usage, format!("{error:#}")).into())
}

fn ask(plugin: &mut Offline, case: &Case, instance: Instance, totals: &mut Totals) -> Result<Option<Found>> {
    let Some((_, before)) = &case.recorded else {
        let what =
            format!("{}: it is no recording; `mqgate plugin test` is for cases that expect", case.name);
        return Err(Failure::new(Exit::Usage, what).into());
    };
    totals.asked += 1;
    let mut unknown: Vec<String> =
        plugin.hidden(case).into_iter().map(|field| format!("{field}: redacted")).collect();
    let undecided = |unknown: Vec<String>, after: String| {
        Ok(Some(one(case, Kind::Undecided, before, after, Vec::new(), unknown)))
    };
    if !unknown.is_empty() {
        return undecided(unknown, String::from("not asked: redacted"));
    }
    let ran = match plugin.run(case, instance) {
        Ok(ran) => ran,
        // It is the component that cannot be asked, whatever the call.
        Err(error @ (OfflineError::Load(_) | OfflineError::NoHook(..) | OfflineError::Host(_))) => {
            return could(Err(offline::told(&case.name, &error)));
        }
        Err(error @ OfflineError::NotCalled(_)) => {
            return undecided(vec![error.to_string()], String::from("not asked"));
        }
    };
    unknown.extend(ran.unknown);
    if !unknown.is_empty() {
        return undecided(unknown, ran.answer.summary());
    }
    *totals.verdicts.entry((before.verdict, ran.answer.verdict)).or_default() += 1;
    let mut differences = case.differences(&ran.answer);
    if before.verdict == Verdict::Fail && ran.answer.verdict == Verdict::Fail {
        // Two failures differ in their words at most.
        differences.clear();
    }
    if differences.is_empty() {
        totals.same += 1;
        return Ok(None);
    }
    let kind = Kind::of(before, &ran.answer, &differences);
    Ok(Some(one(case, kind, before, ran.answer.summary(), differences, unknown)))
}

fn one(
    case: &Case,
    kind: Kind,
    before: &Answer,
    after: String,
    differences: Vec<Difference>,
    unknown: Vec<String>,
) -> Found {
    let on = case.connection();
    let device = case.identity().map(|who| who.device_id.clone()).or_else(|| before.device_id.clone());
    Found {
        kind,
        case: case.name.clone(),
        hook: case.hook(),
        client_id: on.connect.client_id.clone(),
        device_id: device,
        fingerprint: on.certificate.as_ref().map(|it| it.leaf.certificate_fingerprint.to_hex()),
        before: before.summary(),
        after,
        differences,
        unknown,
    }
}

fn print(args: &Args, plugin: &Offline, found: &[Found], totals: &Totals, begun: Instant) -> Result<()> {
    let counted = |kind: Kind| found.iter().filter(|one| one.kind == kind).count();
    let seconds = begun.elapsed().as_secs_f64();
    if args.json {
        let kinds =
            Kind::ALL.map(|kind| (json!(kind).as_str().unwrap_or_default().to_owned(), json!(counted(kind))));
        let verdicts: Vec<Value> = totals
            .verdicts
            .iter()
            .map(|((before, after), count)| json!({ "before": before, "after": after, "count": count }))
            .collect();
        return output::json(&json!({
            "captures": args.captures.display().to_string(),
            "against": plugin.description().digest,
            "asked": totals.asked,
            "same": totals.same,
            "kinds": kinds.into_iter().collect::<serde_json::Map<_, _>>(),
            "verdicts": verdicts,
            "differences": found,
            "seconds": seconds,
        }));
    }
    for kind in Kind::ALL {
        let of_kind: Vec<&Found> = found.iter().filter(|one| one.kind == kind).collect();
        if of_kind.is_empty() {
            continue;
        }
        say(format!("{}: {}", kind.title(), of_kind.len()))?;
        let most = if args.all { usize::MAX } else { SHOWN };
        for one in of_kind.iter().take(most) {
            tell(one)?;
        }
        if of_kind.len() > most {
            say(format!("  … and {} more; --all lists them", of_kind.len() - most))?;
        }
    }
    let against = short(&args.against);
    say(format!(
        "{} calls against {against}: {} the same, {} newly refused, {} newly admitted, {} with other topics, \
         {} otherwise different, {} not decided ({seconds:.1} s)",
        totals.asked,
        totals.same,
        counted(Kind::NewlyRefused),
        counted(Kind::NewlyAdmitted),
        counted(Kind::Topics),
        counted(Kind::Verdict) + counted(Kind::Other),
        counted(Kind::Undecided),
    ))
}

fn tell(one: &Found) -> Result<()> {
    let who = match &one.device_id {
        Some(device) => format!("client {}, device {device}", one.client_id),
        None => format!("client {}", one.client_id),
    };
    say(format!("  {} ({}), {}", printable(&one.case), one.hook, printable(&who)))?;
    if one.kind == Kind::Undecided {
        return one.unknown.iter().try_for_each(|what| say(format!("    unknown: {}", printable(what))));
    }
    if one.before != one.after {
        say(format!("    {} -> {}", printable(&one.before), printable(&one.after)))?;
    }
    let fields = one.differences.iter().filter(|it| !["verdict", "device_id"].contains(&it.field.as_str()));
    for Difference { field, expected, got } in fields.filter(|_| one.kind >= Kind::Topics) {
        say(format!("    {}: {} -> {}", printable(field), shown(expected), shown(got)))?;
    }
    Ok(())
}

fn short(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}
