use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use mqgate_identity::evaluation::{
    PathPolicy, Rejection, RevocationPolicy, StaleLists, ValidatedPath, evaluate,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::audit::AuditSettings;
use crate::fetch::FetchRules;
use crate::testing::{TestCa, TestCertificate, metrics};

const PATIENCE: Duration = Duration::from_secs(30);

struct World {
    ca: TestCa,
    trust: Arc<TrustStore>,
    audit: Arc<AuditLog>,
    folder: tempfile::TempDir,
    shutdown: CancellationToken,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings =
            AuditSettings { path: Some(folder.path().join("audit.jsonl")), ..AuditSettings::default() };
        let world = Self {
            ca: TestCa::new("devices"),
            trust: Arc::new(TrustStore::new(32)),
            audit: Arc::new(AuditLog::open(settings, Arc::clone(&metrics().gate)).unwrap()),
            folder,
            shutdown: CancellationToken::new(),
        };
        world.trust.configure(vec![world.ca.anchor()]).unwrap();
        world
    }

    fn settings(&self) -> CrlSettings {
        CrlSettings {
            files: Vec::new(),
            directories: Vec::new(),
            urls: Vec::new(),
            follow_distribution_points: false,
            rules: Arc::new(FetchRules {
                timeout: PATIENCE,
                max_bytes: 4096,
                hosts: Vec::new(),
                networks: vec!["127.0.0.0/8".parse().unwrap()],
                names: NAMES,
            }),
            refresh: Duration::from_millis(20),
            max_lists: 10,
            cache: Some(self.folder.path().join("cache")),
        }
    }

    fn open(&self, settings: CrlSettings) -> Arc<RevocationService> {
        let registry = prometheus::Registry::new();
        RevocationService::open(settings, Arc::clone(&self.trust), Arc::clone(&self.audit), &registry)
            .unwrap()
    }

    fn judge(&self, device: &TestCertificate) -> Result<ValidatedPath, Rejection> {
        let policy = PathPolicy { revocation: Some(RevocationPolicy::default()), ..PathPolicy::default() };
        let set = self.trust.current();
        evaluate::<Vec<u8>>(&device.der, &[], &set.anchors, &policy, clock::now().seconds())
    }

    fn reason(&self, device: &TestCertificate) -> Reason {
        self.judge(device).map_or_else(|rejection| rejection.reason, |_| Reason::Ok)
    }

    fn audited(&self) -> String {
        self.audit.close();
        std::fs::read_to_string(self.folder.path().join("audit.jsonl")).unwrap()
    }
}

/// Waits until the service, which is running, has come so far.
async fn until(condition: impl Fn() -> bool) {
    tokio::time::timeout(PATIENCE, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("it comes so far in time");
}

fn pem(der: &[u8]) -> String {
    mqgate_identity::certificate::to_pem(der).replace("CERTIFICATE", "X509 CRL")
}

/// Answers each request with what `answer` makes of its head.
async fn server(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> String {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = socket.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => break,
                }
            }
            let _ = stream.write_all(&answer(&String::from_utf8_lossy(&head))).await;
        }
    });
    format!("http://{address}")
}

fn answer(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}\r\n", body.len());
    [head.as_bytes(), body].concat()
}

