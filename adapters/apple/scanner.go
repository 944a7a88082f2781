package apple

import (
	"bytes"
	"errors"
	"io"
	"strconv"
	"unicode/utf8"
)

// Limits of one document: a tag, a text or a DTD of Apple's is a few
// kilobytes, nesting is five.
const (
	maxToken = 1 << 20
	maxDepth = 32
	maxAttrs = 256
	minBuf   = 256 << 10
)

// syntaxError is a rule of XML (or of ours) that the document breaks.
type syntaxError string

func (e syntaxError) Error() string { return "XML is not well-formed: " + string(e) }

// refusedError is what XML would allow and we do not.
type refusedError string

func (e refusedError) Error() string { return "XML refused: " + string(e) }

// errMore says that the token goes on behind the buffer.
var errMore = errors.New("more")

type tokenKind uint8

const (
	tokenEOF tokenKind = iota
	tokenStart
	tokenEnd
	tokenText
)

// attr is one attribute; raw is as written between the quotes.
type attr struct {
	name, raw []byte
	at        int  // where raw stands in the tag
	plain     bool // raw needs no decoding
}

// scanner reads XML tokens from a byte buffer. Slices that it hands out are
// valid until the next call of next. Unlike encoding/xml it survives what
// Apple writes: DTDs with missing or extra '>', control characters and bytes
// that are not UTF-8 (they become U+FFFD). It reads no external thing and
// expands only the five predefined entities and character references.
type scanner struct {
	r     io.Reader
	buf   []byte
	pos   int
	end   int
	base  int64 // offset of buf[0] in the document
	eof   bool
	arena []byte

	name   []byte
	attrs  []attr
	text   []byte // decoded
	start  int    // where the current token begins in buf
	closes bool   // a self-closing tag still has to give its end

	stack []byte // names of the open elements, one after another
	marks [maxDepth]int
	depth int
}

func newScanner(r io.Reader) *scanner {
	return &scanner{r: r, buf: make([]byte, minBuf)}
}

// offset is the place of the current token in the document.
func (s *scanner) offset() int64 { return s.base + int64(s.start) }

// tag is the current token as written.
func (s *scanner) tag() []byte { return s.buf[s.start:s.pos] }

// fill drops what is read and reads on, at least doubling what is there so
// that a long token is not looked at again for every small read.
func (s *scanner) fill() error {
	have := s.end - s.pos
	if have >= maxToken {
		return refusedError("a token is over 1 MiB")
	}
	copy(s.buf, s.buf[s.pos:s.end])
	s.base += int64(s.pos)
	s.pos, s.end, s.start = 0, have, 0
	want := max(64<<10, 2*have)
	if want > len(s.buf) {
		grown := make([]byte, 2*want)
		copy(grown, s.buf[:have])
		s.buf = grown
	}
	for empty := 0; s.end < want && !s.eof; {
		n, err := s.r.Read(s.buf[s.end:])
		s.end += n
		switch {
		case err == io.EOF:
			s.eof = true
		case err != nil:
			return err
		case n == 0:
			if empty++; empty > 100 {
				return io.ErrNoProgress
			}
		}
	}
	return nil
}

// next reads the next token; tokenEOF at the end of a complete document.
func (s *scanner) next() (tokenKind, error) {
	if s.closes {
		s.closes = false
		return tokenEnd, s.pop(s.name)
	}
	for {
		before := s.pos
		kind, err := s.token()
		if err == nil && kind == tokenEOF && s.pos > before {
			continue // a comment, an instruction or a directive
		}
		if err != errMore {
			return kind, err
		}
		s.pos = before
		if s.eof {
			return s.last()
		}
		if err := s.fill(); err != nil {
			return tokenEOF, err
		}
	}
}

// last is the end of the document, where text may stand without a '<' after it.
func (s *scanner) last() (tokenKind, error) {
	if s.pos == s.end {
		if s.depth > 0 {
			return tokenEOF, syntaxError("it ends inside an element")
		}
		return tokenEOF, nil
	}
	if s.buf[s.pos] == '<' {
		return tokenEOF, syntaxError("it ends inside a tag")
	}
	s.start = s.pos
	s.arena = s.arena[:0]
	s.text = s.decode(s.buf[s.pos:s.end], true)
	s.pos = s.end
	return tokenText, nil
}

func (s *scanner) token() (tokenKind, error) {
	b := s.buf[s.pos:s.end]
	s.start = s.pos
	if len(b) == 0 {
		return tokenEOF, errMore
	}
	if b[0] != '<' {
		n := bytes.IndexByte(b, '<')
		if n < 0 {
			return tokenEOF, errMore
		}
		s.arena = s.arena[:0]
		s.text = s.decode(b[:n], true)
		s.pos += n
		return tokenText, nil
	}
	if len(b) < 2 {
		return tokenEOF, errMore
	}
	switch b[1] {
	case '/':
		return s.endTag(b)
	case '?':
		return tokenEOF, s.skipPast(b, 2, "?>")
	case '!':
		return s.bang(b)
	}
	return s.startTag(b)
}

