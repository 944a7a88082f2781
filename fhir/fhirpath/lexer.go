package fhirpath

import (
	"strings"
	"unicode/utf8"
)

type tokenKind uint8

const (
	tokEnd        tokenKind = iota
	tokIdentifier           // also keywords and names of units; text is decoded
	tokDelimited            // an identifier in backquotes
	tokString
	tokInteger
	tokDecimal
	tokDate
	tokDateTime
	tokTime
	tokVariable // $this, $index, $total; text is the name without $
	tokSymbol   // an operator or punctuation
)

type token struct {
	kind tokenKind
	text string
	pos  int // byte offset in the expression
}

// lexer splits an expression into tokens.
type lexer struct {
	src string
	pos int
}

// next returns the next token.
func (l *lexer) next() (token, error) {
	if err := l.skip(); err != nil {
		return token{}, err
	}
	start := l.pos
	if start == len(l.src) {
		return token{kind: tokEnd, pos: start}, nil
	}
	switch c := l.src[start]; {
	case isLetter(c):
		l.name()
		return token{tokIdentifier, l.src[start:l.pos], start}, nil
	case isDigit(c):
		return l.number(), nil
	case c == '\'':
		return l.quoted(tokString, "string")
	case c == '`':
		return l.quoted(tokDelimited, "identifier")
	case c == '"':
		return l.quoted(tokDelimited, "identifier")
	case c == '@':
		return l.dateTime()
	case c == '$':
		l.pos++
		l.name()
		return token{tokVariable, l.src[start+1 : l.pos], start}, nil
	}
	for _, s := range [...]string{"<=", ">=", "!=", "!~"} {
		if strings.HasPrefix(l.src[start:], s) {
			l.pos += 2
			return token{tokSymbol, s, start}, nil
		}
	}
	if strings.IndexByte(".,()[]{}+-*/&|<>=~%", l.src[start]) >= 0 {
		l.pos++
		return token{tokSymbol, l.src[start:l.pos], start}, nil
	}
	return token{}, errorAt(start, "unexpected character")
}

// skip skips white space and comments.
func (l *lexer) skip() error {
	for l.pos < len(l.src) {
		rest := l.src[l.pos:]
		switch {
		case rest[0] == ' ', rest[0] == '\t', rest[0] == '\r', rest[0] == '\n':
			l.pos++
		case strings.HasPrefix(rest, "//"):
			n := strings.IndexAny(rest, "\r\n")
			if n < 0 {
				n = len(rest)
			}
			l.pos += n
		case strings.HasPrefix(rest, "/*"):
			n := strings.Index(rest[2:], "*/")
			if n < 0 {
				return errorAt(l.pos, "the comment does not end")
			}
			l.pos += n + 4
		default:
			return nil
		}
	}
	return nil
}

func isLetter(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' }
func isDigit(c byte) bool  { return c >= '0' && c <= '9' }

func lower(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		c |= 0x20
	}
	return c
}

func (l *lexer) name() {
	for l.pos < len(l.src) && (isLetter(l.src[l.pos]) || isDigit(l.src[l.pos])) {
		l.pos++
	}
}

func (l *lexer) digits() int {
	start := l.pos
	for l.pos < len(l.src) && isDigit(l.src[l.pos]) {
		l.pos++
	}
	return l.pos - start
}

// number reads an integer or a decimal. A point without a digit after it is not part
// of the number: 1.toString().
func (l *lexer) number() token {
	start := l.pos
	l.digits()
	if l.pos+1 < len(l.src) && l.src[l.pos] == '.' && isDigit(l.src[l.pos+1]) {
		l.pos++
		l.digits()
		return token{tokDecimal, l.src[start:l.pos], start}
	}
	return token{tokInteger, l.src[start:l.pos], start}
}

// quoted reads a text in quotation marks with its escape sequences.
func (l *lexer) quoted(kind tokenKind, what string) (token, error) {
	start, quote := l.pos, l.src[l.pos]
	l.pos++
	var b strings.Builder
	for l.pos < len(l.src) {
		c := l.src[l.pos]
		l.pos++
		switch {
		case c == quote:
			return token{kind, b.String(), start}, nil
		case c != '\\':
			b.WriteByte(c)
		default:
			if err := l.escape(&b); err != nil {
				return token{}, err
			}
		}
	}
	return token{}, errorAt(start, "the "+what+" does not end")
}

// escape reads an escape sequence after its backslash.
func (l *lexer) escape(b *strings.Builder) error {
	start := l.pos - 1
	if l.pos == len(l.src) {
		return errorAt(start, "the escape sequence does not end")
	}
	c := l.src[l.pos]
	l.pos++
	const from, to = "\\/`'\"nrtf", "\\/`'\"\n\r\t\f"
	if i := strings.IndexByte(from, c); i >= 0 {
		b.WriteByte(to[i])
		return nil
	}
	if c != 'u' {
		return errorAt(start, "unknown escape sequence")
	}
	var r rune
	for range 4 {
		if l.pos == len(l.src) {
			return errorAt(start, "the escape sequence does not end")
		}
		d := strings.IndexByte("0123456789abcdef", lower(l.src[l.pos]))
		if d < 0 {
			return errorAt(start, "\\u needs four hexadecimal digits")
		}
		r = r<<4 | rune(d)
		l.pos++
	}
	if !utf8.ValidRune(r) {
		r = utf8.RuneError
	}
	b.WriteRune(r)
	return nil
}

// dateTime reads a literal of a date, a date and time, or a time. The text of the
// token is the literal without @ and, for a time, without T.
func (l *lexer) dateTime() (token, error) {
	start := l.pos
	l.pos++
	if l.peek() == 'T' {
		l.pos++
		if !l.clock() {
			return token{}, errorAt(start, "malformed time")
		}
		return token{tokTime, l.src[start+2 : l.pos], start}, nil
	}
	if l.digits() != 4 {
		return token{}, errorAt(start, "malformed date")
	}
	for range 2 {
		if l.peek() != '-' || l.pos+1 == len(l.src) || !isDigit(l.src[l.pos+1]) {
			break
		}
		l.pos++
		if l.digits() != 2 {
			return token{}, errorAt(start, "malformed date")
		}
	}
	if l.peek() != 'T' {
		return token{tokDate, l.src[start+1 : l.pos], start}, nil
	}
	l.pos++
	if isDigit(l.peek()) {
		if !l.clock() || !l.zone() {
			return token{}, errorAt(start, "malformed date and time")
		}
	}
	return token{tokDateTime, l.src[start+1 : l.pos], start}, nil
}

func (l *lexer) peek() byte {
	if l.pos < len(l.src) {
		return l.src[l.pos]
	}
	return 0
}

// clock reads hh, hh:mm, hh:mm:ss or hh:mm:ss.fff.
func (l *lexer) clock() bool {
	for i := 0; ; i++ {
		if l.digits() != 2 {
			return false
		}
		if i == 2 {
			break
		}
		if l.peek() != ':' {
			return true
		}
		l.pos++
	}
	if l.peek() == '.' && l.pos+1 < len(l.src) && isDigit(l.src[l.pos+1]) {
		l.pos++
		l.digits()
	}
	return true
}

// zone reads an optional offset from UTC.
func (l *lexer) zone() bool {
	switch l.peek() {
	case 'Z':
		l.pos++
	case '+', '-':
		l.pos++
		if l.digits() != 2 || l.peek() != ':' {
			return false
		}
		l.pos++
		return l.digits() == 2
	}
	return true
}
