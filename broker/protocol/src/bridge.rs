//! How bridges between brokers keep messages from going round in circles: the brokers that a message has come
//! through stand in user properties. Knows no bridge; those are programs beside the broker, or others' brokers.

use bytestring::ByteString;
use mqgate_codec::{PublishProperties, UserProperty};

/// Name of the user property: one for each broker on the way, the latest last. A bridge says with it in CONNECT who
/// it is, and hears in CONNACK whom it has reached.
pub const HOPS: &str = "mqgate-bridge";

/// A broker that does not say who it is; it came by a bridge of MQTT 3.1.1.
pub const UNKNOWN: &str = "?";

/// The values of a list of user properties.
pub fn hops(properties: &[UserProperty]) -> impl Iterator<Item = &str> {
    properties.iter().filter(|(name, _)| &**name == HOPS).map(|(_, value)| &**value)
}

/// One more.
pub fn hop(value: &str) -> UserProperty {
    (ByteString::from_static(HOPS), ByteString::from(value))
}

/// What a bridge reads from a broker that does not say who it is, names the bridge: `BROKER/BRIDGE`.
pub fn blind_hop(broker: &str, bridge: &str) -> String {
    format!("{broker}/{bridge}")
}

/// Whether a message has passed a bridge behind which its way cannot be known: if it went out by another one of that
/// kind, nobody could tell whether it comes back.
pub fn came_blindly(properties: Option<&PublishProperties>) -> bool {
    let properties = properties.map_or(&[][..], |properties| &properties.user_properties);
    hops(properties).any(|value| value == UNKNOWN || value.contains('/'))
}
