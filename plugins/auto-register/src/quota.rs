//! How many certificates may be registered under one authority.
//!
//! The registry is asked each time: the broker keeps a number per trust anchor, so the answer costs the same
//! however large the fleet is, and it is right whatever became of earlier decisions.

use mqgate_plugin_sdk::host::Registry;
use mqgate_plugin_sdk::types::{HookError, RegistryError};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    Yes,
    Full,
}

/// Whether one more fits; `tag` is `ca:` and the fingerprint of the authority.
pub fn room(host: &impl Registry, tag: &str, maximum: u64) -> Result<Room, HookError> {
    let registered = host.count_devices(None, Some(tag)).map_err(|error| match error {
        RegistryError::Denied => HookError::Permanent("the registry is not granted".into()),
        RegistryError::Unavailable(why) => {
            HookError::Transient(format!("the registry cannot be counted: {why}"))
        }
    })?;
    Ok(if registered < maximum { Room::Yes } else { Room::Full })
}

#[cfg(test)]
mod tests {
    use mqgate_plugin_sdk::testing::MemoryHost;
    use mqgate_plugin_sdk::types::{Device, DeviceStatus};

    use super::*;

    fn device(tag: &str) -> Device {
        Device {
            device_id: "d".into(),
            tenant: None,
            status: DeviceStatus::Active,
            tags: vec![tag.into()],
            fingerprints: Vec::new(),
            registered_at: 0,
            last_seen: None,
            attributes: Vec::new(),
        }
    }

    #[test]
    fn the_quota_is_that_of_the_registry() {
        let host = MemoryHost::default();
        let room = || room(&host, "ca:1", 2).unwrap();
        for _ in 0..2 {
            assert_eq!(room(), Room::Yes);
            host.devices.borrow_mut().push(device("ca:1"));
        }
        host.devices.borrow_mut().push(device("ca:2"));
        assert_eq!(room(), Room::Full);
        assert_eq!(room(), Room::Full);
        // One was removed by hand: there is room for one.
        host.devices.borrow_mut().remove(0);
        assert_eq!(room(), Room::Yes);
        host.devices.borrow_mut().push(device("ca:1"));
        assert_eq!(room(), Room::Full);
    }

    #[test]
    fn only_what_is_registered_counts() {
        let host = MemoryHost::default();
        for _ in 0..10 {
            assert_eq!(room(&host, "ca:1", 2), Ok(Room::Yes), "earlier decisions were not written");
        }
        assert!(host.entries.borrow().is_empty(), "and none was noted");
        *host.unavailable.borrow_mut() = true;
        assert!(matches!(room(&host, "ca:1", 2), Err(HookError::Transient(_))));
    }
}