#[tokio::test]
async fn files_and_folders_are_read_again_when_they_change() {
    let world = World::new();
    let (good, bad) = (world.ca.device("good"), world.ca.device("bad"));
    let file = world.folder.path().join("one.pem");
    let folder = world.folder.path().join("lists");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(&file, pem(&world.ca.crl(1, 2090, &[]))).unwrap();
    assert_eq!(world.reason(&good), Reason::CrlUnknown);

    let settings = CrlSettings { files: vec![file], directories: vec![folder.clone()], ..world.settings() };
    let service = world.open(settings);
    assert_eq!((world.reason(&good), world.reason(&bad)), (Reason::Ok, Reason::Ok));
    let arrivals = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&arrivals);
    let serial = bad.facts().serial;
    let issuer = world.ca.anchor();
    let issuer = CertificateFacts::parse(&issuer.der).unwrap().subject.raw;
    service.on_arrival(move |list| {
        assert_eq!(list.issuer_raw(), issuer);
        assert!(list.serials().any(|known| known == serial));
        counted.fetch_add(1, Ordering::SeqCst);
    });
    let running = tokio::spawn(Arc::clone(&service).run(world.shutdown.clone()));
    // The newer one counts, as DER, and in another place.
    std::fs::write(folder.join("two.crl"), world.ca.crl(2, 2090, &[&bad])).unwrap();
    until(|| arrivals.load(Ordering::SeqCst) == 1).await;
    assert_eq!((world.reason(&good), world.reason(&bad)), (Reason::Ok, Reason::CertRevokedCrl));
    let status = service.status();
    assert_eq!(status.len(), 2);
    assert_eq!((status[0].ca.as_deref(), status[0].entries), (Some("devices"), Some(1)));

    // One that is gone revokes nobody; one that is broken changes nothing.
    std::fs::write(folder.join("two.crl"), b"garbage").unwrap();
    until(|| service.status().iter().any(|status| status.problem.is_some())).await;
    assert_eq!(world.reason(&bad), Reason::CertRevokedCrl);
    std::fs::remove_file(folder.join("two.crl")).unwrap();
    until(|| world.reason(&bad) == Reason::Ok).await;
    world.shutdown.cancel();
    running.await.unwrap();
    let audited = world.audited();
    assert!(audited.contains("crl.updated") && audited.contains("crl.refused"), "{audited}");
}

