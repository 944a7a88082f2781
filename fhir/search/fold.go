package search

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// Fold returns the normal form of a string for comparisons (R4
// search.html#string): in lower case, without accents and punctuation, with
// special letters in their usual spelling (ß as ss, æ as ae, ø as o), and with one
// space for white space or for punctuation that separates words.
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
		if spelling := letters[r]; spelling != "" {
			b.WriteString(spelling)
			continue
		}
		b.WriteRune(foldRune(r))
	}
	return b.String()
}

// divides reports whether r separates words.
func divides(r rune) bool {
	switch r {
	case '/', '\\', ',', ';', ':', '|', '&', '+':
		return true
	}
	return unicode.IsSpace(r) || unicode.Is(unicode.Pd, r) || unicode.Is(unicode.Pc, r)
}

// letters maps letters that Unicode does not decompose to their ASCII spelling.
var letters = map[rune]string{ // read only
	'ß': "ss", 'ẞ': "ss", 'æ': "ae", 'Æ': "ae", 'œ': "oe", 'Œ': "oe", 'ø': "o", 'Ø': "o", 'đ': "d", 'Đ': "d",
	'ð': "d", 'Ð': "d",
	'þ': "th", 'Þ': "th", 'ł': "l", 'Ł': "l", 'ħ': "h", 'Ħ': "h", 'ŧ': "t", 'Ŧ': "t", 'ı': "i", 'ĸ': "k", 'ŋ': "n",
	'Ŋ': "n",
}

// foldRune returns r in lower case. The two lower-case sigmas have one form.
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

// isFolded is a fast path. It reports whether s is surely folded already.
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
