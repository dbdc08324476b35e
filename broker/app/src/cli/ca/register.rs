//! Registration of a CA: its certificate, and the proof that its key is in the hands of whoever registers it.
//!
//! Where the key is a file here, the proof is made here: a code is asked for, signed with the key, and sent. The key
//! stays where it is.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Value, json};

use super::super::output::{say, text};
use super::super::remote::{Remote, RemoteArgs};
use super::{Settings, done, pem, segment};
use crate::exit::Failure;
use crate::pki::{Authority, KeyKind, Role, Subject, Template};

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  mqgate ca register ca.pem --name factory-2 --ca-key ca.key
  mqgate ca register ca.pem --name factory-2 --verification verification.pem
  mqgate ca register ca.pem --name factory-2 --auto-registration pending --ca-key ca.key
  mqgate ca register ca.pem --name factory-2            it verifies nothing before `mqgate ca verify`

The proof: a certificate that the CA's key has signed, with a registration code as its common name. With --ca-key it is
made here, and the key stays here. Where the key is elsewhere: `mqgate ca code new`, have the certificate signed there,
and give it with --verification.")]
pub struct Args {
    /// PEM file with one CA certificate
    file: PathBuf,
    /// Its name: letters, digits, `-`, `_`, `.`; a label of metrics
    #[arg(long)]
    name: String,
    #[command(flatten)]
    proof: Proof,
    /// Its word is enough: no proof. Needs the right `cas:unproven`
    #[arg(long, conflicts_with_all = ["ca_key", "verification"])]
    skip_verification: bool,
    /// Register it, but do not trust it before `mqgate ca activate`
    #[arg(long)]
    inactive: bool,
    /// Check everything, and write nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  mqgate ca verify factory-2 --ca-key ca.key
  mqgate ca verify factory-2 --verification verification.pem")]
pub struct VerifyArgs {
    /// Name or SHA-256 of the CA
    id: String,
    #[command(flatten)]
    proof: Proof,
    /// Its word is enough: no proof. Needs the right `cas:unproven`
    #[arg(long, conflicts_with_all = ["ca_key", "verification"])]
    skip_verification: bool,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(clap::Args)]
struct Proof {
    /// File with the CA's private key: the proof is made here, and the key stays here
    #[arg(long, value_name = "FILE", conflicts_with = "verification")]
    ca_key: Option<PathBuf>,
    /// File with the password of that key
    #[arg(long, value_name = "FILE", requires = "ca_key")]
    ca_password_file: Option<PathBuf>,
    /// PEM file with a certificate that the CA signed, its common name a registration code
    #[arg(long, value_name = "FILE")]
    verification: Option<PathBuf>,
}

impl Proof {
    /// The verification certificate, if there is to be one.
    fn make(&self, remote: &Remote, ca_pem: &str) -> Result<Option<String>> {
        if let Some(file) = &self.verification {
            return pem(file).map(Some);
        }
        let Some(key_file) = &self.ca_key else { return Ok(None) };
        let password = self.ca_password_file.as_deref().map(super::super::pki::password).transpose()?;
        // Before a code is asked for: it would be wasted.
        let authority = Authority::with_key(ca_pem.as_bytes(), key_file, password.as_deref())?;
        let code = remote.post("/ca-registration-codes", &json!({}))?;
        sign(&authority, &text(&code, "code")).map(Some)
    }
}

/// What proves that `authority` has the key.
fn sign(authority: &Authority, code: &str) -> Result<String> {
    let subject = Subject { common_name: Some(code.to_owned()), ..Subject::default() };
    let template = Template {
        subject: subject.to_name()?,
        alternative_names: Vec::new(),
        role: Role::Device,
        // As long as the CA lives, if that is shorter; the code is good for a day, and once.
        days: None,
        crl_urls: Vec::new(),
    };
    let own_key = KeyKind::default().generate()?;
    Ok(authority.issue(&template, &own_key)?.pem)
}

pub fn register(args: &Args, config: Option<&Path>) -> Result<()> {
    let ca_pem = pem(&args.file)?;
    let remote = Remote::new(&args.remote, config)?;
    let proof = match args.dry_run {
        // Codes are for one use.
        true if args.proof.ca_key.is_some() => None,
        _ => args.proof.make(&remote, &ca_pem)?,
    };
    let mut body = json!({
        "name": args.name,
        "pem": ca_pem,
        "verification_pem": proof,
        "skip_verification": args.skip_verification,
        "inactive": args.inactive,
    });
    let settings = args.settings.json()?;
    if let Some(body) = body.as_object_mut() {
        body.extend(settings);
    }
    let path = if args.dry_run { "/cas?dry_run=true" } else { "/cas" };
    let ca = remote.post(path, &body)?;
    done(&args.remote, "registered", &ca)?;
    next_step(&args.remote, &ca)
}

pub fn verify(args: &VerifyArgs, config: Option<&Path>) -> Result<()> {
    let remote = Remote::new(&args.remote, config)?;
    let path = format!("/cas/{}", segment(&args.id));
    // The certificate is the one that was registered.
    let ca = remote.get(&path)?;
    let proof = args.proof.make(&remote, &text(&ca, "pem"))?;
    if proof.is_none() && !args.skip_verification {
        let what = "give the proof: --ca-key FILE, or --verification FILE (a certificate that the CA signed, its common \
                    name a code of `mqgate ca code new`)";
        return Err(Failure::refused(what).into());
    }
    let body = json!({ "verification_pem": proof, "skip_verification": args.skip_verification });
    done(&args.remote, "verified", &remote.post(&format!("{path}/verify"), &body)?)
}

fn next_step(args: &RemoteArgs, ca: &Value) -> Result<()> {
    if args.json || ca["state"] != "PENDING_ACTIVATION" {
        return Ok(());
    }
    say("  it verifies nothing yet: prove that its key is yours with `mqgate ca verify`")
}
