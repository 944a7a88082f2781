// Package authntest implements a WebAuthn authenticator in software for tests.
// It creates one ES256 passkey and signs with it, correctly or with errors that
// the test chooses.
package authntest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"testing"
)

// Key is the authenticator and its passkey.
type Key struct {
	Origin string
	// Unverified omits the flag for user verification.
	Unverified bool
	// Count is the signature counter. It is incremented before each signature.
	Count uint32

	test    testing.TB
	private *ecdsa.PrivateKey
	id      []byte
	user    string // handle, base64url
	rp      string
}

// New returns an authenticator for origin. It fails the test on errors.
func New(t testing.TB, origin string) *Key {
	k := &Key{test: t, Origin: origin, id: make([]byte, 20)}
	var err error
	k.private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	k.must(err)
	_, err = rand.Read(k.id)
	k.must(err)
	return k
}

func (k *Key) must(err error) {
	k.test.Helper()
	if err != nil {
		k.test.Fatal(err)
	}
}

// Clone returns a copy of the key, as an attacker would make it.
func (k *Key) Clone() *Key { c := *k; return &c }

var b64 = base64.RawURLEncoding

func (k *Key) flags(more byte) byte {
	f := byte(0x01) | more // user present
	if !k.Unverified {
		f |= 0x04
	}
	return f
}

func (k *Key) authData(more byte) []byte {
	k.Count++
	h := sha256.Sum256([]byte(k.rp))
	out := append(h[:], k.flags(more))
	return binary.BigEndian.AppendUint32(out, k.Count)
}

func (k *Key) client(typ, challenge string) []byte {
	b, err := json.Marshal(map[string]any{"type": typ, "challenge": challenge, "origin": k.Origin,
		"crossOrigin": false})
	k.must(err)
	return b
}

// Create responds to the options of navigator.credentials.create.
func (k *Key) Create(options []byte) []byte {
	var in struct {
		Challenge string
		RP        struct{ ID string }
		User      struct{ ID string }
	}
	k.must(json.Unmarshal(options, &in))
	k.user, k.rp = in.User.ID, in.RP.ID
	point, err := k.private.PublicKey.Bytes()
	k.must(err)
	x, y := point[1:33], point[33:]
	// COSE_Key in CBOR: {1: 2, 3: -7, -1: 1, -2: x, -3: y}
	cose := append([]byte{0xa5, 0x01, 0x02, 0x03, 0x26, 0x20, 0x01, 0x21, 0x58, 0x20}, x...)
	cose = append(append(cose, 0x22, 0x58, 0x20), y...)
	data := append(k.authData(0x40), make([]byte, 16)...) // AAGUID
	data = binary.BigEndian.AppendUint16(data, uint16(len(k.id)))
	data = append(append(data, k.id...), cose...)
	// {"fmt": "none", "attStmt": {}, "authData": …}
	att := append([]byte{0xa3}, "\x63fmt\x64none\x67attStmt\xa0\x68authData\x58"...)
	att = append(append(att, byte(len(data))), data...)
	return k.credential(map[string]any{"clientDataJSON": b64.EncodeToString(k.client("webauthn.create", in.Challenge)),
		"attestationObject": b64.EncodeToString(att), "transports": []string{"internal"}})
}

// Get responds to the options of navigator.credentials.get.
func (k *Key) Get(options []byte) []byte {
	var in struct{ Challenge string }
	k.must(json.Unmarshal(options, &in))
	data, client := k.authData(0), k.client("webauthn.get", in.Challenge)
	h := sha256.Sum256(client)
	sum := sha256.Sum256(append(data[:len(data):len(data)], h[:]...))
	sig, err := ecdsa.SignASN1(rand.Reader, k.private, sum[:])
	k.must(err)
	return k.credential(map[string]any{"clientDataJSON": b64.EncodeToString(client),
		"authenticatorData": b64.EncodeToString(data),
		"signature":         b64.EncodeToString(sig), "userHandle": k.user})
}

func (k *Key) credential(response map[string]any) []byte {
	id := b64.EncodeToString(k.id)
	b, err := json.Marshal(map[string]any{"id": id, "rawId": id, "type": "public-key",
		"clientExtensionResults": map[string]any{}, "response": response})
	k.must(err)
	return b
}
