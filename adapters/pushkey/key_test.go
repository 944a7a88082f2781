package pushkey

import (
	"bytes"
	"crypto/rand"
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"pulsegate/fhir"
)

// pattern repeats the pattern in the package comment.
var pattern = regexp.MustCompile(`^pgpush_[0-9a-hjkmnp-tv-z]{8}_[0-9a-hjkmnp-tv-z]{59}$`)

func drawKey(t *rapid.T) (id string, s secret, text string) {
	random := rapid.SliceOfN(rapid.Byte(), idBytes+secretBytes, idBytes+secretBytes).Draw(t, "random")
	id, s, err := draw(bytes.NewReader(random))
	if err != nil {
		t.Fatal(err)
	}
	return id, s, format(id, s)
}

// TestText checks that the text of a key can be read back, also as people type it.
func TestText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id, s, text := drawKey(t)
		if !pattern.MatchString(text) {
			t.Fatalf("%s does not match the pattern", text)
		}
		typed := strings.Map(func(r rune) rune {
			choice := rapid.IntRange(0, 2).Draw(t, "typed")
			switch {
			case choice == 0:
				return r
			case choice == 1 || !strings.ContainsRune("01", r):
				return []rune(strings.ToUpper(string(r)))[0]
			case r == '0':
				return 'o'
			}
			return 'l'
		}, text)
		for _, in := range []string{text, typed} {
			if gotID, gotSecret, err := parse(in); err != nil || gotID != id || gotSecret != s {
				t.Fatalf("parse(%q) returned %q, %v", in, gotID, err)
			}
		}
	})
}

// TestTypingErrors checks that one wrong, missing or additional character, and two
// transposed ones, are recognized without a lookup.
func TestTypingErrors(t *testing.T) {
	const alphabet = "0123456789abcdefghjkmnpqrstvwxyz"
	rapid.Check(t, func(t *rapid.T) {
		_, _, text := drawKey(t)
		at := rapid.IntRange(len(Prefix), len(text)-2).Draw(t, "at")
		c := rapid.SampledFrom([]byte(alphabet+"_u-! ")).Draw(t, "character")
		for name, wrong := range map[string]string{
			"substitution":  text[:at] + string(c) + text[at+1:],
			"omission":      text[:at] + text[at+1:],
			"insertion":     text[:at] + string(c) + text[at:],
			"transposition": text[:at] + text[at+1:at+2] + text[at:at+1] + text[at+2:],
		} {
			if wrong == text {
				continue
			}
			if _, _, err := parse(wrong); fhir.KindOf(err) != fhir.Unauthorized {
				t.Fatalf("%s at %d: %v", name, at, err)
			}
		}
	})
}

// TestShortRandom checks that no key is made from too few random bytes.
func TestShortRandom(t *testing.T) {
	if _, _, err := draw(bytes.NewReader(make([]byte, idBytes+secretBytes-1))); err == nil {
		t.Error("no error")
	}
}

func FuzzParse(f *testing.F) {
	id, s, err := draw(rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	text := format(id, s)
	for _, seed := range []string{text, text[:20], Prefix, "", "pgpush_" + strings.Repeat("\u017f", 40)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		id, s, err := parse(in)
		if err != nil {
			for part := range strings.SplitSeq(in, "_") {
				if len(part) > 8 && strings.Contains(err.Error(), part) {
					t.Errorf("the error quotes the input: %v", err)
				}
			}
			return
		}
		if again, secretAgain, err := parse(format(id, s)); err != nil || again != id || secretAgain != s {
			t.Errorf("%q is read differently after formatting", in)
		}
	})
}
