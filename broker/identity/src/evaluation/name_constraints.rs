//! Name constraints: RFC 5280, 4.2.1.10. A CA says which names those below it may have.
//!
//! DNS names, addresses, mailboxes, URIs and directory names are compared. Constraints of other forms refuse
//! every certificate that has a name of that form. Does not know paths: it is given one CA and one
//! certificate below it.

use std::ops::Range;

use super::Rejection;
use crate::certificate::{
    CanonicalName, CertificateFacts, Element, GeneralName, Subtree, only, tag, take, take_tagged, unsigned,
};
use crate::reason::Reason;

const EMAIL_ADDRESS: &str = "1.2.840.113549.1.9.1";
const COMMON_NAME: &str = "2.5.4.3";

/// What one CA permits and excludes.
#[derive(Debug, Default)]
pub(super) struct NameConstraints {
    permitted: Subtrees,
    excluded: Subtrees,
}

/// In the order of their forms, so that a name meets those of its own form and no others.
#[derive(Debug, Default)]
struct Subtrees(Vec<Base>);

/// The kinds of names, by the tag number they have in a GeneralName.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Form(u8);

const MAILBOX: Form = Form(1);
const DNS: Form = Form(2);
const DIRECTORY: Form = Form(4);
const URI: Form = Form(6);
const ADDRESS: Form = Form(7);

#[derive(Debug, Clone)]
enum Base {
    /// Lower case; with a leading dot only names below it.
    Dns(String),
    /// Address and mask, 4 or 16 bytes each.
    Address(Vec<u8>, Vec<u8>),
    Mailbox(Mailbox),
    /// Lower case; with a leading dot the hosts below it.
    Uri(String),
    Directory(CanonicalName),
    /// Of this form, which is not compared.
    Other(Form),
}

#[derive(Debug, Clone)]
enum Mailbox {
    One {
        local: String,
        host: String,
    },
    Host(String),
    /// Hosts below a domain; without the leading dot.
    Domain(String),
}

/// Every name of one certificate that constraints apply to, taken apart once.
#[derive(Debug)]
pub(super) struct Names<'a>(Vec<Name<'a>>);

/// A name of a certificate.
#[derive(Debug)]
enum Name<'a> {
    /// Lower case, without a final dot; the first label may be a wildcard.
    Dns(String),
    Address(&'a [u8]),
    /// The host in lower case.
    Mailbox {
        local: String,
        host: String,
    },
    /// The host, in lower case.
    Uri(String),
    Directory(CanonicalName),
    /// Not decoded or not comparable, of this form.
    Opaque(Form),
}

/// Comparisons that are left for one chain.
#[derive(Debug)]
pub(super) struct Comparisons(pub(super) u32);

impl Comparisons {
    fn spend(&mut self) -> Result<(), Rejection> {
        self.0 = self.0.checked_sub(1).ok_or_else(|| {
            Rejection::new(Reason::CertTooLarge, "there are too many names and name constraints in the chain")
        })?;
        Ok(())
    }
}

impl NameConstraints {
    /// Reads the value of the extension. What cannot be read or is not defined refuses the CA.
    pub(super) fn read(value: &[u8]) -> Result<Self, Rejection> {
        let parts = || {
            let mut fields = only(value, tag::SEQUENCE)?.content;
            let permitted = take_tagged(&mut fields, 0xa0);
            let excluded = take_tagged(&mut fields, 0xa1);
            let both = [permitted, excluded];
            // "MUST NOT issue certificates where name constraints is an empty sequence."
            let is_empty = both.iter().flatten().next().is_none();
            if !fields.is_empty() || is_empty || both.iter().flatten().any(|list| list.content.is_empty()) {
                return None;
            }
            let subtrees = |list: Option<Element<'_>>| {
                list.map_or(Some(Vec::new()), |list| subtrees(list.content)).map(Subtrees::new)
            };
            Some(Self { permitted: subtrees(permitted)?, excluded: subtrees(excluded)? })
        };
        parts().ok_or_else(|| {
            Rejection::new(
                Reason::CertNameConstraint,
                "the name constraints of a CA are malformed, or use what RFC 5280, 4.2.1.10, does not allow",
            )
        })
    }

    /// Whether a certificate below the CA keeps to it.
    pub(super) fn check(
        &self,
        names: &Names<'_>,
        subject: &str,
        left: &mut Comparisons,
    ) -> Result<(), Rejection> {
        for name in &names.0 {
            let form = name.form();
            let permitted = self.permitted.of(form);
            let mut is_permitted = permitted.is_empty();
            for base in permitted {
                left.spend()?;
                // Unclear is not enough.
                if name.stands(base) == Subtree::Within {
                    is_permitted = true;
                    break;
                }
            }
            if !is_permitted {
                return Err(violated(subject, form, "is not within what a CA of it permits"));
            }
            for base in self.excluded.of(form) {
                left.spend()?;
                if name.may_be_excluded_by(base) {
                    return Err(violated(subject, form, "is excluded by a CA of it"));
                }
            }
        }
        Ok(())
    }

    /// Whether a DNS name begins with a dot, which only URIs' and mailboxes' constraints may.
    pub(super) fn has_leading_dot(&self) -> bool {
        let both = [&self.permitted, &self.excluded];
        both.into_iter()
            .flat_map(|trees| trees.of(DNS))
            .any(|base| matches!(base, Base::Dns(name) if name.starts_with('.')))
    }
}

