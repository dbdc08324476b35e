//! `/api/v1/authz/explain`: would this client get in, as whom, and what might it do? The whole path from the
//! certificate to the topics, told step by step, and nothing changed by asking.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use mqgate_codec::{Connect, ConnectProperties, ProtocolVersion, QoS, TopicFilter, TopicName};
use mqgate_identity::audit::PluginVerdict;
use mqgate_identity::certificate::{CertificateFacts, ClientCertificate, certificates_from_pem};
use mqgate_identity::evaluation::{Rejection, Step as PathStep, ValidatedPath};
use mqgate_identity::hooks::{Acl, AclRule, Effect, Peer, RetainMatch, TlsSession};
use mqgate_identity::reason::Reason;
use mqgate_protocol::permit::Permit;
use mqgate_server::admin::{Api, Code, Doc, Page, Problem, Scope, bad_json};
use mqgate_server::clock;
use mqgate_server::gate::{Accepted, Explanation, GrantedAcl, Granting, Refused, Step, StepOutcome};
use mqgate_server::metrics::mqtt::Transport;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::config::{Config, model};
use crate::reload::Reloader;
use crate::run::build;

/// Topics of one question.
const MOST_TOPICS: usize = 100;
/// TLS 1.3, and the cipher suite that everybody has.
const TLS_1_3: (u16, u16) = (0x0304, 0x1301);

/// The route, to be merged under `/api/v1`.
pub fn router(reloader: Arc<Reloader>) -> Api {
    routes().with_state(reloader)
}

/// For the description, too.
pub fn routes() -> Api<Arc<Reloader>> {
    let rejected = Doc::get(
        "/provisioning/rejected",
        "provisioning.rejected",
        Scope::CertsRead,
        "Certificates that wanted to register themselves and were refused, the latest of them.",
    );
    Api::new("Explanations").route(rejected, rejections).route(
        Doc::ask(
            "/authz/explain",
            "authz.explain",
            Scope::CertsRead,
            "Would this client get in, as whom, and what might it do: every step, and nothing changed.",
        )
        .problems(&[
            Code::NotFound,
            Code::WhichListener,
            Code::BadCertificate,
            Code::BadProtocolLevel,
            Code::TooManyTopics,
        ]),
        explain,
    )
}

/// A client that might come.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Question {
    /// Without one, the only listener.
    listener: Option<String>,
    /// Its certificate, intermediates after it.
    pem: Option<String>,
    #[serde(default)]
    client_id: String,
    user_name: Option<String>,
    password: Option<String>,
    /// Where it comes from.
    address: Option<IpAddr>,
    /// 4 for MQTT 3.1.1, 5 for 5.0.
    protocol_level: Option<u8>,
    /// Topics and filters it might want to publish to or subscribe to.
    #[serde(default)]
    topics: Vec<String>,
}

async fn explain(
    State(reloader): State<Arc<Reloader>>,
    body: Result<Json<Question>, JsonRejection>,
) -> Result<Json<Value>, Problem> {
    let Json(question) = body.map_err(|rejection| bad_json(&rejection))?;
    if question.topics.len() > MOST_TOPICS {
        let detail = format!("at most {MOST_TOPICS} topics are answered at once");
        return Err(Problem::new(Code::TooManyTopics, detail));
    }
    let (config, ..) = reloader.in_force().await;
    let (name, listener) = choose(&config, question.listener.as_deref())?;
    let mut steps = Vec::new();
    let certificate = match handshake(&mut steps, &reloader, name, listener, question.pem.as_deref())? {
        Ok(certificate) => certificate,
        Err(rejection) => return Ok(Json(not_even_a_handshake(name, steps, &rejection))),
    };
    let accepted = accepted(name, listener, certificate, question.address);
    let explanation = reloader.gate().explain(&accepted, &connect(&question)?).await;
    Ok(Json(shown(name, steps, explanation, &question.topics)))
}

/// Kept in memory, for who looks into it.
async fn rejections(State(reloader): State<Arc<Reloader>>) -> Json<Page<Value>> {
    let rejected = reloader.gate().provision().rejections();
    Json(Page::whole(rejected.into_iter().map(|one| json!(one)).collect()))
}

fn choose<'a>(config: &'a Config, name: Option<&str>) -> Result<(&'a str, &'a model::Listener), Problem> {
    let known = || config.listeners.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    let mut all = config.listeners.iter().map(|(name, listener)| (name.as_str(), listener));
    match name {
        Some(name) => all.find(|(known, _)| *known == name).ok_or_else(|| {
            let detail = format!("there is no listener of this name; there are: {}", known());
            Problem::new(Code::NotFound, detail)
        }),
        None => match (all.next(), all.next()) {
            (Some(only), None) => Ok(only),
            _ => Err(Problem::new(
                Code::WhichListener,
                format!("say at which listener the client would come: {}", known()),
            )),
        },
    }
}

