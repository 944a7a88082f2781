package authn

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"pulsegate/fhir"
	"pulsegate/smart/people/authn/stolen"
)

// Rules for a new password (ASVS 5.0 6.2, NIST SP 800-63B-4 3.1.1): it must be
// long enough, must not be a stolen password or a variation of one, and must
// not consist of sequences, repetitions or the names of its owner. There are no
// rules about character classes.

const (
	// minEffort is the minimum effort of a password: its length if each
	// sequence and each repetition counts as one character.
	minEffort = 8
	// minDistinct is the minimum number of distinct characters.
	minDistinct = 5
	// minWord is the minimum length of a name's part that must not occur in a
	// password.
	minWord = 4
	// minRun is the minimum length of a sequence.
	minRun = 3
)

// lines lists sequences that people type: rows, columns and diagonals of
// keyboards (QWERTY, QWERTZ, AZERTY, Cyrillic), the number pad, the alphabet
// and the digits. They match in both directions.
var lines = []string{
	"abcdefghijklmnopqrstuvwxyz", "01234567890",
	"qwertyuiop[]", "asdfghjkl;'", "zxcvbnm,./", "qwertzuiopü+", "asdfghjklöä#", "yxcvbnm,.-", "azertyuiop",
	"qsdfghjklm", "wxcvbn",
	"йцукенгшщзхъ", "фывапролджэ", "ячсмитьбю", "!@#$%^&*()_+", "!\"§$%&/()=?", "1234567890-=",
	"1qaz", "2wsx", "3edc", "4rfv", "5tgb", "6yhn", "7ujm", "8ik,", "9ol.", "0p;/", "1qay", "2wsx", "6zhn", "!qaz",
	"@wsx", "#edc", "$rfv",
	"zse4", "xdr5", "cft6", "vgy7", "bhu8", "nji9", "mko0",
	"147", "258", "369", "789", "456", "159", "357", "2580", "13579", "24680",
}

var runs = func() map[string]bool {
	out := map[string]bool{}
	for _, l := range lines {
		r := []rune(l)
		for i := 0; i+minRun <= len(r); i++ {
			out[string(r[i:i+minRun])] = true
			out[string([]rune{r[i+2], r[i+1], r[i]})] = true
		}
	}
	return out
}()

// leetL and leet replace digits and symbols by the letters that they stand for.
// A 1 is an l in leetL and an i in leet.
var leetL = strings.NewReplacer("1", "l", "0", "o", "3", "e", "4", "a", "5", "s", "7", "t", "@", "a", "$", "s")
var leet = strings.NewReplacer("0", "o", "1", "i", "3", "e", "4", "a", "5", "s", "7", "t", "8", "b", "9", "g", "@",
	"a", "$", "s", "!", "i", "+", "t", "€", "e")

// guessable returns an error that names the rule that a new password breaks.
// words are the names and addresses of its owner.
func guessable(password string, words []string) error {
	const op = "authn.Set"
	bad := func(rule string) error { return fhir.Errorf(fhir.Invalid, op, "password: %s", rule) }
	if n := utf8.RuneCountInString(password); n < minPassword || !utf8.ValidString(password) {
		return fhir.Errorf(fhir.Invalid, op, "password: it must have at least %d characters", minPassword)
	}
	if len(password) > maxPassword {
		return fhir.Errorf(fhir.Invalid, op, "password: it must not be longer than %d bytes", maxPassword)
	}
	lower := strings.ToLower(norm.NFKC.String(password))
	plain := strings.Map(solid, lower)
	if named(lower, plain, words) {
		return bad("it must not contain your name, your login or the name of this server")
	}
	if len(distinct(lower)) < minDistinct {
		return bad("it has too few different characters; use several words")
	}
	if repeated(lower) || repeated(plain) || repeated(strings.TrimRightFunc(plain, notLetter)) {
		return bad("it repeats one pattern; use several different words")
	}
	if effort(lower) < minEffort || effort(plain) < minEffort {
		return bad("it is a sequence of letters, digits or adjacent keys; use several words")
	}
	if stolen.Has(variants(lower, plain)...) {
		return bad("it is one of the most frequently stolen passwords, or close to one; choose another one")
	}
	return nil
}

