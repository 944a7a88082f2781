package pushkey

import (
	"encoding/base32"
	"encoding/binary"
	"hash/crc32"
	"io"
	"strings"

	"pulsegate/fhir"
)

// Prefix begins the text of every key.
const Prefix = "pgpush_"

const (
	idBytes     = 5  // 8 characters
	secretBytes = 32 // 52 characters
	checkBytes  = 4  // 7 characters
)

// encoding is base32 with the alphabet of Crockford, in lower case.
var encoding = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// Lengths in characters.
var (
	idLen    = encoding.EncodedLen(idBytes)
	checkLen = encoding.EncodedLen(checkBytes)
	restLen  = encoding.EncodedLen(secretBytes) + checkLen
	textLen  = len(Prefix) + idLen + 1 + restLen
)

// secret is the secret part of a key.
type secret [secretBytes]byte

// draw returns a new ID and a new secret.
func draw(random io.Reader) (id string, s secret, err error) {
	var b [idBytes]byte
	if _, err = io.ReadFull(random, b[:]); err == nil {
		_, err = io.ReadFull(random, s[:])
	}
	return encoding.EncodeToString(b[:]), s, err
}

// format returns the text of a key.
func format(id string, s secret) string {
	text := Prefix + id + "_" + encoding.EncodeToString(s[:])
	return text + check(text)
}

func check(text string) string {
	return encoding.EncodeToString(binary.BigEndian.AppendUint32(nil, crc32.ChecksumIEEE([]byte(text))))
}

// hasPrefix reports whether a credential is meant to be a push key.
func hasPrefix(s string) bool {
	return len(s) >= len(Prefix) && strings.EqualFold(s[:len(Prefix)], Prefix)
}

// plain maps characters that people confuse to those of the alphabet.
var plain = strings.NewReplacer("o", "0", "i", "1", "l", "1")

// parse splits the text of a key. Its error is shown to the caller.
func parse(text string) (id string, s secret, err error) {
	const op = "pushkey.parse"
	if !hasPrefix(text) {
		return "", s, fhir.Errorf(fhir.Unauthorized, op, "a push key begins with %s", Prefix)
	}
	if len(text) != textLen {
		return "", s, fhir.Errorf(fhir.Unauthorized, op,
			"the push key is not complete: it has %d characters; copy all of it", textLen)
	}
	text = Prefix + plain.Replace(strings.ToLower(text[len(Prefix):]))
	wrong := fhir.Errorf(fhir.Unauthorized, op, "the push key has a typing error; copy it again")
	id, rest, ok := strings.Cut(text[len(Prefix):], "_")
	if !ok || len(id) != idLen || check(text[:textLen-checkLen]) != text[textLen-checkLen:] {
		return "", s, wrong
	}
	raw, err := encoding.DecodeString(rest[:restLen-checkLen])
	if err != nil || format(id, secret(raw)) != text {
		return "", s, wrong
	}
	return id, secret(raw), nil
}
