//! Types and calls of `mqgate:plugin@1`, generated from `wit/`.
//!
//! One world that exports every hook, so that all share their types. Its own struct, which wants them all, is not
//! used: each hook's `GuestIndices` is looked up by itself, because a plugin exports those it has.

wasmtime::component::bindgen!({
    path: "../../wit",
    inline: "
        package mqgate:host;
        world host {
            include mqgate:plugin/imports@1.0.0;
            export mqgate:plugin/lifecycle@1.0.0;
            export mqgate:plugin/authenticator@1.0.0;
            export mqgate:plugin/enhanced-authenticator@1.0.0;
            export mqgate:plugin/registrar@1.0.0;
            export mqgate:plugin/authorizer@1.0.0;
            export mqgate:plugin/auditor@1.0.0;
            export mqgate:plugin/health@1.0.0;
        }
    ",
    imports: {
        "mqgate:plugin/key-value": async,
        "mqgate:plugin/registry": async,
    },
    exports: { default: async },
});
