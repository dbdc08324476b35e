use super::*;

fn bans(limit: usize) -> Bans {
    Bans::open(None, limit, &Registry::new()).unwrap()
}

fn ban(kind: Kind, value: &str, device: Option<&str>, until: Option<u64>) -> Ban {
    let device = device.map(str::to_owned);
    Ban::new(kind, value, device, Some("why"), "test", UnixMillis(10), until.map(UnixMillis)).unwrap()
}

const AT: UnixMillis = UnixMillis(100);

#[test]
fn each_kind_keeps_out_whom_it_names() {
    let bans = bans(10);
    let fingerprint = CertificateFingerprint([7; 32]);
    let seven = Subject {
        client_id: Some("c"),
        device_id: Some("device-7"),
        certificate: Some(fingerprint),
        address: Some([192, 0, 2, 7].into()),
    };
    let other = Subject {
        client_id: Some("d"),
        device_id: Some("device-8"),
        certificate: Some(CertificateFingerprint([8; 32])),
        address: Some([203, 0, 113, 8].into()),
    };
    for (kind, value) in [
        (Kind::Client, "c"),
        (Kind::Device, "device-7"),
        (Kind::Certificate, &*fingerprint.to_hex().to_uppercase()),
        (Kind::Address, "192.0.2.7"),
        (Kind::Address, "192.0.2.0/24"),
    ] {
        assert!(bans.find(&seven, AT).is_none());
        let added = bans.add(ban(kind, value, None, None)).unwrap();
        assert_eq!(bans.find(&seven, AT).as_deref(), Some(&*added), "{value}");
        assert!(bans.find(&other, AT).is_none(), "{value}");
        assert_eq!(bans.remove(&added.id).unwrap().as_deref(), Some(&*added));
    }
    assert!(bans.is_empty() && bans.find(&seven, AT).is_none());
}

/// A client id is a name within a device: banning one device's must not reach another's.
#[test]
fn a_client_id_of_one_device_is_not_that_of_another() {
    let bans = bans(10);
    bans.add(ban(Kind::Client, "c", Some("a"), None)).unwrap();
    let of = |device_id| Subject { client_id: Some("c"), device_id, ..Subject::default() };
    assert!(bans.find(&of(Some("a")), AT).is_some());
    assert!(bans.find(&of(Some("b")), AT).is_none());
    assert!(bans.find(&of(None), AT).is_none(), "not before the device is known");
}

#[test]
fn a_ban_ends() {
    let bans = bans(10);
    bans.add(ban(Kind::Device, "d", None, Some(100))).unwrap();
    let subject = Subject { device_id: Some("d"), ..Subject::default() };
    assert!(bans.find(&subject, UnixMillis(99)).is_some());
    assert!(bans.find(&subject, UnixMillis(100)).is_none());
    bans.expire(UnixMillis(99));
    assert_eq!(bans.len(), 1);
    bans.expire(UnixMillis(100));
    assert!(bans.is_empty());
}

#[test]
fn there_are_so_many_and_no_more() {
    let bans = bans(1);
    bans.add(ban(Kind::Device, "d", None, None)).unwrap();
    assert_eq!(bans.add(ban(Kind::Device, "e", None, None)), Err(BanError::Full(1)));
    bans.add(ban(Kind::Device, "d", None, Some(900))).unwrap();
    assert_eq!(bans.list(None, 10, |_| true)[0].until, Some(UnixMillis(900)), "replaced");
}

#[test]
fn what_cannot_be_banned_is_refused_by_kind() {
    let new = |kind, value: &str, device: Option<&str>, until: Option<u64>| {
        let device = device.map(str::to_owned);
        Ban::new(kind, value, device, None, "test", UnixMillis(10), until.map(UnixMillis)).unwrap_err()
    };
    assert_eq!(new(Kind::Client, "", None, None), BanError::Empty);
    assert_eq!(new(Kind::Device, "d", Some("d"), None), BanError::Device);
    assert_eq!(new(Kind::Device, "d", None, Some(10)), BanError::Over);
    assert!(matches!(new(Kind::Certificate, "zz", None, None), BanError::Fingerprint(_)));
    assert!(matches!(new(Kind::Address, "10.0.0.1/8", None, None), BanError::Address(..)));
}
