//! How a route of the admin API is made: path, name, rights and description stand beside the handler, and what goes
//! in and out is read off the handler's own types. Nothing else adds a route (clippy refuses axum's `Router::route`),
//! so none is without a description, and the description served is the one that requests are held to.
//!
//! ```ignore
//! pub(super) fn routes() -> Api<AdminParts> {
//!     Api::new("Bans")
//!         .route(Doc::get("/bans", "ban.list", Scope::BansRead, "Lists bans."), list)
//!         .route(Doc::post("/bans", "ban.add", Scope::BansWrite, "Keeps somebody out.").created(), add)
//! }
//! ```
//!
//! - A handler takes axum's `State`, `Path`, `Query`, `Json`, `Bytes`. Types in them derive `JsonSchema`; what axum
//!   refuses becomes problem+json in [`guard`].
//! - A change takes [`Change`]: who asks, and whether it is only tried (`?dry_run=true`): then it checks everything,
//!   writes nothing, and answers an [`Impact`]. `Idempotency-Key` needs nothing from the handler.
//! - A resource with a revision answers [`Tagged`] and takes [`IfMatch`] in its changes.
//! - A list takes [`Limit`] and [`Cursor`] in its query.
//! - Rights beyond the route's scope: take [`Rights`], and ask it.
//!
//! The types come from schemars; the frame around them is written here. Libraries that make the whole were weighed:
//! one repeats path, parameters and answers of each handler in an attribute, where they can differ from the code; the
//! other brings a second schemars, and neither knows of scopes, audit words and problem codes.

mod change;
mod describe;
pub(super) mod guard;
mod idempotency;
pub(super) mod metrics;
pub(super) mod openapi;
mod paging;
pub mod reference;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::handler::Handler;
use axum::http::Method;
use axum::routing::{MethodFilter, on};

pub use self::change::{Change, IfMatch, Impact, Outcome, Rights, Tagged};
pub use self::describe::{Answers, Described, MaybeJson, Sketch, Takes};
pub use self::idempotency::MOST_BODY as MOST_IDEMPOTENT_BODY;
pub use self::paging::{Cursor, Limit};
use super::problem::Code;
use super::scope::Scope;

/// Who may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everybody: for machines that watch.
    Public,
    /// Whoever has a token, whatever it is for.
    Anyone,
    Needs(Scope),
}

/// What asking does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    Reads,
    Changes,
}

/// One route, beside its handler.
#[derive(Debug, Clone)]
pub struct Doc {
    pub method: Method,
    /// Without `/api/v1`.
    pub path: &'static str,
    /// The operation's name, and the audit log's word for the change.
    pub id: &'static str,
    pub summary: &'static str,
    pub access: Access,
    pub effect: Effect,
    /// Of success.
    pub status: u16,
    /// Those that are particular to it.
    pub problems: &'static [Code],
    /// Of an answer that is no JSON, or not always.
    pub media: &'static [&'static str],
    /// The answer holds a secret: none is kept, so there is no `Idempotency-Key`.
    pub secret: bool,
}

impl Doc {
    fn new(
        method: Method,
        effect: Effect,
        path: &'static str,
        id: &'static str,
        access: Access,
        summary: &'static str,
    ) -> Self {
        let (problems, media): (&[Code], &[&str]) = (&[], &[]);
        Self { method, path, id, summary, access, effect, status: 200, problems, media, secret: false }
    }

    pub fn get(path: &'static str, id: &'static str, scope: Scope, summary: &'static str) -> Self {
        Self::new(Method::GET, Effect::Reads, path, id, Access::Needs(scope), summary)
    }

    /// A `POST` that changes nothing: its question is too long for a query.
    pub fn ask(path: &'static str, id: &'static str, scope: Scope, summary: &'static str) -> Self {
        Self::new(Method::POST, Effect::Reads, path, id, Access::Needs(scope), summary)
    }

