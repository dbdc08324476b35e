//! The functions of a component that the broker calls: found once for each component, and their types compared once.

use std::marker::PhantomData;
use std::sync::OnceLock;

use wasmtime::component::{
    ComponentExportIndex, ComponentNamedList, Func, InstancePre, Lift, Lower, TypedFunc,
};
use wasmtime::format_err;

use crate::abi;
use crate::bindings::exports::mqgate::plugin::enhanced_authenticator::AuthenticationStep;
use crate::bindings::exports::mqgate::plugin::{authenticator, authorizer, lifecycle, registrar};
use crate::bindings::mqgate::plugin::types::HookError;
use crate::hook::Hook;
use crate::instance::{Running, StoreState};
use crate::question::records::{AuditEvent, Connection, Exchange, Identity};

/// A function as the broker knows it.
pub(crate) trait Function {
    const INTERFACE: &'static str;
    const NAME: &'static str;
    type Asked<'a>: ComponentNamedList + Lower + Send + Sync;
    type Told: ComponentNamedList + Lift + Send + Sync + 'static;
}

macro_rules! functions {
    ($($function:ident: $interface:literal, $name:literal, $asked:ty => $told:ty;)*) => {
        $(
            pub(crate) struct $function;

            impl Function for $function {
                const INTERFACE: &'static str = $interface;
                const NAME: &'static str = $name;
                type Asked<'a> = $asked;
                type Told = ($told,);
            }
        )*
    };
}

functions! {
    Init: "lifecycle", "init", (&'a lifecycle::PluginContext,) => Result<(), lifecycle::InitError>;
    Check: "health", "check", () => Result<(), String>;
    Authenticate: "authenticator", "authenticate", (&'a Connection<'a>,)
        => Result<authenticator::Authentication, HookError>;
    Methods: "enhanced-authenticator", "methods", () => Vec<String>;
    Step: "enhanced-authenticator", "step", (&'a Connection<'a>, &'a Exchange<'a>)
        => Result<AuthenticationStep, HookError>;
    Register: "registrar", "register", (&'a Connection<'a>, Option<Identity<'a>>)
        => Result<registrar::RegistrationDecision, HookError>;
    Authorize: "authorizer", "authorize", (&'a Connection<'a>, &'a Identity<'a>)
        => Result<authorizer::Authorization, HookError>;
    RecordEvents: "auditor", "record-events", (&'a [AuditEvent<'a>],) => Result<u64, HookError>;
}

/// The name of the interface that a function is in.
pub(crate) fn interface<F: Function>() -> String {
    format!("{}{}@{}", abi::PACKAGE, F::INTERFACE, abi::newest())
}

/// A function of a component.
pub(crate) struct Export<F> {
    index: ComponentExportIndex,
    /// Its type is the broker's.
    compared: OnceLock<()>,
    function: PhantomData<fn(F)>,
}

pub(crate) struct HookExports {
    pub(crate) init: Export<Init>,
    pub(crate) check: Option<Export<Check>>,
    pub(crate) authenticate: Option<Export<Authenticate>>,
    pub(crate) methods: Option<Export<Methods>>,
    pub(crate) step: Option<Export<Step>>,
    pub(crate) register: Option<Export<Register>>,
    pub(crate) authorize: Option<Export<Authorize>>,
    pub(crate) record_events: Option<Export<RecordEvents>>,
}

impl<F: Function> Export<F> {
    fn find(pre: &InstancePre<StoreState>) -> wasmtime::Result<Self> {
        let component = pre.component();
        let interface = interface::<F>();
        let index = component
            .get_export_index(None, &interface)
            .and_then(|instance| component.get_export_index(Some(&instance), F::NAME))
            .ok_or_else(|| format_err!("{interface} exports no function {}", F::NAME))?;
        Ok(Self { index, compared: OnceLock::new(), function: PhantomData })
    }

    /// Calls it on an instance of the component.
    pub(crate) async fn call(&self, on: &mut Running, asked: F::Asked<'_>) -> wasmtime::Result<F::Told> {
        let function = self.of(on)?;
        function.call_async(&mut on.store, asked).await
    }

    /// To compare the types of a function with the broker's is a twentieth of what a decision on an instance of its own costs.
    #[allow(unsafe_code, reason = "what makes it safe is compared, once")]
    fn of<'a>(&self, on: &mut Running) -> wasmtime::Result<TypedFunc<F::Asked<'a>, F::Told>> {
        let function: Func = on
            .instance
            .get_func(&mut on.store, self.index)
            .ok_or_else(|| format_err!("{} is no function", F::NAME))?;
        if self.compared.get().is_some() {
            // SAFETY: the type of an export is its component's, not an instance's, and the one of this component was compared
            // with these very types: `Asked` differs in lifetimes only.
            return Ok(unsafe { TypedFunc::new_unchecked(function) });
        }
        let typed = function.typed(&on.store)?;
        let _ = self.compared.set(());
        Ok(typed)
    }

    fn compare(&self, on: &mut Running) -> wasmtime::Result<()> {
        self.of(on).map(|_| ())
    }
}

impl HookExports {
    /// Looks up what [`crate::inspect`] found; types are compared by [`Self::compare_types`].
    pub(crate) fn find(
        pre: &InstancePre<StoreState>,
        hooks: &[Hook],
        has_health: bool,
    ) -> wasmtime::Result<Self> {
        fn find<F: Function>(
            pre: &InstancePre<StoreState>,
            is_there: bool,
        ) -> wasmtime::Result<Option<Export<F>>> {
            is_there.then(|| Export::find(pre)).transpose()
        }
        let has = |hook| hooks.contains(&hook);
        Ok(Self {
            init: Export::find(pre)?,
            check: find(pre, has_health)?,
            authenticate: find(pre, has(Hook::Authenticator))?,
            methods: find(pre, has(Hook::EnhancedAuthenticator))?,
            step: find(pre, has(Hook::EnhancedAuthenticator))?,
            register: find(pre, has(Hook::Registrar))?,
            authorize: find(pre, has(Hook::Authorizer))?,
            record_events: find(pre, has(Hook::Auditor))?,
        })
    }

    /// Compares the types of all functions with those of this broker, so that no connection is the first to notice.
    pub(crate) fn compare_types(&self, on: &mut Running) -> wasmtime::Result<()> {
        fn compare<F: Function>(export: Option<&Export<F>>, on: &mut Running) -> wasmtime::Result<()> {
            export.map_or(Ok(()), |export| export.compare(on))
        }
        self.init.compare(on)?;
        compare(self.check.as_ref(), on)?;
        compare(self.authenticate.as_ref(), on)?;
        compare(self.methods.as_ref(), on)?;
        compare(self.step.as_ref(), on)?;
        compare(self.register.as_ref(), on)?;
        compare(self.authorize.as_ref(), on)?;
        compare(self.record_events.as_ref(), on)
    }
}
