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
impl Auditor for P {
    fn record_events<H: Host>(&self, e: &[AuditEvent], h: &H) -> Result<u64, HookError> {
        h.log(Level::Info, "x", &[]);
        Ok(e.last().map_or(0, |e| e.sequence))
    }
}
mqgate_plugin_sdk::export_plugin!(P: auditor);
