// Package answer has helpers to check the answers of vendors.
package answer

import (
	"bytes"
	"errors"
	"strings"

	"pulsegate/adapters/cloud"
)

// Object decodes from a JSON object and keeps only the fact that it is one. It takes no
// memory in a slice, however long the list is.
type Object struct{}

var errNoObject = errors.New("not an object")

// UnmarshalJSON implements json.Unmarshaler.
func (*Object) UnmarshalJSON(b []byte) error {
	if !bytes.HasPrefix(b, []byte("{")) {
		return errNoObject
	}
	return nil
}

// IsID reports whether s can be an id in a vendor's path: at most 64 letters, digits,
// underscores, hyphens and dots.
func IsID(s string) bool {
	return s != "" && strings.Trim(s, ".") != "" && cloud.Reason(s) == s
}
