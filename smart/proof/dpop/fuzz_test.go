package dpop

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/base64"
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jws"
)

const target = "https://as.example/oauth/token"

func FuzzVerify(f *testing.F) {
	now := time.Unix(1_800_000_000, 0)
	// The seed is fixed, because all processes of the fuzzer need the same key.
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), bytes.Repeat([]byte{7}, 32))
	if err != nil {
		f.Fatal(err)
	}
	public, err := jwk.FromRaw(&key.PublicKey)
	if err != nil {
		f.Fatal(err)
	}
	part := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	in := part(map[string]any{"typ": "dpop+jwt", "alg": "ES256", "jwk": public}) + "." +
		part(map[string]any{"jti": "a", "htm": "POST", "htu": target + "?x#y", "iat": now.Unix()})
	signer, err := jws.NewSigner(jwa.ES256)
	if err != nil {
		f.Fatal(err)
	}
	sig, err := signer.Sign([]byte(in), key)
	if err != nil {
		f.Fatal(err)
	}
	good := in + "." + base64.RawURLEncoding.EncodeToString(sig)
	verify := func(s string) (*Proof, error) {
		r := httptest.NewRequest("POST", target, nil)
		r.Header["Dpop"] = []string{s}
		return Verify(r, target, "", now, nil)
	}
	p, err := verify(good)
	if err != nil || p.JKT == "" || p.jti != "a" {
		f.Fatal(p, err)
	}
	for _, s := range []string{good, "", "..", in + ".", strings.Repeat("a", 9000), `{}`, good + "=",
		part(map[string]any{"typ": "dpop+jwt", "jwk": nil}) + ".e30.e30"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := verify(s)
		if err == nil && (got.JKT != p.JKT || got.jti != "a") {
			t.Fatalf("accepted %q", s) // only this proof was signed with the key
		}
	})
}

func TestSameURL(t *testing.T) {
	for in, want := range map[string]bool{
		target: true, target + "?a=b": true, target + "#x": true, "HTTPS://AS.example/oauth/token": true,
		"https://as.example:443/oauth/token": true,
		"http://as.example/oauth/token":      false, "https://as.example:444/oauth/token": false,
		"https://as.example/oauth/TOKEN":  false,
		"https://as.example/oauth/token/": false, "https://u@as.example/oauth/token": false, "/oauth/token": false,
		"": false, "https://as.example/oauth/x/../token": false,
	} {
		if sameURL(in, target) != want {
			t.Errorf("%s: %v", in, !want)
		}
	}
}
