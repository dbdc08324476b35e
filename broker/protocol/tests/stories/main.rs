//! Stories about one client and the machine that serves it.

mod admission;
mod flow;
mod play;
mod subscriptions;