/// What a handshake would find out about the certificate. An inner error: it would fail.
fn handshake(
    steps: &mut Vec<Step>,
    reloader: &Reloader,
    name: &str,
    listener: &model::Listener,
    pem: Option<&str>,
) -> Result<Result<Option<Arc<ClientCertificate>>, Rejection>, Problem> {
    let chain = pem
        .map(|pem| certificates_from_pem(pem.as_bytes()))
        .transpose()
        .map_err(|error| Problem::new(Code::BadCertificate, error.to_string()))?;
    let mode = build::auth_mode_name(listener);
    let asks = listener.has_certificates() && listener.mode() != model::AuthMode::OneWay;
    let Some(chain) = chain.filter(|_| asks) else {
        let detail = match asks {
            false => format!("mode {mode}: no certificate is asked for, and none is looked at"),
            true => String::from("no certificate is given"),
        };
        if asks && listener.certificate_required() {
            let rejection = Rejection { reason: Reason::TlsNoPeerCert, detail: detail.clone() };
            steps.push(step("asked", StepOutcome::Failed, Some(rejection.reason.as_str()), detail));
            return Ok(Err(rejection));
        }
        steps.push(step("asked", StepOutcome::Skipped, None, detail));
        return Ok(Ok(None));
    };
    steps.push(step("asked", StepOutcome::Passed, None, format!("mode {mode}: a certificate is asked for")));
    let judged = reloader.live().judge_chain(name, &chain);
    tell_path(steps, &judged);
    let path = match judged {
        Ok(path) => path,
        Err(rejection) => return Ok(Err(rejection)),
    };
    let detail = "the client must hold the private key: a handshake proves it, a file cannot";
    steps.push(step("key", StepOutcome::Open, None, String::from(detail)));
    let mut ders = chain.into_iter();
    let leaf = ders.next().unwrap_or_default();
    let leaf = CertificateFacts::parse(&leaf)
        .map_err(|error| Problem::new(Code::BadCertificate, error.to_string()))?;
    Ok(Ok(Some(Arc::new(ClientCertificate {
        leaf,
        intermediates: ders.map(Into::into).collect(),
        anchor: path.anchor,
        issuer_key: path.issuer_key,
        not_after: path.not_after,
        // The gate judges it again: what is trusted may have changed since.
        judged_by: 0,
    }))))
}

/// The steps of the path's evaluation, up to the one that refuses.
fn tell_path(steps: &mut Vec<Step>, judged: &Result<ValidatedPath, Rejection>) {
    let refused = judged.as_ref().err().map(|rejection| PathStep::of(rejection.reason));
    for path_step in PathStep::ALL {
        let name = path_step.as_str();
        match (judged, refused) {
            (Err(rejection), Some(at)) if at == path_step => {
                let (reason, detail) = (rejection.reason.as_str(), rejection.detail.clone());
                steps.push(step(name, StepOutcome::Failed, Some(reason), detail));
                return;
            }
            (Ok(path), _) => {
                steps.push(step(name, StepOutcome::Passed, None, detail_of(path_step, path)));
            }
            (Err(_), _) => steps.push(step(name, StepOutcome::Passed, None, String::new())),
        }
    }
}

fn detail_of(path_step: PathStep, path: &ValidatedPath) -> String {
    match path_step {
        PathStep::Anchor => format!("leads to CA \"{}\"", path.anchor.name),
        PathStep::Depth => format!("over {} intermediates", path.depth),
        PathStep::Validity => format!("until {}", path.not_after),
        PathStep::Revocation => {
            let remarks: Vec<_> = path.lints.iter().map(|lint| lint.as_str()).collect();
            if remarks.is_empty() { String::new() } else { format!("remarks: {}", remarks.join(", ")) }
        }
        _ => String::new(),
    }
}

fn step(name: &'static str, outcome: StepOutcome, reason: Option<&'static str>, detail: String) -> Step {
    Step { step: name, outcome, reason, detail, microseconds: None }
}

fn accepted(
    name: &str,
    listener: &model::Listener,
    certificate: Option<Arc<ClientCertificate>>,
    address: Option<IpAddr>,
) -> Accepted {
    let tls = listener.kind.has_tls().then_some(TlsSession {
        version: TLS_1_3.0,
        cipher_suite: TLS_1_3.1,
        server_name: None,
        alpn: None,
        resumed: false,
    });
    Accepted {
        // No connection has this number.
        id: 0,
        listener: name.into(),
        accepted_at: clock::now(),
        transport: if tls.is_some() { Transport::Tls } else { Transport::Tcp },
        peer: Peer { address: address.unwrap_or(IpAddr::from([127, 0, 0, 1])), port: 0, via_proxy: None },
        tls,
        certificate,
        attributes: Vec::new(),
        server_certificate: None,
    }
}

fn connect(question: &Question) -> Result<Connect, Problem> {
    let version = match question.protocol_level.unwrap_or(5) {
        3 => ProtocolVersion::V3_1,
        4 => ProtocolVersion::V3_1_1,
        5 => ProtocolVersion::V5,
        other => {
            let detail = format!("protocol level {other}: 4 is MQTT 3.1.1, 5 is MQTT 5.0");
            return Err(Problem::new(Code::BadProtocolLevel, detail));
        }
    };
    Ok(Connect {
        version,
        bridge: false,
        clean_start: true,
        keep_alive: 60,
        client_id: question.client_id.as_str().into(),
        will: None,
        user_name: question.user_name.as_deref().map(Into::into),
        password: question.password.as_ref().map(|password| password.clone().into_bytes().into()),
        properties: ConnectProperties::default(),
    })
}

