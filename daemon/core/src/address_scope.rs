//! How far an address reaches. What a peer says of its own network is of no use outside of that, and would have others dial
//! strangers of their own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// From where an address can be reached, nearest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// This machine; or nobody, as an address of several machines at once.
    Machine,
    /// The network that it is in: RFC 1918, 3927, 4193, 4291, 6598.
    Network,
    /// Everywhere, as far as the address tells.
    World,
}

/// The scope of an IP address.
pub fn of_ip(ip: IpAddr) -> Scope {
    match ip {
        IpAddr::V4(ip) => of_v4(ip),
        IpAddr::V6(ip) => ip.to_ipv4_mapped().map_or_else(|| of_v6(ip), of_v4),
    }
}

fn of_v4(ip: Ipv4Addr) -> Scope {
    let [a, b, ..] = ip.octets();
    // Between a provider and its customers.
    let shared = a == 100 && (64..128).contains(&b);
    match ip {
        // Of the second kind, no machine has one: a whole network, several at once, and what is for later.
        _ if ip.is_loopback() || a == 0 || a >= 224 => Scope::Machine,
        _ if ip.is_private() || ip.is_link_local() || shared => Scope::Network,
        _ => Scope::World,
    }
}

fn of_v6(ip: Ipv6Addr) -> Scope {
    match ip {
        _ if ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() => Scope::Machine,
        _ if ip.is_unique_local() || ip.is_unicast_link_local() => Scope::Network,
        _ => Scope::World,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_reach_as_far_as_their_kind() {
        for (ip, scope) in [
            ("127.0.0.1", Scope::Machine),
            ("::1", Scope::Machine),
            ("192.168.1.2", Scope::Network),
            ("100.64.0.1", Scope::Network),
            ("100.128.0.1", Scope::World),
            ("169.254.3.4", Scope::Network),
            ("fd00::1", Scope::Network),
            ("::ffff:10.0.0.1", Scope::Network),
            ("192.0.2.1", Scope::World),
            ("2001:db8::1", Scope::World),
        ] {
            assert_eq!(of_ip(ip.parse().unwrap()), scope, "{ip}");
        }
        assert!(Scope::Machine < Scope::Network && Scope::Network < Scope::World);
    }

    #[test]
    fn neighbours_of_special_addresses_are_of_the_world() {
        for (ip, scope) in [
            ("0.0.0.0", Scope::Machine),
            ("::", Scope::Machine),
            ("10.64.0.1", Scope::Network),
            ("100.127.255.255", Scope::Network),
            ("100.63.255.255", Scope::World),
            ("101.64.0.1", Scope::World),
            ("8.100.0.1", Scope::World),
            ("172.16.0.1", Scope::Network),
            ("172.32.0.1", Scope::World),
            ("fe80::1", Scope::Network),
            ("fec0::1", Scope::World),
            ("::2", Scope::World),
            ("::ffff:127.0.0.1", Scope::Machine),
            ("0.1.2.3", Scope::Machine),
            ("1.0.0.0", Scope::World),
            ("223.255.255.255", Scope::World),
            ("224.0.0.1", Scope::Machine),
            ("255.255.255.255", Scope::Machine),
            ("ff02::fb", Scope::Machine),
        ] {
            assert_eq!(of_ip(ip.parse().unwrap()), scope, "{ip}");
        }
    }
}
