//! Who reaches an address: what the broker fetches or sends because somebody else said so must not lead to what only the
//! broker can reach, whatever name led there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Who reaches an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    Everybody,
    /// This machine or those near it.
    Near,
    /// Where clouds tell a machine its secrets, and what is no single host.
    Nobody,
}

/// Addresses at which clouds answer their own machines, outside the ranges below.
const METADATA_V4: [Ipv4Addr; 3] =
    [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(192, 0, 0, 192)];
const METADATA_V6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)];

impl Reach {
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => of_v4(address),
            IpAddr::V6(address) => of_v6(address),
        }
    }
}

fn of_v4(address: Ipv4Addr) -> Reach {
    let [a, b, c, _] = address.octets();
    let nobody = METADATA_V4.contains(&address)
        || address.is_link_local()
        || address.is_multicast()
        || address.is_documentation()
        // This network, protocol assignments, benchmarks, reserved and broadcast.
        || a == 0
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && (18..20).contains(&b))
        || a >= 240;
    // Shared addresses are those of a provider's own network.
    let near = address.is_loopback() || address.is_private() || (a == 100 && (64..128).contains(&b));
    match (nobody, near) {
        (true, _) => Reach::Nobody,
        (false, true) => Reach::Near,
        (false, false) => Reach::Everybody,
    }
}

fn of_v6(address: Ipv6Addr) -> Reach {
    if address.is_loopback() {
        return Reach::Near;
    }
    if METADATA_V6.contains(&address) {
        return Reach::Nobody;
    }
    match address.segments() {
        // Addresses that carry one of version 4: compatible, NAT64 and 6to4.
        [0, 0, 0, 0, 0, 0, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
            let [a, b] = high.to_be_bytes();
            let [c, d] = low.to_be_bytes();
            of_v4(Ipv4Addr::new(a, b, c, d))
        }
        // Teredo and others of 2001::/23, and documentation.
        [0x2001, second, ..] if second < 0x200 || second == 0xdb8 => Reach::Nobody,
        [0x3fff, second, ..] if second < 0x1000 => Reach::Nobody,
        // Unique local addresses, then global unicast.
        [first, ..] if first & 0xfe00 == 0xfc00 => Reach::Near,
        [first, ..] if first & 0xe000 == 0x2000 => Reach::Everybody,
        _ => Reach::Nobody,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_is_public_near_or_out_of_bounds() {
        for (address, expected) in [
            ("8.8.8.8", Reach::Everybody),
            ("172.15.0.1", Reach::Everybody),
            ("172.32.0.1", Reach::Everybody),
            ("2606:4700::1", Reach::Everybody),
            ("::ffff:8.8.8.8", Reach::Everybody),
            ("64:ff9b::808:808", Reach::Everybody),
            ("127.0.0.1", Reach::Near),
            ("127.255.255.254", Reach::Near),
            ("10.0.0.1", Reach::Near),
            ("172.16.0.1", Reach::Near),
            ("192.168.1.1", Reach::Near),
            ("100.64.0.1", Reach::Near),
            ("::1", Reach::Near),
            ("fc00::1", Reach::Near),
            ("fd12:3456::1", Reach::Near),
            ("::ffff:127.0.0.1", Reach::Near),
            ("::ffff:10.0.0.1", Reach::Near),
            ("::127.0.0.1", Reach::Near),
            ("64:ff9b::7f00:1", Reach::Near),
            ("2002:7f00:1::", Reach::Near),
            ("169.254.169.254", Reach::Nobody),
            ("169.254.1.1", Reach::Nobody),
            ("::ffff:169.254.169.254", Reach::Nobody),
            ("64:ff9b::a9fe:a9fe", Reach::Nobody),
            ("fd00:ec2::254", Reach::Nobody),
            ("fd20:ce::254", Reach::Nobody),
            ("100.100.100.200", Reach::Nobody),
            ("168.63.129.16", Reach::Nobody),
            ("192.0.0.192", Reach::Nobody),
            ("0.0.0.0", Reach::Nobody),
            ("0.1.2.3", Reach::Nobody),
            ("198.18.0.1", Reach::Nobody),
            ("192.0.2.1", Reach::Nobody),
            ("224.0.0.1", Reach::Nobody),
            ("255.255.255.255", Reach::Nobody),
            ("::", Reach::Nobody),
            ("fe80::1", Reach::Nobody),
            ("ff02::1", Reach::Nobody),
            ("2001:db8::1", Reach::Nobody),
            ("2001::1", Reach::Nobody),
            ("64:ff9b:1::1", Reach::Nobody),
        ] {
            assert_eq!(Reach::of(address.parse().unwrap()), expected, "{address}");
        }
    }
}