impl Subtrees {
    fn new(mut bases: Vec<Base>) -> Self {
        bases.sort_by_key(Base::form);
        Self(bases)
    }

    fn of(&self, form: Form) -> &[Base] {
        let place = Range {
            start: self.0.partition_point(|base| base.form() < form),
            end: self.0.partition_point(|base| base.form() <= form),
        };
        self.0.get(place).unwrap_or_default()
    }
}

fn violated(subject: &str, form: Form, what: &str) -> Rejection {
    let form = match form {
        MAILBOX => "a mailbox",
        DNS => "a DNS name",
        DIRECTORY => "a directory name",
        URI => "a URI",
        ADDRESS => "an address",
        _ => "a name of a form that is not compared",
    };
    Rejection::new(Reason::CertNameConstraint, format!("{form} of \"{subject}\" {what} (name constraints)"))
}

fn subtrees(mut list: &[u8]) -> Option<Vec<Base>> {
    let mut bases = Vec::new();
    while !list.is_empty() {
        let mut fields = take_tagged(&mut list, tag::SEQUENCE)?.content;
        let base = take(&mut fields)?;
        // "Within this profile, the minimum and maximum fields are not used": the default is zero.
        if let Some(minimum) = take_tagged(&mut fields, 0x80)
            && unsigned(minimum.content)? != 0
        {
            return None;
        }
        if !fields.is_empty() {
            return None;
        }
        bases.push(read_base(&base)?);
    }
    Some(bases)
}

fn read_base(base: &Element<'_>) -> Option<Base> {
    let exact =
        || std::str::from_utf8(base.content).ok().filter(|text| text.bytes().all(|b| b.is_ascii_graphic()));
    let text = || exact().map(str::to_ascii_lowercase);
    match base.tag {
        0x82 => {
            let name = text()?;
            is_dns_name(name.strip_prefix('.').unwrap_or(&name), Wildcard::No).then_some(Base::Dns(name))
        }
        0x87 => {
            let (address, mask) = base.content.split_at_checked(base.content.len() / 2)?;
            let is_whole = matches!(address.len(), 4 | 16) && mask.len() == address.len();
            (is_whole && is_contiguous(mask)).then(|| Base::Address(address.to_vec(), mask.to_vec()))
        }
        0x81 => read_mailbox(exact()?).map(Base::Mailbox),
        0x86 => {
            let host = text()?;
            is_dns_name(host.strip_prefix('.').unwrap_or(&host), Wildcard::No).then_some(Base::Uri(host))
        }
        0xa4 => CanonicalName::read(base.content).map(Base::Directory),
        0xa0 | 0xa3 | 0xa5 | 0x88 => Some(Base::Other(Form(base.tag & 0x1f))),
        _ => None,
    }
}

