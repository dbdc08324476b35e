//! The commands that make something: CAs, certificates, revocation lists.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use rcgen::SanType;
use serde_json::{Value, json};

use super::super::output::{self, printable, say};
use super::super::remote::read_file;
use crate::exit::{Exit, Failure};
use crate::pki::request::Request;
use crate::pki::{
    Authority, Existing, Issued, KeyKind, Pair, Role, Secrecy, Subject, Template, alternative_name, bulk,
    check_file_name, create_folder, crl as lists, is_there, root, write,
};

/// Where things are, and whether they may be replaced.
#[derive(clap::Args)]
struct Place {
    /// The folder
    #[arg(long, default_value = "pki")]
    dir: PathBuf,
    /// Replace files that are there
    #[arg(long)]
    force: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Place {
    const fn existing(&self) -> Existing {
        if self.force { Existing::Replaced } else { Existing::Kept }
    }
}

/// The CA that signs.
#[derive(clap::Args)]
struct Signer {
    /// Name of the CA in the folder: NAME.pem and NAME.key
    #[arg(long, value_name = "NAME", default_value = "ca")]
    ca: String,
    /// File with the password of the CA's key
    #[arg(long, value_name = "FILE")]
    ca_password_file: Option<PathBuf>,
}

impl Signer {
    fn open(&self, dir: &Path) -> Result<Authority> {
        let password = self.ca_password_file.as_deref().map(password).transpose()?;
        Authority::open(dir, &self.ca, password.as_deref())
    }
}

/// The key that is made.
#[derive(clap::Args)]
struct Key {
    /// Kind of key
    #[arg(long, value_enum, default_value_t)]
    key: KeyKind,
    /// File with a password to encrypt the key with
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

/// The rest of a subject.
#[derive(clap::Args)]
struct Names {
    /// Organization
    #[arg(long, value_name = "NAME")]
    org: Option<String>,
    /// Organizational unit
    #[arg(long, value_name = "NAME")]
    ou: Option<String>,
    /// Country: two capital letters
    #[arg(long, value_name = "CC")]
    country: Option<String>,
}

impl Names {
    fn subject(&self, common_name: Option<String>) -> Subject {
        Subject {
            country: self.country.clone(),
            organization: self.org.clone(),
            organizational_unit: self.ou.clone(),
            common_name,
        }
    }
}

/// What every leaf may have.
#[derive(clap::Args)]
struct Leaf {
    /// Name of the files; without it, the common name or the first --san
    #[arg(long)]
    name: Option<String>,
    /// DNS name, IP address, URI or e-mail address; may be repeated
    #[arg(long, value_name = "NAME")]
    san: Vec<String>,
    /// How long it is valid; without it 365, or as long as the CA if that is shorter
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: Option<u32>,
    /// Address of the CA's revocation list, written into the certificate; may be repeated
    #[arg(long, value_name = "URL")]
    crl_url: Vec<String>,
}

impl Leaf {
    fn alternative_names(&self) -> Result<Vec<SanType>> {
        self.san.iter().map(|name| alternative_name(name)).collect()
    }
}

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  mqgate pki ca --cn \"Factory CA\" --org Example
  mqgate pki ca --cn \"Line 1\" --name line-1 --signed-by ca
  mqgate pki ca --cn \"Vault CA\" --key rsa-4096 --password-file secret.txt")]
pub struct CaArgs {
    /// Common name
    #[arg(long)]
    cn: String,
    /// Name of the files
    #[arg(long, default_value = "ca")]
    name: String,
    /// Make an intermediate: name of the CA in the folder that signs it
    #[arg(long, value_name = "NAME")]
    signed_by: Option<String>,
    /// File with the password of that CA's key
    #[arg(long, value_name = "FILE")]
    ca_password_file: Option<PathBuf>,
    /// CAs that may stand between it and a certificate; without it 1, and 0 for an intermediate
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..=6))]
    path_length: Option<u8>,
    /// How long it is valid; without it 3650, and 1825 for an intermediate
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: Option<u32>,
    #[command(flatten)]
    names: Names,
    #[command(flatten)]
    key: Key,
    #[command(flatten)]
    place: Place,
}

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  mqgate pki server --san broker.example --san 192.0.2.1
  mqgate pki server --san '*.mqtt.example' --name wildcard --ca line-1 --key rsa")]
pub struct ServerArgs {
    /// Common name; without it the first --san. Clients look at --san alone
    #[arg(long)]
    cn: Option<String>,
    #[command(flatten)]
    leaf: Leaf,
    #[command(flatten)]
    names: Names,
    #[command(flatten)]
    signer: Signer,
    #[command(flatten)]
    key: Key,
    #[command(flatten)]
    place: Place,
}

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  mqgate pki device --cn device-7 --ou meters
  mqgate pki device --cn device-7 --san urn:dev:ops:32473-7 --days 3650 --key ed25519")]
