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
impl Registrar for P {
    fn register<H: Host>(
        &self,
        _: &Connection,
        _: Option<&Identity>,
        h: &H,
    ) -> Result<RegistrationDecision, HookError> {
        let _ = h.add("x", 1, None);
        Ok(RegistrationDecision::Abstain)
    }
}
mqgate_plugin_sdk::export_plugin!(P: registrar);
