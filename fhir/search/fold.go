package search

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// Fold returns the normal form in which strings are compared: lower case,
// accents removed, ligatures and letters with strokes as the letters they are
// written with where there are none (ß as ss, æ as ae, ø as o), punctuation
// removed, and one blank for white space or for punctuation that divides words
// (R4 search.html#string).
func Fold(s string) string {
	if isFolded(s) {
		return s
	}
	var b strings.Builder
	b.Grow(len(s))
	src := s
	if !ascii(s) {
		src = norm.NFKD.String(s)
	}
	blank := false
	for _, r := range src {
		switch {
		case unicode.Is(unicode.Mn, r):
			continue
		case divides(r):
			blank = b.Len() > 0
			continue
		case unicode.IsPunct(r):
			continue
		}
		if blank {
			b.WriteByte(' ')
			blank = false
		}
		if two := letters[r]; two != "" {
			b.WriteString(two)
			continue
		}
		b.WriteRune(foldRune(r))
	}
	return b.String()
}

// divides reports whether r stands between words.
func divides(r rune) bool {
	switch r {
	case '/', '\\', ',', ';', ':', '|', '&', '+':
		return true
	}
	return unicode.IsSpace(r) || unicode.Is(unicode.Pd, r) || unicode.Is(unicode.Pc, r)
}

// letters maps the letters that Unicode does not decompose to their spelling
// in plain letters.
var letters = map[rune]string{ // read only
	'ß': "ss", 'ẞ': "ss", 'æ': "ae", 'Æ': "ae", 'œ': "oe", 'Œ': "oe", 'ø': "o", 'Ø': "o", 'đ': "d", 'Đ': "d",
	'ð': "d", 'Ð': "d",
	'þ': "th", 'Þ': "th", 'ł': "l", 'Ł': "l", 'ħ': "h", 'Ħ': "h", 'ŧ': "t", 'Ŧ': "t", 'ı': "i", 'ĸ': "k", 'ŋ': "n",
	'Ŋ': "n",
}

// foldRune lowers r; letters whose case mapping is not one to one go to the
// form that both cases share.
func foldRune(r rune) rune {
	r = unicode.ToLower(r)
	if r == 'ς' {
		return 'σ'
	}
	return r
}

func ascii(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// isFolded is the cheap answer for the common case.
func isFolded(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c != ' ' && (c < '0' || c > '9') && (c < 'a' || c > 'z') {
			return false
		}
		if c == ' ' && (i == 0 || i == len(s)-1 || s[i-1] == ' ') {
			return false
		}
	}
	return true
}
