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
/// Google's, Oracle's, Scaleway's, Akamai's, Alibaba's. Amazon has several in a network of its own.
const METADATA_V6: [Ipv6Addr; 5] = [
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe),
    Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42),
    Ipv6Addr::new(0xfd00, 0xa9fe, 0xa9fe, 0, 0, 0, 0, 1),
    Ipv6Addr::new(0xfd00, 0x100, 0, 0, 0, 0, 0x100, 0x200),
];

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
        // This network, protocol assignments, relays that were given up, benchmarks, reserved and broadcast.
        || a == 0
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
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
        [0xfd00, 0xec2, ..] => Reach::Nobody,
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
            // Amazon's metadata and its credentials for pods; Google's, Oracle's, Scaleway's, Akamai's, Alibaba's metadata.
            ("fd00:ec2::254", Reach::Nobody),
            ("fd00:ec2::23", Reach::Nobody),
            ("fd20:ce::254", Reach::Nobody),
            ("fd00:c1::a9fe:a9fe", Reach::Nobody),
            ("fd00:42::42", Reach::Nobody),
            ("fd00:a9fe:a9fe::1", Reach::Nobody),
            ("fd00:100::100:200", Reach::Nobody),
            ("fd00:42::43", Reach::Near),
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

    /// IANA's registries of special addresses: the first and the last of each range, and what is beside it.
    #[test]
    fn special_ranges_are_those_of_the_registries() {
        use Reach::{Everybody, Near, Nobody};
        for (first, last, expected) in [
            ("0.0.0.0", "0.255.255.255", Nobody),
            ("1.0.0.0", "9.255.255.255", Everybody),
            ("10.0.0.0", "10.255.255.255", Near),
            ("11.0.0.0", "100.63.255.255", Everybody),
            ("100.64.0.0", "100.127.255.255", Near),
            ("100.128.0.0", "126.255.255.255", Everybody),
            ("127.0.0.0", "127.255.255.255", Near),
            ("128.0.0.0", "169.253.255.255", Everybody),
            ("169.254.0.0", "169.254.255.255", Nobody),
            ("169.255.0.0", "172.15.255.255", Everybody),
            ("172.16.0.0", "172.31.255.255", Near),
            ("172.32.0.0", "191.255.255.255", Everybody),
            ("192.0.0.0", "192.0.0.255", Nobody),
            ("192.0.1.0", "192.0.1.255", Everybody),
            ("192.0.2.0", "192.0.2.255", Nobody),
            // Anycast of AS112 and of multicast tunnels is between these.
            ("192.0.3.0", "192.88.98.255", Everybody),
            ("192.88.99.0", "192.88.99.255", Nobody),
            ("192.88.100.0", "192.167.255.255", Everybody),
            ("192.168.0.0", "192.168.255.255", Near),
            ("192.169.0.0", "198.17.255.255", Everybody),
            ("198.18.0.0", "198.19.255.255", Nobody),
            ("198.20.0.0", "198.51.99.255", Everybody),
            ("198.51.100.0", "198.51.100.255", Nobody),
            ("198.51.101.0", "203.0.112.255", Everybody),
            ("203.0.113.0", "203.0.113.255", Nobody),
            ("203.0.114.0", "223.255.255.255", Everybody),
            ("224.0.0.0", "255.255.255.255", Nobody),
            // Mapped, translated, and NAT64 of both prefixes.
            ("::ffff:169.254.0.0", "::ffff:169.254.255.255", Nobody),
            ("::ffff:0:7f00:1", "::ffff:0:808:808", Nobody),
            ("64:ff9b::a00:0", "64:ff9b::aff:ffff", Near),
            ("64:ff9b::a9fe:0", "64:ff9b::a9fe:ffff", Nobody),
            ("64:ff9b::e000:0", "64:ff9b::ffff:ffff", Nobody),
            ("64:ff9b:1::", "64:ff9b:1:ffff:ffff:ffff:ffff:ffff", Nobody),
            ("100::", "100:0:0:1:ffff:ffff:ffff:ffff", Nobody),
            // Teredo, and the rest of what protocols were given.
            ("2001::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff", Nobody),
            ("2001:200::", "2001:db7:ffff:ffff:ffff:ffff:ffff:ffff", Everybody),
            ("2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", Nobody),
            ("2001:db9::", "2001:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Everybody),
            ("2002:a00::", "2002:aff:ffff:ffff:ffff:ffff:ffff:ffff", Near),
            ("2002:a9fe::", "2002:a9fe:ffff:ffff:ffff:ffff:ffff:ffff", Nobody),
            ("2002:808:808::", "2002:808:808:ffff:ffff:ffff:ffff:ffff", Everybody),
            ("2003::", "3ffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Everybody),
            ("3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff", Nobody),
            ("3fff:1000::", "3fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Everybody),
            // Segment routing is in what nobody was given.
            ("4000::", "fbff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Nobody),
            ("fc00::", "fd00:ec1:ffff:ffff:ffff:ffff:ffff:ffff", Near),
            ("fd00:ec2::", "fd00:ec2:ffff:ffff:ffff:ffff:ffff:ffff", Nobody),
            ("fd00:ec3::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Near),
            // Of a link, of a site, and of many.
            ("fe00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Nobody),
        ] {
            for address in [first, last] {
                assert_eq!(Reach::of(address.parse().unwrap()), expected, "{address}");
            }
        }
    }
}
