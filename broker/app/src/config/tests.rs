use super::*;

fn inputs(text: &str, environment: &[(&str, &str)]) -> Inputs {
    Inputs {
        file: Some(PathBuf::from("/etc/mqgate/mqgate.toml")),
        text: text.to_owned(),
        environment: environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
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
    insta::assert_snapshot!(problems(text, &[]), @"");
}

#[test]
fn a_key_in_the_wrong_table_is_sent_home() {
    insta::assert_snapshot!(problems("bind = \"127.0.0.1:1883\"\n[colours]\na = 1\n", &[]), @"");
}

#[test]
fn text_that_is_no_toml_is_placed() {
    insta::assert_snapshot!(problems("[node]\ndata_dir = here\n", &[]), @"");
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
    insta::assert_snapshot!(problems(text, &[]), @"");
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
            ("MQGATE__PLUGINS__0__REQUIRED", "false"),
            ("MQGATE__PLUGINS__1__NAME", "b"),
            ("MQGATE__PLUGINS__1__NATIVE", "static-policy"),
        ],
    )
    .load()
    .unwrap_or_else(|problems| panic!("{problems}"));
    let listener = &loaded.config.listeners["Main-1"];
    assert_eq!((listener.bind.as_str(), listener.max_connections), ("127.0.0.1:2883", 7));
    assert_eq!(loaded.config.log.filter, "true");
    assert!(!loaded.config.plugins[0].required);
    assert_eq!(loaded.config.plugins[1].name, "b");
}

#[test]
fn a_mistake_in_the_environment_names_the_variable() {
    let environment =
        [("MQGATE__NODE__WORKERS", "many"), ("MQGATE__NODE__COLOUR", "red"), ("MQGATE__ADMIN__BIND", "18083")];
    insta::assert_snapshot!(problems("", &environment), @"");
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
