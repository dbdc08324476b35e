//! Black-box tests: the broker as a process, spoken to by real clients and by our own, with real components.

#![allow(clippy::unwrap_used, reason = "helpers of tests, which clippy does not take for tests")]

mod admin_api;
mod admin_tls;
mod audit_sinks;

mod audit_kill;
mod audit_log;
mod authorization;
mod bad_input;
mod bench;
mod bridge;
mod browser;
mod device_life;
mod events;
mod extras;
mod first_start;
mod haproxy;
mod hostile_tls;
mod listeners;
mod metrics;
mod native_members;
mod operating;
mod overload;
mod pki_commands;
mod plugin_compile;
mod plugin_dev;
mod plugin_lifecycle;
mod plugin_project;
mod plugin_record;
mod plugin_restart;
mod plugin_soak;
mod posture;
mod protection;
mod proxies;
mod quic;
mod real_clients;
mod registration;
mod registration_kill;
mod registry_commands;
mod registry_files;
mod registry_howto;
mod reload;
mod restore;
mod retirement;
mod revocation_latency;
mod revocation_lists;
mod rotation;
mod scram;
mod seed_commands;
mod server_certificates;
mod stapling;
mod tls_matrix;
mod transports;