/// What is no list is never taken for a list of nobody.
#[tokio::test]
async fn crl_stale_unreachable_der_or_pem_empty_or_of_a_wrong_issuer() {
    type Content = fn(&World, &TestCertificate) -> Vec<u8>;
    let cases: [(&str, Content, Reason, bool); 11] = [
        ("PEM", |world, _| pem(&world.ca.crl(1, 2090, &[])).into_bytes(), Reason::Ok, false),
        ("DER", |world, _| world.ca.crl(1, 2090, &[]), Reason::Ok, false),
        ("DER, it is on it", |world, device| world.ca.crl(1, 2090, &[device]), Reason::CertRevokedCrl, false),
        ("stale", |world, _| world.ca.crl(1, 2025, &[]), Reason::CrlStale, false),
        ("wrong issuer", |_, _| TestCa::new("strangers").crl(1, 2090, &[]), Reason::CrlUnknown, false),
        ("forged", |_, _| TestCa::new("devices").crl(1, 2090, &[]), Reason::CrlUnknown, true),
        ("empty", |_, _| Vec::new(), Reason::CrlUnknown, true),
        ("PEM of something else", |_, device| device.pem().into_bytes(), Reason::CrlUnknown, true),
        ("DER of something else", |_, device| device.der.clone(), Reason::CrlUnknown, true),
        ("half of DER", |world, _| world.ca.crl(1, 2090, &[])[..100].to_vec(), Reason::CrlUnknown, true),
        (
            "half of PEM",
            |world, _| pem(&world.ca.crl(1, 2090, &[])).as_bytes()[..100].to_vec(),
            Reason::CrlUnknown,
            true,
        ),
    ];
    for (name, content, expected, is_problem) in cases {
        let world = World::new();
        let device = world.ca.device("device");
        let file = world.folder.path().join("list.crl");
        std::fs::write(&file, content(&world, &device)).unwrap();
        let service = world.open(CrlSettings { files: vec![file], ..world.settings() });
        assert_eq!(world.reason(&device), expected, "{name}");
        let status = service.status().remove(0);
        assert_eq!(status.problem.is_some(), is_problem, "{name}: {:?}", status.problem);
        assert_eq!(status.stale, expected == Reason::CrlStale, "{name}");
        let ours = matches!(expected, Reason::Ok | Reason::CertRevokedCrl | Reason::CrlStale);
        assert_eq!(status.ca.as_deref(), ours.then_some("devices"), "{name}: an operator sees whose it is");
        assert_eq!(world.audited().contains("crl.refused"), is_problem, "{name}");
    }
    // A port that nobody listens at any more.
    let world = World::new();
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let settings = CrlSettings { urls: vec![format!("http://127.0.0.1:{port}/ca.crl")], ..world.settings() };
    let service = world.open(settings);
    let running = tokio::spawn(Arc::clone(&service).run(world.shutdown.clone()));
    until(|| service.status().first().is_some_and(|status| status.problem.is_some())).await;
    assert_eq!(world.reason(&world.ca.device("device")), Reason::CrlUnknown);
    world.shutdown.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn a_list_is_fetched_conditionally_and_outlives_its_server() {
    let world = World::new();
    let bad = world.ca.device("bad");
    let list = world.ca.crl(1, 2090, &[&bad]);
    let (asked, unchanged) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counts = (Arc::clone(&asked), Arc::clone(&unchanged));
    let url = server(move |head| {
        counts.0.fetch_add(1, Ordering::SeqCst);
        if head.contains("if-none-match: \"v1\"") {
            counts.1.fetch_add(1, Ordering::SeqCst);
            return answer("304 Not Modified", "", b"");
        }
        answer("200 OK", "ETag: \"v1\"\r\n", &list)
    })
    .await;
    let settings = CrlSettings { urls: vec![format!("{url}/ca.crl")], ..world.settings() };
    let service = world.open(settings.clone());
    let running = tokio::spawn(Arc::clone(&service).run(world.shutdown.clone()));
    until(|| world.reason(&bad) == Reason::CertRevokedCrl).await;
    service.refresh();
    until(|| unchanged.load(Ordering::SeqCst) > 0).await;
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    world.shutdown.cancel();
    running.await.unwrap();

    // Another process, and the server does not answer.
    let reborn = World { trust: Arc::new(TrustStore::new(32)), ..world };
    reborn.trust.configure(vec![reborn.ca.anchor()]).unwrap();
    reborn.open(settings);
    assert_eq!(reborn.reason(&bad), Reason::CertRevokedCrl);
}

#[tokio::test]
async fn only_what_may_be_asked_is_asked() {
    let world = World::new();
    let list = world.ca.crl(1, 2090, &[]);
    let target = {
        let list = list.clone();
        server(move |_| answer("200 OK", "", &list)).await
    };
    let port = target.rsplit(':').next().unwrap().to_owned();
    let redirect = {
        let elsewhere = format!("Location: http://127.0.0.2:{port}/x\r\n");
        let here = format!("Location: {target}/x\r\n");
        server(move |head| {
            let path = if head.contains("/elsewhere") { &elsewhere } else { &here };
            answer("302 Found", path, b"")
        })
        .await
    };
    let rules = |networks: &[&str], hosts: &[&str], max_bytes| FetchRules {
        timeout: PATIENCE,
        max_bytes,
        hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
        networks: networks.iter().map(|network| network.parse().unwrap()).collect(),
        names: NAMES,
    };
    let known = Validators::default();
    let open = rules(&["127.0.0.0/8"], &["127.0.0.1"], 4096);
    let shut = rules(&[], &["127.0.0.1"], 4096);
    let kind = |result: Result<Fetched, fetch::FetchError>| match result {
        Ok(Fetched::New { .. }) => "new",
        Ok(Fetched::NotModified) => "not_modified",
        Err(error) => error.kind(),
    };
    let (by_us, by_others) = (NamedBy::Configuration, NamedBy::Certificate);
    assert_eq!(kind(open.get(&target, by_us, &known).await), "new");
    assert_eq!(kind(open.get(&target, by_others, &known).await), "new");
    assert_eq!(kind(shut.get(&target, by_us, &known).await), "refused");
    let nobody = rules(&["127.0.0.0/8"], &[], 4096);
    assert_eq!(kind(nobody.get(&target, by_others, &known).await), "refused");
    // `localhost` is a name for the same.
    let name = format!("http://localhost:{port}/");
    assert_eq!(kind(shut.get(&name, by_us, &known).await), "refused");
    assert_eq!(kind(open.get(&format!("{redirect}/here"), by_us, &known).await), "new");
    assert_eq!(kind(open.get(&format!("{redirect}/elsewhere"), by_us, &known).await), "refused");
    let small = rules(&["127.0.0.0/8"], &[], list.len() - 1);
    assert_eq!(kind(small.get(&target, by_us, &known).await), "too_large");
    let exact = rules(&["127.0.0.0/8"], &[], list.len());
    assert_eq!(kind(exact.get(&target, by_us, &known).await), "new");
    let endless = server(|_| answer("302 Found", "Location: /again\r\n", b"")).await;
    assert_eq!(kind(open.get(&endless, by_us, &known).await), "refused");
    let missing = server(|_| answer("404 Not Found", "", b"")).await;
    assert_eq!(kind(open.get(&missing, by_us, &known).await), "status");
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let slow = FetchRules { timeout: Duration::from_millis(50), ..open };
    let url = format!("http://{}", silent.local_addr().unwrap());
    assert_eq!(kind(slow.get(&url, by_us, &known).await), "timeout");
}

#[tokio::test]
async fn nothing_older_or_forged_takes_the_place_of_a_list() {
    let world = World::new();
    let impostor = TestCa::new("devices");
    let (first, second) = (world.ca.device("first"), world.ca.device("second"));
    let file = world.folder.path().join("list.crl");
    let write = |der: &[u8]| std::fs::write(&file, der).unwrap();
    write(&world.ca.crl(5, 2090, &[&first]));
    let service = world.open(CrlSettings { files: vec![file.clone()], ..world.settings() });
    let again = |path: &Path| {
        let _ = path;
        service.refresh();
        service.look_at_files();
        service.apply();
    };
    assert_eq!(world.reason(&first), Reason::CertRevokedCrl);
    for forged in [world.ca.crl(4, 2090, &[]), impostor.crl(9, 2090, &[&second])] {
        write(&forged);
        again(&file);
        assert_eq!((world.reason(&first), world.reason(&second)), (Reason::CertRevokedCrl, Reason::Ok));
        assert!(service.status()[0].problem.is_some());
    }
    write(&world.ca.crl(6, 2090, &[&second]));
    again(&file);
    assert_eq!((world.reason(&first), world.reason(&second)), (Reason::Ok, Reason::CertRevokedCrl));
    assert_eq!(service.status()[0].problem, None);

    // Past its time it lets nobody in, unless the policy says so; whom it names it bars in any case.
    write(&world.ca.crl(7, 2025, &[&second]));
    again(&file);
    assert_eq!((world.reason(&first), world.reason(&second)), (Reason::CrlStale, Reason::CertRevokedCrl));
    assert!(service.status()[0].stale);
    let open = RevocationPolicy { stale: StaleLists::FailOpen, ..RevocationPolicy::default() };
    let policy = PathPolicy { revocation: Some(open), ..PathPolicy::default() };
    let set = world.trust.current();
    let judged = |device: &TestCertificate| {
        evaluate::<Vec<u8>>(&device.der, &[], &set.anchors, &policy, clock::now().seconds()).is_ok()
    };
    assert!(judged(&first) && !judged(&second));
}

#[tokio::test]
async fn what_a_certificate_names_is_fetched_from_hosts_that_are_allowed() {
    for (hosts, expected) in [(vec!["127.0.0.1".to_owned()], Reason::Ok), (Vec::new(), Reason::CrlUnknown)] {
        let world = World::new();
        let list = world.ca.crl(1, 2090, &[]);
        let url = server(move |_| answer("200 OK", "", &list)).await;
        let device = world.ca.issue("device", rcgen::ExtendedKeyUsagePurpose::ClientAuth, |params| {
            let uris = vec![format!("{url}/ca.crl")];
            params.crl_distribution_points.push(rcgen::CrlDistributionPoint { uris });
        });
        let rules = Arc::new(FetchRules { hosts, ..FetchRules::clone(&world.settings().rules) });
        let settings = CrlSettings { follow_distribution_points: true, rules, ..world.settings() };
        let service = world.open(settings);
        let running = tokio::spawn(Arc::clone(&service).run(world.shutdown.clone()));
        assert_eq!(world.reason(&device), Reason::CrlUnknown);
        world.trust.notice(&device.facts());
        if expected == Reason::Ok {
            until(|| world.reason(&device) == Reason::Ok).await;
        }
        assert_eq!(service.status().len(), usize::from(expected == Reason::Ok));
        assert_eq!(world.reason(&device), expected);
        world.shutdown.cancel();
        running.await.unwrap();
    }
}

/// A CA that is no trust anchor: whose its lists are shows only when a client sends its certificate.
#[tokio::test]
async fn a_forged_list_of_an_intermediate_changes_nothing() {
    let world = World::new();
    let (below, impostor) = (world.ca.below("below"), TestCa::new("below"));
    let (good, bad) = (below.device("good"), below.device("bad"));
    let lists = [
        below.crl(5, 2090, &[&bad]),
        impostor.crl(9, 2090, &[&good]),
        below.crl(4, 2090, &[]),
        below.crl(6, 2090, &[&good]),
    ];
    let turn = Arc::new(AtomicUsize::new(0));
    let served = {
        let turn = Arc::clone(&turn);
        server(move |_| answer("200 OK", "", &lists[turn.load(Ordering::SeqCst)])).await
    };
    let service = world.open(CrlSettings { urls: vec![format!("{served}/x.crl")], ..world.settings() });
    let running = tokio::spawn(Arc::clone(&service).run(world.shutdown.clone()));
    let policy = PathPolicy { revocation: Some(RevocationPolicy::default()), ..PathPolicy::default() };
    let chain = [below.anchor().der];
    let reason = |device: &TestCertificate| {
        let set = world.trust.current();
        evaluate(&device.der, &chain, &set.anchors, &policy, clock::now().seconds())
            .map_or_else(|rejection| rejection.reason, |_| Reason::Ok)
    };
    until(|| reason(&bad) == Reason::CertRevokedCrl).await;
    for next in 1..3 {
        turn.store(next, Ordering::SeqCst);
        service.held().values_mut().for_each(|held| held.problem = None);
        service.refresh();
        until(|| service.status()[0].problem.is_some()).await;
        assert_eq!((reason(&good), reason(&bad)), (Reason::Ok, Reason::CertRevokedCrl), "{next}");
    }
    turn.store(3, Ordering::SeqCst);
    service.refresh();
    until(|| reason(&good) == Reason::CertRevokedCrl).await;
    assert_eq!(reason(&bad), Reason::Ok, "the genuine one gives way to its successor");
    world.shutdown.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn a_server_that_does_not_answer_keeps_no_other_list_waiting() {
    let world = World::new();
    let bad = world.ca.device("bad");
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let list = world.ca.crl(1, 2090, &[&bad]);
    let url = server(move |_| answer("200 OK", "", &list)).await;
    let folder = world.folder.path().join("lists");
    std::fs::create_dir(&folder).unwrap();
    let slow = (0..3).map(|number| format!("http://{}/{number}", silent.local_addr().unwrap()));
    let rules = FetchRules { timeout: PATIENCE * 10, ..FetchRules::clone(&world.settings().rules) };
    let settings = CrlSettings {
        urls: slow.chain([format!("{url}/z")]).collect(),
        directories: vec![folder.clone()],
        rules: Arc::new(rules),
        ..world.settings()
    };
    let service = world.open(settings);
    let running = tokio::spawn(Arc::clone(&service).run(world.shutdown.clone()));
    until(|| world.reason(&bad) == Reason::CertRevokedCrl).await;
    std::fs::write(folder.join("two.crl"), world.ca.crl(2, 2090, &[])).unwrap();
    until(|| world.reason(&bad) == Reason::Ok).await;
    world.shutdown.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn what_a_certificate_names_outlives_its_server_and_a_restart() {
    let world = World::new();
    let list = world.ca.crl(1, 2090, &[]);
    let up = Arc::new(AtomicUsize::new(1));
    let url = {
        let up = Arc::clone(&up);
        server(move |_| match up.load(Ordering::SeqCst) {
            1 => answer("200 OK", "", &list),
            _ => answer("503 Service Unavailable", "", b""),
        })
        .await
    };
    let device = world.ca.issue("device", rcgen::ExtendedKeyUsagePurpose::ClientAuth, |params| {
        let uris = vec![format!("{url}/ca.crl")];
        params.crl_distribution_points.push(rcgen::CrlDistributionPoint { uris });
    });
    let rules = FetchRules { hosts: vec!["127.0.0.1".into()], ..FetchRules::clone(&world.settings().rules) };
    let settings =
        CrlSettings { follow_distribution_points: true, rules: Arc::new(rules), ..world.settings() };
    let mut world = world;
    for _process in 0..2 {
        world.trust = Arc::new(TrustStore::new(32));
        world.shutdown = CancellationToken::new();
        world.trust.configure(vec![world.ca.anchor()]).unwrap();
        let service = world.open(settings.clone());
        let running = tokio::spawn(Arc::clone(&service).run(world.shutdown.clone()));
        assert_eq!(world.reason(&device), Reason::CrlUnknown);
        world.trust.notice(&device.facts());
        until(|| world.reason(&device) == Reason::Ok).await;
        up.store(0, Ordering::SeqCst);
        world.shutdown.cancel();
        running.await.unwrap();
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_folder_that_cannot_be_read_for_a_moment_keeps_its_lists() {
    let world = World::new();
    let bad = world.ca.device("bad");
    let folder = world.folder.path().join("lists");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("one.crl"), world.ca.crl(1, 2090, &[&bad])).unwrap();
    let service = world.open(CrlSettings { directories: vec![folder.clone()], ..world.settings() });
    let elsewhere = world.folder.path().join("elsewhere");
    std::fs::rename(&folder, &elsewhere).unwrap();
    service.look_at_files();
    service.apply();
    assert_eq!(world.reason(&bad), Reason::CertRevokedCrl);
    std::fs::rename(&elsewhere, &folder).unwrap();
    std::fs::remove_file(folder.join("one.crl")).unwrap();
    service.look_at_files();
    service.apply();
    assert_eq!(world.reason(&bad), Reason::CrlUnknown);
}

/// What the operator wrote is used before what certificates name.
#[tokio::test]
async fn too_many_lists_leave_out_those_that_certificates_name() {
    let world = World::new();
    let bad = world.ca.device("bad");
    let file = world.folder.path().join("z.crl");
    std::fs::write(&file, world.ca.crl(1, 2090, &[&bad])).unwrap();
    let settings = CrlSettings { files: vec![file], max_lists: 1, ..world.settings() };
    let service = world.open(settings);
    for (url, named_by, number) in
        [("http://a/", NamedBy::Certificate, 2), ("http://b/", NamedBy::Configuration, 3)]
    {
        let list = RevocationList::parse(&TestCa::new("other").crl(number, 2090, &[]), 4096).unwrap();
        let held = Held { lists: vec![Arc::new(list)], ..Held::default() };
        service.held().insert(Origin::Url(url.into(), named_by), held);
    }
    service.apply();
    assert_eq!(world.reason(&bad), Reason::CertRevokedCrl);
    let file = service.held().keys().find(|origin| matches!(origin, Origin::File(_))).cloned().unwrap();
    service.held().remove(&file);
    service.apply();
    let used: Vec<_> = world.trust.current().anchors.lists().iter().map(|list| list.number.clone()).collect();
    assert_eq!(used, [Some(vec![3])]);
}