pub struct DeviceArgs {
    /// Common name: what the device is called
    #[arg(long)]
    cn: String,
    #[command(flatten)]
    leaf: Leaf,
    #[command(flatten)]
    names: Names,
    #[command(flatten)]
    signer: Signer,
    #[command(flatten)]
    key: Key,
    #[command(flatten)]
    place: Place,
}

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  mqgate pki sign device-7.csr
  mqgate pki sign broker.csr --server --san broker.example

Taken over from the request: key, subject, alternative names. Not taken over: what it wants to be used for,
and every other extension. Refused: a wrong signature, a weak key, the wish to be a CA.")]
pub struct SignArgs {
    /// The request, PEM or DER
    file: PathBuf,
    /// For a server instead of a device
    #[arg(long)]
    server: bool,
    /// Common name in place of the request's subject
    #[arg(long)]
    cn: Option<String>,
    #[command(flatten)]
    leaf: Leaf,
    #[command(flatten)]
    names: Names,
    #[command(flatten)]
    signer: Signer,
    #[command(flatten)]
    place: Place,
}

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  mqgate pki bulk devices.csv --out devices
  printf 'cn,ou,san\\nmeter-1,meters,urn:dev:1\\n' > devices.csv

The first line names the columns: cn, name, org, ou, country, san, days; only cn is needed. Several names in
`san` have spaces or `;` between them. A run that was interrupted is continued by the same command. At the end
OUT/manifest.csv lists every certificate.")]
pub struct BulkArgs {
    /// The CSV file
    file: PathBuf,
    /// The folder for certificates and keys
    #[arg(long, default_value = "devices")]
    out: PathBuf,
    /// The folder of the CA
    #[arg(long, default_value = "pki")]
    dir: PathBuf,
    /// How long a certificate is valid, where its line does not say; without it 365
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: Option<u32>,
    /// Kind of key
    #[arg(long, value_enum, default_value_t)]
    key: KeyKind,
    /// Address of the CA's revocation list, written into the certificates; may be repeated
    #[arg(long, value_name = "URL")]
    crl_url: Vec<String>,
    /// Threads; without it, one for each core
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: Option<u16>,
    #[command(flatten)]
    signer: Signer,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  mqgate pki crl                                     an empty list: pki/ca.crl.pem
  mqgate pki crl --update --revoke device-7.pem --reason key-compromise
  mqgate pki crl --update --list revoked.txt --next-update 24

A line of --list is a serial number in hex digits or a certificate's file, and then perhaps a reason. What an
earlier list revoked stays revoked.")]
pub struct CrlArgs {
    /// A certificate's file, or a serial number in hex digits; may be repeated
    #[arg(long, value_name = "WHAT")]
    revoke: Vec<String>,
    /// Why: key-compromise, superseded, cessation-of-operation, privilege-withdrawn, …; for every --revoke
    #[arg(long, requires = "revoke")]
    reason: Option<String>,
    /// File with more of them, one a line
    #[arg(long, value_name = "FILE")]
    list: Option<PathBuf>,
    /// Hours until the next list is due
    #[arg(long, value_name = "HOURS", default_value_t = 168, value_parser = clap::value_parser!(u32).range(1..=87_600))]
    next_update: u32,
    /// The file; without it CA.crl.pem in the folder. With the ending .der or .crl it is DER
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Continue the list that is there
    #[arg(long)]
    update: bool,
    #[command(flatten)]
    signer: Signer,
    #[command(flatten)]
    place: Place,
}

/// The first line of a file.
pub fn password(file: &Path) -> Result<String> {
    let text = String::from_utf8(read_file(file)?)
        .map_err(|_| Failure::refused(format!("{}: the password is not UTF-8", file.display())))?;
    match text.lines().next().filter(|line| !line.is_empty()) {
        Some(line) => Ok(line.to_owned()),
        None => Err(Failure::refused(format!("{}: its first line is empty", file.display())).into()),
    }
}

pub fn ca(args: &CaArgs) -> Result<()> {
    check_file_name(&args.name)?;
    let files = Pair::new(&args.place.dir, &args.name);
    if !args.place.force {
        files.must_be_free()?;
    }
    let subject = args.names.subject(Some(args.cn.clone())).to_name()?;
    let key = args.key.key.generate()?;
    let issued = match &args.signed_by {
        None => {
            create_folder(&args.place.dir)?;
            root(subject, args.days, args.path_length.unwrap_or(1), &key)?
        }
        Some(name) if *name == args.name => {
            return Err(Failure::new(
                Exit::Usage,
                format!("an intermediate that `{name}` signs needs another --name"),
            )
            .into());
        }
        Some(name) => {
            let password = args.ca_password_file.as_deref().map(password).transpose()?;
            let role = Role::Ca { path_length: args.path_length.unwrap_or(0) };
            let template = Template {
                subject,
                alternative_names: Vec::new(),
                role,
                days: args.days,
                crl_urls: Vec::new(),
            };
            Authority::open(&args.place.dir, name, password.as_deref())?.issue(&template, &key)?
        }
    };
    let password = args.key.password_file.as_deref().map(password).transpose()?;
    files.write(&issued, &key, password.as_deref(), args.place.existing())?;
    tell(&args.place, &issued, &files.certificate, Some(&files.key), &[])
}

pub fn server(args: &ServerArgs) -> Result<()> {
    let names = args.leaf.alternative_names()?;
    if !names.iter().any(|name| matches!(name, SanType::DnsName(_) | SanType::IpAddress(_))) {
        return Err(Failure::new(
            Exit::Usage,
            "a server certificate needs at least one --san with a DNS name or IP address: clients look for the \
             host there, and nowhere else",
        )
        .into());
    }
    let first = args.leaf.san.first().map(|name| name.trim_start_matches("dns:").trim_start_matches("ip:"));
    // Longer than a common name may be, it is left out.
    let common_name = args.cn.clone().or_else(|| first.filter(|name| name.len() <= 64).map(str::to_owned));
    let file = first.unwrap_or_default().replace("*.", "wildcard.").replace(':', "-");
    leaf(
        &args.leaf,
        args.names.subject(common_name),
        Role::Server,
        &file,
        &args.signer,
        &args.key,
        &args.place,
    )
}

pub fn device(args: &DeviceArgs) -> Result<()> {
    let subject = args.names.subject(Some(args.cn.clone()));
    leaf(&args.leaf, subject, Role::Device, &args.cn, &args.signer, &args.key, &args.place)
}

fn leaf(
    args: &Leaf,
    subject: Subject,
    role: Role,
    usual_name: &str,
    signer: &Signer,
    key: &Key,
    place: &Place,
) -> Result<()> {
    let name = args.name.as_deref().unwrap_or(usual_name);
    check_file_name(name)?;
    let files = Pair::new(&place.dir, name);
    not_the_ca(name, signer)?;
    if !place.force {
        files.must_be_free()?;
    }
    let template = Template {
        subject: subject.to_name()?,
        alternative_names: args.alternative_names()?,
        role,
        days: args.days,
        crl_urls: args.crl_url.clone(),
    };
    let authority = signer.open(&place.dir)?;
    let password = key.password_file.as_deref().map(password).transpose()?;
    let key = key.key.generate()?;
    let issued = authority.issue(&template, &key)?;
    files.write(&issued, &key, password.as_deref(), place.existing())?;
    tell(place, &issued, &files.certificate, Some(&files.key), &[])
}

/// Even with `--force`.
fn not_the_ca(name: &str, signer: &Signer) -> Result<()> {
    if name == signer.ca {
        return Err(Failure::refused(format!("`{name}` is the CA itself: choose another --name")).into());
    }
    Ok(())
}

pub fn sign(args: &SignArgs) -> Result<()> {
    let request = Request::parse(&read_file(&args.file)?)
        .map_err(|error| error.context(format!("{} is not signed", args.file.display())))?;
    let stem = args.file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let name = args.leaf.name.as_deref().unwrap_or(&stem);
    check_file_name(name)?;
    not_the_ca(name, &args.signer)?;
    let file = Pair::new(&args.place.dir, name).certificate;
    if file.symlink_metadata().is_ok() && !args.place.force {
        return Err(is_there(&file).into());
    }
    let own = args.names.subject(args.cn.clone());
    let subject = if own == Subject::default() { request.subject.clone() } else { own.to_name()? };
    let given = args.leaf.alternative_names()?;
    let alternative_names = if given.is_empty() { request.alternative_names.clone() } else { given };
    let is_host = |name: &SanType| matches!(name, SanType::DnsName(_) | SanType::IpAddress(_));
    if args.server && !alternative_names.iter().any(is_host) {
        return Err(Failure::refused(
            "the request names no host among its alternative names: give the server's with --san",
        )
        .into());
    }
    let role = if args.server { Role::Server } else { Role::Device };
    let template = Template {
        subject,
        alternative_names,
        role,
        days: args.leaf.days,
        crl_urls: args.leaf.crl_url.clone(),
    };
    let issued = args.signer.open(&args.place.dir)?.issue(&template, &request.public_key)?;
    write(&file, issued.pem.as_bytes(), Secrecy::Public, args.place.existing())?;
    tell(&args.place, &issued, &file, None, &request.left_out)
}

/// What was made.
fn tell(
    place: &Place,
    issued: &Issued,
    certificate: &Path,
    key: Option<&PathBuf>,
    left_out: &[String],
) -> Result<()> {
    let facts = &issued.facts;
    if place.json {
        return output::json(&json!({
            "certificate": certificate,
            "key": key,
            "subject": facts.subject.display,
            "issuer": facts.issuer.display,
            "serial": hex::encode(&facts.serial),
            "sha256": facts.certificate_fingerprint.to_hex(),
            "not_before": facts.not_before.to_string(),
            "not_after": facts.not_after.to_string(),
            "left_out": left_out,
        }));
    }
    match key {
        Some(key) => say(format!("created {} and {}", certificate.display(), key.display()))?,
        None => say(format!("created {}", certificate.display()))?,
    }
    say(format!("  subject  {}", printable(&facts.subject.display)))?;
    say(format!("  valid    until {}", facts.not_after))?;
    say(format!("  sha256   {}", facts.certificate_fingerprint.to_hex()))?;
    left_out.iter().try_for_each(|what| say(format!("  left out {}", printable(what))))
}

pub fn bulk(args: &BulkArgs) -> Result<()> {
    let (rows, mut errors) = bulk::read(&read_file(&args.file)?)
        .map_err(|error| error.context(format!("{} cannot be used", args.file.display())))?;
    let authority = args.signer.open(&args.dir)?;
    create_folder(&args.out)?;
    // Shows itself on a terminal only.
    let bar = indicatif::ProgressBar::new(rows.len() as u64);
    let style = indicatif::ProgressStyle::with_template("{bar:40} {pos}/{len} {per_sec} {eta}")
        .context("the progress bar's template is wrong")?;
    bar.set_style(style);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let settings = bulk::Settings {
        authority: &authority,
        folder: &args.out,
        key_kind: args.key,
        days: args.days,
        crl_urls: &args.crl_url,
        threads: args.jobs.map_or(cores, usize::from),
    };
    let report = bulk::issue(&rows, &settings, &|| bar.inc(1))?;
    bar.finish_and_clear();
    errors.extend(report.errors);
    errors.sort_by_key(|error| error.line);
    if args.json {
        let list: Vec<Value> =
            errors.iter().map(|error| json!({ "line": error.line, "problem": error.problem })).collect();
        let summary = json!({ "issued": report.issued, "kept": report.kept, "errors": list });
        output::json(&summary)?;
    } else {
        say(format!("issued {}, kept {}, failed {}", report.issued, report.kept, errors.len()))?;
    }
    if errors.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = errors
        .iter()
        .map(|error| format!("{}:{}: {}", args.file.display(), error.line, error.problem))
        .collect();
    Err(Failure::refused(format!(
        "{} lines gave no certificate\n{}\n  help: correct them and run the same command again; what was issued is kept",
        errors.len(),
        lines.join("\n")
    ))
    .into())
}

pub fn crl(args: &CrlArgs) -> Result<()> {
    let authority = args.signer.open(&args.place.dir)?;
    let file = args.out.clone().unwrap_or_else(|| args.place.dir.join(format!("{}.crl.pem", args.signer.ca)));
    let there = file.symlink_metadata().is_ok();
    let mut contents = match (there, args.update) {
        (true, true) => lists::Contents::read(&read_file(&file)?, &authority)
            .map_err(|error| error.context(format!("{} cannot be continued", file.display())))?,
        (true, false) if !args.place.force => {
            return Err(Failure::refused(format!(
                "{} is there already: continue it with --update; --force begins anew, and forgets what it revoked",
                file.display()
            ))
            .into());
        }
        (true, false) | (false, _) => lists::Contents::default(),
    };
    let now = SystemTime::now();
    let reason = args.reason.as_deref().map(lists::reason).transpose()?;
    for what in &args.revoke {
        contents.revoke(&authority, what, reason, now)?;
    }
    if let Some(list) = &args.list {
        let text = String::from_utf8(read_file(list)?)
            .map_err(|_| Failure::refused(format!("{} is not UTF-8", list.display())))?;
        contents
            .revoke_lines(&authority, &text, now)
            .map_err(|error| Failure::refused(format!("{}: {error}", list.display())))?;
    }
    let der = contents.sign(&authority, now, Duration::from_secs(u64::from(args.next_update) * 3_600))?;
    let is_der = file.extension().is_some_and(|ending| ending == "der" || ending == "crl");
    let bytes = if is_der { der } else { lists::to_pem(&der)?.into_bytes() };
    write(&file, &bytes, Secrecy::Public, if there { Existing::Replaced } else { Existing::Kept })?;
    let (number, revoked) = (hex::encode(&contents.number), contents.entries.len());
    if args.place.json {
        let summary = json!({ "file": file, "number": number, "revoked": revoked });
        return output::json(&summary);
    }
    say(format!("wrote {}: list {number}, {revoked} revoked", file.display()))
}
