package patch

import (
	"bytes"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// equal compares as RFC 6902 section 4.6 says: numbers by their value, objects regardless
// of the order of their members.
func equal(a, b *node) bool {
	if a.kind != b.kind || len(a.members) != len(b.members) || len(a.items) != len(b.items) {
		return false
	}
	switch a.kind {
	case '{':
		values := make(map[string]*node, len(b.members))
		for i := range b.members {
			values[b.members[i].name] = b.members[i].value
		}
		for i := range a.members {
			if v := values[a.members[i].name]; v == nil || !equal(a.members[i].value, v) {
				return false
			}
		}
		return true
	case '[':
		for i := range a.items {
			if !equal(a.items[i], b.items[i]) {
				return false
			}
		}
		return true
	}
	if bytes.Equal(a.raw, b.raw) {
		return true
	}
	ka, kb := jsontext.Value(a.raw).Kind(), jsontext.Value(b.raw).Kind()
	switch {
	case ka != kb:
		return false
	case ka == '"':
		x, errX := jsontext.AppendUnquote(nil, a.raw)
		y, errY := jsontext.AppendUnquote(nil, b.raw)
		return errX == nil && errY == nil && bytes.Equal(x, y)
	case ka == '0':
		x, okX := numberOf(a.raw)
		y, okY := numberOf(b.raw)
		return okX && okY && x == y
	}
	return false
}

// number is a decimal number in its only form without needless zeros.
type number struct {
	negative bool
	digits   string // without zeros at the ends; empty for zero
	exponent int    // of the last digit
}

// numberOf reads the text of a JSON number. It fails for huge exponents, so that these
// are equal only if their texts are.
func numberOf(raw []byte) (n number, ok bool) {
	s := string(raw)
	s, n.negative = strings.CutPrefix(s, "-")
	if i := strings.IndexAny(s, "eE"); i >= 0 {
		e, err := strconv.Atoi(strings.TrimPrefix(s[i+1:], "+"))
		if err != nil || e > maxExponent || e < -maxExponent {
			return n, false
		}
		n.exponent, s = e, s[:i]
	}
	whole, fraction, _ := strings.Cut(s, ".")
	digits := strings.TrimLeft(whole+fraction, "0")
	n.exponent -= len(fraction)
	n.digits = strings.TrimRight(digits, "0")
	n.exponent += len(digits) - len(n.digits)
	if n.digits == "" {
		return number{}, true
	}
	return n, true
}
