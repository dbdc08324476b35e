//! What a certificate's names make of a device.

use super::*;

#[tokio::test]
async fn no_cn_many_cns_nul_bidi_non_utf8_stand_for_no_device() {
    let ca = TestCa::new("devices");
    let world = World::new(&[&ca]).await;
    let names = |names: &[&str]| {
        ca.issue("", ExtendedKeyUsagePurpose::ClientAuth, |params| {
            params.distinguished_name = rcgen::DistinguishedName::new();
            for (number, name) in names.iter().enumerate() {
                // Attributes are kept by their type: with the type in digits, there can be two of one.
                let common_name = match number {
                    0 => rcgen::DnType::CommonName,
                    _ => rcgen::DnType::CustomDnType(vec![2, 5, 4, 3]),
                };
                params.distinguished_name.push(common_name, *name);
            }
        })
    };
    for misleading in [&[][..], &["a\0b"], &["a\u{202e}b"], &["a\u{85}b"], &["good", "a\0b"]] {
        let device = names(misleading);
        let record = world.register(&device).await.unwrap();
        assert_eq!(
            (&record.device_id, &record.common_name),
            (&device.id().to_hex(), &None),
            "{misleading:?}"
        );
    }
    let many = world.register(&names(&["first", "last"])).await.unwrap();
    assert_eq!((&*many.device_id, many.common_name.as_deref()), ("last", Some("last")));
}
