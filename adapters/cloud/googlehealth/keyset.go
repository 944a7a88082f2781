package googlehealth

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"math/big"
	"net/http"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"pulsegate/adapters/cloud"
)

const (
	keysLife   = day         // keys are fetched again after this time
	keysPause  = time.Minute // between two attempts to fetch keys
	keysWithin = 10 * time.Second
	maxKeys    = 100
)

// keyset caches Google's public keys, which change about every 30 days. It is safe for
// concurrent use.
type keyset struct {
	http  *http.Client
	url   string
	clock func() time.Time

	fetching sync.Mutex // held while keys are fetched; protects tried and failed
	tried    time.Time
	failed   error

	mu      sync.Mutex // protects the fields below
	keys    map[uint32]*ecdsa.PublicKey
	fetched time.Time
}

func (k *keyset) look(id uint32) (key *ecdsa.PublicKey, fresh bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.keys[id], k.clock().Sub(k.fetched) < keysLife
}

// find returns a key, or nil if Google does not publish it. If keys cannot be fetched,
// those that are known stay valid.
func (k *keyset) find(ctx context.Context, id uint32) (*ecdsa.PublicKey, error) {
	if key, fresh := k.look(id); key != nil && fresh {
		return key, nil
	}
	k.fetching.Lock()
	defer k.fetching.Unlock()
	key, fresh := k.look(id)
	if key != nil && fresh {
		return key, nil
	}
	if now := k.clock(); k.tried.IsZero() || now.Sub(k.tried) >= keysPause {
		k.tried = now
		k.failed = k.fetch(ctx)
		key, _ = k.look(id)
	}
	if key != nil {
		return key, nil
	}
	return nil, k.failed
}

// fetch replaces the keys. It goes on if the request that needs them is canceled,
// because other requests wait for them.
func (k *keyset) fetch(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), keysWithin)
	defer cancel()
	rq, err := http.NewRequestWithContext(ctx, http.MethodGet, k.url, nil)
	if err != nil {
		return &cloud.Error{Problem: cloud.Rejected, Err: err}
	}
	body, _, err := cloud.Do(k.http, rq, k.clock(), nil)
	if err != nil {
		return err
	}
	keys, err := parseKeys(body)
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.keys, k.fetched = keys, k.clock()
	return nil
}

// parseKeys reads a Tink keyset in JSON. Keys of other kinds are left out.
func parseKeys(body []byte) (map[uint32]*ecdsa.PublicKey, error) {
	var set struct {
		Key []struct {
			KeyID      uint32 `json:"keyId"`
			Status     string `json:"status"`
			PrefixType string `json:"outputPrefixType"`
			Data       struct {
				TypeURL string `json:"typeUrl"`
				Value   []byte `json:"value"`
			} `json:"keyData"`
		} `json:"key"`
	}
	if json.Unmarshal(body, &set) != nil || len(set.Key) > maxKeys {
		return nil, cloud.Malformed()
	}
	out := map[uint32]*ecdsa.PublicKey{}
	for _, k := range set.Key {
		if k.Status != "ENABLED" || k.PrefixType != "TINK" ||
			k.Data.TypeURL != "type.googleapis.com/google.crypto.tink.EcdsaPublicKey" {
			continue
		}
		if key, err := parseKey(k.Data.Value); err == nil {
			out[k.KeyID] = key
		}
	}
	if len(out) == 0 {
		return nil, cloud.Malformed()
	}
	return out, nil
}

var errKey = errors.New("not an EcdsaPublicKey for P-256 and SHA-256 with DER")

// parseKey reads Tink's EcdsaPublicKey: 2 params, 3 x, 4 y. Of the params, 1 is the hash
// (3: SHA256), 2 the curve (2: NIST_P256), 3 the encoding (2: DER).
func parseKey(b []byte) (*ecdsa.PublicKey, error) {
	var params, x, y []byte
	err := fields(b, func(num protowire.Number, v []byte, _ uint64) {
		switch num {
		case 2:
			params = v
		case 3:
			x = v
		case 4:
			y = v
		}
	})
	if err != nil {
		return nil, err
	}
	have := map[protowire.Number]uint64{}
	if err := fields(params, func(num protowire.Number, _ []byte, n uint64) { have[num] = n }); err != nil {
		return nil, err
	}
	if have[1] != 3 || have[2] != 2 || have[3] != 2 {
		return nil, errKey
	}
	raw := make([]byte, 65)
	raw[0] = 4
	for i, c := range [][]byte{x, y} {
		n := new(big.Int).SetBytes(c) // may have a leading zero, or lack one
		if len(c) > 33 || n.BitLen() > 256 {
			return nil, errKey
		}
		n.FillBytes(raw[1+32*i : 33+32*i])
	}
	return ecdsa.ParseUncompressedPublicKey(elliptic.P256(), raw)
}

// fields calls f for each field of a message with its bytes or its number.
func fields(b []byte, f func(num protowire.Number, v []byte, n uint64)) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return errKey
		}
		b = b[n:]
		switch typ {
		case protowire.BytesType:
			v, size := protowire.ConsumeBytes(b)
			if n = size; n >= 0 {
				f(num, v, 0)
			}
		case protowire.VarintType:
			v, size := protowire.ConsumeVarint(b)
			if n = size; n >= 0 {
				f(num, nil, v)
			}
		default:
			n = protowire.ConsumeFieldValue(num, typ, b)
		}
		if n < 0 {
			return errKey
		}
		b = b[n:]
	}
	return nil
}

// verify checks a signature in Tink's form: 0x01, the id of the key, and an ECDSA
// signature in DER. It returns the part of the signature that identifies it.
func (k *keyset) verify(ctx context.Context, header string, body []byte) (r []byte, err error) {
	const maxSignature = 256
	bad := &cloud.Error{Problem: cloud.Unauthorized, Reason: "signature"}
	if len(header) > maxSignature {
		return nil, bad
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(header)
	if err != nil || len(raw) < 6 || raw[0] != 1 {
		return nil, bad
	}
	key, err := k.find(ctx, binary.BigEndian.Uint32(raw[1:5]))
	if err != nil {
		return nil, err
	}
	if key == nil {
		return nil, &cloud.Error{Problem: cloud.Unauthorized, Reason: "unknown-key"}
	}
	sum := sha256.Sum256(body)
	if !ecdsa.VerifyASN1(key, sum[:], raw[5:]) {
		return nil, bad
	}
	// Of (r, s) and the equally valid (r, -s), an attacker can make one from the other.
	var sig struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(raw[5:], &sig); err != nil {
		return nil, bad
	}
	return sig.R.Bytes(), nil
}
