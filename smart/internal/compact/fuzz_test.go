package compact

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

func FuzzParse(f *testing.F) {
	enc := base64.RawURLEncoding.EncodeToString
	private, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	good, err := Sign("ES384", "JWT", "k", map[string]any{"iss": "c", "aud": []string{"a", "b"}, "exp": 1800000000},
		private)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	for _, header := range []string{`{"alg":"ES384","kid":"k"}`, `{"alg":"none"}`, `{"alg":"ES384","alg":"none"}`,
		`{"jwk":{}}`, `{"x5u":null}`, `{"crit":["exp"]}`, `[]`, `{`} {
		for _, claims := range []string{`{"iss":"c","sub":"c","aud":"x","exp":1}`, `{"exp":1e300}`, `{"exp":-1}`,
			`{"exp":"1"}`, `{"aud":[1]}`, `{"aud":{}}`, `null`, "\xff"} {
			f.Add(enc([]byte(header)) + "." + enc([]byte(claims)) + ".e30")
		}
	}
	for _, s := range []string{"", ".", "..", "...", "e30.e30.", "e30=.e30.x", "{}.{}.{}",
		strings.Repeat("A", MaxToken+1)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, token string) {
		h, c, err := Parse(token)
		h2, c2, err2 := Parse(token)
		if (err == nil) != (err2 == nil) || !reflect.DeepEqual(h, h2) || !reflect.DeepEqual(c, c2) {
			t.Fatal("not the same twice")
		}
		if err != nil {
			if err != ErrMalformed {
				t.Fatal("the error says more than it may")
			}
			return
		}
		parts := strings.Split(token, ".")
		if len(token) > MaxToken || len(parts) != 3 || parts[2] == "" {
			t.Fatal("accepted what is no compact JWS")
		}
		header, err := base64.RawURLEncoding.Strict().DecodeString(parts[0])
		var members map[string]json.RawMessage
		if err != nil || json.Unmarshal(header, &members) != nil {
			t.Fatal("accepted a header that is no JSON")
		}
		for _, m := range []string{"jwk", "x5u", "x5c", "crit", "b64"} {
			if _, ok := members[m]; ok {
				t.Fatal("accepted a token that names its own keys or rules")
			}
		}
		for _, at := range []*float64{c.Exp, c.Iat, c.Nbf} {
			if at != nil && !(*at >= 0 && *at <= 1<<40) {
				t.Fatal("accepted a time that is none")
			}
		}
		if !strings.HasPrefix(good, parts[0]+"."+parts[1]+".") && Verify(token, "ES384", &private.PublicKey) {
			t.Fatal("verified what was not signed")
		}
	})
}
