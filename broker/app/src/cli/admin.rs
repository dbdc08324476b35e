//! `mqgate admin`: API tokens, and what the admin API says of itself.

use std::path::Path;

use anyhow::Result;
use mqgate_server::admin::{self, Role, Scope};
use serde_json::{Value, json};

use super::output::{self, say, table, text, time};
use super::remote::{ChangeArgs, Remote, RemoteArgs, segment};
use crate::config::units::Span;
use crate::exit::{Exit, Failure};

#[derive(clap::Subcommand)]
#[command(after_help = "\
Examples:
  mqgate admin token create ci --role registrar --for 90d
  mqgate admin token create watch --scope events:read --scope clients:read
  mqgate admin token revoke ci
  mqgate admin openapi > openapi.json")]
pub enum Command {
    /// API tokens: each with a name, roles and scopes, and perhaps an end
    #[command(subcommand)]
    Token(Box<Token>),
    /// Print the OpenAPI description of the admin API; needs no broker
    Openapi,
    /// Print the reference of the admin API, docs/api.md; needs no broker
    Docs,
}

#[derive(clap::Subcommand)]
#[command(after_help = "\
Examples:
  mqgate admin token create ci --role registrar --for 90d
  mqgate admin token list")]
pub enum Token {
    /// Make a token; its secret is printed this once
    Create {
        /// As the audit log shows who used it
        name: String,
        /// admin, operator, registrar, auditor, viewer; several times for several
        #[arg(long = "role", value_name = "ROLE")]
        roles: Vec<Role>,
        /// A single right, such as certs:revoke (docs/api.md lists them); several times for several
        #[arg(long = "scope", value_name = "SCOPE")]
        scopes: Vec<Scope>,
        /// How long it holds, for example 90d; without it, until it is revoked
        #[arg(long = "for", value_name = "TIME")]
        span: Option<String>,
        #[command(flatten)]
        change: ChangeArgs,
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// List tokens; secrets are not kept
    List {
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Refuse a token from now on
    Revoke {
        /// Its name or id
        id: String,
        #[command(flatten)]
        change: ChangeArgs,
        #[command(flatten)]
        remote: RemoteArgs,
    },
}

pub fn run(command: Command, config: Option<&Path>) -> Result<()> {
    match command {
        Command::Token(command) => token(*command, config),
        Command::Openapi => {
            output::json(&admin::description(env!("CARGO_PKG_VERSION"), &crate::admin::described()))
        }
        Command::Docs => say(admin::reference(&crate::admin::described()).trim_end()),
    }
}

fn token(command: Token, config: Option<&Path>) -> Result<()> {
    match command {
        Token::Create { name, roles, scopes, span, change, remote } => {
            if roles.is_empty() && scopes.is_empty() {
                return Err(Failure::new(Exit::Usage, "give the token a --role or a --scope").into());
            }
            let seconds = match span.as_deref().map(str::parse::<Span>) {
                None => None,
                Some(Ok(span)) => Some(span.0.as_secs()),
                Some(Err(error)) => return Err(Failure::new(Exit::Usage, format!("--for: {error}")).into()),
            };
            let body = json!({ "name": name, "roles": roles, "scopes": scopes, "seconds": seconds });
            let made = Remote::new(&remote, config)?.post(&change.path("/tokens"), &body)?;
            if remote.json || change.is_dry_run() {
                return output::json(&made);
            }
            say(text(&made, "secret"))
        }
        Token::List { remote } => {
            let items = Remote::new(&remote, config)?.all("/tokens?limit=1000")?;
            if remote.json {
                return output::json(&Value::Array(items));
            }
            if items.is_empty() {
                return say("no tokens besides the one of the token file");
            }
            let words = |item: &Value, key: &str| {
                let words = item[key].as_array().into_iter().flatten().filter_map(Value::as_str);
                words.collect::<Vec<_>>().join(",")
            };
            let at = |item: &Value, key: &str, otherwise: &str| {
                item[key].as_i64().map_or_else(|| otherwise.to_owned(), time)
            };
            let rows: Vec<Vec<String>> = items
                .iter()
                .map(|item| {
                    vec![
                        text(item, "name"),
                        text(item, "id"),
                        words(item, "roles"),
                        words(item, "scopes"),
                        at(item, "expires_at", "revoked"),
                        at(item, "last_used_at", "-"),
                        text(item, "created_by"),
                    ]
                })
                .collect();
            table(&["NAME", "ID", "ROLES", "SCOPES", "UNTIL", "LAST USED", "MADE BY"], &rows)
        }
        Token::Revoke { id, change, remote } => {
            let path = change.path(&format!("/tokens/{}", segment(&id)));
            let gone = Remote::new(&remote, config)?.delete(&path)?;
            if remote.json || change.is_dry_run() {
                return output::json(&gone);
            }
            say(format!("revoked: {} ({})", text(&gone, "name"), text(&gone, "id")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reference is made from the code.
    #[test]
    fn the_reference_is_up_to_date() {
        let expected = admin::reference(&crate::admin::described());
        let found = include_str!("../../../../docs/api.md");
        assert!(found.trim_end() == expected.trim_end(), "run `mqgate admin docs > docs/api.md`");
    }
}
