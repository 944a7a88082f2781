package r4

import (
	"errors"
	"mime"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/currency"
	"golang.org/x/text/language"
)

// leafRule returns the rule that the text of a primitive breaks, or an empty
// string. It holds what google/fhir does not check; both ways through the
// package ask it.
func leafRule(f form, s []byte) string {
	switch f {
	case uri:
		return uriRule(s)
	case code:
		if !codeText(s) {
			return "a code has no white space at its ends and only single spaces within"
		}
	case oid:
		if !oidText(s) {
			return "must be an OID as a URI, urn:oid:1.2.3, without leading zeros"
		}
	case uuid:
		if !uuidText(s) || strings.ToLower(string(s)) != string(s) {
			return "must be a UUID as a URI, urn:uuid: and 36 lower-case characters"
		}
	case languageTag:
		if !languageText(s) {
			return "must be a language tag of BCP 47"
		}
	case mediaType:
		if !mediaText(s) {
			return "must be a media type, type/subtype (BCP 13)"
		}
	case currencyCode:
		if _, err := currency.ParseISO(string(s)); err != nil || len(s) != 3 ||
			strings.ToUpper(string(s)) != string(s) {
			return "must be a currency code of ISO 4217"
		}
	}
	return ""
}

// uriRule checks that a URI has no white space, and the form of the two URN
// namespaces that R4 has types for.
func uriRule(s []byte) string {
	for i := 0; i < len(s); {
		if c := s[i]; c < utf8.RuneSelf {
			if c <= ' ' || c == 0x7f {
				return "a URI has no white space"
			}
			i++
			continue
		}
		r, n := utf8.DecodeRune(s[i:])
		if unicode.IsSpace(r) {
			return "a URI has no white space"
		}
		i += n
	}
	switch {
	case hasPrefix(s, "urn:oid:") && !oidText(s):
		return "a URI that begins with urn:oid: must be an OID, without leading zeros"
	case hasPrefix(s, "urn:uuid:") && !uuidText(s):
		return "a URI that begins with urn:uuid: must be a UUID"
	}
	return ""
}

func hasPrefix(s []byte, prefix string) bool {
	return len(s) >= len(prefix) && string(s[:len(prefix)]) == prefix
}

// codeText reports [^\s]+(\s[^\s]+)*.
func codeText(s []byte) bool {
	space := true
	for _, c := range string(s) {
		if unicode.IsSpace(c) {
			if space {
				return false
			}
			space = true
			continue
		}
		space = false
	}
	return !space
}

// oidText reports urn:oid:[0-2](\.(0|[1-9][0-9]*))+.
func oidText(s []byte) bool {
	rest, ok := strings.CutPrefix(string(s), "urn:oid:")
	parts := strings.Split(rest, ".")
	if !ok || len(parts) < 2 || len(parts[0]) != 1 || parts[0][0] < '0' || parts[0][0] > '2' {
		return false
	}
	for _, p := range parts[1:] {
		if !digits([]byte(p)) || p[0] == '0' && len(p) > 1 {
			return false
		}
	}
	return true
}

// uuidText reports a UUID with its URN prefix, in any case.
func uuidText(s []byte) bool {
	rest, ok := strings.CutPrefix(string(s), "urn:uuid:")
	if !ok || len(rest) != 36 {
		return false
	}
	for i := range len(rest) {
		dash := i == 8 || i == 13 || i == 18 || i == 23
		if dash != (rest[i] == '-') || !dash && hexDigit(rest[i]) < 0 {
			return false
		}
	}
	return true
}

// languageText reports a well-formed language tag. A subtag that is not
// registered is accepted, because the registry grows.
func languageText(s []byte) bool {
	if strings.IndexByte(string(s), '_') >= 0 {
		return false
	}
	_, err := language.Parse(string(s))
	var unknown language.ValueError
	return err == nil || errors.As(err, &unknown)
}

func mediaText(s []byte) bool {
	t, _, err := mime.ParseMediaType(string(s))
	return err == nil && strings.IndexByte(t, '/') > 0
}
