package element

import "unicode/utf8"

const hexDigits = "0123456789abcdef"

// replacement is U+FFFD in UTF-8. It stands for a byte that is not UTF-8.
const replacement = "\uFFFD"

// escape says what a byte below utf8.RuneSelf needs in a JSON string.
type escape uint8

const (
	plain escape = iota
	always
	html // only where the JSON may end up in HTML
)

var escapes = escapeTable() // read only

func escapeTable() [utf8.RuneSelf]escape {
	t := [utf8.RuneSelf]escape{'"': always, '\\': always, '<': html, '>': html, '&': html}
	for c := range ' ' {
		t[c] = always
	}
	return t
}

// AppendString appends s to b as a JSON string with the least escaping that
// JSON allows. A byte that is not UTF-8 becomes U+FFFD. The output equals that
// of encoding/json/v2.
func AppendString(b []byte, s string) []byte {
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if escapes[c] != always {
				i++
				continue
			}
			b = appendEscape(append(b, s[start:i]...), c)
			i++
			start = i
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && n == 1 {
			b = append(append(b, s[start:i]...), replacement...)
			start = i + n
		}
		i += n
	}
	return append(append(b, s[start:]...), '"')
}

// AppendHTMLSafe appends s to b as a JSON string that can be embedded in HTML:
// it escapes <, >, &, U+2028 and U+2029 too. A byte that is not UTF-8 becomes
// \ufffd. The output equals that of encoding/json's Marshal.
func AppendHTMLSafe(b []byte, s string) []byte {
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if escapes[c] == plain {
				i++
				continue
			}
			b = appendEscape(append(b, s[start:i]...), c)
			i++
			start = i
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			b = append(append(b, s[start:i]...), `\ufffd`...)
			start = i + n
		case r == '\u2028' || r == '\u2029':
			b = append(append(b, s[start:i]...), `\u202`...)
			b = append(b, hexDigits[r&0xf])
			start = i + n
		}
		i += n
	}
	return append(append(b, s[start:]...), '"')
}

func appendEscape(b []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(b, '\\', c)
	case '\b':
		return append(b, '\\', 'b')
	case '\f':
		return append(b, '\\', 'f')
	case '\n':
		return append(b, '\\', 'n')
	case '\r':
		return append(b, '\\', 'r')
	case '\t':
		return append(b, '\\', 't')
	}
	return append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&0xf])
}

// appendKey appends the name of a member, which must need no escaping, and its
// colon. If b does not end with the brace that opens the object, a comma comes
// first.
func appendKey(b []byte, name string) []byte {
	if n := len(b); n > 0 && b[n-1] != '{' {
		b = append(b, ',')
	}
	b = append(b, '"')
	b = append(b, name...)
	return append(b, '"', ':')
}

// Clean replaces the control characters that FHIR does not allow in a string,
// which are all but tab, carriage return and line feed, by substitute. A byte
// that is not UTF-8 becomes U+FFFD.
func Clean(s string, substitute rune) string {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c >= 0x7f || c < 0x20 && c != '\t' && c != '\n' && c != '\r' {
			return clean(s, substitute)
		}
	}
	return s
}

func clean(s string, substitute rune) string {
	out := make([]byte, 0, len(s))
	for _, r := range s {
		if r < 0x20 && r != '\t' && r != '\n' && r != '\r' || r == 0x7f {
			r = substitute
		}
		out = utf8.AppendRune(out, r)
	}
	return string(out)
}
