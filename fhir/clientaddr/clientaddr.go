// Package clientaddr determines the client address of requests that come through
// proxies, and whether the client's connection was encrypted.
//
// It owns the list of trusted proxies and the parsing of X-Forwarded-For,
// X-Forwarded-Proto and Forwarded (RFC 7239), in which a proxy names its peer. It
// does not own the uses of the address, which are rate limits and
// AuditEvent.agent.network.
//
// Each proxy appends to the list that it received, so only the right end of the list
// can be trusted. It is read from there, past the addresses of trusted proxies, to
// the first address that is not one of them. The rest, to the left, comes from the
// client and is ignored. If a value is not an address (unknown, an obfuscated
// identifier as in RFC 7239 section 6.3, or malformed), or the list has more than 32
// trusted hops, the peer's address is kept.
//
// Only one of the two headers is read, because a proxy that appends to one of them
// passes on the other as the client sent it.
//
// A trusted proxy names the scheme of the client's request in X-Forwarded-Proto, or
// in the parameter proto of the element of Forwarded that names the client. Encrypted
// is no protection against a client that lies about its own connection.
package clientaddr

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// Headers that carry the client address.
const (
	XForwardedFor = "X-Forwarded-For"
	Forwarded     = "Forwarded" // RFC 7239
	// XForwardedProto names the scheme of a request if XForwardedFor names its
	// client.
	XForwardedProto = "X-Forwarded-Proto"
)

const maxHops = 32

// Proxies lists the address ranges of trusted proxies.
type Proxies []netip.Prefix

// has reports whether a is the address of a trusted proxy.
func (p Proxies) has(a netip.Addr) bool {
	a = plain(a)
	for _, x := range p {
		if x.Contains(a) {
			return true
		}
	}
	return false
}

// Trusts reports whether an http.Request.RemoteAddr is the address of a trusted proxy.
func (p Proxies) Trusts(remote string) bool {
	a, err := netip.ParseAddrPort(remote)
	return err == nil && p.has(a.Addr())
}

func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

// Handler sets http.Request.RemoteAddr to the client address for the next handler. If
// a proxy has named the address, its port is 0. Middleware that needs the peer's
// address must run before it.
type Handler struct {
	Trusted Proxies
	Header  string // XForwardedFor or Forwarded, whichever the proxies append to
	// HTTPS is set if the server's public URL has the scheme https. Requests from a
	// trusted proxy that names no scheme then count as encrypted.
	HTTPS bool
	Next  http.Handler
}

// proxiedKey is the context key of whether a trusted proxy's client was encrypted.
type proxiedKey struct{}

// Encrypted reports whether the client sent r over TLS, to this server or to a
// trusted proxy.
func Encrypted(r *http.Request) bool {
	if encrypted, ok := r.Context().Value(proxiedKey{}).(bool); ok {
		return encrypted
	}
	return r.TLS != nil
}

func (h Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h.Trusted.Trusts(r.RemoteAddr) {
		a, proto, ok := h.client(r.Header.Values(h.Header))
		if h.Header == XForwardedFor {
			proto = strings.Join(r.Header.Values(XForwardedProto), ",")
		}
		r = r.WithContext(context.WithValue(r.Context(), proxiedKey{}, h.encrypted(proto)))
		if ok {
			r.RemoteAddr = net.JoinHostPort(a.String(), "0")
		}
	}
	h.Next.ServeHTTP(w, r)
}

// encrypted reports whether proto, a scheme or a list of the schemes of several hops,
// names nothing but https.
func (h Handler) encrypted(proto string) bool {
	if proto == "" {
		return h.HTTPS
	}
	for scheme := range strings.SplitSeq(proto, ",") {
		if !strings.EqualFold(strings.Trim(scheme, " \t"), "https") {
			return false
		}
	}
	return true
}

// client returns the client address in the header's values, and the scheme that the
// same element of Forwarded names. If the values have no address, ok is false. The
// limit applies only to the elements read from the right, so that a client cannot hide
// its address by sending a long list.
func (h Handler) client(values []string) (a netip.Addr, proto string, ok bool) {
	hops := 0
	for i := len(values) - 1; i >= 0; i-- {
		for list := values[i]; list != ""; {
			if hops++; hops > maxHops {
				return netip.Addr{}, "", false
			}
			var hop string
			list, hop, ok = last(list, h.Header == Forwarded)
			if ok && h.Header == Forwarded {
				proto, _ = parameter(hop, "proto")
				hop, ok = parameter(hop, "for")
			}
			if ok {
				a, ok = address(strings.Trim(hop, " \t"))
			}
			if !ok {
				return netip.Addr{}, proto, false
			}
			if !h.Trusted.has(a) {
				return a, proto, true
			}
		}
	}
	return a, proto, hops > 0
}

// last splits the last element off a list. If a quoted string does not end, ok is
// false. Only Forwarded allows quoted commas.
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

// split splits at separators outside of quoted strings. If a quoted string does not
// end, ok is false.
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

// parameter returns the value of a parameter in a forwarded-element.
func parameter(element, want string) (string, bool) {
	pairs, ok := split(element, ';')
	found := ""
	for _, p := range pairs {
		name, value, both := strings.Cut(strings.Trim(p, " \t"), "=")
		if !both || !strings.EqualFold(name, want) {
			continue
		}
		if found != "" || value == "" {
			return "", false // at most once (RFC 7239 section 4)
		}
		if inner, quoted := strings.CutPrefix(value, `"`); quoted {
			// Addresses and schemes have no characters that need escaping.
			if value, quoted = strings.CutSuffix(inner, `"`); !quoted || strings.ContainsAny(value, `"\`) {
				return "", false
			}
		}
		found = value
	}
	return found, ok && found != ""
}

// address parses an IP address with or without a port: 192.0.2.1,
// 192.0.2.1:80, 2001:db8::1, [2001:db8::1], [2001:db8::1]:80.
func address(s string) (netip.Addr, bool) {
	if strings.ContainsRune(s, '%') { // a zone is local to one machine
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
