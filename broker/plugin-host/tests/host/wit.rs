//! The package under `wit/` resolves and is the version the host speaks.

#[test]
fn the_package_resolves() {
    let mut resolve = wit_parser::Resolve::default();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../wit");
    let (package, _) = resolve.push_dir(folder).expect("wit/ resolves");
    assert_eq!(resolve.packages[package].name.to_string(), "mqgate:plugin@1.0.0");
    for world in [
        "base",
        "authenticator-plugin",
        "enhanced-authenticator-plugin",
        "registrar-plugin",
        "authorizer-plugin",
        "auditor-plugin",
        "plugin",
    ] {
        resolve.select_world(&[package], Some(world)).expect("a world of the package");
    }
}
