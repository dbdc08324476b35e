//! [`export_plugin!`](crate::export_plugin): the code between the component's exports and the traits of
//! [`crate::plugin`]. Empty except on WebAssembly.

/// Exports a plugin with the hooks it implements.
///
/// ```
/// # use mqgate_plugin_sdk::{host::Host, plugin::*, types::*};
/// struct Doorman;
///
/// impl Plugin for Doorman {
///     fn init<H: Host>(_: &PluginContext, _: &H) -> Result<Self, InitError> {
///         Ok(Self)
///     }
/// }
///
/// impl Authenticator for Doorman {
///     fn authenticate<H: Host>(&self, on: &Connection, _: &H) -> Result<Authentication, HookError> {
///         Ok(match &on.certificate {
///             Some(_) => Authentication::Abstain,
///             None => Authentication::Deny(Denial::new(ConnackReason::NotAuthorized, "no certificate")),
///         })
///     }
/// }
///
/// mqgate_plugin_sdk::export_plugin!(Doorman: authenticator);
/// ```
#[macro_export]
macro_rules! export_plugin {
    ($plugin:ty: $($hook:ident),+ $(,)?) => {
        #[cfg(target_arch = "wasm32")]
        #[allow(unsafe_code, unused_qualifications, reason = "exporting a function by its name is unsafe to the compiler")]
        const _: () = {
            struct Exported;

            ::std::thread_local! {
                static PLUGIN: ::std::cell::OnceCell<$plugin> = const { ::std::cell::OnceCell::new() };
            }

            impl $crate::bindings::lifecycle::exports::mqgate::plugin::lifecycle::Guest for Exported {
                fn init(context: $crate::types::PluginContext) -> Result<(), $crate::types::InitError> {
                    PLUGIN.with(|plugin| $crate::glue::init::<$plugin>(plugin, &context))
                }
            }
            $crate::bindings::lifecycle::export!(Exported with_types_in $crate::bindings::lifecycle);

            $($crate::__export_hook!($hook PLUGIN $plugin);)+
        };

        // Elsewhere nothing calls the plugin but its tests; that it has the hooks is checked all the same.
        #[cfg(not(target_arch = "wasm32"))]
        const _: () = {
            $($crate::__check_hook!($hook $plugin);)+
        };
    };
}

/// That a plugin implements a hook, without exporting it.
#[doc(hidden)]
#[macro_export]
macro_rules! __check_hook {
    (authenticator $plugin:ty) => {
        let _ = <$plugin as $crate::plugin::Authenticator>::authenticate::<$crate::testing::MemoryHost>;
    };
    (enhanced_authenticator $plugin:ty) => {
        let _ = <$plugin as $crate::plugin::EnhancedAuthenticator>::step::<$crate::testing::MemoryHost>;
    };
    (registrar $plugin:ty) => {
        let _ = <$plugin as $crate::plugin::Registrar>::register::<$crate::testing::MemoryHost>;
    };
    (authorizer $plugin:ty) => {
        let _ = <$plugin as $crate::plugin::Authorizer>::authorize::<$crate::testing::MemoryHost>;
    };
    (auditor $plugin:ty) => {
        let _ = <$plugin as $crate::plugin::Auditor>::record_events::<$crate::testing::MemoryHost>;
    };
    (health $plugin:ty) => {
        let _ = <$plugin as $crate::plugin::Health>::check::<$crate::testing::MemoryHost>;
    };
}

