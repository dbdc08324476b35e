mod chains;
mod transports;

use super::*;

fn inputs(text: &str, environment: &[(&str, &str)]) -> Inputs {
    Inputs {
        overrides: Vec::new(),
        file: Some(PathBuf::from("/etc/mqgate/mqgate.toml")),
        text: text.to_owned(),
        environment: environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
    }
}

fn problems(text: &str, environment: &[(&str, &str)]) -> String {
    inputs(text, environment).load().expect_err("this configuration is wrong").to_string()
}

#[test]
fn every_mistake_is_named_at_once() {
    let text = r#"
[node]
data_dirr = "x"
[listeners.main]
type = "tcp"
bind = "1883"
auth_mode = "mutal"
handshake_timeout = 15
max_connections = "many"
[admin]
bind = "0.0.0.0:18083"
[[plugins]]
name = "cert-acl"
source = "bundled:cert-alc"
"#;
    insta::assert_snapshot!(problems(text, &[]), @r#"
    /etc/mqgate/mqgate.toml:3:1: `node.data_dirr`: there is no such key
      3 | data_dirr = "x"
        | ^^^^^^^^^
      help: did you mean `data_dir`?
    /etc/mqgate/mqgate.toml:6:8: `listeners.main.bind`: `1883` is not an address and a port
      6 | bind = "1883"
        |        ^^^^^^
      help: write an IP address and a port, for example "127.0.0.1:8883" for this machine only, "0.0.0.0:8883" or "[::]:8883" for everybody
    /etc/mqgate/mqgate.toml:7:13: `listeners.main.auth_mode`: there is no `mutal` here
      7 | auth_mode = "mutal"
        |             ^^^^^^^
      help: did you mean "mutual"?
    /etc/mqgate/mqgate.toml:8:21: `listeners.main.handshake_timeout`: invalid type: integer `15`, expected a duration in quotes with a unit, for example "10s" or "5m"
      8 | handshake_timeout = 15
        |                     ^^
    /etc/mqgate/mqgate.toml:9:19: `listeners.main.max_connections`: invalid type: string "many", expected a whole number, not in quotes
      9 | max_connections = "many"
        |                   ^^^^^^
    /etc/mqgate/mqgate.toml:11:8: `admin.bind`: the admin API speaks plain HTTP, and this address can be reached by others
      11 | bind = "0.0.0.0:18083"
         |        ^^^^^^^^^^^^^^^
      help: add [admin.tls], bind a loopback address, or put a TLS proxy in front and set `admin.allow_remote = true`
    /etc/mqgate/mqgate.toml:14:10: `plugins[0].source`: no component `cert-alc` is bundled
      14 | source = "bundled:cert-alc"
         |          ^^^^^^^^^^^^^^^^^^
      help: did you mean `bundled:cert-acl`?
    7 problems in the configuration
    "#);
}

/// Whatever is built from `plugins/`, but for what tests alone use, can be named in a configuration.
#[test]
fn every_bundled_component_can_be_named() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../plugins");
    let mut there: Vec<String> = std::fs::read_dir(folder)
        .expect("the plugins are there")
        .map(|entry| entry.expect("an entry"))
        .filter(|entry| entry.path().join("plugin.toml").is_file())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| !name.starts_with("test-") && name != "hostile-guest")
        .collect();
    there.sort();
    let mut known = check::BUNDLED.to_vec();
    known.sort_unstable();
    assert_eq!(there, known);
}

#[test]
fn the_admin_api_is_reached_by_others_with_tls_or_if_it_is_meant() {
    let refused = |admin: &str| {
        let text = format!("[listeners.main]\n[admin]\nbind = \"0.0.0.0:18083\"\n{admin}");
        inputs(&text, &[]).load().err().map(|problems| problems.to_string())
    };
    assert!(refused("").is_some_and(|said| said.contains("[admin.tls]")));
    assert_eq!(refused("allow_remote = true"), None);
    assert_eq!(refused("[admin.tls]"), None);
    for (keys, words) in [
        ("certfile = \"a.pem\"", &["admin.tls.keyfile", "missing"][..]),
        ("versions = \"tlsv1.1\"", &["tlsv1.1", "RFC 8996"]),
        ("ciphers = \"AES128-SHA\"", &["admin.tls.ciphers"]),
        ("builtin_certificate = false", &["admin.tls.builtin_certificate"]),
        ("certfiles = 1", &["admin.tls.certfiles", "certfile"]),
    ] {
        let said = refused(&format!("[admin.tls]\n{keys}")).expect(keys);
        for word in words {
            assert!(said.contains(word), "{keys}: `{word}` is not in\n{said}");
        }
    }
    let text = "[listeners.main]\n[metrics]\nbind = \"127.0.0.1:1\"\ntls = true";
    assert!(problems(text, &[]).contains("metrics.tls"));
}

