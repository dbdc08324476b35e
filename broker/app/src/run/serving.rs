//! The admin API and the page of metrics: what they are made of, and where they listen.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use mqgate_server::admin::tokens::Tokens;
use mqgate_server::admin::{self, About, AdminMetrics, AdminParts, AdminTls, Door, HostRule};
use mqgate_server::events::Events;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::endpoints::Endpoints;
use super::{Parts, plugin_admin, token};
use crate::config::check::bind_address;
use crate::exit::{Exit, Failure};
use crate::reload::Reloader;

pub(super) async fn serve_admin(
    parts: &Parts,
    about: Arc<About>,
    reloader: &Arc<Reloader>,
    events: &Arc<Events>,
    endpoints: &Arc<Endpoints>,
    end: &CancellationToken,
    tasks: &mut JoinSet<()>,
) -> Result<()> {
    let config = &parts.config;
    let hash = token::ensure(&config.token_file())?;
    let routes = AdminParts {
        broker: Arc::clone(&parts.broker),
        registry: Arc::clone(&parts.registry),
        audit: Arc::clone(&parts.audit),
        metrics: Arc::clone(&parts.metrics),
        readiness: Arc::clone(&parts.readiness),
        about,
        tokens: Tokens::open(Arc::clone(&parts.storage) as _, config.admin.max_tokens as usize)?,
        numbers: Arc::new(AdminMetrics::register(parts.metrics.registry())?),
        imports: Arc::default(),
    };
    let operators = config.admin.operators.iter().map(|operator| {
        let checked = operator.checked();
        checked.map_err(|(key, what)| Failure::new(Exit::Config, format!("`admin.operators.{key}`: {what}")))
    });
    let operators = operators.collect::<Result<Vec<_>, _>>()?;
    let need_token = config.metrics.require_token;
    let tls = parts
        .admin_tls
        .as_ref()
        .map(|server| Arc::new(AdminTls::new(Arc::clone(server), Arc::clone(&parts.audit))));
    if config.admin.enable {
        let here = config.metrics.enable && config.metrics.bind.is_none();
        let door =
            Door::new(hash.clone(), HostRule::Known(config.admin.hosts.clone()), Arc::clone(&parts.audit))
                .tokens(Arc::clone(&routes.tokens))
                .operators(operators.clone())
                .metrics(here, need_token)
                .behind(tls.clone());
        let upload = usize::try_from(config.admin.max_upload.0).unwrap_or(usize::MAX);
        let more = crate::admin::router(plugin_admin(parts), upload)
            .merge(admin::bundles_router(Arc::clone(&parts.bundles)))
            .merge(admin::crl_routes(Arc::clone(&parts.revocations), Arc::clone(&parts.audit)))
            .merge(admin::events_router(
                Arc::clone(events),
                Arc::clone(&parts.registry),
                Arc::clone(&routes.numbers),
            ))
            .merge(crate::admin::bridges::router(Arc::clone(&parts.bridges), Arc::clone(&parts.audit)))
            .merge(crate::admin::explain::router(Arc::clone(reloader)))
            .merge(admin::posture_routes(Arc::clone(&parts.posture)))
            .merge(crate::admin::reload::router(Arc::clone(reloader)));
        let router = admin::router(routes.clone(), Arc::new(door), more);
        let socket = listen("admin.bind", &config.admin.bind).await?;
        let address = socket.local_addr()?;
        endpoints.admin(address, tls.is_some())?;
        spawn_server("admin API", socket, tls.clone(), router, end, tasks);
    }
    if let (true, Some(bind)) = (config.metrics.enable, &config.metrics.bind) {
        let socket = listen("metrics.bind", bind).await?;
        let address = socket.local_addr()?;
        let hosts = match address.ip().is_loopback() {
            true => HostRule::Known(config.admin.hosts.clone()),
            false => HostRule::Any,
        };
        let tls = tls.filter(|_| config.metrics.tls);
        let door = Door::new(hash, hosts, Arc::clone(&parts.audit))
            .tokens(Arc::clone(&routes.tokens))
            .operators(operators)
            .metrics(true, need_token)
            .behind(tls.clone());
        endpoints.metrics(address, tls.is_some())?;
        spawn_server("metrics", socket, tls, admin::metrics_router(routes, Arc::new(door)), end, tasks);
    }
    Ok(())
}
fn spawn_server(
    name: &'static str,
    socket: tokio::net::TcpListener,
    tls: Option<Arc<AdminTls>>,
    router: axum::Router,
    end: &CancellationToken,
    tasks: &mut JoinSet<()>,
) {
    let end = end.clone();
    tasks.spawn(async move {
        if let Err(error) = admin::serve(socket, tls, router, end).await {
            tracing::error!(%error, "the {name} has stopped");
        }
    });
}

async fn listen(key: &str, bind: &str) -> Result<tokio::net::TcpListener> {
    let address: SocketAddr = bind_address(bind).map_err(|error| Failure::new(Exit::Config, error))?;
    let socket = tokio::net::TcpListener::bind(address).await.map_err(|error| {
        Failure::unavailable(format!(
            "cannot listen on {address}: {error}\n  help: change `{key}`, or stop the program that has the address (another broker?)"
        ))
    })?;
    Ok(socket)
}
