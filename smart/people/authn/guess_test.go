package authn_test

import (
	"math/rand/v2"
	"strings"
	"testing"

	"pulsegate/fhir"
	"pulsegate/smart/people/authn"
	"pulsegate/smart/people/authn/stolen"
)

// TestGuessablePasswords checks that passwords that attackers try first are
// refused with the right rule.
func TestGuessablePasswords(t *testing.T) {
	p := authn.NewPasswords(nil)
	for rule, list := range map[string][]string{
		"characters": {"", "short", "elevenchar!",
			"\u00e4\u00f6\u00fc\u00e4\u00f6\u00fc\u00e4\u00f6\u00fc\u00e4\u00f6"},
		"few different": {"aaaaaaaaaaaaaaaa", "aabbaabbccaa", "abababababab", "000000000000", "111111222222",
			"1212121212121212", "!!!!!!!!!!!!1", "            "},
		"repeats": {"abcdeabcdeab", "monkey monkey monkey", "sunshinesunshine", "passwordpassword",
			"iloveyou iloveyou", "qwertyqwerty", "secret-secret-secret", "dragon.dragon", "sunshinesunshine1",
			"correct correct"},
		"sequence": {"123456789012", "098765432109", "234567890123", "abcdefghijkl", "lkjihgfedcba", "ABCDEFGHIJKL",
			"qwertyuiop12", "qwertyuiop[]", "qwertzuiop\u00fc+", "asdfghjkl123", "zxcvbnm12345",
			"1q2w3e4r5t6y", "1qaz2wsx3edc", "qazwsxedcrfv", "zaq12wsxcde3", "112233445566", "123123123456",
			"147258369147", "abcd1234efgh", "123456abcdef", "1-2-3-4-5-6-7-8", "12 34 56 78 90 12", "azertyuiop12",
			"poiuytrewq11", "\u0439\u0446\u0443\u043a\u0435\u043d\u0433\u0448\u0449\u0437\u0445\u044a",
			"!@#$%^&*()_+", "111222333444555", "abc123abc123abd", "a1b2c3d4e5f6", "aabbccddeeff"},
		"stolen": {"password1234", "Password1234", "PASSWORD1234!", "P@ssw0rd1234", "pa55word!2024", "1234password",
			"iloveyou1234", "ILoveYou2024!", "letmein12345", "welcome12345", "Welcome2026!!", "football2024",
			"sunshine1990",
			"administrator", "Mailcreated5240", "mailcreated5240", "drowssap1234", "trustno11111", "dragon!!!!!!2",
			"monkey!!2026!", "princess2001", "2024-football", "charlie-1234", "summer201999"},
		"your name": {"my name is Beispiel", "pulsegate is good", "P\u0075lseG\u0061te2026xyz",
			"ada.beispiel.rocks", "leipsieb forever", "4d4b31spi3l or b31sp13l", "Pu1segate houses",
			"adabeispiel plus"},
	} {
		for _, pw := range list {
			_, err := p.Set(t.Context(), pw, "ada.beispiel@clinic.example", "Ada Beispiel")
			if fhir.KindOf(err) != fhir.Invalid || !strings.Contains(err.Error(), rule) {
				t.Errorf("%q: %v, want an error with %q", pw, err, rule)
			}
		}
	}
}

// TestGoodPasswords checks that phrases and generated passwords are accepted.
func TestGoodPasswords(t *testing.T) {
	p := authn.NewPasswords(nil)
	for _, pw := range []string{"correct horse battery", "twelve chars!", "Herz auf 72 Touren",
		"velvet-orbit-canyon", "Tr0ub4dor&3xyz", "mein Hund mag Tee", "password manager drew it",
		"k\u00e4se br\u00f6tchen ohne butter",
		"\u732b\u304c\u597d\u304d\u3067\u3059\u3068\u3066\u3082\u304a\u304b\u3057\u3044"} {
		if _, err := p.Set(t.Context(), pw, "ada", "Ada Beispiel"); err != nil {
			t.Errorf("%q: %v", pw, err)
		}
	}
}

// TestGeneratedPasswords checks passwords of 12 letters and digits, as password
// managers generate them, from a fixed seed.
func TestGeneratedPasswords(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	const alphabet = "abcdefghijkmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"
	for range 400 {
		b := make([]byte, 12)
		for i := range b {
			b[i] = alphabet[r.IntN(len(alphabet))]
		}
		if err := authn.Guessable(string(b)); err != nil {
			t.Errorf("%s: %v", b, err)
		}
	}
}

func TestStolen(t *testing.T) {
	for _, w := range []string{"123456", "password", "PassWord", "dragon", "1qaz2wsx3edc", "mailcreated5240"} {
		if !stolen.Has(w) {
			t.Errorf("%s is not in the list", w)
		}
	}
	for _, w := range []string{"", "velvet-orbit-canyon", "correct horse battery", "Herz auf 72 Touren"} {
		if stolen.Has(w) {
			t.Errorf("%q is in the list", w)
		}
	}
	if !stolen.Has("velvet-orbit-canyon", "dragon") || stolen.Has() {
		t.Error("Has with several words, or none")
	}
}