#[test]
fn bounds_of_events_and_of_plugins_are_held() {
    let key = "ed25519:0000000000000000000000000000000000000000000000000000000000000000";
    let trusted = |rest: &str| format!("trusted_keys = [{{ name = \"release\", key = \"{key}\"{rest} }}]");
    for (keys, refused) in [
        ("[events]\nsource = \"/mqgate/plant-7\"\nbuffer = 1000000\nmax_streams = 256", None),
        ("[events]\nsource = \"\"", Some("events.source")),
        ("[events]\nsource = \"two words\"", Some("events.source")),
        ("[events]\nbuffer = 0", Some("events.buffer")),
        ("[events]\nbuffer = 1000001", Some("events.buffer")),
        ("[events]\nmax_streams = 257", Some("events.max_streams")),
        ("[plugin_host]\nversions = 2\nuploads = 100\nwatch_interval = \"100ms\"", None),
        ("[plugin_host]\nversions = 1", Some("plugin_host.versions")),
        ("[plugin_host]\nuploads = 101", Some("plugin_host.uploads")),
        ("[plugin_host]\nwatch_interval = \"99ms\"", Some("plugin_host.watch_interval")),
        ("[plugin_host.compile]\nmemory = \"64 MiB\"\ncpu = \"1s\"\ntime = \"1ms\"", None),
        ("[plugin_host.compile]\nmemory = \"63 MiB\"", Some("plugin_host.compile.memory")),
        ("[plugin_host.compile]\ncpu = \"0s\"", Some("plugin_host.compile.cpu")),
        ("[plugin_host.compile]\ntime = \"0s\"", Some("plugin_host.compile.time")),
        ("[plugin_host]\nrequire_signed = true", Some("plugin_host.require_signed")),
        (&format!("[plugin_host]\nrequire_signed = true\n{}", trusted("")), None),
        (&format!("[plugin_host]\n{}", trusted(", until = \"2027-01-01T00:00:00Z\"")), None),
        (
            &format!("[plugin_host]\n{}", trusted(", until = \"soon\"")),
            Some("plugin_host.trusted_keys[0].until"),
        ),
        (
            "[plugin_host]\ntrusted_keys = [{ name = \"a\", key = \"rsa:1\" }]",
            Some("plugin_host.trusted_keys[0].key"),
        ),
    ] {
        let said = inputs(&format!("[listeners.main]\n{keys}\n"), &[]).load().err();
        let said = said.map(|problems| problems.to_string());
        match refused {
            None => assert_eq!(said, None, "{keys}"),
            Some(key) => assert!(said.as_ref().is_some_and(|said| said.contains(key)), "{keys}: {said:?}"),
        }
    }
}

/// The CA of clients' certificates is never named in vain without a word.
#[test]
fn a_client_ca_is_used_or_complained_of() {
    for (listener, complaint) in [
        ("", None),
        ("auth_mode = \"mutual\"", None),
        ("auth_mode = \"per-device\"", None),
        ("verify = \"verify_peer\"", None),
        ("type = \"wss\"", None),
        ("type = \"quic\"", None),
        ("auth_mode = \"one-way\"", Some("without effect: no client certificate is asked for")),
        ("verify = \"verify_none\"", Some("without effect: no client certificate is asked for")),
        ("type = \"tcp\"", Some("has no certificates")),
        ("type = \"ws\"", Some("has no certificates")),
    ] {
        for (key, value) in [("cacertfile", "\"ca.pem\""), ("cacertfiles", "[\"ca.pem\"]")] {
            let text = format!("[listeners.main]\n{listener}\n{key} = {value}\n");
            match (inputs(&text, &[]).load(), complaint) {
                (Ok(loaded), None) => {
                    let listener = &loaded.config.listeners["main"];
                    assert!(
                        listener.has_certificates() && listener.mode() != model::AuthMode::OneWay,
                        "{text}"
                    );
                    assert_eq!(listener.ca_files().count(), 1, "{text}");
                    assert!(!loaded.warnings.to_string().contains(key), "{text}");
                }
                (Ok(loaded), Some(complaint)) => {
                    let said = loaded.warnings.to_string();
                    assert!(said.contains(complaint) && said.contains(key), "{text}: {said}");
                }
                (Err(problems), Some(complaint)) => {
                    let said = problems.to_string();
                    assert!(said.contains(complaint) && said.contains(key), "{text}: {said}");
                }
                (Err(problems), None) => panic!("{text}: {problems}"),
            }
        }
    }
}

