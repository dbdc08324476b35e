//! `mqgate passwd`: users of a password file.

use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::output::say;
use crate::exit::Failure;
use crate::native::password_file::{PasswordFileError, Users};
use crate::native::scram::ScramUsers;
use crate::pki::write_private;

#[derive(clap::Subcommand)]
#[command(after_help = "\
Examples:
  mqgate passwd add users.txt ann                    asks for the password
  printf %s \"$PASSWORD\" | mqgate passwd add users.txt ann
  mqgate passwd remove users.txt ann
  mqgate passwd add --scram scram.txt ann            for `native = \"scram\"`

A running broker sees the change by itself.")]
pub enum Command {
    /// Add a user, or give one a new password, read from standard input
    Add {
        /// Write credentials for SCRAM-SHA-256 (`native = "scram"`), not a hash for `password-file`
        #[arg(long)]
        scram: bool,
        /// The password file; created if it is not there
        file: PathBuf,
        /// Name of the user
        user: String,
    },
    /// Remove a user, of either kind of file
    Remove { file: PathBuf, user: String },
    /// List users, of either kind of file
    List { file: PathBuf },
}

pub fn run(command: Command) -> Result<()> {
    match command {
        Command::Add { scram: true, file, user } => {
            let mut users = if file.exists() { read_scram(&file)? } else { ScramUsers::default() };
            let password = ask(&user)?;
            let new = users.set(&user, &password).map_err(|error| Failure::refused(error.to_string()))?;
            write_private(&file, users.to_string().as_bytes())?;
            say(format!("{} {user} in {}", if new { "added" } else { "changed" }, file.display()))
        }
        Command::Add { scram: false, file, user } => {
            let mut users = if file.exists() { read(&file)? } else { Users::default() };
            let password = ask(&user)?;
            let new = users.set(&user, password.as_bytes()).map_err(refused)?;
            write_private(&file, users.to_string().as_bytes())?;
            say(format!("{} {user} in {}", if new { "added" } else { "changed" }, file.display()))
        }
        Command::Remove { file, user } => {
            let text = match is_scram(&file) {
                true => {
                    let mut users = read_scram(&file)?;
                    users.remove(&user).then(|| users.to_string())
                }
                false => {
                    let mut users = read(&file)?;
                    users.remove(&user).then(|| users.to_string())
                }
            };
            let Some(text) = text else {
                return Err(
                    Failure::refused(format!("there is no user `{user}` in {}", file.display())).into()
                );
            };
            write_private(&file, text.as_bytes())?;
            say(format!("removed {user} from {}", file.display()))
        }
        Command::List { file } if is_scram(&file) => read_scram(&file)?.names().try_for_each(say),
        Command::List { file } => read(&file)?.names().try_for_each(say),
    }
}

fn refused(error: PasswordFileError) -> Failure {
    Failure::refused(error.to_string())
}

/// Writing the file back would lose lines that are not understood.
fn read(file: &Path) -> Result<Users> {
    let users = Users::read(file).map_err(refused)?;
    if let Some(line) = users.broken.first() {
        return Err(Failure::refused(format!(
            "{}:{line}: this line is not `user:$argon2id$…`; repair or remove it first",
            file.display()
        ))
        .into());
    }
    Ok(users)
}

/// Whether a file is for SCRAM, by its first user.
fn is_scram(file: &Path) -> bool {
    ScramUsers::read(file).is_ok_and(|users| users.names().next().is_some())
}

/// As [`read`].
fn read_scram(file: &Path) -> Result<ScramUsers> {
    let users = ScramUsers::read(file).map_err(|error| Failure::refused(error.to_string()))?;
    if let Some(line) = users.broken.first() {
        return Err(Failure::refused(format!(
            "{}:{line}: this line is not `user:SCRAM-SHA-256$…`; repair or remove it first",
            file.display()
        ))
        .into());
    }
    Ok(users)
}

/// The password: asked for at a terminal, without showing it; otherwise the first line of standard input.
fn ask(user: &str) -> Result<String> {
    let input = std::io::stdin();
    let mut line = String::new();
    if input.is_terminal() {
        let _ = write!(std::io::stderr(), "Password of {user}: ");
        let _ = std::io::stderr().flush();
        let _quiet = NoEcho::on(&input);
        input.lock().read_line(&mut line)?;
        let _ = writeln!(std::io::stderr());
    } else {
        input.lock().read_line(&mut line)?;
    }
    let end = line.trim_end_matches(['\r', '\n']).len();
    line.truncate(end);
    if line.is_empty() {
        return Err(Failure::refused("the password is empty").into());
    }
    Ok(line)
}

/// While it lives, the terminal does not show what is typed.
struct NoEcho(Option<nix::sys::termios::Termios>);

impl NoEcho {
    fn on(input: &std::io::Stdin) -> Self {
        use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
        let Ok(before) = tcgetattr(input) else { return Self(None) };
        let mut quiet = before.clone();
        quiet.local_flags.remove(LocalFlags::ECHO);
        let set = tcsetattr(input, SetArg::TCSANOW, &quiet);
        Self(set.is_ok().then_some(before))
    }
}

impl Drop for NoEcho {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ =
                nix::sys::termios::tcsetattr(std::io::stdin(), nix::sys::termios::SetArg::TCSANOW, before);
        }
    }
}
