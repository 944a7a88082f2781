// Package clientaddr says who is at the other end of a request that came through
// proxies.
//
// It owns: which proxies are believed, and the reading of X-Forwarded-For and
// of Forwarded (RFC 7239), in which a proxy names the peer from which it had
// the request. It does not own: what the address is used for, which is limits
// and AuditEvent.agent.network.
//
// Each proxy appends to what it was sent, so only the right end is the word of
// somebody who is known: the list is read from there, through addresses that
// are trusted proxies themselves, up to the first that is none. What stands to
// the left of that was sent by the client, and is not looked at. A value that
// is no address (unknown, or an obfuscated identifier, RFC 7239 6.3; or
// broken) leaves the peer's address in place, and so does a list of more than
// 32 trusted hops.
//
// Exactly one of the two headers is read: a proxy that appends to the one
// hands on the other as the client sent it.
package clientaddr

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// Headers that name where a request came from.
const (
	XForwardedFor = "X-Forwarded-For"
	Forwarded     = "Forwarded" // RFC 7239
)

const maxHops = 32

// Proxies are the addresses of proxies.
type Proxies []netip.Prefix

// Has reports whether a is one of them.
func (p Proxies) Has(a netip.Addr) bool {
	a = plain(a)
	for _, x := range p {
		if x.Contains(a) {
			return true
		}
	}
	return false
}

// Trusts reports whether a http.Request.RemoteAddr is one of them.
func (p Proxies) Trusts(remote string) bool {
	a, err := netip.ParseAddrPort(remote)
	return err == nil && p.Has(a.Addr())
}

func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

// Handler sets http.Request.RemoteAddr to the client's address for what comes
// behind it, with port 0 when a proxy has named it. Whatever looks at the peer
// itself has to come before.
type Handler struct {
	Trusted Proxies
	Header  string // XForwardedFor or Forwarded: the one that the proxies append to
	Next    http.Handler
}

func (h Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h.Trusted.Trusts(r.RemoteAddr) {
		if a, ok := h.client(r.Header.Values(h.Header)); ok {
			q := *r
			q.RemoteAddr = net.JoinHostPort(a.String(), "0")
			r = &q
		}
	}
	h.Next.ServeHTTP(w, r)
}

// client reads the header's values; ok is false when they name nobody. Only
// what is read has a limit: a client that sends much does not hide by it.
func (h Handler) client(values []string) (a netip.Addr, ok bool) {
	hops := 0
	for i := len(values) - 1; i >= 0; i-- {
		for list := values[i]; list != ""; {
			if hops++; hops > maxHops {
				return netip.Addr{}, false
			}
			var hop string
			list, hop, ok = last(list, h.Header == Forwarded)
			if ok && h.Header == Forwarded {
				hop, ok = node(hop)
			}
			if ok {
				a, ok = address(strings.Trim(hop, " \t"))
			}
			if !ok {
				return netip.Addr{}, false
			}
			if !h.Trusted.Has(a) {
				return a, true
			}
		}
	}
	return a, hops > 0
}

// last cuts the last element off a list; ok is false when a quoted string does
// not end. Only in Forwarded a comma may be quoted.
func last(list string, quotes bool) (rest, element string, ok bool) {
	if !quotes {
		i := strings.LastIndexByte(list, ',')
		return list[:max(i, 0)], list[i+1:], true
	}
	parts, ok := split(list, ',')
	if !ok {
		return "", "", false
	}
	element = parts[len(parts)-1]
	return strings.TrimSuffix(list[:len(list)-len(element)], ","), element, true
}

// split cuts at a separator that is not in a quoted string; ok is false when
// one does not end.
func split(s string, sep byte) (out []string, ok bool) {
	from, quoted := 0, false
	for i := 0; i < len(s); i++ {
		switch {
		case quoted && s[i] == '\\':
			i++
		case s[i] == '"':
			quoted = !quoted
		case !quoted && s[i] == sep:
			out = append(out, s[from:i])
			from = i + 1
		}
	}
	return append(out, s[from:]), !quoted
}

// node is the value of for in one forwarded-element.
func node(element string) (string, bool) {
	pairs, ok := split(element, ';')
	found := ""
	for _, p := range pairs {
		name, value, both := strings.Cut(strings.Trim(p, " \t"), "=")
		if !both || !strings.EqualFold(name, "for") {
			continue
		}
		if found != "" || value == "" {
			return "", false // at most once, RFC 7239 4
		}
		if inner, quoted := strings.CutPrefix(value, `"`); quoted {
			// No address has a character that needs a backslash.
			if value, quoted = strings.CutSuffix(inner, `"`); !quoted || strings.ContainsAny(value, `"\`) {
				return "", false
			}
		}
		found = value
	}
	return found, ok && found != ""
}

// address reads an IP address, with a port or without: 192.0.2.1,
// 192.0.2.1:80, 2001:db8::1, [2001:db8::1], [2001:db8::1]:80.
func address(s string) (netip.Addr, bool) {
	if strings.ContainsRune(s, '%') { // a zone means something on one machine alone
		return netip.Addr{}, false
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		if inner, ok := strings.CutPrefix(s, "["); ok && strings.HasSuffix(inner, "]") {
			a, err = netip.ParseAddr(strings.TrimSuffix(inner, "]"))
			if err == nil && !a.Is6() {
				return netip.Addr{}, false
			}
		} else {
			var p netip.AddrPort
			p, err = netip.ParseAddrPort(s)
			a = p.Addr()
		}
	}
	return plain(a), err == nil && a.IsValid() && !a.IsUnspecified()
}
