//! The password is a JSON Web Token: its claims name the device and its topics. README.md is the reference of its
//! configuration.

mod claims;
mod config;
mod keys;
mod token;

use std::borrow::Cow;

use mqgate_plugin_sdk::access::{self, MOST_LINES, covers, is_topic_filter};
use mqgate_plugin_sdk::certificate::anchor;
use mqgate_plugin_sdk::export_plugin;
use mqgate_plugin_sdk::host::Host;
use mqgate_plugin_sdk::plugin::{Authenticator, Authorizer, Plugin};
use mqgate_plugin_sdk::template::{ExpandError, Template};
use mqgate_plugin_sdk::types::{
    Acl, AclRule, Actions, Attribute, Authenticated, Authentication, Authorization, ConnackReason,
    Connection, Denial, Effect, Grant, HookError, Identity, InitError, PluginContext,
};

use claims::Claims;
use config::{Binding, Config, ListClaim, Outside};
use keys::Algorithm;
use token::Token;

/// As the broker has it.
const MOST_TAGS: usize = 64;

pub struct Jwt {
    config: Config,
}

/// What a good token comes to.
struct Proven {
    claims: Claims,
    identity: Identity,
    /// Seconds for which it holds.
    valid_for: u32,
}

/// Why there is nothing to prove.
enum Refusal {
    /// The token is not good.
    Token(String),
    /// It is, and says or belongs to the wrong thing.
    Claims(String),
}

impl Plugin for Jwt {
    fn init<H: Host>(context: &PluginContext, _: &H) -> Result<Self, InitError> {
        let config = Config::read(context)?;
        if !context.granted.iter().any(|granted| granted == "credentials") {
            let why = "the token is the password, and passwords are shown to whoever is granted them: grant = [\"credentials\"]";
            return Err(InitError::Failed(why.into()));
        }
        Ok(Self { config })
    }
}

impl Authenticator for Jwt {
    fn authenticate<H: Host>(&self, on: &Connection, _: &H) -> Result<Authentication, HookError> {
        Ok(match self.prove(on) {
            Ok(None) => Authentication::Abstain,
            Ok(Some(proven)) => {
                Authentication::Accept(Authenticated { identity: proven.identity, cache: None })
            }
            Err(refusal) => Authentication::Deny(refusal.into()),
        })
    }
}

impl Authorizer for Jwt {
    fn authorize<H: Host>(&self, on: &Connection, who: &Identity, _: &H) -> Result<Authorization, HookError> {
        let granted =
            self.prove(on).and_then(|proven| proven.map(|proven| self.grant(who, &proven)).transpose());
        Ok(match granted {
            Ok(None) => Authorization::Abstain,
            Ok(Some(grant)) => Authorization::Allow(grant),
            Err(refusal) => Authorization::Deny(refusal.into()),
        })
    }
}

impl Jwt {
    /// `None` where the client shows no token.
    fn prove(&self, on: &Connection) -> Result<Option<Proven>, Refusal> {
        let Some(token) = on.connect.password.as_deref().and_then(Token::parse) else {
            return match self.config.required {
                true => Err(Refusal::Token("the password is no token".into())),
                false => Ok(None),
            };
        };
        self.verify(&token).map_err(Refusal::Token)?;
        let claims = Claims::parse(&token.payload).map_err(Refusal::Token)?;
        let valid_for = claims.check(&self.config.token, on.asked_at()).map_err(Refusal::Token)?;
        self.check_binding(&claims, on).map_err(Refusal::Claims)?;
        let identity = self.identity(&claims).map_err(Refusal::Claims)?;
        self.check_user_name(&claims, on)?;
        Ok(Some(Proven { claims, identity, valid_for }))
    }

    /// That the signature is good, by a key of ours.
    fn verify(&self, token: &Token<'_>) -> Result<(), String> {
        let header = &token.header;
        if header.crit.is_some() {
            return Err("its header has crit, and no extension is understood".into());
        }
        if let Some(wanted) = &self.config.typ
            && !header.typ.as_ref().is_some_and(|typ| is_type(typ, wanted))
        {
            return Err(format!("typ of its header is not {wanted:?}"));
        }
        let shown = |text: &str| format!("{:?}", text.chars().take(64).collect::<String>());
        let Some(algorithm) = Algorithm::parse(&header.alg) else {
            return Err(format!("its algorithm is {}", shown(&header.alg)));
        };
        let kid = header.kid.as_deref();
        let mut candidates = self.config.keys.iter().filter(|key| key.is_for(algorithm, kid)).peekable();
        if candidates.peek().is_none() {
            let kid = kid.map_or_else(|| "no kid".into(), |kid| format!("kid {}", shown(kid)));
            return Err(format!("there is no key for {algorithm} and {kid}"));
        }
        match candidates.any(|key| key.verifies(token)) {
            true => Ok(()),
            false => Err(format!("its signature ({algorithm}) is not good")),
        }
    }

    fn check_binding(&self, claims: &Claims, on: &Connection) -> Result<(), String> {
        let certificate = on.certificate.as_ref();
        // Whoever issued it for one certificate meant that one, whatever is configured.
        let confirmed = claims.confirmed(certificate)?;
        match &self.config.binding {
            Binding::None => Ok(()),
            Binding::Thumbprint if confirmed => Ok(()),
            Binding::Thumbprint => Err("it names no certificate (cnf)".into()),
            Binding::Claim { claim, field } => {
                // Anybody can write any name into a certificate that no anchor signed.
                let certificate = certificate.filter(|certificate| anchor(certificate).is_some());
                let certificate = certificate.ok_or("there is no certificate to compare it with")?;
                let value = field.single(certificate).map_err(|error| error.to_string())?;
                let value = value.ok_or_else(|| format!("the certificate has no {}", field.name()))?;
                match claims.text(claim) {
                    Some(text) if text == value => Ok(()),
                    Some(_) => Err(format!("the claim {claim:?} is not {} of the certificate", field.name())),
                    None => Err(format!("there is no claim {claim:?} to compare with the certificate")),
                }
            }
        }
    }

