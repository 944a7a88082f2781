package r4

import (
	"bytes"
	"net/url"
	"slices"
	"strings"

	"github.com/valyala/fastjson"
)

// plain reports whether the body v, whose tree is root, surely passes the scan
// and google/fhir as a resource of type typ. It is a first yes and never a no:
// what it is not sure of (extensions of primitives, contained resources,
// base64, exponents, whatever is wrong) the scan and google/fhir decide, and
// say why. It reads the descriptors that google/fhir reads, so that a type has
// one definition; that its yes is always theirs is held by FuzzPlain and
// TestPlainIsSure.
func (d *Validator) plain(typ string, v []byte, root *fastjson.Value) bool {
	sh := d.shapes.of(typ)
	if sh == nil || sh.form != object || surrogate(v) {
		return false
	}
	w := &walk{types: d.shapes.types, maxDepth: d.limits.Depth}
	return w.object(sh, root, 1) && !w.bad
}

// surrogate reports whether v may hold half a surrogate pair, which two
// readers may read in two ways.
func surrogate(v []byte) bool {
	for {
		i := bytes.IndexByte(v, '\\')
		if i < 0 || i+2 >= len(v) {
			return false
		}
		if v[i+1] == 'u' && v[i+2]|0x20 == 'd' {
			return true
		}
		v = v[i+2:]
	}
}

type walk struct {
	types    map[string]bool
	maxDepth int
	bad      bool // an invariant is broken
}

// broken implements reporter. What is broken is said on the long way.
func (w *walk) broken(_, _ string) { w.bad = true }

// object checks an object that is the depth-th of nested objects and arrays.
func (w *walk) object(sh *shape, v *fastjson.Value, depth int) bool {
	if v.Type() != fastjson.TypeObject || depth > w.maxDepth {
		return false
	}
	filled, ok := uint64(0), true
	v.GetObject().Visit(func(key []byte, e *fastjson.Value) {
		if !ok {
			return
		}
		m, known := sh.members[string(key)]
		bit := uint64(1) << m.slot
		switch {
		case !known && depth == 1 && string(key) == "resourceType":
			ok = filled&typeSlot == 0 && e.Type() == fastjson.TypeString
			filled |= typeSlot
		case !known || filled&bit != 0:
			ok = false
		case m.repeated:
			filled |= bit
			ok = w.list(&m, e, depth+1)
		default:
			filled |= bit
			ok = w.value(&m, e, depth)
		}
	})
	if !ok || filled == 0 || filled&sh.required != sh.required {
		return false
	}
	if sh.check != nil {
		sh.check(v, w)
	}
	return !w.bad
}

// typeSlot is that of resourceType, which no descriptor has.
const typeSlot = 1 << 63

func (w *walk) list(m *member, v *fastjson.Value, depth int) bool {
	if v.Type() != fastjson.TypeArray || depth > w.maxDepth {
		return false
	}
	list := v.GetArray()
	for _, e := range list {
		if !w.value(m, e, depth) {
			return false
		}
	}
	return len(list) > 0
}

func (w *walk) value(m *member, v *fastjson.Value, depth int) bool {
	switch m.shape.form {
	case object:
		return w.object(m.shape, v, depth+1)
	case reference:
		return w.object(m.shape, v, depth+1) && w.target(m.targets, v)
	case boolean:
		return v.Type() == fastjson.TypeTrue || v.Type() == fastjson.TypeFalse
	case integer, positiveInt, unsignedInt, decimal:
		if v.Type() != fastjson.TypeNumber {
			return false
		}
		var buf [32]byte
		n := v.MarshalTo(buf[:0])
		return len(n) <= len(buf) && number(m.shape.form, n)
	}
	if v.Type() != fastjson.TypeString {
		return false
	}
	s := v.GetStringBytes()
	if len(s) == 0 || len(s) >= 4 && string(s[:4]) == "0000" { // which the scan refuses in places
		return false
	}
	switch m.shape.form {
	case plainText:
		return printable(s)
	case free:
		return true
	case code:
		return word(s)
	case coded:
		return m.shape.codes[string(s)]
	case id:
		return identifier(s)
	case uri:
		return address(s) && leafRule(uri, s) == ""
	case oid, uuid, languageTag, mediaType, currencyCode:
		return leafRule(m.shape.form, s) == ""
	case date, dateTime, instant:
		return moment(m.shape.form, s)
	case timeOfDay:
		return len(s) >= 8 && clock(s[:8]) && fraction(s[8:])
	}
	return false
}

// target checks a relative reference against the types that may stand there.
func (w *walk) target(targets []string, v *fastjson.Value) bool {
	if len(targets) > 0 && v.Exists("type") && !slices.Contains(targets, string(v.GetStringBytes("type"))) {
		return false
	}
	ref := string(v.GetStringBytes("reference"))
	if ref == "" || ref[0] == '#' {
		return true
	}
	typ, rest, _ := strings.Cut(ref, "/")
	parts := strings.Count(ref, "/") + 1
	if parts == 4 {
		_, history, _ := strings.Cut(rest, "/")
		version, found := strings.CutPrefix(history, "_history/")
		if found && !identifier([]byte(version)) {
			return false
		}
		if !found {
			return true
		}
	} else if parts != 2 {
		return true
	}
	return w.types[typ] && (len(targets) == 0 || slices.Contains(targets, typ))
}

