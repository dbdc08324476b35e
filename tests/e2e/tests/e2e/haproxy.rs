//! HAProxy ends TLS in front of the broker, and tells in a PROXY header of version 2 who the client is.

use std::fs;
use std::net::TcpListener;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use mqgate_e2e::broker::mqgate;
use mqgate_e2e::{Broker, tools};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// Stopped when the test ends.
struct HaProxy {
    process: Child,
    port: u16,
}

impl Drop for HaProxy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

const POLICY: &str = r#"
[[plugins.config.rules]]
match = { cn = "meter-*" }
device_id = "${cn}"
publish = ["meters/${device-id}/#"]
"#;

/// In front of `broker`, with the certificates of the folder `tls`.
fn start(mut haproxy: Command, broker: &Broker) -> HaProxy {
    let folder = &broker.folder;
    let read = |file: &str| fs::read_to_string(folder.join(file)).unwrap();
    fs::write(folder.join("tls/both.pem"), read("tls/server.pem") + &read("tls/server.key")).unwrap();
    // The port is chosen by the system, and its socket handed on: connections wait there until HAProxy takes them.
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    fcntl(&socket, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    let config = format!(
        r"
global
    maxconn 100
defaults
    mode tcp
    timeout connect 10s
    timeout client 1m
    timeout server 1m
frontend mqtts
    bind fd@{} ssl crt tls/both.pem ca-file tls/ca.pem verify required
    default_backend mqgate
backend mqgate
    server one 127.0.0.1:{} send-proxy-v2-ssl-cn proxy-v2-options ssl,cert-cn,ssl-cipher,authority
",
        socket.as_raw_fd(),
        broker.port()
    );
    fs::write(folder.join("haproxy.cfg"), config).unwrap();
    let log = fs::File::create(folder.join("haproxy.log")).unwrap();
    let process = haproxy.current_dir(folder).args(["-db", "-f", "haproxy.cfg"]).stderr(log).spawn().unwrap();
    HaProxy { process, port }
}

/// Publishes through HAProxy with the certificate `tls/{name}` or `other/{name}`.
fn publish(folder: &Path, port: u16, name: &str, version: &str) -> Command {
    let mut publish = tools::mosquitto("mosquitto_pub").expect("found before");
    if version == "1.2" {
        tools::at_most_tls_1_2(&mut publish, folder);
    }
    let file = |ending: &str| folder.join(format!("{name}.{ending}"));
    publish.args(["-h", "localhost", "-p", &port.to_string(), "-i", "through", "-q", "1"]);
    publish.args(["-t", "meters/meter-7/kwh", "-m", "1"]);
    publish.arg("--cafile").arg(folder.join("tls/ca.pem"));
    publish.arg("--cert").arg(file("pem")).arg("--key").arg(file("key"));
    publish.stdin(Stdio::null());
    publish
}

/// Common name, server name, TLS version and suite reach audit log and plugin; whoever HAProxy does not verify
/// does not reach the broker.
#[tokio::test]
async fn haproxy_tells_name_server_name_and_version() {
    let (Some(haproxy), Some(_)) = (tools::haproxy(), tools::mosquitto("mosquitto_pub")) else { return };
    let broker = Broker::builder()
        .tcp()
        .listener(r#"proxy_protocol = { from = ["127.0.0.1"], identity = "cn" }"#)
        .with_teller()
        .with_native("static-policy", POLICY)
        .start()
        .await;
    let pki = |line: &str| {
        let mut pki = Command::new(mqgate());
        tools::succeed(pki.current_dir(&broker.folder).arg("pki").args(line.split_whitespace()));
    };
    pki("ca --dir tls --cn Fleet");
    pki("server --dir tls --san localhost --name server");
    pki("device --dir tls --cn meter-7");
    pki("ca --dir other --cn Fleet");
    pki("device --dir other --cn meter-7");
    let haproxy = start(haproxy, &broker);

    for (version, number) in [("1.2", "0303"), ("1.3", "0304")] {
        let seen = broker.audit().len();
        tools::succeed(&mut publish(&broker.folder, haproxy.port, "tls/meter-7", version));
        let line = mqgate_e2e::eventually("it is in", async || {
            broker.audit().into_iter().skip(seen).find(|line| line["name"] == "connection.accepted")
        })
        .await;
        assert_eq!(line["device_id"], "meter-7", "{line}");
        assert_eq!(line["sni"], "localhost", "{line}");
        assert_eq!(line["fields"]["proxy.cn"], "meter-7", "{line}");
        assert_eq!(line["fields"]["tls.version"], version, "{line}");
        assert_eq!(line["fields"]["proxy"], "127.0.0.1", "{line}");
        // The component was told the same.
        let told = broker.logged("told: client-id=through").pop().expect("it told");
        for fact in [
            "peer=127.0.0.1 ".to_owned(),
            "proxy=127.0.0.1 ".to_owned(),
            format!("tls={number} "),
            "sni=localhost".to_owned(),
            "proxy.cn=meter-7".to_owned(),
        ] {
            assert!(told.contains(&fact), "{fact}: {told}");
        }
        assert!(!told.contains("cipher=0000"), "{told}");

        // The same name of another CA: HAProxy does not verify it.
        let other = publish(&broker.folder, haproxy.port, "other/meter-7", version).output().unwrap();
        assert!(!other.status.success(), "its CA is not HAProxy's");
    }
    let accepted = broker.audit().iter().filter(|line| line["name"] == "connection.accepted").count();
    assert_eq!(accepted, 2);
}
