//! What people paste from a configuration of EMQX: its tables and key names, turned into ours before anything is
//! understood. What means nothing here is taken out, with a warning that says why.

use std::borrow::Cow;
use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::Problem;
use super::source::Source;

/// `[listeners.TYPE.NAME]`.
const TYPES: [&str; 5] = ["tcp", "ssl", "ws", "wss", "quic"];

/// Keys of `ssl_options` that have no counterpart, and why they need none.
pub const INERT: [(&str, &str); 9] = [
    (
        "dhfile",
        "there is no finite-field Diffie-Hellman; keys are agreed on with elliptic curves and ML-KEM (`groups`)",
    ),
    ("secure_renegotiate", "there is no renegotiation at all"),
    ("client_renegotiation", "there is no renegotiation at all"),
    ("hibernate_after", "connections are no Erlang processes"),
    ("gc_after_handshake", "there is no garbage collector"),
    ("log_level", "use `log.filter`"),
    (
        "user_lookup_fun",
        "it is for pre-shared keys (PSK), which are not spoken; use certificates or passwords",
    ),
    ("cacerts", "use `cacertfile`"),
    ("padding_check", "block ciphers in CBC mode, which it is for, are not spoken"),
];

/// Keys with another name here.
const RENAMED: [(&str, &str); 2] =
    [("reuse_sessions", "session_resumption"), ("session_tickets", "session_resumption")];

/// Turns the names of EMQX in `source` into ours; the answer is warnings.
pub fn adopt(source: &mut Source<'_>) -> Vec<Problem> {
    let Some(mut listeners) = take_table(&mut source.root, "listeners") else { return Vec::new() };
    flatten(listeners.get_mut());
    let mut found = Vec::new();
    for (name, listener) in listeners.get_mut().iter_mut() {
        let DeValue::Table(listener) = listener.get_mut() else { continue };
        hoist(listener);
        rename(listener, &RENAMED);
        for (key, why) in INERT {
            if let Some((spanned, _)) = take(listener, key) {
                found.push((spanned.span(), format!("listeners.{}.{key}", name.get_ref()), why));
            }
        }
    }
    let (key, listeners) = (listeners.key, listeners.value);
    source.root.insert(key, Spanned::new(listeners.span(), DeValue::Table(listeners.into_inner())));
    found
        .into_iter()
        .map(|(span, key, why)| Problem {
            place: source.place_of(&span),
            key,
            what: format!("accepted and without meaning here: {why}"),
            remedy: Some(String::from("remove it")),
        })
        .collect()
}

/// A table with its key, taken out of another.
struct Taken<'t> {
    key: Spanned<Cow<'t, str>>,
    value: Spanned<DeTable<'t>>,
}

impl<'t> Taken<'t> {
    fn get_mut(&mut self) -> &mut DeTable<'t> {
        self.value.get_mut()
    }
}

fn take<'t>(table: &mut DeTable<'t>, name: &str) -> Option<(Spanned<Cow<'t, str>>, Spanned<DeValue<'t>>)> {
    let key = table.keys().find(|key| key.get_ref() == name)?.clone();
    let value = table.remove(&key)?;
    Some((key, value))
}

/// Leaves what is no table.
fn take_table<'t>(table: &mut DeTable<'t>, name: &str) -> Option<Taken<'t>> {
    let (key, value) = take(table, name)?;
    let span = value.span();
    match value.into_inner() {
        DeValue::Table(inner) => Some(Taken { key, value: Spanned::new(span, inner) }),
        other => {
            table.insert(key, Spanned::new(span, other));
            None
        }
    }
}

fn get_mut<'a, 't>(table: &'a mut DeTable<'t>, name: &str) -> Option<&'a mut DeValue<'t>> {
    table.iter_mut().find(|(key, _)| key.get_ref() == name).map(|(_, value)| value.get_mut())
}

/// `[listeners.ssl.default]` becomes `[listeners.default]` with `type = "ssl"`, and `[listeners.ssl-default]` where
/// there are more of that name.
fn flatten(listeners: &mut DeTable<'_>) {
    let mut found = Vec::new();
    for kind in TYPES {
        let nested = match get_mut(listeners, kind) {
            // Tables and nothing else: a listener that is called `tcp` has keys of its own.
            Some(DeValue::Table(inner)) => {
                !inner.is_empty()
                    && inner.iter().all(|(_, value)| matches!(value.get_ref(), DeValue::Table(_)))
            }
            _ => false,
        };
        if !nested {
            continue;
        }
        let Some(taken) = take_table(listeners, kind) else { continue };
        for (name, value) in taken.value.into_inner() {
            found.push((taken.key.clone(), name, value));
        }
    }
    let mut names: BTreeMap<String, usize> = BTreeMap::new();
    for (_, name, _) in &found {
        *names.entry(name.get_ref().to_string()).or_default() += 1;
    }
    for (kind, name, mut value) in found {
        let alone = names.get(&**name.get_ref()) == Some(&1);
        let taken = listeners.keys().any(|key| key.get_ref() == name.get_ref());
        let renamed = match alone && !taken {
            true => name.get_ref().to_string(),
            false => format!("{}-{}", kind.get_ref(), name.get_ref()),
        };
        if let DeValue::Table(listener) = value.get_mut()
            && !listener.keys().any(|key| key.get_ref() == "type")
        {
            listener.insert(
                Spanned::new(kind.span(), Cow::Borrowed("type")),
                Spanned::new(kind.span(), DeValue::String(kind.get_ref().clone())),
            );
        }
        listeners.insert(Spanned::new(name.span(), Cow::Owned(renamed)), value);
    }
}

/// Keys of `ssl_options` stand beside the others here.
fn hoist(listener: &mut DeTable<'_>) {
    let Some(options) = take_table(listener, "ssl_options") else { return };
    for (key, value) in options.value.into_inner() {
        if !listener.keys().any(|known| known.get_ref() == key.get_ref()) {
            listener.insert(key, value);
        }
    }
}

fn rename(table: &mut DeTable<'_>, names: &[(&'static str, &'static str)]) {
    for (theirs, ours) in names {
        if let Some((key, value)) = take(table, theirs)
            && !table.keys().any(|known| known.get_ref() == *ours)
        {
            table.insert(Spanned::new(key.span(), Cow::Borrowed(*ours)), value);
        }
    }
}