func (s *scanner) skipPast(b []byte, from int, mark string) error {
	n := bytes.Index(b[min(from, len(b)):], []byte(mark))
	if n < 0 {
		return errMore
	}
	s.pos += from + n + len(mark)
	return nil
}

func (s *scanner) bang(b []byte) (tokenKind, error) {
	const cdata = "<![CDATA["
	if len(b) < len(cdata) && !s.eof {
		return tokenEOF, errMore
	}
	switch {
	case bytes.HasPrefix(b, []byte("<!--")):
		return tokenEOF, s.skipPast(b, 4, "-->")
	case bytes.HasPrefix(b, []byte(cdata)):
		n := bytes.Index(b, []byte("]]>"))
		if n < 0 {
			return tokenEOF, errMore
		}
		s.arena = s.arena[:0]
		s.text = s.decode(b[len(cdata):n], false)
		s.pos += n + 3
		return tokenText, nil
	}
	n, err := directive(b)
	s.pos += n
	return tokenEOF, err
}

// directive measures a directive at the head of b. An internal subset ends at
// the first "]>" outside a comment, whatever '<' and '>' it has: in Apple's
// version 12 they do not match.
func directive(b []byte) (int, error) {
	depth, quote, subset := 0, byte(0), false
	for i := 3; i < len(b); i++ { // the first byte is taken as it is, as encoding/xml does
		c := b[i]
		switch {
		case c == '<' && bytes.HasPrefix(b[i:], []byte("<!--")) && quote == 0:
			n := bytes.Index(b[i+4:], []byte("-->"))
			if n < 0 {
				return 0, errMore
			}
			i += 4 + n + 2
		case c == '<' && quote == 0 && bytes.HasPrefix(b[i:], []byte("<!ENTITY")):
			return 0, refusedError("the DTD declares an entity")
		case quote == 0 && (bytes.HasPrefix(b[i:], []byte("SYSTEM")) || bytes.HasPrefix(b[i:], []byte("PUBLIC"))):
			return 0, refusedError("the DTD names something outside")
		case subset:
			if c == ']' {
				if j := len(b) - len(bytes.TrimLeft(b[i+1:], " \t\r\n")); j < len(b) && b[j] == '>' {
					return j + 1, nil
				} else if j == len(b) {
					return 0, errMore
				}
			}
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '"' || c == '\'':
			quote = c
		case c == '[' && depth == 0 && bytes.HasPrefix(b, []byte("<!DOCTYPE")):
			subset = true
		case c == '<':
			depth++
		case c == '>' && depth == 0:
			return i + 1, nil
		case c == '>':
			depth--
		}
	}
	return 0, errMore
}

// nameLen is the length of the XML name at the head of b, by the same rule as
// encoding/xml.
func nameLen(b []byte) int {
	for i, c := range b {
		if !nameByte[c] {
			return i
		}
	}
	return len(b)
}

var nameByte = func() (t [256]bool) {
	for c := range 256 {
		t[c] = c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' ||
			c == '_' || c == ':' || c == '.' || c == '-' || c >= utf8.RuneSelf
	}
	return t
}()

func isSpace(c byte) bool { return c == ' ' || c == '\n' || c == '\t' || c == '\r' }

func (s *scanner) startTag(b []byte) (tokenKind, error) {
	n := nameLen(b[1:])
	if n == 0 {
		return tokenEOF, syntaxError("'<' without a name")
	}
	s.name = b[1 : 1+n]
	s.attrs = s.attrs[:0]
	s.arena = s.arena[:0]
	i := 1 + n
	for {
		for i < len(b) && isSpace(b[i]) {
			i++
		}
		if i+1 >= len(b) && (i >= len(b) || b[i] != '>') {
			return tokenEOF, errMore
		}
		switch b[i] {
		case '>':
			s.pos += i + 1
			return tokenStart, s.push(s.name)
		case '/':
			if b[i+1] != '>' {
				return tokenEOF, syntaxError("'/' inside a tag")
			}
			s.pos += i + 2
			s.closes = true
			return tokenStart, s.push(s.name)
		}
		n, err := s.attribute(b[i:])
		if err != nil {
			return tokenEOF, err
		}
		s.attrs[len(s.attrs)-1].at += i
		i += n
	}
}