fn read_mailbox(text: &str) -> Option<Mailbox> {
    if let Some((local, host)) = text.rsplit_once('@') {
        let local = local_part(local)?;
        let fits = is_dns_name(host, Wildcard::No) && !host.is_empty();
        return fits.then(|| Mailbox::One { local, host: host.to_ascii_lowercase() });
    }
    let text = &*text.to_ascii_lowercase();
    let (host, is_domain) = match text.strip_prefix('.') {
        Some(domain) => (domain, true),
        None => (text, false),
    };
    if host.is_empty() || !is_dns_name(host, Wildcard::No) {
        return None;
    }
    Some(if is_domain { Mailbox::Domain(host.to_owned()) } else { Mailbox::Host(host.to_owned()) })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wildcard {
    Yes,
    No,
}

/// Labels of letters, digits, `-` and `_`; nothing at all stands for every name.
fn is_dns_name(name: &str, wildcard: Wildcard) -> bool {
    let rest = match (wildcard, name.strip_prefix("*.")) {
        (Wildcard::Yes, Some(rest)) => rest,
        _ => name,
    };
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    name.is_empty() || (name.len() <= 253 && rest.split('.').all(label))
}

fn is_contiguous(mask: &[u8]) -> bool {
    let ones: u32 = mask.iter().take_while(|&&byte| byte == 0xff).count() as u32 * 8;
    let rest = mask.get(ones as usize / 8..).unwrap_or_default();
    match rest {
        [] => true,
        [first, tail @ ..] => {
            first.leading_ones() + first.trailing_zeros() == 8 && tail.iter().all(|&byte| byte == 0)
        }
    }
}

impl<'a> Names<'a> {
    /// The subject and its mailboxes, the alternative names, and, where no alternative name is of DNS, a common name
    /// that looks like one.
    pub(super) fn of(facts: &'a CertificateFacts) -> Self {
        let mut names = Vec::new();
        match CanonicalName::read(&facts.subject.raw) {
            Some(subject) if subject.is_empty() => {}
            Some(subject) => names.push(Name::Directory(subject)),
            None => names.push(Name::Opaque(DIRECTORY)),
        }
        let of =
            |oid: &'static str| facts.subject.attributes.iter().filter(move |attribute| attribute.oid == oid);
        for attribute in of(EMAIL_ADDRESS) {
            names.push(attribute.text.as_deref().map_or(Name::Opaque(MAILBOX), Name::mailbox));
        }
        let has_dns = facts
            .subject_alt_names
            .iter()
            .any(|name| matches!(name, GeneralName::Dns(_) | GeneralName::Malformed(2, _)));
        if !has_dns && !facts.is_ca {
            for attribute in of(COMMON_NAME) {
                match &attribute.text {
                    Some(text) if text.contains('.') => match Name::dns(text.trim()) {
                        Name::Opaque(_) => {}
                        name => names.push(name),
                    },
                    Some(_) => {}
                    // Somebody may read a host name out of it.
                    None => names.push(Name::Opaque(DNS)),
                }
            }
        }
        names.extend(facts.subject_alt_names.iter().map(|name| match name {
            GeneralName::Dns(name) => Name::dns(name),
            GeneralName::Email(mailbox) => Name::mailbox(mailbox),
            GeneralName::Uri(uri) => host_of(uri).map_or(Name::Opaque(URI), Name::Uri),
            GeneralName::Ip(address) => Name::Address(address),
            GeneralName::Directory(raw) => {
                CanonicalName::read(raw).map_or(Name::Opaque(DIRECTORY), Name::Directory)
            }
            GeneralName::RegisteredId(_) => Name::Opaque(Form(8)),
            GeneralName::Other(..) => Name::Opaque(Form(0)),
            GeneralName::Malformed(form, _) => Name::Opaque(Form(*form)),
        }));
        Self(names)
    }
}

impl Base {
    const fn form(&self) -> Form {
        match self {
            Self::Dns(_) => DNS,
            Self::Address(..) => ADDRESS,
            Self::Mailbox(_) => MAILBOX,
            Self::Uri(_) => URI,
            Self::Directory(_) => DIRECTORY,
            Self::Other(form) => *form,
        }
    }
}

impl Name<'_> {
    fn dns(name: &str) -> Self {
        // A name with a final dot is the same name.
        let name = name.strip_suffix('.').unwrap_or(name);
        match !name.is_empty() && is_dns_name(name, Wildcard::Yes) {
            true => Self::Dns(name.to_ascii_lowercase()),
            false => Self::Opaque(DNS),
        }
    }

    fn mailbox(mailbox: &str) -> Self {
        let read = || {
            let (local, host) = mailbox.rsplit_once('@')?;
            let is_host = !host.is_empty() && is_dns_name(host, Wildcard::No);
            Some((local_part(local).filter(|_| is_host)?, host.to_ascii_lowercase()))
        };
        read().map_or(Self::Opaque(MAILBOX), |(local, host)| Self::Mailbox { local, host })
    }

    const fn form(&self) -> Form {
        match self {
            Self::Dns(_) => DNS,
            Self::Address(_) => ADDRESS,
            Self::Mailbox { .. } => MAILBOX,
            Self::Uri(_) => URI,
            Self::Directory(_) => DIRECTORY,
            Self::Opaque(form) => *form,
        }
    }

    fn stands(&self, base: &Base) -> Subtree {
        let within = match (self, base) {
            (Self::Dns(name), Base::Dns(base)) => dns_is_within(name, base),
            (Self::Address(address), Base::Address(base, mask)) => {
                address.len() == base.len()
                    && address
                        .iter()
                        .zip(base)
                        .zip(mask)
                        .all(|((ours, base), mask)| ours & mask == base & mask)
            }
            (Self::Mailbox { local, host }, Base::Mailbox(base)) => return mailbox_stands(local, host, base),
            (Self::Uri(host), Base::Uri(base)) if base.starts_with('.') => dns_is_within(host, base),
            (Self::Uri(host), Base::Uri(base)) => base.is_empty() || host == base,
            (Self::Directory(name), Base::Directory(base)) => return name.subtree(base),
            _ => return Subtree::Unclear,
        };
        if within { Subtree::Within } else { Subtree::Outside }
    }

    /// What may be excluded is.
    fn may_be_excluded_by(&self, base: &Base) -> bool {
        if let (Self::Dns(name), Base::Dns(base)) = (self, base)
            && let Some(parent) = name.strip_prefix("*.")
        {
            // The wildcard stands for `label.parent`, which may be just what is excluded.
            let base = base.strip_prefix('.').unwrap_or(base);
            let covers = base.split_once('.').is_some_and(|(_, rest)| rest == parent);
            return covers || dns_is_within(name, base);
        }
        self.stands(base) != Subtree::Outside
    }
}

