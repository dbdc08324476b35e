//! `mqgate plugin build`: a project becomes a component.

use std::path::PathBuf;

use anyhow::Result;
use mqgate_plugin_build::project::Project;

use super::project;
use crate::cli::output::say;

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  mqgate plugin build
  mqgate plugin build my-gate

The tools of the project's language are fetched into ~/.cache/mqgate the first time; what is fetched, and how large it is, is
said. A component that imports more than plugin.toml asks for, or exports other hooks, is an error.")]
pub struct Args {
    /// The project's folder; without it, this one
    folder: Option<PathBuf>,
}

pub fn run(args: Args) -> Result<()> {
    let project = Project::open(&project::folder(args.folder))?;
    let built = project::build(&project)?;
    say("")?;
    say("load it into a running broker with")?;
    say(format!("  {}", project::load_line(&project, &built)))
}
