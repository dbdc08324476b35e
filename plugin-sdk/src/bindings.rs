//! What `wit-bindgen` makes of `../wit`: types for both architectures, glue for WebAssembly.
//!
//! One world per hook, so that a component exports the hooks it has and no others. Types that several
//! interfaces share are generated once, by [`host`], and mapped into the other worlds.

#![allow(
    unsafe_code,
    unused_qualifications,
    clippy::all,
    missing_docs,
    reason = "generated code: the canonical ABI is written in pointers"
)]

/// The interfaces a plugin can import, and the types all hooks use. What a plugin does not call does not
/// appear in its component.
pub mod host {
    wit_bindgen::generate!({
        path: "../wit",
        inline: "
            package mqgate:sdk;
            world sdk-host {
                include mqgate:plugin/imports@1.0.0;
                import mqgate:plugin/connections@1.0.0;
            }
        ",
        pub_export_macro: true,
        generate_all,
        generate_unused_types: true,
        additional_derives: [PartialEq],
    });
}

/// WASI as far as brokers grant it. Here, too, what a plugin does not call does not appear in its component.
pub mod granted {
    wit_bindgen::generate!({
        path: "../wit",
        inline: "
            package mqgate:sdk;
            world sdk-granted {
                import wasi:http/outgoing-handler@0.2.12;
                import wasi:clocks/monotonic-clock@0.2.12;
                import wasi:clocks/wall-clock@0.2.12;
                import wasi:random/random@0.2.12;
            }
        ",
        generate_all,
    });
}

macro_rules! hook {
    ($module:ident, $world:literal $(, $connection_types:literal = $module_path:path)*) => {
        pub mod $module {
            wit_bindgen::generate!({
                path: "../wit",
                inline: $world,
                with: {
                    "mqgate:plugin/types@1.0.0": crate::bindings::host::mqgate::plugin::types,
                    $($connection_types: $module_path,)*
                },
                pub_export_macro: true,
                generate_all,
                generate_unused_types: true,
                additional_derives: [PartialEq],
            });
        }
    };
    (connection $module:ident, $world:literal) => {
        hook!(
            $module,
            $world,
            "mqgate:plugin/certificates@1.0.0" = crate::bindings::host::mqgate::plugin::certificates,
            "mqgate:plugin/connections@1.0.0" = crate::bindings::host::mqgate::plugin::connections
        );
    };
}

hook!(lifecycle, "package mqgate:sdk; world sdk-lifecycle { export mqgate:plugin/lifecycle@1.0.0; }");
hook!(connection authenticator, "package mqgate:sdk; world sdk-authenticator { export mqgate:plugin/authenticator@1.0.0; }");
hook!(connection enhanced_authenticator, "package mqgate:sdk; world sdk-enhanced-authenticator { export mqgate:plugin/enhanced-authenticator@1.0.0; }");
hook!(connection registrar, "package mqgate:sdk; world sdk-registrar { export mqgate:plugin/registrar@1.0.0; }");
hook!(connection authorizer, "package mqgate:sdk; world sdk-authorizer { export mqgate:plugin/authorizer@1.0.0; }");
hook!(auditor, "package mqgate:sdk; world sdk-auditor { export mqgate:plugin/auditor@1.0.0; }");

/// A self-test has types of its own alone, so there is nothing to map.
pub mod health {
    wit_bindgen::generate!({
        path: "../wit",
        inline: "package mqgate:sdk; world sdk-health { export mqgate:plugin/health@1.0.0; }",
        pub_export_macro: true,
        generate_all,
    });
}
