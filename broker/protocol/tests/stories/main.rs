//! Stories about one client and the machine that serves it.

mod admission;
mod authentication;
mod flow;
mod play;
mod specification;
mod subscriptions;
