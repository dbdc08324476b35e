//! `mqgate plugin keygen|sign|verify`: signatures of components, made and checked without a broker.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use mqgate_identity::time::UnixMillis;
use mqgate_plugin_host::{PublicKey, Signature, statement};
use mqgate_server::clock;
use rcgen::{KeyPair, PublicKeyData, SigningKey};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::cli::output::{self, say, time};
use crate::cli::remote::read_file;
use crate::exit::{Exit, Failure};
use crate::pki::{Existing, KeyKind, Secrecy, key_to_pem, read_key, write};

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  mqgate plugin keygen release-2026.key

The key goes into the file, which only its owner can read. What is printed goes into the configuration of the brokers
that shall trust it.")]
pub struct KeygenArgs {
    /// Where the private key is written
    file: PathBuf,
    /// The name of the key in the configuration; without it, the file's
    #[arg(long)]
    name: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  mqgate plugin sign my-policy.wasm --key release-2026.key")]
pub struct SignArgs {
    /// The component (.wasm)
    file: PathBuf,
    /// The private key, an Ed25519 key in PKCS #8 (PEM)
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Where the signature is written; without it, FILE.sig
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  mqgate plugin verify my-policy.wasm --key ed25519:5f2c…
  mqgate plugin verify my-policy.wasm --key ed25519:5f2c… --signature elsewhere.sig")]
pub struct VerifyArgs {
    /// The component (.wasm)
    file: PathBuf,
    /// A public key that may have signed it, as `mqgate plugin keygen` printed it
    #[arg(long, value_name = "KEY", required = true)]
    key: Vec<String>,
    /// The signature; without it, FILE.sig
    #[arg(long, value_name = "FILE")]
    signature: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn keygen(args: &KeygenArgs) -> Result<()> {
    if args.file.exists() {
        let what = format!("{} is there already: a key is not overwritten", args.file.display());
        return Err(Failure::refused(what).into());
    }
    let key = KeyKind::Ed25519.generate()?;
    let pem = key_to_pem(&key, None)?;
    write(&args.file, pem.as_bytes(), Secrecy::Private, Existing::Kept)?;
    let public = public_key(&key)?;
    let stem = args.file.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let name = args.name.clone().or(stem).unwrap_or_else(|| String::from("release"));
    if args.json {
        return output::json(&json!({ "name": name, "key": public.to_string(), "file": args.file }));
    }
    say("[[plugin_host.trusted_keys]]")?;
    say(format!("name = {}", toml::Value::String(name)))?;
    say(format!("key = \"{public}\""))
}

pub fn sign(args: &SignArgs) -> Result<()> {
    let digest = digest(&read_file(&args.file)?);
    let key = read_key(&args.key, None)?;
    let signed_at = clock::now();
    let public = public_key(&key)?;
    let bytes = key.sign(&statement(&digest, signed_at)).context("the key does not sign")?;
    let bytes = bytes.try_into().map_err(|_| not_ed25519(&args.key))?;
    let signature = Signature { digest: digest.clone(), signed_at, key: public, bytes };
    let out = args.out.clone().unwrap_or_else(|| beside(&args.file));
    write(&out, format!("{signature}\n").as_bytes(), Secrecy::Public, Existing::Replaced)?;
    if args.json {
        return output::json(&json!({ "digest": digest, "key": public.to_string(), "signature": out }));
    }
    say(format!("signed: {digest}"))?;
    say(format!("key: {public}"))?;
    say(format!("signature: {}", out.display()))
}

pub fn verify(args: &VerifyArgs) -> Result<()> {
    let keys: Result<Vec<PublicKey>, _> = args.key.iter().map(|key| key.parse()).collect();
    let keys = keys.map_err(|error| Failure::new(Exit::Usage, format!("--key: {error}")))?;
    let digest = digest(&read_file(&args.file)?);
    let file = args.signature.clone().unwrap_or_else(|| beside(&args.file));
    let refuse = |error: String| Failure::refused(format!("{}: {error}", file.display()));
    let text = String::from_utf8_lossy(&read_file(&file)?).into_owned();
    let signature: Signature = text.parse().map_err(|error| refuse(format!("{error}")))?;
    signature.holds_for(&digest).map_err(|error| refuse(error.to_string()))?;
    if !keys.contains(&signature.key) {
        return Err(refuse(format!(
            "it holds, and is by {}, which is none of the keys given",
            signature.key
        ))
        .into());
    }
    let signed_at = moment(signature.signed_at);
    if args.json {
        return output::json(&json!({
            "digest": digest, "key": signature.key.to_string(), "signed_at": signed_at
        }));
    }
    say(format!(
        "good: {digest}\nkey: {}\nsigned at: {signed_at}, by the word of who signed it",
        signature.key
    ))
}

fn moment(at: UnixMillis) -> String {
    time(i64::try_from(at.0).unwrap_or(i64::MAX))
}

fn beside(component: &Path) -> PathBuf {
    PathBuf::from(format!("{}.sig", component.display()))
}

fn digest(component: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(component)))
}

fn public_key(key: &KeyPair) -> Result<PublicKey> {
    let raw: [u8; 32] =
        key.der_bytes()
            .try_into()
            .ok()
            .filter(|_| key.algorithm() == &rcgen::PKCS_ED25519)
            .ok_or_else(|| Failure::refused("this is no Ed25519 key: `mqgate plugin keygen` makes one"))?;
    Ok(PublicKey(raw))
}

fn not_ed25519(file: &Path) -> Failure {
    Failure::refused(format!("{} is no Ed25519 key: `mqgate plugin keygen` makes one", file.display()))
}
