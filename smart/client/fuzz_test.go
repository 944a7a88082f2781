package client

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/lestrrat-go/jwx/v2/jwk"
)

func FuzzParseSet(f *testing.F) {
	seed := func(parsed crypto.Signer, private bool) string {
		raw := any(parsed.Public())
		if private {
			raw = parsed
		}
		j, err := jwk.FromRaw(raw)
		if err != nil {
			f.Fatal(err)
		}
		b, err := json.Marshal(j)
		if err != nil {
			f.Fatal(err)
		}
		return strings.Replace(string(b), "{", `{"kid":"k",`, 1)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	rs, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		f.Fatal(err)
	}
	good, goodRSA, private := seed(ec, false), seed(rs, false), seed(ec, true)
	set := func(keys ...string) []byte { return fmt.Appendf(nil, `{"keys":[%s]}`, strings.Join(keys, ",")) }
	for _, s := range [][]byte{set(good), set(goodRSA), set(good, goodRSA, good), set(private),
		set(seed(p256, false)), set(), nil,
		set(`{"kty":"oct","k":"AAAA","kid":"k"}`), set(`{"kty":"EC","crv":"P-384","x":"AA","y":"AA","kid":"k"}`),
		set(`{"kty":"RSA","n":"AQ","e":"AQ","kid":"k"}`),
		set(`{"kty":"RSA","n":"","e":"","kid":"k"}`), set(`null`), set(`[]`), []byte(`{"keys":{}}`), []byte(`[]`),
		set(strings.Replace(good, `"kid":"k",`, "", 1))} {
		f.Add(s)
	}
	if keys, err := parseSet(set(good, goodRSA)); err != nil || len(keys) != 2 {
		f.Fatal(keys, err)
	}
	if _, err := parseSet(set(good, private)); err == nil {
		f.Fatal("a private key was accepted")
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		keys, err := parseSet(b)
		if err != nil {
			if keys != nil {
				t.Fatal("keys beside an error")
			}
			return
		}
		if len(b) > maxSet || len(keys) == 0 || len(keys) > maxKeys {
			t.Fatalf("%d keys of %d bytes", len(keys), len(b))
		}
		for _, parsed := range keys {
			switch p := parsed.public.(type) {
			case *rsa.PublicKey:
				if parsed.algs[0] != "RS384" || p.N.BitLen() < 2048 || p.N.BitLen() > 8192 || p.E < 3 || p.E%2 == 0 {
					t.Fatal("a weak RSA key")
				}
			case *ecdsa.PublicKey:
				if _, err := p.ECDH(); parsed.algs[0] != "ES384" || p.Curve != elliptic.P384() || err != nil {
					t.Fatal("a key that is not on P-384")
				}
			default:
				t.Fatalf("a key of another kind: %T", p)
			}
			if parsed.kid == "" {
				t.Fatal("a key without a name")
			}
		}
	})
}