    pub fn post(path: &'static str, id: &'static str, scope: Scope, summary: &'static str) -> Self {
        Self::new(Method::POST, Effect::Changes, path, id, Access::Needs(scope), summary)
    }

    pub fn put(path: &'static str, id: &'static str, scope: Scope, summary: &'static str) -> Self {
        Self::new(Method::PUT, Effect::Changes, path, id, Access::Needs(scope), summary)
    }

    pub fn patch(path: &'static str, id: &'static str, scope: Scope, summary: &'static str) -> Self {
        Self::new(Method::PATCH, Effect::Changes, path, id, Access::Needs(scope), summary)
    }

    pub fn delete(path: &'static str, id: &'static str, scope: Scope, summary: &'static str) -> Self {
        Self::new(Method::DELETE, Effect::Changes, path, id, Access::Needs(scope), summary)
    }

    /// A page that needs no token.
    pub fn page(path: &'static str, id: &'static str, summary: &'static str) -> Self {
        Self::new(Method::GET, Effect::Reads, path, id, Access::Public, summary)
    }

    /// For whoever has a token.
    #[must_use]
    pub fn for_anyone(mut self) -> Self {
        self.access = Access::Anyone;
        self
    }

    /// Success is 201.
    #[must_use]
    pub fn created(mut self) -> Self {
        self.status = 201;
        self
    }

    /// Success is 202: it happens in the background.
    #[must_use]
    pub fn accepted(mut self) -> Self {
        self.status = 202;
        self
    }

    /// Success is 204.
    #[must_use]
    pub fn no_content(mut self) -> Self {
        self.status = 204;
        self
    }

    /// Problems that are particular to it.
    #[must_use]
    pub fn problems(mut self, codes: &'static [Code]) -> Self {
        self.problems = codes;
        self
    }

    /// The answer is no JSON but one of these.
    #[must_use]
    pub fn media(mut self, media: &'static [&'static str]) -> Self {
        self.media = media;
        self
    }

    #[must_use]
    pub fn secret(mut self) -> Self {
        self.secret = true;
        self
    }

    /// The scope it needs, for tables.
    pub fn scope(&self) -> &'static str {
        match self.access {
            Access::Public => "none, and no token",
            Access::Anyone => "any token",
            Access::Needs(scope) => scope.as_str(),
        }
    }
}

/// A route with what its handler says of itself.
#[derive(Clone)]
pub struct Route {
    pub tag: &'static str,
    pub doc: Doc,
    pub describe: fn(&mut Sketch),
}

/// Routes, and their descriptions.
pub struct Api<S = ()> {
    tag: &'static str,
    router: Router<S>,
    routes: Vec<Route>,
}

impl<S: Clone + Send + Sync + 'static> Api<S> {
    /// Routes about one subject.
    pub fn new(tag: &'static str) -> Self {
        Self { tag, router: Router::new(), routes: Vec::new() }
    }

    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    pub fn route<H, T, D>(mut self, doc: Doc, handler: H) -> Self
    where
        H: Handler<T, S> + Described<D>,
        T: 'static,
    {
        let filter = MethodFilter::try_from(doc.method.clone()).expect("`Doc` has methods that are routed");
        self.router = self.router.route(doc.path, on(filter, handler));
        self.routes.push(Route { tag: self.tag, doc, describe: H::describe });
        self
    }

    /// Bodies of these routes may have so many bytes.
    #[must_use]
    pub fn body_limit(mut self, bytes: usize) -> Self {
        self.router = self.router.layer(DefaultBodyLimit::max(bytes));
        self
    }

    #[must_use]
    pub fn merge(mut self, other: Self) -> Self {
        self.router = self.router.merge(other.router);
        self.routes.extend(other.routes);
        self
    }

    pub fn with_state<R: Clone + Send + Sync + 'static>(self, state: S) -> Api<R> {
        Api { tag: self.tag, router: self.router.with_state(state), routes: self.routes }
    }

    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    pub(super) fn into_parts(self) -> (Router<S>, Vec<Route>) {
        (self.router, self.routes)
    }
}
