package element

import (
	"encoding/json"
	"testing"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"pgregory.net/rapid"
)

// anyString draws valid and invalid UTF-8, with the characters that JSON or
// HTML escape more often than chance would give.
func anyString() *rapid.Generator[string] {
	return rapid.OneOf(
		rapid.String(),
		rapid.StringOf(rapid.SampledFrom([]rune("a\"\\/<>&'\b\f\n\r\t\x00\x1f\x7f\u0080\u2027\u2028\u2029\u202a\uFFFD\U0001F600"))),
		rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) }),
	)
}

func TestAppendStringEqualsEncodingJSON(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := anyString().Draw(t, "s")
		want, err := jsonv2.Marshal(s, jsontext.AllowInvalidUTF8(true))
		if err != nil {
			t.Fatal(err)
		}
		if got := AppendString([]byte("x"), s); string(got) != "x"+string(want) {
			t.Errorf("AppendString(%q) = %s, want %s", s, got[1:], want)
		}
	})
}

func TestAppendHTMLSafeEqualsEncodingJSON(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := anyString().Draw(t, "s")
		want, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if got := AppendHTMLSafe([]byte("x"), s); string(got) != "x"+string(want) {
			t.Errorf("AppendHTMLSafe(%q) = %s, want %s", s, got[1:], want)
		}
	})
}

func TestCodingAppendEqualsEncodingJSON(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := Coding{anyString().Draw(t, "system"), anyString().Draw(t, "code"), anyString().Draw(t, "display")}
		want, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Append(nil, AppendHTMLSafe); string(got) != string(want) {
			t.Errorf("Append = %s, want %s", got, want)
		}
	})
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"":                     "",
		"a\tb\nc\rd":           "a\tb\nc\rd",
		"a\x00b\x1f\x7f":       "a?b??",
		"caf\u00e9 \x80\u2028": "caf\u00e9 \uFFFD\u2028",
		"\b\f\xff\xfe":         "??\uFFFD\uFFFD",
	} {
		if got := Clean(in, '?'); got != want {
			t.Errorf("Clean(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestConceptHas(t *testing.T) {
	c := CodeableConcept{Coding: []Coding{{System: LOINC, Code: "8867-4", Display: "Heart rate"}, {Code: "hr"}}}
	for _, tt := range []struct {
		system, code string
		want         bool
	}{
		{LOINC, "8867-4", true}, {"", "hr", true}, {LOINC, "hr", false}, {"", "8867-4", false},
	} {
		if got := c.Has(tt.system, tt.code); got != tt.want {
			t.Errorf("Has(%q, %q) = %t", tt.system, tt.code, got)
		}
	}
}

func BenchmarkAppendString(b *testing.B) {
	const s = "https://wearables.example.org/fhir/Observation?patient=p1&_sort=-date&page=3"
	var buf []byte
	for b.Loop() {
		buf = AppendString(buf[:0], s)
	}
}
