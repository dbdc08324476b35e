//! Sends requests as it is told, and tells what came of it; see the README.

use std::time::Duration;

use mqgate_plugin_sdk::bindings::granted::wasi::http::outgoing_handler;
use mqgate_plugin_sdk::bindings::granted::wasi::http::types::{
    Fields, FutureIncomingResponse, IncomingBody, OutgoingRequest, Scheme,
};
use mqgate_plugin_sdk::export_plugin;
use mqgate_plugin_sdk::host::Host;
use mqgate_plugin_sdk::http::{HttpError, HttpRequest};
use mqgate_plugin_sdk::plugin::{Authenticator, Authorizer, Plugin};
use mqgate_plugin_sdk::types::{
    Authentication, Authorization, CacheHint, CacheScope, ConnackReason, Connection, Denial, HookError,
    Identity, InitError, Level, PluginContext,
};
use serde::Deserialize;

/// Of an answer that is told.
const MOST_TOLD: usize = 200;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    init: Vec<Step>,
    steps: Vec<Step>,
    cached: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Step {
    Send {
        url: String,
        #[serde(default = "get")]
        method: String,
        #[serde(default)]
        body: usize,
        timeout: Option<u64>,
    },
    Begin {
        url: String,
        #[serde(default = "once")]
        times: usize,
    },
    Collect,
    Drop,
    Forget,
    Handles(usize),
    Clock,
    Random(usize),
}

fn get() -> String {
    "GET".to_owned()
}

fn once() -> usize {
    1
}

#[derive(Debug)]
pub struct TestCaller {
    config: Config,
}

/// What a call has begun and not given back.
#[derive(Default)]
struct Kept {
    pending: Vec<FutureIncomingResponse>,
    bodies: Vec<IncomingBody>,
}

impl Plugin for TestCaller {
    fn init<H: Host>(context: &PluginContext, host: &H) -> Result<Self, InitError> {
        let config: Config = mqgate_plugin_sdk::config::parse(context)?;
        for said in run(&config.init, host) {
            host.log(Level::Info, &said, &[]);
        }
        Ok(Self { config })
    }
}

impl TestCaller {
    fn denial<H: Host>(&self, scope: CacheScope, host: &H) -> Denial {
        let said = run(&self.config.steps, host).join("\n");
        let cache = self.config.cached.then_some(CacheHint { scope, ttl: 60 });
        Denial { cache, ..Denial::new(ConnackReason::NotAuthorized, said) }
    }
}

impl Authenticator for TestCaller {
    fn authenticate<H: Host>(&self, _: &Connection, host: &H) -> Result<Authentication, HookError> {
        Ok(Authentication::Deny(self.denial(CacheScope::Certificate, host)))
    }
}

impl Authorizer for TestCaller {
    fn authorize<H: Host>(&self, _: &Connection, _: &Identity, host: &H) -> Result<Authorization, HookError> {
        Ok(Authorization::Deny(self.denial(CacheScope::Identity, host)))
    }
}

fn run<H: Host>(steps: &[Step], host: &H) -> Vec<String> {
    let mut kept = Kept::default();
    let mut said = Vec::new();
    for step in steps {
        match step {
            Step::Send { url, method, body, timeout } => {
                let mut request = HttpRequest::new(method, url);
                request.body = vec![b'x'; *body];
                request.timeout = timeout.map(Duration::from_millis);
                said.push(told(host.send(&request).map(|answer| (answer.status, answer.body))));
            }
            Step::Begin { url, times } => {
                for _ in 0..*times {
                    match begin(url) {
                        Ok(pending) => kept.pending.push(pending),
                        Err(error) => said.push(error),
                    }
                }
            }
            Step::Collect => {
                for pending in kept.pending.drain(..) {
                    match collect(&pending) {
                        Ok((status, body)) => {
                            said.push(status.to_string());
                            kept.bodies.push(body);
                        }
                        Err(error) => said.push(error),
                    }
                }
            }
            Step::Drop => kept = Kept::default(),
            Step::Forget => std::mem::forget(std::mem::take(&mut kept)),
            Step::Handles(times) => (0..*times).for_each(|_| std::mem::forget(Fields::new())),
            Step::Clock => said.push(format!("{} {:?}", host.now(), host.elapsed())),
            Step::Random(length) => said.push(format!("{:?}", host.random(*length))),
        }
    }
    said
}

fn told(outcome: Result<(u16, Vec<u8>), HttpError>) -> String {
    match outcome {
        Ok((status, mut body)) => {
            let length = body.len();
            body.truncate(MOST_TOLD);
            format!("{status} {length} {}", String::from_utf8_lossy(&body))
        }
        Err(error) => format!("{error:?}"),
    }
}

fn begin(url: &str) -> Result<FutureIncomingResponse, String> {
    let rest = url.strip_prefix("http://").ok_or("only http")?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let request = OutgoingRequest::new(Fields::new());
    let set = [
        request.set_scheme(Some(&Scheme::Http)),
        request.set_authority(Some(authority)),
        request.set_path_with_query(Some(path)),
    ];
    if set.contains(&Err(())) {
        return Err("no request".to_owned());
    }
    outgoing_handler::handle(request, None).map_err(|code| format!("{code:?}"))
}

fn collect(pending: &FutureIncomingResponse) -> Result<(u16, IncomingBody), String> {
    pending.subscribe().block();
    match pending.get() {
        Some(Ok(Ok(answer))) => {
            let body = answer.consume().map_err(|()| "no body".to_owned())?;
            Ok((answer.status(), body))
        }
        Some(Ok(Err(code))) => Err(format!("{code:?}")),
        Some(Err(())) | None => Err("no answer".to_owned()),
    }
}

export_plugin!(TestCaller: authenticator, authorizer);
