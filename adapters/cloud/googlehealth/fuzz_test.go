package googlehealth

import (
	"crypto/elliptic"
	"os"
	"testing"
)

// FuzzKeys checks that a keyset holds only keys on the curve.
func FuzzKeys(f *testing.F) {
	good, err := os.ReadFile("testdata/keyset.json")
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range []string{string(good), "{}", "[]", `{"key":[{"keyId":-1}]}`,
		`{"key":[{"keyData":{"value":"EgA="}}]}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		keys, err := parseKeys(b)
		if err == nil && len(keys) == 0 {
			t.Error("no key and no error")
		}
		for id, k := range keys {
			if _, err := k.ECDH(); err != nil || k.Curve != elliptic.P256() {
				t.Errorf("key %d: %v", id, err)
			}
		}
	})
}

// FuzzKey checks that reading the bytes of one key does not fail otherwise than with an
// error.
func FuzzKey(f *testing.F) {
	f.Add([]byte("\x12\x06\x08\x03\x10\x02\x18\x02\x1a\x01\x01\x22\x01\x01"))
	f.Add([]byte("\x1a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if k, err := parseKey(b); err == nil {
			if _, err := k.ECDH(); err != nil {
				t.Error(err)
			}
		}
	})
}

// FuzzPage checks pages of all kinds.
func FuzzPage(f *testing.F) {
	for _, s := range []string{`{}`, `{"dataPoints":[{}],"nextPageToken":"t"}`, `{"name":"x"}`, `{"dataPoints":[7]}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for i := range types {
			p, err := page(&types[i], b, "cursor")
			if err != nil && (p.Items != 0 || p.Next != "") || p.Next == "cursor" {
				t.Errorf("%s: %+v, %v", types[i].name, p, err)
			}
		}
	})
}
