package authn_test

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"pulsegate/fhir"
	"pulsegate/smart/people/authn"
)

// TestRFC6238 checks the SHA-1 vectors of RFC 6238 appendix B, with the last
// six digits.
func TestRFC6238(t *testing.T) {
	secret := []byte("12345678901234567890")
	for at, want := range map[int64]string{59: "287082", 1111111109: "081804", 1111111111: "050471",
		1234567890: "005924", 2000000000: "279037", 20000000000: "353130"} {
		if got := authn.Code(secret, time.Unix(at, 0)); got != want {
			t.Errorf("%d: %s, want %s", at, got, want)
		}
	}
}

// TestTOTPOnce checks that a code is accepted once within one step of now, and
// that a used step and earlier steps are refused.
func TestTOTPOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		secret := rapid.SliceOfN(rapid.Byte(), 20, 20).Draw(t, "secret")
		now := time.Unix(rapid.Int64Range(1e9, 4e9).Draw(t, "now"), 0)
		off := rapid.Int64Range(-4, 4).Draw(t, "offset")
		used := rapid.Int64Range(-4, 4).Draw(t, "used")
		step := now.Unix() / 30
		code := authn.Code(secret, time.Unix((step+off)*30, 0))
		got, ok := authn.MatchTOTP(secret, code[:3]+" "+code[3:], now, step+used)
		near := off >= -1 && off <= 1
		if ok != (near && off > used) && !collides(secret, code, step, used) {
			t.Fatalf("accepted: %v", ok)
		}
		if ok {
			if _, again := authn.MatchTOTP(secret, code, now, got); again && !collides(secret, code, step, got-step) {
				t.Fatal("accepted twice")
			}
		}
	})
}

// collides reports whether another valid step has the same code, which happens
// for one code in a million.
func collides(secret []byte, code string, step, used int64) bool {
	n := 0
	for s := step - 1; s <= step+1; s++ {
		if s > step+used && authn.Code(secret, time.Unix(s*30, 0)) == code {
			n++
		}
	}
	return n > 0
}

func TestRecovery(t *testing.T) {
	codes, hashes := authn.NewRecovery()
	for i, c := range codes {
		if got := authn.MatchRecovery(hashes, strings.ToUpper(strings.ReplaceAll(c, "-", " "))); got != i {
			t.Errorf("code %d has index %d", i, got)
		}
		if strings.Contains(strings.Join(hashes, " "), strings.ReplaceAll(c, "-", "")) {
			t.Error("a code is stored in clear text")
		}
	}
	for _, bad := range []string{"", "------", codes[0][:18], codes[0] + "a"} {
		if authn.MatchRecovery(hashes, bad) >= 0 {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestPasswords(t *testing.T) {
	ctx := context.Background()
	sum := sha1.Sum([]byte("password123456"))
	list, err := authn.ReadBreached(strings.NewReader(strings.ToUpper(hex.EncodeToString(sum[:]))[:16] +
		":42\n0000000000000000:1\n"))
	if err != nil {
		t.Fatal(err)
	}
	p := authn.NewPasswords(list)
	for _, bad := range []string{"", "short", "eleven char", "password123456", "aaaaaaaaaaaaaaaa",
		"my name is Beispiel", "pulsegate pulsegate", strings.Repeat("x y", 100), "twelve chars\xff"} {
		if _, err := p.Set(ctx, bad, "ada", "Beispiel"); fhir.KindOf(err) != fhir.Invalid || err == nil {
			t.Errorf("%q: %v", bad, err)
		}
	}
	stored, err := p.Set(ctx, "korrektes Pferd Ä", "ada", "Beispiel")
	if err != nil || !strings.HasPrefix(stored, "$argon2id$v=19$m=19456,t=2,p=1$") {
		t.Fatalf("%s %v", stored, err)
	}
	other, err := p.Set(ctx, "korrektes Pferd Ä")
	if err != nil || other == stored {
		t.Error("two hashes of the same password are equal")
	}
	for pw, want := range map[string]bool{"korrektes Pferd Ä": true, "korrektes Pferd A\u0308": true,
		"korrektes Pferd A": false, "": false} {
		if got, err := p.Match(ctx, stored, pw); err != nil || got != want {
			t.Errorf("%q: %v %v", pw, got, err)
		}
	}
	// A user without a password matches no input.
	for _, pw := range []string{"", "korrektes Pferd Ä"} {
		if got, err := p.Match(ctx, "", pw); err != nil || got {
			t.Errorf("a missing password matches %q", pw)
		}
	}
}

func TestReadBreached(t *testing.T) {
	for _, bad := range []string{"abc", "zzzzzzzzzzzz", "00000000000\n000000000000", strings.Repeat("0", 41)} {
		if _, err := authn.ReadBreached(strings.NewReader(bad)); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
	empty, err := authn.ReadBreached(strings.NewReader("\n"))
	if err != nil {
		t.Fatal(err)
	}
	if bad, err := empty.Breached(context.Background(), strings.Repeat("0", 40)); bad || err != nil {
		t.Error("an empty list contains a password")
	}
}

func FuzzReadBreached(f *testing.F) {
	f.Add("0123456789abcdef:12\n")
	f.Add("\n\n")
	f.Fuzz(func(t *testing.T, s string) {
		l, err := authn.ReadBreached(strings.NewReader(s))
		if err == nil {
			if _, err := l.Breached(context.Background(), strings.Repeat("a", 40)); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestVault(t *testing.T) {
	dir := t.TempDir()
	v, err := authn.OpenVault(dir, true)
	if err != nil {
		t.Fatal(err)
	}
	sealed := v.Seal("totp ada", []byte("secret"))
	again, err := authn.OpenVault(dir, false)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := again.Open("totp ada", sealed); err != nil || string(got) != "secret" {
		t.Errorf("%q %v", got, err)
	}
	if _, err := again.Open("totp ben", sealed); err == nil {
		t.Error("opened with another purpose")
	}
	sealed[len(sealed)-1] ^= 1
	if _, err := again.Open("totp ada", sealed); fhir.KindOf(err) != fhir.Unauthorized {
		t.Errorf("changed: %v", err)
	}
	if err := os.Chmod(filepath.Join(dir, "keys", "seal.key"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := authn.OpenVault(dir, false); err == nil {
		t.Error("a key that other users may read was accepted")
	}
}

// TestLostSealKey checks that a missing key is not replaced silently, because
// the sealed values could never be opened again.
func TestLostSealKey(t *testing.T) {
	dir := t.TempDir()
	if _, err := authn.OpenVault(dir, false); fhir.KindOf(err) != fhir.Conflict ||
		!strings.Contains(err.Error(), "pulsegate recover seal-key") {
		t.Errorf("a missing key: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "keys", "seal.key")); err == nil {
		t.Error("OpenVault failed but created a key")
	}
	if _, err := authn.OpenVault(dir, true); err != nil {
		t.Error(err)
	}
}

func TestPasskeysNeedHostName(t *testing.T) {
	for base, want := range map[string]bool{"https://pulse.example": true, "http://localhost:8080": true,
		"http://127.0.0.1:8080": false, "https://[::1]:8443": false, "http://pulse.example": false} {
		if p, err := authn.NewPasskeys(base, time.Now); err != nil || (p != nil) != want {
			t.Errorf("%s: %v %v", base, p != nil, err)
		}
	}
}