func number(f form, s []byte) bool {
	negative := len(s) > 0 && s[0] == '-'
	if negative {
		s = s[1:]
	}
	whole := 0
	for whole < len(s) && digit(s[whole]) {
		whole++
	}
	if whole == 0 || s[0] == '0' && whole > 1 {
		return false
	}
	switch {
	case f == decimal:
		rest := s[whole:]
		return len(rest) == 0 || len(rest) > 1 && rest[0] == '.' && digits(rest[1:])
	case whole != len(s) || whole > 9:
		return false
	case f == positiveInt:
		return !negative && s[0] != '0'
	case f == unsignedInt:
		return !negative
	}
	return !negative || s[0] != '0'
}

func digit(c byte) bool { return c >= '0' && c <= '9' }

func digits(s []byte) bool {
	for _, c := range s {
		if !digit(c) {
			return false
		}
	}
	return len(s) > 0
}

// printable reports R4's rule of a string: no control characters but tab and
// the ends of lines, at most 1 MiB.
func printable(s []byte) bool {
	for _, c := range s {
		if c < ' ' && c != '\t' && c != '\n' && c != '\r' {
			return false
		}
	}
	return len(s) <= 1<<20
}

// word reports whether s is visible ASCII without a space.
func word(s []byte) bool {
	for _, c := range s {
		if c <= ' ' || c >= 0x7f {
			return false
		}
	}
	return len(s) > 0
}

func identifier(s []byte) bool {
	for _, c := range s {
		if !digit(c) && (c|0x20 < 'a' || c|0x20 > 'z') && c != '-' && c != '.' {
			return false
		}
	}
	return len(s) > 0 && len(s) <= 64
}

// address reports whether net/url reads s; the usual kind without asking it.
func address(s []byte) bool {
	rest, ok := strings.CutPrefix(string(s), "http://")
	if !ok {
		rest, ok = strings.CutPrefix(rest, "https://")
	}
	if ok {
		host, path, _ := strings.Cut(rest, "/")
		if identifier([]byte(host)) && plainPath(path) {
			return true
		}
	}
	_, err := url.Parse(string(s))
	return err == nil
}

func plainPath(s string) bool {
	for i := range len(s) {
		if c := s[i]; !digit(c) && (c|0x20 < 'a' || c|0x20 > 'z') && c != '-' && c != '.' && c != '/' && c != '_' &&
			c != '|' {
			return false
		}
	}
	return true
}

// moment reports a date of any precision, or a dateTime to the second with
// its offset; an instant is that only.
func moment(f form, s []byte) bool {
	if len(s) < 4 || !digits(s[:4]) || string(s[:4]) == "0000" {
		return false
	}
	year := two(s)*100 + two(s[2:])
	switch {
	case len(s) == 4:
		return f != instant
	case len(s) < 7 || s[4] != '-' || !digits(s[5:7]):
		return false
	}
	month := two(s[5:])
	if month < 1 || month > 12 {
		return false
	}
	switch {
	case len(s) == 7:
		return f != instant
	case len(s) < 10 || s[7] != '-' || !digits(s[8:10]):
		return false
	}
	if day := two(s[8:]); day < 1 || day > daysOf(year, month) {
		return false
	}
	if len(s) == 10 {
		return f != instant
	}
	if f == date || len(s) < 20 || s[10] != 'T' || !clock(s[11:19]) {
		return false
	}
	rest := s[19:]
	if rest[len(rest)-1] == 'Z' {
		return fraction(rest[:len(rest)-1])
	}
	if len(rest) < 6 {
		return false
	}
	zone := rest[len(rest)-6:]
	return fraction(rest[:len(rest)-6]) && offset(zone)
}

func two(s []byte) int { return int(s[0]-'0')*10 + int(s[1]-'0') }

func daysOf(year, month int) int {
	switch month {
	case 2:
		if year%4 == 0 && (year%100 != 0 || year%400 == 0) {
			return 29
		}
		return 28
	case 4, 6, 9, 11:
		return 30
	}
	return 31
}

// clock reports hh:mm:ss, of which s has the length.
func clock(s []byte) bool {
	return s[2] == ':' && s[5] == ':' && digits(s[:2]) && digits(s[3:5]) && digits(s[6:8]) && two(s) < 24 &&
		two(s[3:]) < 60 && two(s[6:]) < 60
}

func fraction(s []byte) bool {
	return len(s) == 0 || s[0] == '.' && len(s) <= 10 && digits(s[1:])
}

// offset reports +hh:mm up to 14:00, of which s has the length.
func offset(s []byte) bool {
	if s[0] != '+' && s[0] != '-' || s[3] != ':' || !digits(s[1:3]) || !digits(s[4:6]) {
		return false
	}
	hour, minute := two(s[1:]), two(s[4:])
	return hour < 14 && minute < 60 || hour == 14 && minute == 0
}
