//! `mqgate plugin new`: a project to start from.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::Result;
use clap::builder::PossibleValue;
use mqgate_plugin_build::manifest::{Hook, Language};
use mqgate_plugin_build::template::{self, Wanted};

use super::project::shown;
use crate::cli::output::say;

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  mqgate plugin new --lang rust --hook authenticator my-gate
  mqgate plugin new --lang python --hook authenticator,authorizer my-gate
  mqgate plugin new --lang c --hook authorizer --dir /srv/plugins/my-gate my-gate

The project holds all that it needs of mqgate and builds in any folder. docs/plugins/writing.md goes on from here.")]
pub struct Args {
    /// Lower-case letters, digits and `-`
    name: String,
    /// The language it is written in
    #[arg(long, value_enum)]
    lang: Lang,
    /// What it is asked; several with commas
    #[arg(long, value_delimiter = ',', required = true, value_enum)]
    hook: Vec<HookName>,
    /// The folder to make; without it, one of the plugin's name
    #[arg(long)]
    dir: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy)]
struct Lang(Language);

#[derive(Debug, Clone, Copy)]
struct HookName(Hook);

impl clap::ValueEnum for Lang {
    fn value_variants<'a>() -> &'a [Self] {
        const ALL: [Lang; 5] = {
            let [a, b, c, d, e] = Language::ALL;
            [Lang(a), Lang(b), Lang(c), Lang(d), Lang(e)]
        };
        &ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.0.name()))
    }
}

impl clap::ValueEnum for HookName {
    fn value_variants<'a>() -> &'a [Self] {
        const ALL: [HookName; 6] = {
            let [a, b, c, d, e, f] = Hook::ALL;
            [HookName(a), HookName(b), HookName(c), HookName(d), HookName(e), HookName(f)]
        };
        &ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.0.name()))
    }
}

pub fn run(args: Args) -> Result<()> {
    let hooks: BTreeSet<Hook> = args.hook.iter().map(|hook| hook.0).collect();
    let wanted = Wanted { name: args.name, language: args.lang.0, hooks };
    let folder = args.dir.unwrap_or_else(|| PathBuf::from(&wanted.name));
    let files = template::write(&wanted, &folder)?;
    for file in files.iter().filter(|file| !file.starts_with("mqgate")) {
        say(format!("  {}", shown(&folder.join(file))))?;
    }
    let folder = shown(&folder);
    say(format!("  {folder}/mqgate/  what it needs of mqgate; not to be edited"))?;
    say("")?;
    say("next:")?;
    say(format!("  mqgate plugin build {folder}"))?;
    say(format!("  mqgate plugin test {folder}"))
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    #[test]
    fn every_language_and_every_hook_can_be_named() {
        for language in Language::ALL {
            assert!(Lang::from_str(language.name(), false).is_ok_and(|found| found.0 == language));
        }
        for hook in Hook::ALL {
            assert!(HookName::from_str(hook.name(), false).is_ok_and(|found| found.0 == hook));
        }
    }
}
