//! What a person says the verdict is: name of the case, who the client is, what it may do.

pub const EXPECTED: [(&str, &str, &str); 52] = [
    (
        "cn-plain",
        "accept device-7, x509-v3, cert.source cn",
        "Allow publish+subscribe devices/${device-id}/#, as device-7",
    ),
    (
        "cn-empty",
        "cn of the certificate is empty",
        "Allow publish+subscribe devices/${device-id}/#, as device-7",
    ),
    ("cn-blank", "accept  , x509-v3, cert.source cn", "Allow publish+subscribe devices/${device-id}/#, as  "),
    (
        "cn-hash",
        "cn of the certificate holds #",
        "Allow publish+subscribe devices/${device-id}/#, as device-7",
    ),
    (
        "cn-slash-first-of-several",
        "cn of the certificate holds /",
        "Allow publish+subscribe devices/${device-id}/#, as device-7",
    ),
    (
        "cn-plus-first-of-several",
        "cn of the certificate holds +",
        "Allow publish+subscribe devices/${device-id}/#, as device-7",
    ),
    (
        "cn-sys",
        "cn of the certificate holds $",
        "Allow publish+subscribe devices/${device-id}/#, as device-7",
    ),
    (
        "cn-placeholder",
        "cn of the certificate holds $",
        "Allow publish+subscribe devices/${device-id}/#, as device-7",
    ),
    (
        "cn-colon-inside",
        "the device id holds :",
        "Allow publish+subscribe devices/${device-id}/#, as device-7",
    ),
    (
        "cn-upper-case",
        "accept DEVICE-7, x509-v3, cert.source cn",
        "Allow publish+subscribe devices/${device-id}/#, as DEVICE-7",
    ),
    (
        "cn-nul",
        "cn of the certificate is not plain text",
        "Allow publish+subscribe devices/${device-id}/#, as device-7",
    ),
    (
        "cn-right-to-left-override",
        "cn of the certificate is not plain text",
        "Allow publish+subscribe devices/${device-id}/#, as device-7",
    ),
    (
        "cn-cyrillic-look-alike",
        "accept dеvice-7, x509-v3, cert.source cn",
        "Allow publish+subscribe devices/${device-id}/#, as dеvice-7",
    ),
    (
        "cn-of-type-teletex-device-7",
        "cn of the certificate is not plain text",
        "Allow publish+subscribe devices/${device-id}/#, as device-7",
    ),
    (
        "cn-of-type-bmp-Gerät",
        "accept Gerät, x509-v3, cert.source cn",
        "Allow publish+subscribe devices/${device-id}/#, as Gerät",
    ),
    (
        "cn-not-utf8",
        "cn of the certificate is not plain text",
        "Allow publish+subscribe devices/${device-id}/#, as device-7",
    ),
    (
        "cn-of-256-bytes",
        "accept xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx, x509-v3, cert.source cn",
        "Allow publish+subscribe devices/${device-id}/#, as xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    ),
    (
        "cn-of-257-bytes",
        "cn of the certificate is longer than 256 bytes",
        "Allow publish+subscribe devices/${device-id}/#, as device-7",
    ),
    (
        "cn-of-one-more-than-85-times-three-bytes",
        "cn of the certificate is longer than 256 bytes",
        "Allow publish+subscribe devices/${device-id}/#, as device-7",
    ),
    (
        "cn-twice-the-same",
        "the certificate has 2 values for cn",
        "Allow publish+subscribe devices/${device-id}/#, as device-7",
    ),
    (
        "cn-good-and-unreadable",
        "cn of the certificate is not plain text",
        "Allow publish+subscribe devices/${device-id}/#, as device-7",
    ),
    (
        "cn-of-the-issuer-only",
        "accept 0aff, x509-v3, cert.source serial",
        "Allow publish+subscribe devices/${device-id}/#, as 0aff",
    ),
    (
        "uri urn:device:7",
        "accept 7, x509-v3, cert.source san.uri",
        "Allow publish+subscribe devices/${device-id}/#, as 7",
    ),
    (
        "uri URN:DEVICE:7",
        "accept by-name, x509-v3, cert.source cn",
        "Allow publish+subscribe devices/${device-id}/#, as by-name",
    ),
    (
        "uri urn:device:",
        "san.uri of the certificate is empty",
        "Allow publish+subscribe devices/${device-id}/#, as device-7",
    ),
    (
        "uri urn:device:a/b",
        "san.uri of the certificate holds /",
        "Allow publish+subscribe devices/${device-id}/#, as device-7",
    ),
    (
        "uri-before-an-unreadable-cn",
        "accept 7, x509-v3, cert.source san.uri",
        "Allow publish+subscribe devices/${device-id}/#, as 7",
    ),
    (
        "alt-name-empty-dns-beside-a-uri",
        "san.uri of the certificate is not plain text",
        "Allow publish+subscribe devices/${device-id}/#, as device-7",
    ),
    (
        "alt-name-email-only",
        "accept 0aff, x509-v3, cert.source serial",
        "Allow publish+subscribe devices/${device-id}/#, as 0aff",
    ),
    (
        "dns d.example",
        "accept d.example, x509-v3, cert.source san.dns",
        "Allow publish+subscribe devices/${device-id}/#, as d.example",
    ),
    (
        "dns-twice",
        "the certificate has 2 values for san.dns",
        "Allow publish+subscribe devices/${device-id}/#, as device-7",
    ),
    (
        "256-dns-and-no-cn",
        "the certificate has 256 values for san.dns",
        "Allow publish+subscribe devices/${device-id}/#, as device-7",
    ),
    (
        "1000-alternative-names",
        "accept 7, x509-v3, cert.source san.uri",
        "Allow publish+subscribe devices/${device-id}/#, as 7",
    ),
    (
        "serial-sign-byte",
        "accept 80, x509-v3, cert.source serial",
        "Allow publish+subscribe devices/${device-id}/#, as 80",
    ),
    (
        "serial-said-to-have-bytes-none",
        "serial of the certificate is empty",
        "Allow publish+subscribe devices/${device-id}/#, as device-7",
    ),
    (
        "serial-number-twice",
        "the certificate has 2 values for serial-number",
        "Allow publish+subscribe devices/${device-id}/#, as device-7",
    ),
    (
        "version-1",
        "accept device-7, x509-v1, cert.source cn",
        "Allow publish+subscribe devices/${device-id}/#, as device-7",
    ),
    ("ca", "the certificate is that of a CA", "Allow publish+subscribe devices/${device-id}/#, as device-7"),
    (
        "o-and-ou",
        "accept device-7 of acme, x509-v3, cert.source cn",
        "Allow publish+subscribe devices/${device-id}/#, Allow subscribe groups/meters/#, as device-7",
    ),
    ("o-hash", "o of the certificate holds #", "Allow publish+subscribe devices/${device-id}/#, as device-7"),
    ("ou-hash", "accept device-7, x509-v3, cert.source cn", "ou of the certificate holds #"),
    ("ou-twice", "accept device-7, x509-v3, cert.source cn", "the certificate has 2 values for ou"),
    (
        "cn-said-to-be-text-zero-width-space",
        "cn of the certificate holds a control or invisible character",
        "Allow publish+subscribe devices/${device-id}/#, as device-7",
    ),
    (
        r#"client id "device-7:2""#,
        "accept device-7, x509-v3, cert.source cn",
        "Allow publish+subscribe devices/${device-id}/#, Allow subscribe groups/meters/#",
    ),
    (
        r#"client id "device-77""#,
        "ClientIdentifierNotValid: the client id does not belong to the device",
        "ClientIdentifierNotValid: the client id does not belong to the device",
    ),
    (
        "client-id-composed-otherwise",
        "ClientIdentifierNotValid: the client id does not belong to the device",
        "ClientIdentifierNotValid: the client id does not belong to the device",
    ),
    (
        "protocol-level-3",
        "accept device-7, x509-v3, cert.source cn",
        "Allow publish+subscribe devices/${device-id}/#, Allow subscribe groups/meters/#, qos 1",
    ),
    ("no-certificate-and-a-name", "abstain", "abstain"),
    (
        "resumed",
        "accept device-7, x509-v3, cert.source cn",
        "Allow publish+subscribe devices/${device-id}/#, Allow subscribe groups/meters/#, as device-7",
    ),
    (
        r#"claimed "device-8""#,
        "ClientIdentifierNotValid: the client id does not belong to the device",
        "Allow publish+subscribe devices/${device-id}/#, Allow subscribe groups/meters/#",
    ),
    (
        r#"claimed "a\u{200b}""#,
        "ClientIdentifierNotValid: the client id does not belong to the device",
        "the device id holds a control or invisible character",
    ),
    ("claimed-without-a-certificate", "abstain", "abstain"),
];
