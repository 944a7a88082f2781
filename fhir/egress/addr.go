package egress

import "net/netip"

// special returns the ranges that are not the public internet although netip.Addr
// does not report them as private, loopback, link-local, multicast or unspecified.
// Sources: the IANA IPv4 and IPv6 Special-Purpose Address Registries, and the
// addresses of metadata services in public ranges.
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

// globalV6 returns the only allocated range of global IPv6 addresses. It excludes
// NAT64 (64:ff9b::/96), IPv4-compatible and unique local addresses.
func globalV6() netip.Prefix { return netip.MustParsePrefix("2000::/3") }

// public reports whether a is a global unicast address.
func public(a netip.Addr) bool {
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

func (p Policy) mayDial(a netip.Addr) bool { return public(a) || p.allowedPrivate(a) }

func (p Policy) allowedPrivate(a netip.Addr) bool {
	a = a.Unmap()
	for _, x := range p.AllowPrivate {
		if x.Contains(a) {
			return true
		}
	}
	return false
}
