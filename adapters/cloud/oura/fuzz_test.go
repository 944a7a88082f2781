package oura

import "testing"

// FuzzPage checks list replies and documents.
func FuzzPage(f *testing.F) {
	for _, s := range []string{`{"data":[],"next_token":null}`, `{"data":[{"id":"a"}],"next_token":"t"}`,
		`{"data":null}`, `{"id":"a"}`, `{"data":[7]}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := list(b, "cursor")
		if err != nil && (p.Items != 0 || p.Next != "") || p.Next == "cursor" {
			t.Errorf("%+v, %v", p, err)
		}
		if p, err := document(b); (err == nil) != (p.Items == 1) {
			t.Errorf("%+v, %v", p, err)
		}
	})
}
