package r4

import (
	"bytes"
	"net/url"
	"slices"
	"strings"

	"github.com/valyala/fastjson"
)

// precheck reports whether the body v, parsed as root, is certain to pass the
// scan and google/fhir as a resource of type typ. False means undecided: for
// extensions of primitives, contained resources, base64, exponents and all
// invalid input, the scan and google/fhir decide and give the reasons. The
// structures come from the descriptors that google/fhir reads, so every type has
// a single definition. FuzzPrecheck and TestPrecheckAgreesWithFullValidation
// verify that whatever precheck accepts passes the full validation.
func (val *Validator) precheck(typ string, v []byte, root *fastjson.Value) bool {
	st := val.structures.of(typ)
	if st == nil || st.typ != object || hasSurrogate(v) {
		return false
	}
	w := &prechecker{types: val.structures.types, maxDepth: val.limits.Depth}
	return w.object(st, root, 1) && !w.invalid
}

// hasSurrogate reports whether v may contain half of a surrogate pair, which
// JSON parsers treat differently.
func hasSurrogate(v []byte) bool {
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

type prechecker struct {
	types    map[string]bool // resource types that a Reference may name
	maxDepth int
	invalid  bool // an invariant is broken
}

// broken implements reporter. The full validation reports the rule.
func (w *prechecker) broken(_, _ string) { w.invalid = true }

// object checks an object at a nesting depth, which counts objects and arrays.
func (w *prechecker) object(st *structure, v *fastjson.Value, depth int) bool {
	if v.Type() != fastjson.TypeObject || depth > w.maxDepth {
		return false
	}
	filled, ok := uint64(0), true
	v.GetObject().Visit(func(key []byte, e *fastjson.Value) {
		if !ok {
			return
		}
		m, known := st.members[string(key)]
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
	if !ok || filled == 0 || filled&st.required != st.required {
		return false
	}
	if st.check != nil {
		st.check(v, w)
	}
	return !w.invalid
}

// typeSlot is the slot of resourceType, which is missing in the descriptors.
const typeSlot = 1 << 63

func (w *prechecker) list(m *member, v *fastjson.Value, depth int) bool {
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

func (w *prechecker) value(m *member, v *fastjson.Value, depth int) bool {
	switch m.structure.typ {
	case object:
		return w.object(m.structure, v, depth+1)
	case reference:
		return w.object(m.structure, v, depth+1) && w.target(m.targets, v)
	case boolean:
		return v.Type() == fastjson.TypeTrue || v.Type() == fastjson.TypeFalse
	case integer, positiveInt, unsignedInt, decimal:
		if v.Type() != fastjson.TypeNumber {
			return false
		}
		var buf [32]byte
		n := v.MarshalTo(buf[:0])
		return len(n) <= len(buf) && number(m.structure.typ, n)
	}
	if v.Type() != fastjson.TypeString {
		return false
	}
	s := v.GetStringBytes()
	if len(s) == 0 || len(s) >= 4 && string(s[:4]) == "0000" { // the scan refuses the year 0000
		return false
	}
	switch m.structure.typ {
	case plainText:
		return printable(s)
	case anyText:
		return true
	case code:
		return visibleASCII(s)
	case coded:
		return m.structure.codes[string(s)]
	case id:
		return identifier(s)
	case uri:
		return parsableURL(s) && primitiveRule(uri, s) == ""
	case oid, uuid, languageTag, mediaType, currencyCode:
		return primitiveRule(m.structure.typ, s) == ""
	case date, dateTime, instant:
		return validDate(m.structure.typ, s)
	case timeOfDay:
		return len(s) >= 8 && clock(s[:8]) && fraction(s[8:])
	}
	return false
}

// target checks the type in a relative reference against the allowed targets.
func (w *prechecker) target(targets []string, v *fastjson.Value) bool {
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

func number(t dataType, s []byte) bool {
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
	case t == decimal:
		rest := s[whole:]
		return len(rest) == 0 || len(rest) > 1 && rest[0] == '.' && digits(rest[1:])
	case whole != len(s) || whole > 9:
		return false
	case t == positiveInt:
		return !negative && s[0] != '0'
	case t == unsignedInt:
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

// printable reports whether s follows R4's rule for strings: at most 1 MiB, and
// no control characters except tab, line feed and carriage return.
func printable(s []byte) bool {
	for _, c := range s {
		if c < ' ' && c != '\t' && c != '\n' && c != '\r' {
			return false
		}
	}
	return len(s) <= 1<<20
}

// visibleASCII reports whether s is not empty and has only visible ASCII
// characters.
func visibleASCII(s []byte) bool {
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

// parsableURL reports whether net/url can parse s. It recognizes ordinary http
// and https URLs without calling net/url.
func parsableURL(s []byte) bool {
	rest, ok := strings.CutPrefix(string(s), "http://")
	if !ok {
		rest, ok = strings.CutPrefix(rest, "https://")
	}
	if ok {
		host, path, _ := strings.Cut(rest, "/")
		if identifier([]byte(host)) && ordinaryPath(path) {
			return true
		}
	}
	_, err := url.Parse(string(s))
	return err == nil
}

func ordinaryPath(s string) bool {
	for i := range len(s) {
		if c := s[i]; !digit(c) && (c|0x20 < 'a' || c|0x20 > 'z') && c != '-' && c != '.' && c != '/' && c != '_' &&
			c != '|' {
			return false
		}
	}
	return true
}

// validDate reports whether s is a valid date, dateTime or instant, whichever t
// is. Dates may end after the year or the month; a time must have seconds and an
// offset.
func validDate(t dataType, s []byte) bool {
	if len(s) < 4 || !digits(s[:4]) || string(s[:4]) == "0000" {
		return false
	}
	year := twoDigits(s)*100 + twoDigits(s[2:])
	switch {
	case len(s) == 4:
		return t != instant
	case len(s) < 7 || s[4] != '-' || !digits(s[5:7]):
		return false
	}
	month := twoDigits(s[5:])
	if month < 1 || month > 12 {
		return false
	}
	switch {
	case len(s) == 7:
		return t != instant
	case len(s) < 10 || s[7] != '-' || !digits(s[8:10]):
		return false
	}
	if day := twoDigits(s[8:]); day < 1 || day > daysIn(year, month) {
		return false
	}
	if len(s) == 10 {
		return t != instant
	}
	if t == date || len(s) < 20 || s[10] != 'T' || !clock(s[11:19]) {
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

func twoDigits(s []byte) int { return int(s[0]-'0')*10 + int(s[1]-'0') }

func daysIn(year, month int) int {
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

// clock reports whether s, which is 8 bytes long, is a valid hh:mm:ss.
func clock(s []byte) bool {
	return s[2] == ':' && s[5] == ':' && digits(s[:2]) && digits(s[3:5]) && digits(s[6:8]) && twoDigits(s) < 24 &&
		twoDigits(s[3:]) < 60 && twoDigits(s[6:]) < 60
}

func fraction(s []byte) bool {
	return len(s) == 0 || s[0] == '.' && len(s) <= 10 && digits(s[1:])
}

// offset reports whether s, which is 6 bytes long, is a valid +hh:mm up to
// 14:00.
func offset(s []byte) bool {
	if s[0] != '+' && s[0] != '-' || s[3] != ':' || !digits(s[1:3]) || !digits(s[4:6]) {
		return false
	}
	hour, minute := twoDigits(s[1:]), twoDigits(s[4:])
	return hour < 14 && minute < 60 || hour == 14 && minute == 0
}
