//! Where connections come from, as far as an address tells.

use std::net::{IpAddr, Ipv6Addr};

/// Whom an address belongs to, as far as it tells: an IPv4 address, or an IPv6 network of 64 bits, in which
/// one host picks its addresses as it likes.
pub fn source_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_network_is_one_source_and_an_ipv4_address_is_itself() {
        for (address, source) in [
            ("2001:db8:0:1::1", "2001:db8:0:1::"),
            ("2001:db8:0:1:ffff::2", "2001:db8:0:1::"),
            ("2001:db8:0:2::1", "2001:db8:0:2::"),
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
        ] {
            let [address, source]: [IpAddr; 2] = [address, source].map(|text| text.parse().unwrap());
            assert_eq!(source_of(address), source, "{address}");
        }
    }
}
