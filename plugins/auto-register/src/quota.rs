//! How many devices an authority may register.
//!
//! A counter in the key-value space answers at once. It counts decisions and never goes down, so when it
//! reaches the quota it is set right from the registry, which counts devices but has to read them all.

use mqgate_plugin_sdk::host::{KeyValue, Registry};
use mqgate_plugin_sdk::types::{HookError, RegistryError};

use crate::rate::unavailable;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    Yes,
    Full,
}

/// Counts one more device under `key`; `tag` is what the devices of this authority carry.
pub fn count(
    host: &(impl KeyValue + Registry),
    key: &str,
    tag: &str,
    maximum: u64,
) -> Result<Room, HookError> {
    let counted = host.add(key, 1, None).map_err(unavailable)?;
    if u64::try_from(counted).is_ok_and(|counted| counted <= maximum) {
        return Ok(Room::Yes);
    }
    let devices = host.count_devices(None, Some(tag)).map_err(|error| match error {
        RegistryError::Denied => HookError::Permanent("the registry is not granted".into()),
        RegistryError::Unavailable(why) => {
            HookError::Transient(format!("the registry cannot be counted: {why}"))
        }
    })?;
    let room = if devices < maximum { Room::Yes } else { Room::Full };
    // By difference, so that what others count meanwhile is kept.
    let right = devices.saturating_add(u64::from(room == Room::Yes));
    let correction = i64::try_from(right).unwrap_or(i64::MAX).saturating_sub(counted);
    host.add(key, correction, None).map_err(unavailable)?;
    Ok(room)
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
        let count = || count(&host, "k", "ca:1", 2).unwrap();
        for _ in 0..2 {
            assert_eq!(count(), Room::Yes);
            host.devices.borrow_mut().push(device("ca:1"));
        }
        host.devices.borrow_mut().push(device("ca:2"));
        assert_eq!(count(), Room::Full);
        assert_eq!(count(), Room::Full);
        // One was removed by hand: there is room for one.
        host.devices.borrow_mut().remove(0);
        assert_eq!(count(), Room::Yes);
        host.devices.borrow_mut().push(device("ca:1"));
        assert_eq!(count(), Room::Full);
    }

    #[test]
    fn a_decision_that_was_not_written_is_given_back() {
        let host = MemoryHost::default();
        for _ in 0..10 {
            assert_eq!(count(&host, "k", "ca:1", 2), Ok(Room::Yes));
        }
        *host.unavailable.borrow_mut() = true;
        assert!(matches!(count(&host, "k", "ca:1", 2), Err(HookError::Transient(_))));
    }
}
