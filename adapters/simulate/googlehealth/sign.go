package googlehealth

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"math/big"
	"net/http"
	"sync"
	"time"

	"pulsegate/adapters/simulate"
)

// keysetPath is the path of the public keys on www.gstatic.com.
const keysetPath = "/googlehealthapi/webhooks/webhooks_public_keyset.json"

// signingKey is a key of the webhook service.
type signingKey struct {
	id      uint32
	private *ecdsa.PrivateKey
	status  string
}

// keyring holds the signing keys. It is safe for concurrent use.
type keyring struct {
	mu   sync.Mutex
	seed simulate.Key
	keys []signingKey // the last one signs; guarded by mu
	born time.Time    // simulated time at which the last one was made; guarded by mu
}

// keyLife is the time after which the service rotates its key.
const keyLife = 30 * 24 * time.Hour

// init makes the first key.
func (k *keyring) init(seed simulate.Key, now time.Time) {
	k.seed = seed.Named("signing key")
	k.rotate(now)
}

// age rotates the key if it is old.
func (k *keyring) age(now time.Time) {
	k.mu.Lock()
	old := now.Sub(k.born) >= keyLife
	k.mu.Unlock()
	if old {
		k.rotate(now)
	}
}

// rotate makes a new key the signing key. The one before stays valid; older ones are
// removed.
func (k *keyring) rotate(now time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.born = now
	n := 0
	if len(k.keys) > 0 {
		n = int(k.keys[len(k.keys)-1].id & 0xff)
	}
	seed := k.seed.With(n)
	// A private key is a number below the order of the curve. The keys protect invented
	// data only, so that they may depend on the seed.
	d := new(big.Int).SetBytes([]byte(seed.Hex(62)))
	d.Mod(d, new(big.Int).Sub(elliptic.P256().Params().N, big.NewInt(1))).Add(d, big.NewInt(1))
	private, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), d.FillBytes(make([]byte, 32)))
	if err != nil { // d is in range
		panic("googlehealth: " + err.Error())
	}
	k.keys = append(k.keys, signingKey{id: uint32(seed)&0x7fffff00 | uint32(n+1)&0xff, private: private,
		status: "ENABLED"})
	if len(k.keys) > 2 {
		k.keys = k.keys[len(k.keys)-2:]
	}
}

// sign returns the Tink signature of a body: the output prefix 1 and the key id, followed
// by the signature in DER.
func (k *keyring) sign(body []byte) string {
	k.mu.Lock()
	key := k.keys[len(k.keys)-1]
	k.mu.Unlock()
	sum := sha256.Sum256(body)
	der, err := ecdsa.SignASN1(rand.Reader, key.private, sum[:])
	if err != nil { // crypto/rand does not fail
		panic("googlehealth: " + err.Error())
	}
	out := binary.BigEndian.AppendUint32([]byte{1}, key.id)
	return base64.StdEncoding.EncodeToString(append(out, der...))
}

// RotateKey changes the key that signs webhooks. Deliver does so every 30 days.
func (s *Server) RotateKey() { s.keys.rotate(s.Now()) }

// keyset serves the public keys as a Tink keyset.
func (s *Server) keyset(w http.ResponseWriter, _ *http.Request) {
	s.keys.mu.Lock()
	defer s.keys.mu.Unlock()
	var keys []any
	for _, key := range s.keys.keys {
		keys = append(keys, object{
			"keyData": object{
				"typeUrl":         "type.googleapis.com/google.crypto.tink.EcdsaPublicKey",
				"keyMaterialType": "ASYMMETRIC_PUBLIC",
				"value":           base64.StdEncoding.EncodeToString(publicKeyProto(&key.private.PublicKey)),
			},
			"status": key.status, "keyId": key.id, "outputPrefixType": "TINK",
		})
	}
	send(w, http.StatusOK, object{"primaryKeyId": s.keys.keys[len(s.keys.keys)-1].id, "key": keys})
}

// publicKeyProto encodes an EcdsaPublicKey of Tink: params {hash SHA256, curve NIST_P256,
// encoding DER}, and the coordinates with a leading zero byte.
func publicKeyProto(key *ecdsa.PublicKey) []byte {
	point, err := key.Bytes() // 4, x, y
	if err != nil {           // the curve is P-256
		panic("googlehealth: " + err.Error())
	}
	out := []byte{0x12, 6, 8, 3, 0x10, 2, 0x18, 2}
	for i, tag := range []byte{0x1a, 0x22} {
		out = append(out, tag, 33, 0)
		out = append(out, point[1+32*i:33+32*i]...)
	}
	return out
}