/// One hook of [`export_plugin!`].
#[doc(hidden)]
#[macro_export]
macro_rules! __export_hook {
    (authenticator $cell:ident $plugin:ty) => {
        impl $crate::bindings::authenticator::exports::mqgate::plugin::authenticator::Guest for Exported {
            fn authenticate(
                on: $crate::types::Connection,
            ) -> Result<$crate::types::Authentication, $crate::types::HookError> {
                $cell.with(|plugin| {
                    let plugin = $crate::glue::live(plugin)?;
                    $crate::plugin::Authenticator::authenticate(plugin, &on, &$crate::host::Broker)
                })
            }
        }
        $crate::bindings::authenticator::export!(Exported with_types_in $crate::bindings::authenticator);
    };
    (enhanced_authenticator $cell:ident $plugin:ty) => {
        impl $crate::bindings::enhanced_authenticator::exports::mqgate::plugin::enhanced_authenticator::Guest
            for Exported
        {
            fn methods() -> ::std::vec::Vec<::std::string::String> {
                // Asked after `init`; a plugin without methods is refused.
                $cell.with(|plugin| match $crate::glue::live(plugin) {
                    Ok(plugin) => $crate::plugin::EnhancedAuthenticator::methods(plugin),
                    Err(_) => ::std::vec::Vec::new(),
                })
            }

            fn step(
                on: $crate::types::Connection,
                exchange: $crate::types::Exchange,
            ) -> Result<$crate::types::AuthenticationStep, $crate::types::HookError> {
                $cell.with(|plugin| {
                    let plugin = $crate::glue::live(plugin)?;
                    $crate::plugin::EnhancedAuthenticator::step(plugin, &on, &exchange, &$crate::host::Broker)
                })
            }
        }
        $crate::bindings::enhanced_authenticator::export!(
            Exported with_types_in $crate::bindings::enhanced_authenticator
        );
    };
    (registrar $cell:ident $plugin:ty) => {
        impl $crate::bindings::registrar::exports::mqgate::plugin::registrar::Guest for Exported {
            fn register(
                on: $crate::types::Connection,
                claimed: Option<$crate::types::Identity>,
            ) -> Result<$crate::types::RegistrationDecision, $crate::types::HookError> {
                $cell.with(|plugin| {
                    let plugin = $crate::glue::live(plugin)?;
                    $crate::plugin::Registrar::register(plugin, &on, claimed.as_ref(), &$crate::host::Broker)
                })
            }
        }
        $crate::bindings::registrar::export!(Exported with_types_in $crate::bindings::registrar);
    };
    (authorizer $cell:ident $plugin:ty) => {
        impl $crate::bindings::authorizer::exports::mqgate::plugin::authorizer::Guest for Exported {
            fn authorize(
                on: $crate::types::Connection,
                who: $crate::types::Identity,
            ) -> Result<$crate::types::Authorization, $crate::types::HookError> {
                $cell.with(|plugin| {
                    let plugin = $crate::glue::live(plugin)?;
                    $crate::plugin::Authorizer::authorize(plugin, &on, &who, &$crate::host::Broker)
                })
            }
        }
        $crate::bindings::authorizer::export!(Exported with_types_in $crate::bindings::authorizer);
    };
    (auditor $cell:ident $plugin:ty) => {
        impl $crate::bindings::auditor::exports::mqgate::plugin::auditor::Guest for Exported {
            fn record_events(
                events: ::std::vec::Vec<$crate::types::AuditEvent>,
            ) -> Result<u64, $crate::types::HookError> {
                $cell.with(|plugin| {
                    let plugin = $crate::glue::live(plugin)?;
                    $crate::plugin::Auditor::record_events(plugin, &events, &$crate::host::Broker)
                })
            }
        }
        $crate::bindings::auditor::export!(Exported with_types_in $crate::bindings::auditor);
    };
    (health $cell:ident $plugin:ty) => {
        impl $crate::bindings::health::exports::mqgate::plugin::health::Guest for Exported {
            fn check() -> Result<(), ::std::string::String> {
                $cell.with(|plugin| match $crate::glue::live(plugin) {
                    Ok(plugin) => $crate::plugin::Health::check(plugin, &$crate::host::Broker),
                    Err(_) => Err("init was not called".into()),
                })
            }
        }
        $crate::bindings::health::export!(Exported with_types_in $crate::bindings::health);
    };
}

#[cfg(target_arch = "wasm32")]
mod guest {
    use std::cell::OnceCell;

    use crate::host::{Broker, Log as _};
    use crate::plugin::Plugin;
    use crate::types::{HookError, InitError, Level, PluginContext};

    /// Makes the plugin; a panic from now on is logged before it traps.
    pub fn init<P: Plugin>(plugin: &OnceCell<P>, context: &PluginContext) -> Result<(), InitError> {
        std::panic::set_hook(Box::new(|panic| Broker.log(Level::Error, &panic.to_string(), &[])));
        plugin.set(P::init(context, &Broker)?).map_err(|_| InitError::Failed("init was called twice".into()))
    }

    pub fn live<P>(plugin: &OnceCell<P>) -> Result<&P, HookError> {
        plugin.get().ok_or_else(|| HookError::Permanent("init was not called".into()))
    }
}

#[cfg(target_arch = "wasm32")]
pub use guest::{init, live};
