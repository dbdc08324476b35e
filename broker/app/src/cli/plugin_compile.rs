//! `mqgate plugin-compile`: the child in which a component is compiled. The broker starts it; people do not.

use std::io::Write;
use std::process::ExitCode;

use mqgate_plugin_host::{ChildTerms, CompilerProgram, compile_as_child};

/// Not of `mqgate plugin`, whose commands speak to a broker.
pub const NAME: &str = "plugin-compile";

#[derive(clap::Args)]
pub struct Args {
    /// Bytes of address space
    #[arg(long)]
    memory: u64,
    /// Seconds of computing
    #[arg(long)]
    cpu: u64,
    /// Bytes that the engine reserves for each memory
    #[arg(long)]
    reservation: usize,
    /// Process id of the broker
    #[arg(long)]
    parent: u32,
}

/// This program itself, whatever file bears its name by now.
pub fn program() -> CompilerProgram {
    CompilerProgram { program: "/proc/self/exe".into(), arguments: vec![NAME.into()] }
}

pub fn run(args: &Args) -> ExitCode {
    let Args { memory, cpu, reservation, parent } = *args;
    match compile_as_child(&ChildTerms { memory, cpu, reservation, parent }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            // The broker reads it.
            let _ = writeln!(std::io::stderr(), "{why}");
            ExitCode::FAILURE
        }
    }
}