    fn identity(&self, claims: &Claims) -> Result<Identity, String> {
        let mut identity = Identity::new(fill(&self.config.device_id, claims, None)?);
        identity.tenant = self.config.tenant.as_ref().map(|tenant| fill(tenant, claims, None)).transpose()?;
        if let Some(claim) = &self.config.tags {
            let tags = claims.texts(claim)?;
            let fine = |tag: &&str| (1..=128).contains(&tag.len()) && !tag.chars().any(char::is_control);
            if tags.len() > MOST_TAGS || !tags.iter().all(fine) {
                return Err(format!("the claim {claim:?} is no list of at most {MOST_TAGS} tags"));
            }
            identity.tags = tags.into_iter().map(str::to_owned).collect();
        }
        for (what, value) in [("device id", Some(&identity.device_id)), ("tenant", identity.tenant.as_ref())]
        {
            if value.is_some_and(|value| value.len() > 256) {
                return Err(format!("the {what} is longer than 256 bytes"));
            }
        }
        identity.attributes = vec![Attribute::text("auth.method", "jwt")];
        Ok(identity)
    }

    fn check_user_name(&self, claims: &Claims, on: &Connection) -> Result<(), Refusal> {
        let Some(template) = &self.config.user_name else { return Ok(()) };
        let expected = fill(template, claims, None).map_err(Refusal::Claims)?;
        match on.connect.user_name.as_deref() == Some(expected.as_str()) {
            true => Ok(()),
            false => Err(Refusal::Token(format!("the user name is not {expected:?}"))),
        }
    }

    fn grant(&self, who: &Identity, proven: &Proven) -> Result<Grant, Refusal> {
        let own = &proven.identity;
        // Another plugin, or the registry, may have said who this is.
        if who.device_id != own.device_id {
            return Err(Refusal::Claims(format!(
                "the token is that of {:?}, the client that of {:?}",
                own.device_id, who.device_id
            )));
        }
        if own.tenant.is_some() && who.tenant != own.tenant {
            return Err(Refusal::Claims("the token is that of another tenant".into()));
        }
        Ok(Grant {
            acl: Acl::Inline(self.access_list(who, &proven.claims).map_err(Refusal::Claims)?),
            otherwise: Effect::Deny,
            limits: self.config.limits,
            assigned_client_id: None,
            valid_for: Some(proven.valid_for),
            cache: None,
            attributes: vec![Attribute::text("auth.method", "jwt")],
        })
    }

    fn access_list(&self, who: &Identity, claims: &Claims) -> Result<Vec<AclRule>, String> {
        let mut lines = Vec::new();
        for line in &self.config.lines {
            lines.push(access::rule(line.effect, line.actions, fill(&line.filter, claims, None)?));
        }
        for (list, actions) in
            [(&self.config.publish, Actions::PUBLISH), (&self.config.subscribe, Actions::SUBSCRIBE)]
        {
            let Some(ListClaim { claim, within }) = list else { continue };
            let filters = claims.texts(claim)?;
            if filters.is_empty() {
                continue;
            }
            let bounds = within.iter().map(|bound| fill(bound, claims, Some(&who.device_id)));
            let bounds = bounds.collect::<Result<Vec<_>, _>>()?;
            for filter in filters {
                // The broker would fill in what stands between the braces, after it was compared.
                let is_filter = is_topic_filter(filter) && !filter.contains("${");
                if is_filter && bounds.iter().any(|bound| covers(bound, filter)) {
                    lines.push(access::rule(Effect::Allow, actions, filter));
                } else if self.config.outside == Outside::Refuse {
                    let shown: String = filter.chars().take(128).collect();
                    return Err(format!("{shown:?} in the claim {claim:?} is more than a token may grant"));
                }
            }
        }
        if lines.len() > MOST_LINES {
            return Err(format!("the token grants more than {MOST_LINES} topics"));
        }
        Ok(lines)
    }
}

/// `application/` in front goes without saying (RFC 7515, 4.1.9).
fn is_type(typ: &str, wanted: &str) -> bool {
    let short = |text: &str| {
        let text = text.to_ascii_lowercase();
        text.strip_prefix("application/").map_or_else(|| text.clone(), str::to_owned)
    };
    short(typ) == short(wanted)
}

fn fill(template: &Template, claims: &Claims, device_id: Option<&str>) -> Result<String, String> {
    let filled = template.expand(|name| {
        Ok(match (name, device_id) {
            ("device-id", Some(device_id)) => Some(Cow::Owned(device_id.to_owned())),
            (name, _) => claims.text(name),
        })
    });
    filled.map_err(|error: ExpandError| format!("claims: {error}"))
}

impl From<Refusal> for Denial {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Token(why) => Self::new(ConnackReason::BadUserNameOrPassword, why),
            Refusal::Claims(why) => Self::new(ConnackReason::NotAuthorized, why),
        }
    }
}

export_plugin!(Jwt: authenticator, authorizer);

#[cfg(test)]
mod tests;
