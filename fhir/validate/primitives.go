package validate

import (
	"errors"
	"mime"
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/currency"
	"golang.org/x/text/language"

	"pulsegate/fhir/definitions"
)

// primitiveRule returns the rule that the text of a primitive breaks, or an
// empty string.
func primitiveRule(t definitions.Primitive, s []byte) string {
	switch t {
	case definitions.URI:
		return uriRule(s)
	case definitions.Code:
		if !validCode(s) || !printable(s) {
			return "a code must not begin or end with white space and may have only single spaces within"
		}
	case definitions.OID:
		if !validOID(s) {
			return "must be an OID as a URI, urn:oid:1.2.3, without leading zeros"
		}
	case definitions.UUID:
		if !validUUID(s) || strings.ToLower(string(s)) != string(s) {
			return "must be a UUID as a URI, urn:uuid: and 36 lower-case characters"
		}
	case definitions.LanguageTag:
		if !validLanguage(s) {
			return "must be a language tag of BCP 47"
		}
	case definitions.MediaType:
		if !validMediaType(s) {
			return "must be a media type, type/subtype (BCP 13)"
		}
	case definitions.Currency:
		if _, err := currency.ParseISO(string(s)); err != nil || len(s) != 3 ||
			strings.ToUpper(string(s)) != string(s) {
			return "must be a currency code of ISO 4217"
		}
	}
	return ""
}

// uriRule checks that a URI has no white space, and that URNs in the two
// namespaces for which R4 has types (oid and uuid) are well-formed.
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
	case !parsableURL(s):
		return "must be a URI (RFC 3986)"
	case hasPrefix(s, "urn:oid:") && !validOID(s):
		return "a URI that begins with urn:oid: must be an OID, without leading zeros"
	case hasPrefix(s, "urn:uuid:") && !validUUID(s):
		return "a URI that begins with urn:uuid: must be a UUID"
	}
	return ""
}

// parsableURL reports whether net/url can parse s. It recognizes ordinary URIs
// without calling net/url.
func parsableURL(s []byte) bool {
	whole := s
	for _, prefix := range []string{"http://", "https://", "urn:"} {
		if hasPrefix(s, prefix) {
			s = s[len(prefix):]
			break
		}
	}
	for _, c := range s {
		if !ordinaryInURL[c] {
			_, err := url.Parse(string(whole))
			return err == nil
		}
	}
	return true
}

var ordinaryInURL = func() (t [256]bool) { // read only
	for _, c := range []byte("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~/|#?=&") {
		t[c] = true
	}
	return t
}()

func hasPrefix(s []byte, prefix string) bool {
	return len(s) >= len(prefix) && string(s[:len(prefix)]) == prefix
}

// validCode reports whether s matches [^\s]+(\s[^\s]+)*.
func validCode(s []byte) bool {
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

// validOID reports whether s matches urn:oid:[0-2](\.(0|[1-9][0-9]*))+.
func validOID(s []byte) bool {
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

// validUUID reports whether s is a UUID in upper or lower case with its URN
// prefix.
func validUUID(s []byte) bool {
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

// validLanguage reports whether s is a well-formed language tag. Unregistered
// subtags are accepted, because the registry grows.
func validLanguage(s []byte) bool {
	if strings.IndexByte(string(s), '_') >= 0 {
		return false
	}
	_, err := language.Parse(string(s))
	var unknown language.ValueError
	return err == nil || errors.As(err, &unknown)
}

func validMediaType(s []byte) bool {
	t, _, err := mime.ParseMediaType(string(s))
	return err == nil && strings.IndexByte(t, '/') > 0
}
