package validate

import (
	"strconv"
	"unicode/utf8"

	"pulsegate/fhir/definitions"
)

// checkPrimitive checks the value of node i against its type. It returns the code
// of the issue and the rule that the value breaks.
func (d *Document) checkPrimitive(i int, m *definitions.Member) (code, rule string) {
	n := Node{doc: d, index: uint32(i)}
	switch m.Primitive {
	case definitions.Boolean:
		return "", ""
	case definitions.Integer, definitions.PositiveInt, definitions.UnsignedInt:
		if !validInteger(m.Primitive, n.JSON()) {
			return "value", ruleType
		}
		return "", ""
	case definitions.Decimal:
		if !inRange(n.JSON()) {
			return "value", "the number is out of the range of a decimal"
		}
		return "", ""
	}
	s := n.Text()
	if len(s) == 0 {
		return "structure", "a value must not be empty"
	}
	switch m.Primitive {
	case definitions.String, definitions.Markdown:
		if !printable(s) {
			return "value", ruleType
		}
	case definitions.XHTML:
		// Checked with the Narrative.
	case definitions.Code:
		if m.Codes != nil {
			if !m.Codes.HasCode(s) {
				return "code-invalid", ruleBinding
			}
			return "", ""
		}
		return textRule(m.Primitive, s)
	case definitions.ID:
		if !validID(s) {
			return "value", ruleType
		}
	case definitions.URI, definitions.URL, definitions.Canonical:
		if s[0] == '#' && len(s) > 1 {
			d.fragments = append(d.fragments, n.index)
		}
		return textRule(definitions.URI, s)
	case definitions.Base64:
		if !validBase64(s) {
			return "value", ruleType
		}
	case definitions.Date, definitions.DateTime, definitions.Instant:
		if len(s) >= 4 && string(s[:4]) == "0000" {
			return "value", "a year must be from 0001 to 9999"
		}
		if !validDate(m.Primitive, s) {
			return "value", ruleType
		}
	case definitions.Time:
		if len(s) < 8 || !clock(s[:8]) || !fraction(s[8:]) {
			return "value", ruleType
		}
	case definitions.MediaType:
		// CapabilityStatement.format may name R4's own formats.
		if m.Name == "format" && (string(s) == "json" || string(s) == "xml" || string(s) == "ttl") {
			return "", ""
		}
		return textRule(m.Primitive, s)
	default:
		return textRule(m.Primitive, s)
	}
	return "", ""
}

func textRule(p definitions.Primitive, s []byte) (code, rule string) {
	return "value", primitiveRule(p, s)
}

// checkNarrative checks the XHTML of a Narrative. The size limit applies to all
// narratives of a body together.
func (d *Document) checkNarrative(n Node) {
	div := n.text("div")
	if len(div) == 0 {
		return // reported already
	}
	rule := "the narratives of a resource must not be longer than 1 MiB in total"
	if d.narrativeBytes += len(div); d.narrativeBytes <= maxNarrative {
		rule = narrativeRule(div)
	}
	if rule != "" {
		d.broken(int(n.index), "", rule)
	}
}

// validInteger reports whether a JSON number is an integer of a type. R4's integers
// have 32 bits.
func validInteger(p definitions.Primitive, s []byte) bool {
	negative := s[0] == '-'
	if negative {
		s = s[1:]
	}
	if !digits(s) || len(s) > 10 {
		return false
	}
	n := 0
	for _, c := range s {
		n = n*10 + int(c-'0')
	}
	switch {
	case p == definitions.PositiveInt && (negative || n == 0), p == definitions.UnsignedInt && negative:
		return false
	case negative:
		return n != 0 && n <= 1<<31
	}
	return n < 1<<31
}

// inRange reports whether a JSON number can be represented as a float64.
func inRange(s []byte) bool {
	if len(s) <= 300 {
		exponent := false
		for _, c := range s {
			exponent = exponent || c|0x20 == 'e'
		}
		if !exponent {
			return true
		}
	}
	_, err := strconv.ParseFloat(string(s), 64)
	return err == nil
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

// validID reports whether s matches [A-Za-z0-9\-\.]{1,64}.
func validID(s []byte) bool {
	for _, c := range s {
		if !digit(c) && (c|0x20 < 'a' || c|0x20 > 'z') && c != '-' && c != '.' {
			return false
		}
	}
	return len(s) > 0 && len(s) <= 64
}

// validBase64 reports whether s is base64 (RFC 4648 section 4) with padding. White
// space is allowed anywhere.
func validBase64(s []byte) bool {
	n, padding := 0, 0
	for _, c := range s {
		switch {
		case c == ' ' || c == '\t' || c == '\r' || c == '\n':
			continue
		case c == '=':
			padding++
		case padding > 0 || !digit(c) && (c|0x20 < 'a' || c|0x20 > 'z') && c != '+' && c != '/':
			return false
		}
		n++
	}
	return n > 0 && n%4 == 0 && padding <= 2
}

// validDate reports whether s is a valid date, dateTime or instant, whichever p
// is. Dates may end after the year or the month; a time must have seconds and an
// offset.
func validDate(p definitions.Primitive, s []byte) bool {
	if len(s) < 4 || !digits(s[:4]) {
		return false
	}
	year := twoDigits(s)*100 + twoDigits(s[2:])
	switch {
	case year == 0:
		return false
	case len(s) == 4:
		return p != definitions.Instant
	case len(s) < 7 || s[4] != '-' || !digits(s[5:7]):
		return false
	}
	month := twoDigits(s[5:])
	if month < 1 || month > 12 {
		return false
	}
	switch {
	case len(s) == 7:
		return p != definitions.Instant
	case len(s) < 10 || s[7] != '-' || !digits(s[8:10]):
		return false
	}
	if day := twoDigits(s[8:]); day < 1 || day > daysIn(year, month) {
		return false
	}
	if len(s) == 10 {
		return p != definitions.Instant
	}
	if p == definitions.Date || len(s) < 20 || s[10] != 'T' || !clock(s[11:19]) {
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

// clock reports whether s, which is 8 bytes long, is a valid hh:mm:ss. R4 allows
// the second 60 for leap seconds.
func clock(s []byte) bool {
	return s[2] == ':' && s[5] == ':' && digits(s[:2]) && digits(s[3:5]) && digits(s[6:8]) && twoDigits(s) < 24 &&
		twoDigits(s[3:]) < 60 && twoDigits(s[6:]) <= 60
}

// fraction reports whether s is empty or a point with up to 9 digits. R4 has no
// limit; this server compares times with nanoseconds.
func fraction(s []byte) bool {
	return len(s) == 0 || s[0] == '.' && digits(s[1:])
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

// validUTF8Prefix returns the length of the valid beginning of b.
func validUTF8Prefix(b []byte) int {
	for i := 0; i < len(b); {
		if b[i] < utf8.RuneSelf {
			i++
			continue
		}
		r, n := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return len(b)
}
