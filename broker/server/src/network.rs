//! Networks of addresses, as operators write them: `192.0.2.7`, `192.0.2.0/24`, `2001:db8::/32`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// An address, or all addresses that begin with the same bits. IPv4-mapped addresses are IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Network {
    /// The bits beyond `bits` are zero.
    address: IpAddr,
    bits: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    #[error("is no address and no network; write for example 192.0.2.7, 192.0.2.0/24 or 2001:db8::/32")]
    Form,
    #[error("has bits beyond its prefix; write the first address of the network")]
    HostBits,
}

impl Network {
    /// One address.
    pub fn of(address: IpAddr) -> Self {
        let address = address.to_canonical();
        Self { address, bits: width(address) }
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && masked(address, self.bits) == number(self.address)
    }

    /// Whether it is one address and no more.
    pub fn is_single(&self) -> bool {
        self.bits == width(self.address)
    }

    pub fn address(&self) -> IpAddr {
        self.address
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// In the upper bits.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn masked(address: IpAddr, bits: u8) -> u128 {
    let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
    number(address) & mask
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let (address, bits) = match text.trim().split_once('/') {
            None => (text.trim(), None),
            Some((address, bits)) => (address, Some(bits)),
        };
        let address: IpAddr = address.parse().map_err(|_| NetworkError::Form)?;
        let Some(bits) = bits else { return Ok(Self::of(address)) };
        let bits: u8 = bits.parse().map_err(|_| NetworkError::Form)?;
        if bits > width(address) {
            return Err(NetworkError::Form);
        }
        if masked(address, bits) != number(address) {
            return Err(NetworkError::HostBits);
        }
        Ok(Self { address, bits })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_single() {
            true => write!(f, "{}", self.address),
            false => write!(f, "{}/{}", self.address, self.bits),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_hold_what_begins_like_them() {
        for (network, address, inside) in [
            ("192.0.2.7", "192.0.2.7", true),
            ("192.0.2.7", "::ffff:192.0.2.7", true),
            ("192.0.2.7", "192.0.2.8", false),
            ("192.0.2.0/24", "192.0.2.255", true),
            ("192.0.2.0/24", "192.0.3.0", false),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("::/0", "192.0.2.1", false),
            ("2001:db8::/32", "2001:db8:ffff::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
        ] {
            let network: Network = network.parse().unwrap();
            assert_eq!(network.contains(address.parse().unwrap()), inside, "{network} {address}");
        }
    }

    #[test]
    fn what_is_no_network_is_refused_by_kind() {
        for (text, error) in [
            ("", NetworkError::Form),
            ("localhost", NetworkError::Form),
            ("192.0.2.0/33", NetworkError::Form),
            ("192.0.2.0/", NetworkError::Form),
            ("192.0.2.1/24", NetworkError::HostBits),
        ] {
            assert_eq!(text.parse::<Network>(), Err(error), "{text}");
        }
        assert_eq!("192.0.2.0/24".parse::<Network>().unwrap().to_string(), "192.0.2.0/24");
        assert_eq!("192.0.2.1/32".parse::<Network>().unwrap().to_string(), "192.0.2.1");
    }
}