/// Both in lower case. Adding labels on the left stays within.
fn dns_is_within(name: &str, base: &str) -> bool {
    let (base, itself) = match base.strip_prefix('.') {
        Some(base) => (base, false),
        None => (base, true),
    };
    if base.is_empty() {
        return true;
    }
    match name.strip_suffix(base) {
        Some("") => itself,
        Some(labels) => labels.ends_with('.'),
        None => false,
    }
}

/// RFC 5321, 4.1.2: words between dots, or a string in quotation marks, which means what is in it.
fn local_part(text: &str) -> Option<String> {
    if let Some(quoted) = text.strip_prefix('"') {
        let mut meant = String::new();
        let mut rest = quoted.strip_suffix('"')?.chars();
        while let Some(c) = rest.next() {
            match c {
                '\\' => meant.push(rest.next()?),
                '"' => return None,
                c => meant.push(c),
            }
        }
        return Some(meant);
    }
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte);
    let is_plain = text.split('.').all(|word| !word.is_empty() && word.bytes().all(fits));
    is_plain.then(|| text.to_owned())
}

fn mailbox_stands(local: &str, host: &str, base: &Mailbox) -> Subtree {
    let within = match base {
        // The local part is case-sensitive by RFC 5280, 7.5; no mail system makes a difference, so neither do
        // we where it would let one out of an exclusion, nor where it would let one in.
        Mailbox::One { local: base, host: at } => {
            if host != *at || !local.eq_ignore_ascii_case(base) {
                false
            } else if local == base {
                true
            } else {
                return Subtree::Unclear;
            }
        }
        Mailbox::Host(base) => host == *base,
        Mailbox::Domain(base) => host.strip_suffix(base.as_str()).is_some_and(|labels| labels.ends_with('.')),
    };
    if within { Subtree::Within } else { Subtree::Outside }
}

/// The host of a URI, in lower case. `None`: it has none that is a name (RFC 5280, 4.2.1.10: then it cannot
/// satisfy a constraint).
fn host_of(uri: &str) -> Option<String> {
    let (scheme, rest) = uri.split_once("://")?;
    if scheme.is_empty() {
        return None;
    }
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = match host.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        Some(_) => return None,
        None => host,
    };
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let is_address = host.parse::<std::net::IpAddr>().is_ok()
        || host.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    (!host.is_empty() && !is_address && is_dns_name(&host, Wildcard::No)).then_some(host)
}
