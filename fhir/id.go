package fhir

import (
	"crypto/rand"
	"encoding/base32"
	"io"
	"strings"
)

var idEncoding = base32.StdEncoding.WithPadding(base32.NoPadding)

// NewID draws a random id of 128 bits from random: 26 characters of lower-case
// base32, valid as a resource id, a request id and a key. It fails only when
// random does. Ids of AuditEvents begin with the time instead (fhir/audit).
func NewID(random io.Reader) (string, error) {
	var b [16]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return "", Wrap("fhir.NewID", err)
	}
	return strings.ToLower(idEncoding.EncodeToString(b[:])), nil
}

// RandomID returns an id in the form of NewID's, with 130 bits from crypto/rand.
func RandomID() string { return strings.ToLower(rand.Text()) }
