package dpop

import "testing"

// FuzzClientCert checks that an arbitrary header yields a certificate or nil.
func FuzzClientCert(f *testing.F) {
	for _, s := range []string{"", ":", "::", ":AAAA:", ":MIIB:", "AAAA", ": :", ":A=:"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if c := certificate([]string{s}); c != nil && len(c.Raw) == 0 {
			t.Error("a certificate of nothing")
		}
		if certificate([]string{s, s}) != nil {
			t.Error("two headers are none")
		}
	})
}