fn not_even_a_handshake(listener: &str, steps: Vec<Step>, rejection: &Rejection) -> Value {
    json!({
        "listener": listener,
        "admitted": false,
        "reason": rejection.reason.as_str(),
        "detail": rejection.detail,
        "answer": { "handshake": "fails" },
        "steps": steps,
        "plugins": [],
        "topics": [],
    })
}

fn shown(listener: &str, mut steps: Vec<Step>, explanation: Explanation, topics: &[String]) -> Value {
    let Explanation { steps: more, verdicts, identity, record, grant, outcome } = explanation;
    steps.extend(more);
    let mut answer = json!({
        "listener": listener,
        "admitted": outcome.is_ok(),
        "reason": outcome.as_ref().map_or_else(|refused| refused.reason.as_str(), |_| "ok"),
        "steps": steps,
        "plugins": verdicts.iter().map(verdict).collect::<Vec<_>>(),
    });
    if let Some(identity) = identity {
        answer["device"] = json!({
            "device_id": identity.device_id,
            "tenant": identity.tenant,
            "tags": identity.tags,
        });
    }
    if let Some(record) = record {
        answer["certificate"] = json!({
            "id": record.id,
            "state": record.state,
            "device_id": record.device_id,
            "client_id": record.client_id,
            "revision": record.revision,
        });
    }
    if let Some(grant) = grant {
        answer["grant"] = shown_grant(&grant);
    }
    match outcome {
        Ok(permit) => {
            answer["client_id"] = json!(&*permit.client_id);
            answer["topics"] = topics.iter().map(|topic| asked(&permit, topic)).collect();
        }
        Err(refused) => {
            answer["detail"] = json!(refused.detail);
            answer["refused_by"] = json!(refused.by.as_deref());
            answer["answer"] = heard(&refused);
            answer["topics"] = json!([]);
        }
    }
    answer
}

/// What the client would hear.
fn heard(refused: &Refused) -> Value {
    json!({
        "v5": refused.answer.code.0,
        "v3_1_1": refused.return_code(),
        "reason_string": refused.answer.reason_string.as_deref(),
        "retry_after": refused.answer.retry_after,
    })
}

fn verdict(verdict: &PluginVerdict) -> Value {
    json!({
        "name": &*verdict.name,
        "digest": verdict.digest.as_deref(),
        "hook": verdict.hook,
        "result": verdict.result,
        "microseconds": verdict.microseconds,
    })
}

/// The rules of the one that granted; of several, those of each, all of which have to allow.
fn shown_grant(granting: &Granting) -> Value {
    match granting.acls.as_slice() {
        [only] => shown_acl(only),
        several => {
            let named = several.iter().map(|granted| {
                let mut shown = shown_acl(granted);
                shown["by"] = json!(&*granted.by);
                shown
            });
            json!({ "all": named.collect::<Vec<_>>() })
        }
    }
}

fn shown_acl(granted: &GrantedAcl) -> Value {
    let otherwise = effect(granted.otherwise);
    match &granted.acl {
        Acl::Named(name) => json!({ "acl": name, "otherwise": otherwise }),
        Acl::Inline(rules) => {
            json!({ "rules": rules.iter().map(rule).collect::<Vec<_>>(), "otherwise": otherwise })
        }
    }
}

fn rule(rule: &AclRule) -> Value {
    let qos: Vec<u8> = (0..3).filter(|level| rule.qos & (1 << level) != 0).collect();
    json!({
        "effect": effect(rule.effect),
        "publish": rule.publish,
        "subscribe": rule.subscribe,
        "filter": rule.filter,
        "qos": qos,
        "retain": match rule.retain {
            RetainMatch::Any => "any",
            RetainMatch::OnlyRetained => "only_retained",
            RetainMatch::OnlyLive => "only_live",
        },
    })
}

fn effect(effect: Effect) -> &'static str {
    match effect {
        Effect::Allow => "allow",
        Effect::Deny => "deny",
    }
}

/// The highest QoS with which a topic may be published to and subscribed to; `null`: not at all.
fn asked(permit: &Permit, topic: &str) -> Value {
    let levels = [QoS::ExactlyOnce, QoS::AtLeastOnce, QoS::AtMostOnce];
    let publish = TopicName::parse(topic.into()).map(|topic| {
        levels.into_iter().find(|qos| permit.may_publish(&topic, *qos, false)).map(|qos| qos as u8)
    });
    let subscribe = TopicFilter::parse(topic.into())
        .map(|filter| permit.granted_qos(&filter, QoS::ExactlyOnce).map(|qos| qos as u8));
    match (publish, subscribe) {
        (publish, Ok(subscribe)) => {
            json!({ "topic": topic, "publish": publish.unwrap_or(None), "subscribe": subscribe })
        }
        (_, Err(error)) => {
            json!({ "topic": topic, "publish": null, "subscribe": null, "problem": error.to_string() })
        }
    }
}
