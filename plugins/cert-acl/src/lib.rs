use mqgate_plugin_sdk::{
    host::{Host, KeyValue, Log},
    plugin::*,
    types::*,
};
pub struct P;
impl Plugin for P {
    fn init<H: Host>(_: &PluginContext, _: &H) -> Result<Self, InitError> {
        Ok(P)
    }
}
impl Authenticator for P {
    fn authenticate<H: Host>(&self, _: &Connection, _: &H) -> Result<Authentication, HookError> {
        Ok(Authentication::Abstain)
    }
}
impl Authorizer for P {
    fn authorize<H: Host>(&self, _: &Connection, _: &Identity, _: &H) -> Result<Authorization, HookError> {
        Ok(Authorization::Abstain)
    }
}
mqgate_plugin_sdk::export_plugin!(P: authenticator,authorizer);