// attribute reads name="value" at the head of b.
func (s *scanner) attribute(b []byte) (int, error) {
	n := nameLen(b)
	if n == len(b) {
		return 0, errMore
	}
	if n == 0 {
		return 0, syntaxError("an attribute without a name")
	}
	i := n
	for i < len(b) && isSpace(b[i]) {
		i++
	}
	if i == len(b) {
		return 0, errMore
	}
	if b[i] != '=' {
		return 0, syntaxError("an attribute without a value")
	}
	i++
	for i < len(b) && isSpace(b[i]) {
		i++
	}
	if i == len(b) {
		return 0, errMore
	}
	q := b[i]
	if q != '"' && q != '\'' {
		return 0, syntaxError("an attribute value without quotes")
	}
	i++
	end := bytes.IndexByte(b[i:], q)
	if end < 0 {
		return 0, errMore
	}
	if len(s.attrs) == maxAttrs {
		return 0, refusedError("a tag with over 256 attributes")
	}
	raw := b[i : i+end]
	plain := true
	for _, c := range raw {
		if special[c] {
			if c == '<' {
				return 0, syntaxError("'<' in an attribute value")
			}
			plain = false
		}
	}
	s.attrs = append(s.attrs, attr{name: b[:n], raw: raw, at: i, plain: plain})
	return i + end + 1, nil
}

// special bytes need a look before a value can be used as it is.
var special = func() (t [256]bool) {
	for c := range 256 {
		t[c] = c < ' ' && c != '\n' && c != '\t' || c == '&' || c == '<' || c >= utf8.RuneSelf
	}
	return t
}()

func (s *scanner) endTag(b []byte) (tokenKind, error) {
	n := nameLen(b[2:])
	i := 2 + n
	for i < len(b) && isSpace(b[i]) {
		i++
	}
	if i == len(b) {
		return tokenEOF, errMore
	}
	if b[i] != '>' || n == 0 {
		return tokenEOF, syntaxError("a bad end tag")
	}
	s.name = b[2 : 2+n]
	s.pos += i + 1
	return tokenEnd, s.pop(s.name)
}

func (s *scanner) push(name []byte) error {
	if s.depth == maxDepth {
		return refusedError("elements nested over 32 deep")
	}
	s.marks[s.depth] = len(s.stack)
	s.depth++
	s.stack = append(s.stack, name...)
	return nil
}

func (s *scanner) pop(name []byte) error {
	if s.depth == 0 || !bytes.Equal(s.stack[s.marks[s.depth-1]:], name) {
		return syntaxError("an end tag without its start")
	}
	s.depth--
	s.stack = s.stack[:s.marks[s.depth]]
	return nil
}

// value is the attribute decoded; valid until next.
func (s *scanner) value(a *attr) []byte {
	if a.plain {
		return a.raw
	}
	return s.decode(a.raw, true)
}

// decode resolves references (if refs), makes line ends '\n' and replaces
// what XML does not allow.
func (s *scanner) decode(b []byte, refs bool) []byte {
	clean := true
	for _, c := range b {
		if special[c] {
			clean = false
			break
		}
	}
	if clean {
		return b
	}
	from := len(s.arena)
	for i := 0; i < len(b); {
		c := b[i]
		switch {
		case c == '&' && refs:
			r, n := reference(b[i:])
			if n == 0 {
				s.arena = append(s.arena, '&')
				i++
				continue
			}
			s.arena = utf8.AppendRune(s.arena, r)
			i += n
		case c == '\r':
			s.arena = append(s.arena, '\n')
			if i++; i < len(b) && b[i] == '\n' {
				i++
			}
		case c < utf8.RuneSelf:
			s.arena = utf8.AppendRune(s.arena, allowed(rune(c)))
			i++
		default:
			r, n := utf8.DecodeRune(b[i:])
			s.arena = utf8.AppendRune(s.arena, allowed(r))
			i += n
		}
	}
	return s.arena[from:len(s.arena):len(s.arena)]
}

// allowed is r where XML's Char production has it, else U+FFFD.
func allowed(r rune) rune {
	if r < ' ' && r != '\t' && r != '\n' && r != '\r' || r == 0xFFFE || r == 0xFFFF {
		return utf8.RuneError
	}
	return r
}

// reference resolves the entity or character reference at the head of b; n is
// its length, 0 if it is none (it then stays as written).
func reference(b []byte) (rune, int) {
	end := bytes.IndexByte(b[:min(len(b), 64)], ';')
	if end < 2 {
		return 0, 0
	}
	name := b[1:end]
	switch string(name) {
	case "lt":
		return '<', end + 1
	case "gt":
		return '>', end + 1
	case "amp":
		return '&', end + 1
	case "quot":
		return '"', end + 1
	case "apos":
		return '\'', end + 1
	}
	if name[0] != '#' || len(name) < 2 {
		return 0, 0
	}
	base, digits := 10, name[1:]
	if digits[0] == 'x' {
		base, digits = 16, digits[1:]
	}
	n, err := strconv.ParseUint(string(digits), base, 32)
	if err != nil || n > utf8.MaxRune {
		return 0, 0
	}
	return allowed(rune(n)), end + 1
}

// space passes over white space.
func (s *scanner) space() {
	for s.pos < s.end && isSpace(s.buf[s.pos]) {
		s.pos++
	}
}
