//! Asks an HTTP service who a client is and what it may do. Whatever goes wrong on the way is no decision, and the broker
//! refuses the client. README.md is the reference of its configuration and of what the service is asked.

mod answer;
mod config;
mod question;

use mqgate_plugin_sdk::export_plugin;
use mqgate_plugin_sdk::host::{Host, Http, KeyValue, Log};
use mqgate_plugin_sdk::http::{HttpError, HttpRequest, HttpResponse};
use mqgate_plugin_sdk::plugin::{Authenticator, Authorizer, Plugin};
use mqgate_plugin_sdk::types::{
    Authentication, Authorization, ConnackReason, Connection, Denial, HookError, Identity, InitError, Level,
    PluginContext,
};

use answer::Read;
use config::{Config, Hook};
use question::Question;

pub struct Webhook {
    config: Config,
}

impl Plugin for Webhook {
    fn init<H: Host>(context: &PluginContext, _: &H) -> Result<Self, InitError> {
        Ok(Self { config: Config::read(context)? })
    }
}

impl Authenticator for Webhook {
    fn authenticate<H: Host>(&self, on: &Connection, host: &H) -> Result<Authentication, HookError> {
        if !self.config.hooks.contains(&Hook::Authenticator) {
            return Ok(Authentication::Abstain);
        }
        self.ask(on, (Hook::Authenticator, None), host, answer::authentication, Authentication::Deny)
    }
}

impl Authorizer for Webhook {
    fn authorize<H: Host>(
        &self,
        on: &Connection,
        who: &Identity,
        host: &H,
    ) -> Result<Authorization, HookError> {
        if !self.config.hooks.contains(&Hook::Authorizer) {
            return Ok(Authorization::Abstain);
        }
        self.ask(on, (Hook::Authorizer, Some(who)), host, answer::authorization, Authorization::Deny)
    }
}

/// Why there is no answer.
enum Unanswered {
    /// The client says more than the service may be sent. That is its own doing, and no failure: a plugin that fails for a few
    /// clients is not asked for any.
    TooMuch(String),
    Failed(HookError),
}

impl Webhook {
    fn ask<T>(
        &self,
        on: &Connection,
        (hook, who): (Hook, Option<&Identity>),
        host: &(impl Http + KeyValue + Log),
        read: fn(&[u8]) -> Read<T>,
        deny: fn(Denial) -> T,
    ) -> Result<T, HookError> {
        let question = Question::new(&self.config, hook, on, who);
        // Who judges a live session once more wants to know whether it still holds.
        let may_keep = self.config.maximum_cache > 0 && on.reauthorized_at().is_none();
        let key = may_keep.then(|| question.key(&self.config));
        if let Some(key) = &key
            && let Ok(Some(kept)) = host.get(key)
            && let Ok((answer, _)) = read(&kept.value)
        {
            return Ok(answer);
        }
        let body = match self.send(question, host) {
            Ok(body) => body,
            Err(Unanswered::TooMuch(why)) => {
                let why = format!("it says more than the service may be sent: {why}");
                return Ok(deny(Denial::new(ConnackReason::NotAuthorized, why)));
            }
            Err(Unanswered::Failed(error)) => return Err(error),
        };
        let malformed = |why: String| HookError::Permanent(format!("the answer of the service: {why}"));
        let (answer, seconds) = read(&body).map_err(malformed)?;
        let seconds = seconds.min(self.config.maximum_cache);
        if let Some(key) = key
            && seconds > 0
            && let Err(error) = host.set(&key, &body, Some(seconds))
        {
            host.log(Level::Warn, &format!("the answer cannot be kept: {error:?}"), &[]);
        }
        Ok(answer)
    }

    /// The body of the answer, if there is one that counts.
    fn send(&self, question: Question, host: &impl Http) -> Result<Vec<u8>, Unanswered> {
        let mut request = HttpRequest::post(&self.config.url, "application/json", question.body());
        request.headers.extend(self.config.headers.iter().cloned());
        let request = request.timeout(self.config.timeout);
        let response = match host.send(&request) {
            // Nobody has seen it, and that took no time: a service that restarts is there in a moment.
            Err(HttpError::Unreachable(_)) => host.send(&request),
            response => response,
        };
        let permanent = |why: String| Unanswered::Failed(HookError::Permanent(why));
        let transient = |why: String| Unanswered::Failed(HookError::Transient(why));
        let response: HttpResponse = response.map_err(|error| match error {
            HttpError::TooLarge(why) => Unanswered::TooMuch(why),
            HttpError::Invalid(why) | HttpError::Refused(why) => {
                permanent(format!("the service cannot be asked: {why}"))
            }
            HttpError::AnswerTooLarge(why) => permanent(format!("the answer of the service: {why}")),
            HttpError::Timeout(why) | HttpError::Unreachable(why) | HttpError::Failed(why) => {
                transient(format!("the service does not answer: {why}"))
            }
        })?;
        // Not even other successes: nothing else has an answer in it.
        if response.status != 200 {
            return Err(transient(format!("the service answers with status {}", response.status)));
        }
        if response.body.len() > self.config.maximum_answer {
            let most = self.config.maximum_answer;
            return Err(permanent(format!("the answer of the service has more than {most} bytes")));
        }
        Ok(response.body)
    }
}

export_plugin!(Webhook: authenticator, authorizer);

#[cfg(test)]
mod tests;