#[test]
fn a_listener_that_asks_for_certificates_and_names_no_ca_is_noticed() {
    let warned = |listener: &str| {
        let text = format!("[listeners.main]\n{listener}");
        let loaded = inputs(&text, &[]).load().expect("nothing is wrong");
        loaded.warnings.to_string()
    };
    for mode in ["mutual", "per-device"] {
        let said = warned(&format!("auth_mode = \"{mode}\""));
        assert!(said.contains("listeners.main.cacertfile") && said.contains("mqgate ca add"), "{said}");
    }
    for fine in
        ["auth_mode = \"mutual\"\ncacertfile = \"ca.pem\"", "auth_mode = \"one-way\"", "type = \"tcp\""]
    {
        assert!(!warned(fine).contains("cacertfile"), "{fine}");
    }
}

#[test]
fn a_key_in_the_wrong_table_is_sent_home() {
    insta::assert_snapshot!(problems("bind = \"127.0.0.1:1883\"\n[colours]\na = 1\n", &[]), @r#"
    /etc/mqgate/mqgate.toml:1:1: `bind`: there is no such key
      1 | bind = "127.0.0.1:1883"
        | ^^^^
      help: it belongs under [admin] or [listeners] or [metrics]
    /etc/mqgate/mqgate.toml:2:2: `colours`: there is no such key
      2 | [colours]
        |  ^^^^^^^
      help: the keys here are admin, audit, bans, bridges, clock, crl, delayed, events, flapping, limits, listeners, log, metrics, mqtt, node, plugin_host, plugins, policy, provisioning, reload, rotation, sharing, slow_subscribers, sys, topics, trace
    2 problems in the configuration
    "#);
}

#[test]
fn text_that_is_no_toml_is_placed() {
    insta::assert_snapshot!(problems("[node]\ndata_dir = here\n", &[]), @r#"
    /etc/mqgate/mqgate.toml:2:12: this is not TOML: string values must be quoted, expected literal string
      2 | data_dir = here
        |            ^^^^
      help: put the value in double quotes
    1 problem in the configuration
    "#);
}

#[test]
fn contradictions_are_refused() {
    let text = r#"
[listeners.a]
certfile = "c"
keyfile = "k"
verify = "verify_none"
fail_if_no_peer_cert = true
[listeners.b]
auth_mode = "mutual"
verify = "verify_none"
[listeners.c]
type = "tcp"
bind = "0.0.0.0:1883"
[[plugins]]
name = "any"
native = "anonymous"
[[plugins]]
name = "any"
native = "static-policy"
[[plugins.config.rules]]
match = { nc = "x" }
[[plugins]]
name = "rules"
native = "static-policy"
[[plugins.config.rules]]
match = { cn = "x" }
acl = "plain"
publish = ["a/#/b"]
[policy.acls.plan]
rules = [{ topic = "${cn}/#" }]
"#;
    insta::assert_snapshot!(problems(text, &[]), @r#"
    /etc/mqgate/mqgate.toml:6:24: `listeners.a.fail_if_no_peer_cert`: `fail_if_no_peer_cert = true` needs `verify = "verify_peer"`: no certificate is asked for here, so none can be missing
      6 | fail_if_no_peer_cert = true
        |                        ^^^^
      help: for one-way TLS set it to false or remove it; to require certificates use `verify = "verify_peer"` (`auth_mode = "mutual"`)
    /etc/mqgate/mqgate.toml:9:10: `listeners.b.verify`: `verify_none` contradicts `auth_mode`, which asks for a certificate
      9 | verify = "verify_none"
        |          ^^^^^^^^^^^^^
      help: remove `verify`: `auth_mode` says it all
    /etc/mqgate/mqgate.toml:15:10: `plugins[0].native`: `anonymous` lets everybody in, and listener `c` can be reached by others
      15 | native = "anonymous"
         |          ^^^^^^^^^^^
      help: bind that listener to 127.0.0.1 or [::1], or name the networks that it is for in `config.from`
    /etc/mqgate/mqgate.toml:17:8: `plugins[1].name`: there is another plugin `any`
      17 | name = "any"
         |        ^^^^^
      help: rename one of them
    /etc/mqgate/mqgate.toml:20:11: `plugins[1].config.rules[0].match.nc`: there is no such key
      20 | match = { nc = "x" }
         |           ^^
      help: did you mean `cn`?
    /etc/mqgate/mqgate.toml:26:7: `plugins[2].config.rules[0].acl`: give either `acl` or `publish` and `subscribe`
      26 | acl = "plain"
         |       ^^^^^^^
    /etc/mqgate/mqgate.toml:26:7: `plugins[2].config.rules[0].acl`: there is no rule set `plain`
      26 | acl = "plain"
         |       ^^^^^^^
      help: did you mean `plan`?
    /etc/mqgate/mqgate.toml:27:12: `plugins[2].config.rules[0].publish[0]`: `a/#/b` is not a Topic Filter: holds a wildcard where none may stand
      27 | publish = ["a/#/b"]
         |            ^^^^^^^
    /etc/mqgate/mqgate.toml:29:20: `policy.acls.plan.rules[0].topic`: there is no variable `${cn}`; there are ${client-id}, ${device-id}, ${tenant}
      29 | rules = [{ topic = "${cn}/#" }]
         |                    ^^^^^^^^^
    9 problems in the configuration
    "#);
}

#[test]
fn an_audit_log_that_could_not_keep_its_word_is_refused() {
    let found = problems(
        r#"
[audit]
path = "/a/audit.jsonl"
key_file = "/a/audit.jsonl.d/audit.key"
checkpoint_records = 0
[audit.personal]
members = ["client_id", "user_name", "seq"]
"#,
        &[],
    );
    for what in [
        "`audit.checkpoint_records`: nothing would go through",
        "`audit.key_file`: is in the folder of the log",
        "`audit.personal.members[2]`: `seq` is needed to read the log",
    ] {
        assert!(found.contains(what), "{what}: {found}");
    }
    assert!(!found.contains("members[0]") && !found.contains("members[1]"), "{found}");
}

#[test]
fn the_environment_wins_over_the_file() {
    let text = "[listeners.Main-1]\ntype = \"tcp\"\nbind = \"127.0.0.1:1883\"\n[[plugins]]\nname = \"a\"\nnative = \"static-policy\"\n";
    let loaded = inputs(
        text,
        &[
            ("MQGATE__LISTENERS__MAIN_1__BIND", "127.0.0.1:2883"),
            ("MQGATE__LISTENERS__MAIN_1__MAX_CONNECTIONS", "7"),
            ("MQGATE__LOG__FILTER", "true"),
            ("MQGATE__PLUGINS__1__NAME", "b"),
            ("MQGATE__PLUGINS__1__NATIVE", "static-policy"),
            ("MQGATE__PLUGINS__2__NAME", "c"),
            ("MQGATE__PLUGINS__2__SOURCE", "bundled:cert-acl"),
            ("MQGATE__PLUGINS__2__REQUIRED", "false"),
        ],
    )
    .load()
    .unwrap_or_else(|problems| panic!("{problems}"));
    let listener = &loaded.config.listeners["Main-1"];
    assert_eq!((listener.bind.as_str(), listener.max_connections), ("127.0.0.1:2883", 7));
    assert_eq!(loaded.config.log.filter, "true");
    assert!(!loaded.config.plugins[2].required);
    assert_eq!(loaded.config.plugins[1].name, "b");
}

#[test]
fn a_mistake_in_the_environment_names_the_variable() {
    let environment = [
        ("MQGATE__NODE__WORKERS", "many"),
        ("MQGATE__NODE__COLOUR", "red"),
        ("MQGATE__ADMIN__BIND", "18083"),
    ];
    insta::assert_snapshot!(problems("", &environment), @r#"
    environment variable MQGATE__NODE__COLOUR: `node.colour`: there is no such key
      help: the keys here are data_dir, shutdown_timeout, workers
    environment variable MQGATE__NODE__WORKERS: `node.workers`: invalid type: string "many", expected a whole number, not in quotes
    environment variable MQGATE__ADMIN__BIND: `admin.bind`: `18083` is not an address and a port
      help: write an IP address and a port, for example "127.0.0.1:8883" for this machine only, "0.0.0.0:8883" or "[::]:8883" for everybody
    3 problems in the configuration
    "#);
}

#[test]
fn paths_start_at_the_file() {
    let text = "[node]\ndata_dir = \"data\"\n[[plugins]]\nname = \"p\"\nsource = \"my.wasm\"\n[[plugins]]\nname = \"u\"\nnative = \"password-file\"\nconfig = { file = \"users\" }\n";
    let config = inputs(text, &[]).load().unwrap_or_else(|problems| panic!("{problems}")).config;
    assert_eq!(config.node.data_dir, PathBuf::from("/etc/mqgate/data"));
    assert_eq!(config.plugins[0].source.as_deref(), Some("/etc/mqgate/my.wasm"));
    assert_eq!(config.plugins[1].config["file"], "/etc/mqgate/users");
}

#[test]
fn what_is_shown_says_where_it_came_from_and_no_secret() {
    let text = "[node]\nworkers = 3\n[[plugins]]\nname = \"p\"\nsource = \"my.wasm\"\n[plugins.config]\napi_token = \"geheim\"\ncolour = \"red\"\n";
    let inputs = inputs(text, &[("MQGATE__LOG__FILTER", "debug")]);
    let config = inputs.load().unwrap_or_else(|problems| panic!("{problems}")).config;
    let shown = show::render(&show::entries(&config, &inputs));
    let line = |key: &str| {
        let line = shown.lines().find(|line| line.starts_with(key)).unwrap_or_else(|| panic!("no {key}"));
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(line("node.workers"), "node.workers = 3 # line 2");
    assert_eq!(line("log.filter"), "log.filter = \"debug\" # MQGATE__LOG__FILTER");
    assert_eq!(line("admin.enable"), "admin.enable = true # default");
    assert_eq!(line("plugins[0].config.api_token"), "plugins[0].config.api_token = \"(secret)\" # line 7");
    assert!(!shown.contains("geheim"));
}

#[test]
fn keys_of_secrets_are_known_by_their_names() {
    for (key, secret) in [
        ("password", true),
        ("db_passwd", true),
        ("Client-Secret", true),
        ("api-key-2", true),
        ("signing_key", true),
        ("SIGNING-KEY", true),
        ("salt", true),
        ("hash_salt", true),
        ("pepper", true),
        ("hmac", true),
        ("hmac_sha256", true),
        ("key", false),
        ("keyfile", false),
        ("colour", false),
        ("monkey", false),
    ] {
        assert_eq!(show::is_secret(key), secret, "{key}");
    }
}

#[test]
fn keys_without_effect_are_refused() {
    let text = r#"
[listeners.open]
type = "tcp"
bind = "127.0.0.1:1883"
registration = "manual"
verify = "verify_none"
fail_if_no_peer_cert = false
versions = ["tlsv1.3"]
depth = 1
x509_v1_leaf = "deny"
clock_skew = "1s"
handshake_timeout = "1s"
session_resumption = false
max_handshakes = 1
max_handshakes_per_source = 1
[listeners.half]
auth_mode = "one-way"
registration = "manual"
certfile = "c"
keyfile = "k"
depth = 1
x509_v1_leaf = "deny"
clock_skew = "1s"
[listeners.mutual]
registration = "manual"
certfile = "c"
keyfile = "k"
[listeners.devices]
auth_mode = "per-device"
registration = "manual"
certfile = "c"
keyfile = "k"
[admin]
enable = false
[metrics]
enable = true
[[plugins]]
name = "rules"
native = "static-policy"
required = true
grant = ["kv"]
limits = { cpu = "1s" }
"#;
    let said = problems(text, &[]);
    insta::assert_snapshot!(headlines(&said), @r#"
    mqgate.toml:5:16: `listeners.open.registration`: without effect: only in mode `per-device` must a certificate be in the registry
    mqgate.toml:6:10: `listeners.open.verify`: without effect: a listener of type `tcp` has no TLS
    mqgate.toml:7:24: `listeners.open.fail_if_no_peer_cert`: without effect: a listener of type `tcp` has no TLS
    mqgate.toml:8:12: `listeners.open.versions`: without effect: a listener of type `tcp` has no TLS
    mqgate.toml:9:9: `listeners.open.depth`: without effect: a listener of type `tcp` has no TLS
    mqgate.toml:10:16: `listeners.open.x509_v1_leaf`: without effect: a listener of type `tcp` has no TLS
    mqgate.toml:11:14: `listeners.open.clock_skew`: without effect: a listener of type `tcp` has no TLS
    mqgate.toml:12:21: `listeners.open.handshake_timeout`: without effect: a listener of type `tcp` has no TLS
    mqgate.toml:13:22: `listeners.open.session_resumption`: without effect: a listener of type `tcp` has no TLS
    mqgate.toml:14:18: `listeners.open.max_handshakes`: without effect: a listener of type `tcp` has no TLS
    mqgate.toml:15:29: `listeners.open.max_handshakes_per_source`: without effect: a listener of type `tcp` has no TLS
    mqgate.toml:18:16: `listeners.half.registration`: without effect: only in mode `per-device` must a certificate be in the registry
    mqgate.toml:22:16: `listeners.half.x509_v1_leaf`: without effect: no client certificate is asked for in mode `one-way`
    mqgate.toml:23:14: `listeners.half.clock_skew`: without effect: no client certificate is asked for in mode `one-way`
    mqgate.toml:25:16: `listeners.mutual.registration`: without effect: only in mode `per-device` must a certificate be in the registry
    mqgate.toml:36:10: `metrics.enable`: there is no place to serve them: `admin.enable` is false
    mqgate.toml:40:12: `plugins[0].required`: without effect: this plugin is built in, not a component
    mqgate.toml:41:9: `plugins[0].grant`: without effect: this plugin is built in, not a component
    mqgate.toml:42:1: `plugins[0].limits`: without effect: this plugin is built in, not a component
    "#);
    assert!(said.contains("set `auth_mode = \"per-device\"`"), "{said}");
    let text = "[metrics]\nenable = false\nbind = \"127.0.0.1:9883\"\n";
    assert!(problems(text, &[]).contains("3:8: `metrics.bind`"), "{}", problems(text, &[]));
    // Without a word about metrics nobody misses them.
    assert!(inputs("[admin]\nenable = false\n", &[]).load().is_ok());
}

/// The first line of each problem.
fn headlines(said: &str) -> String {
    let lines = said.lines().filter(|line| line.starts_with("/etc/"));
    lines.map(|line| format!("{}\n", line.trim_start_matches("/etc/mqgate/"))).collect()
}

#[test]
fn one_plugin_serves_scram() {
    let text = "[[plugins]]\nname = \"one\"\nsource = \"bundled:scram\"\n[[plugins]]\nname = \"two\"\nnative = \"scram\"\nconfig = { file = \"users.txt\" }\n";
    let said = problems(text, &[]);
    assert!(
        said.contains("mqgate.toml:6:10: `plugins[1].native`: the plugin `one` serves SCRAM-SHA-256"),
        "{said}"
    );
    assert!(inputs(&text.replace("bundled:scram", "bundled:cert-acl"), &[]).load().is_ok());
}

#[test]
fn limits_that_the_host_would_refuse_are_refused_here() {
    let host = mqgate_plugin_host::HostSettings::default();
    for (limit, good) in [
        (String::from("memory = \"64 KiB\""), true),
        (String::from("memory = \"65535 B\""), false),
        (String::from("memory = \"64 MiB\""), true),
        (String::from("memory = \"65 MiB\""), false),
        (String::from("cpu = \"1ms\""), true),
        (String::from("cpu = \"0s\""), false),
        (String::from("wall = \"0s\""), false),
        (String::from("init = \"0s\""), false),
        (String::from("auth_steps = 0"), false),
        (String::from("auth_steps = 16"), true),
        (String::from("auth_steps = 17"), false),
        (String::from("concurrency = 0"), false),
        (format!("concurrency = {}", host.instances), true),
        (format!("concurrency = {}", host.instances + 1), false),
    ] {
        let text =
            format!("[[plugins]]\nname = \"p\"\nsource = \"bundled:cert-acl\"\n[plugins.limits]\n{limit}\n");
        assert_eq!(inputs(&text, &[]).load().is_ok(), good, "{limit}");
        if !good {
            assert!(problems(&text, &[]).contains("mqgate.toml:5:"), "{}", problems(&text, &[]));
        }
    }
}

#[test]
fn requests_of_plugins_go_where_the_configuration_says() {
    let text = |http: &str| {
        let capabilities = "capabilities = [\"http\"]";
        format!(
            "[[plugins]]\nname = \"p\"\nsource = \"p.wasm\"\n[plugins.grant]\n{capabilities}\n[plugins.grant.http]\n{http}\n"
        )
    };
    let allow = "allow = [\"https://pki.example.com\", \"http://*.example.com:*\"]";
    let loaded = inputs(&text(allow), &[]).load().unwrap_or_else(|problems| panic!("{problems}"));
    let config = loaded.config;
    let http = &config.plugins[0].grant.http;
    let allowed: Vec<String> = http.allow.iter().map(ToString::to_string).collect();
    assert_eq!(allowed, ["https://pki.example.com:443", "http://*.example.com:*"]);
    assert!(!http.private_networks);
    for (bad, said) in [
        (String::new(), "without a destination"),
        (String::from("allow = [\"pki.example.com\"]"), "does not begin with http"),
        (format!("{allow}\nconnections = 0"), "1 to 256 connections"),
        (format!("{allow}\nconnections = 257"), "1 to 256 connections"),
        (format!("{allow}\nresponse = \"17 MiB\""), "16 MiB at most"),
        (format!("{allow}\nprivate = true"), "private"),
    ] {
        let problems = problems(&text(&bad), &[]);
        assert!(problems.contains(said), "{bad}: {problems}");
    }
}

#[test]
fn what_a_transport_must_not_say() {
    let text = r#"
[listeners.a]
type = "tcp"
bind = "unix:mqtt.sock"
websocket = { path = "/mqtt" }
[listeners.b]
type = "wss"
bind = "unix:/run/mqtt.sock"
certfile = "c"
keyfile = "k"
nodelay = true
[listeners.c]
type = "ws"
bind = "127.0.0.1:0"
auth_mode = "mutual"
dual_stack = true
unix_mode = "0660"
websocket = { path = "mqtt", origins = ["app.example.com"], max_frame_size = "1 B", trusted_proxies = ["10.1.2.3/8"] }
[listeners.d]
type = "tcp"
bind = "127.0.0.1:0"
proxy_protocol = { identity = "cn", certificate_tlv = 0x20, timeout = "0s", max_size = "1 MiB" }
[listeners.e]
type = "tls"
bind = "127.0.0.1:0"
certfile = "c"
keyfile = "k"
proxy_protocol = { from = ["proxy.example"], identity = "certificate" }
[listeners.f]
type = "quic"
bind = "127.0.0.1:0"
certfile = "c"
keyfile = "k"
versions = ["tlsv1.2"]
proxy_protocol = { from = ["10.0.0.0/8"] }
quic = { idle_timeout = "1s" }
"#;
    let found = problems(text, &[]);
    for expected in [
        "`listeners.a.bind`: `mqtt.sock` is not an absolute path",
        "`listeners.a.websocket`: without effect: only the types `ws` and `wss` speak WebSocket",
        "`listeners.b.bind`: a Unix socket has no TLS",
        "`listeners.b.nodelay`: without effect: `bind` is a Unix socket",
        "`listeners.c.auth_mode`: a listener of type `ws` has no certificates",
        "`listeners.c.dual_stack`: without effect",
        "`listeners.c.unix_mode`: without effect",
        "`listeners.c.websocket.path`: a path begins with `/`",
        "`listeners.c.websocket.origins[0]`: `app.example.com` is not an origin",
        "`listeners.c.websocket.max_frame_size`: at least 125 B",
        "`listeners.c.websocket.trusted_proxies[0]`: `10.1.2.3/8` has bits beyond its length: it would be `10.0.0.0/8`",
        "`listeners.d.proxy_protocol.from`: nobody could connect",
        "`listeners.d.proxy_protocol.certificate_tlv`: the types 0xE0 to 0xEF",
        "`listeners.d.proxy_protocol.certificate_tlv`: without effect",
        "`listeners.d.proxy_protocol.timeout`: no header would be in time",
        "`listeners.d.proxy_protocol.max_size`: headers have 107 to 65551 bytes",
        "`listeners.e.proxy_protocol.from[0]`: `proxy.example` is not a network",
        "`listeners.e.proxy_protocol.identity`: TLS ends here",
        "`listeners.f.proxy_protocol`: a connection of QUIC has no beginning",
        "`listeners.f.versions`: QUIC is TLS 1.3",
        "`listeners.f.quic.idle_timeout`: from 3 s to 10 m",
    ] {
        assert!(found.contains(expected), "{expected}\n\n{found}");
    }
}
