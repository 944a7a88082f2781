package egress

import "net/netip"

// special are ranges that netip.Addr does not already call private, loopback,
// link-local, multicast or unspecified, and that are not the public internet.
// Source: IANA IPv4 and IPv6 Special-Purpose Address Registries, and the
// addresses of metadata services that lie in public space.
func special() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("0.0.0.0/8"),
		netip.MustParsePrefix("100.64.0.0/10"), // carrier-grade NAT
		netip.MustParsePrefix("168.63.129.16/32"),
		netip.MustParsePrefix("192.0.0.0/24"),
		netip.MustParsePrefix("192.0.2.0/24"),
		netip.MustParsePrefix("192.88.99.0/24"),
		netip.MustParsePrefix("198.18.0.0/15"),
		netip.MustParsePrefix("198.51.100.0/24"),
		netip.MustParsePrefix("203.0.113.0/24"),
		netip.MustParsePrefix("240.0.0.0/4"),
		netip.MustParsePrefix("2001::/23"),     // Teredo and other protocol assignments
		netip.MustParsePrefix("2001:db8::/32"), // documentation
		netip.MustParsePrefix("2002::/16"),     // 6to4 carries an IPv4 address
		netip.MustParsePrefix("3fff::/20"),     // documentation
	}
}

// globalV6 is the only part of IPv6 that is handed out; NAT64 (64:ff9b::/96),
// IPv4-compatible and unique local addresses lie outside.
func globalV6() netip.Prefix { return netip.MustParsePrefix("2000::/3") }

// Public reports whether a is a global unicast address.
func Public(a netip.Addr) bool {
	a = a.Unmap()
	if !a.IsValid() || a.Zone() != "" || !a.IsGlobalUnicast() || a.IsPrivate() || a.IsLoopback() ||
		a.IsLinkLocalUnicast() || a.IsMulticast() || a.IsUnspecified() {
		return false
	}
	if a.Is6() && !globalV6().Contains(a) {
		return false
	}
	for _, p := range special() {
		if p.Contains(a) {
			return false
		}
	}
	return true
}

func (p Policy) mayDial(a netip.Addr) bool { return Public(a) || p.allowedPrivate(a) }

func (p Policy) allowedPrivate(a netip.Addr) bool {
	a = a.Unmap()
	for _, x := range p.AllowPrivate {
		if x.Contains(a) {
			return true
		}
	}
	return false
}