// solid drops separators.
func solid(r rune) rune {
	if unicode.IsSpace(r) || strings.ContainsRune("-_.,;:/\\|", r) {
		return -1
	}
	return r
}

func notLetter(r rune) bool { return !unicode.IsLetter(r) }

func distinct(s string) map[rune]bool {
	out := map[rune]bool{}
	for _, r := range s {
		out[r] = true
	}
	return out
}

// named reports whether a password contains a part of a name, also reversed or
// with digits for letters.
func named(lower, plain string, words []string) bool {
	for _, w := range append([]string{"pulsegate"}, words...) {
		w = strings.ToLower(norm.NFKC.String(w))
		parts := append(strings.FieldsFunc(w,
			func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) }), strings.Map(solid, w), w)
		for _, p := range parts {
			if utf8.RuneCountInString(p) < minWord {
				continue
			}
			for _, in := range []string{lower, plain, leet.Replace(lower), leet.Replace(plain), leetL.Replace(plain)} {
				if strings.Contains(in, p) || strings.Contains(in, backwards(p)) {
					return true
				}
			}
		}
	}
	return false
}

func backwards(s string) string {
	r := []rune(s)
	for i, j := 0, len(r)-1; i < j; i, j = i+1, j-1 {
		r[i], r[j] = r[j], r[i]
	}
	return string(r)
}

// repeated reports whether s repeats one block; the last repetition may be
// incomplete.
func repeated(s string) bool {
	r := []rune(s)
	for n := 1; n <= len(r)/2; n++ {
		same := true
		for i := n; i < len(r) && same; i++ {
			same = r[i] == r[i-n]
		}
		if same {
			return true
		}
	}
	return false
}

// effort returns the number of characters of s, counting a sequence or a
// repeated character as one. It is the minimum over all characters, over every
// second one (1q2w3e4r), and over runs of equal characters taken once (112233).
func effort(s string) int {
	r := []rune(s)
	var even, odd, once []rune
	for i, c := range r {
		if i%2 == 0 {
			even = append(even, c)
		} else {
			odd = append(odd, c)
		}
		if i == 0 || c != r[i-1] {
			once = append(once, c)
		}
	}
	return min(stretch(r), stretch(even)+stretch(odd), stretch(once))
}

func stretch(r []rune) int {
	n := 0
	for i := 0; i < len(r); n++ {
		run := i
		for run+minRun <= len(r) && runs[string(r[run:run+minRun])] {
			run++
		}
		same := i + 1
		for same < len(r) && r[same] == r[i] {
			same++
		}
		switch {
		case run > i:
			i = run + minRun - 1
		case same-i >= minRun:
			i = same
		default:
			i++
		}
	}
	return n
}

// variants returns the words that a password may be derived from: the password
// itself, without separators, with letters for digits, reversed, and without
// short additions before and after it.
func variants(lower, plain string) []string {
	var out []string
	for _, s := range []string{lower, plain} {
		core := strings.TrimFunc(s, notLetter)
		out = append(out, s, leet.Replace(s))
		if around := strings.Replace(s, core, "", 1); utf8.RuneCountInString(core) >= minWord &&
			effort(around) < minEffort {
			out = append(out, core, leet.Replace(core))
		}
		// In P@ssw0rd1234 the addition consists of digits, not of leet letters.
		word := strings.TrimRightFunc(s, unicode.IsDigit)
		word = strings.TrimRightFunc(word, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) })
		if around := s[len(word):]; utf8.RuneCountInString(word) >= minWord && effort(around) < minEffort {
			out = append(out, word, leet.Replace(word))
		}
	}
	for _, s := range out {
		out = append(out, backwards(s))
	}
	return out
}
