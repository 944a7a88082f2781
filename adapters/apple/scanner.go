package apple

import (
	"bytes"
	"errors"
	"io"
	"strconv"
	"unicode/utf8"
)

// This scanner replaces encoding/xml for two reasons. encoding/xml stops at control
// characters, at bytes that are not UTF-8 and at the malformed DTD of version 12,
// all of which occur in Apple's exports. And encoding/xml reads 39 MB/s, while this
// scanner reads 1,018 to 1,501 MB/s ("bare XML scan" in
// conformance/bench/RESULTS.md), so that parsing does not limit an import.
// BenchmarkExport compares the speeds, and FuzzScanner compares the tokens of every
// document that encoding/xml accepts.

// Limits of one document. In Apple's exports a tag, a text or a DTD has a few
// kilobytes, and elements are nested five deep.
const (
	maxToken = 1 << 20   // bytes
	maxDepth = 32        // elements
	maxAttrs = 256       // attributes of a tag
	minBuf   = 256 << 10 // bytes
)

// syntaxError is a rule of well-formedness that the document breaks.
type syntaxError string

func (e syntaxError) Error() string { return "XML is not well-formed: " + string(e) }

// refusedError is the reason for refusing a construct that is well-formed but
// exceeds a limit or is unsafe.
type refusedError string

func (e refusedError) Error() string { return "XML refused: " + string(e) }

// errIncomplete means that the token continues beyond the end of the buffer.
var errIncomplete = errors.New("more")

type tokenType uint8

const (
	tokenEOF tokenType = iota
	tokenStart
	tokenEnd
	tokenText
)

// attr is one attribute; raw holds the bytes between the quotes.
type attr struct {
	name, raw []byte
	at        int  // offset of raw in the tag
	plain     bool // raw needs no decoding
}

// scanner reads XML tokens from a byte buffer. Its slices are valid until the next
// call of next. It accepts DTDs with missing or extra '>'. Control characters and
// bytes that are not UTF-8 become U+FFFD. It never reads external entities, and it
// expands only character references and the five predefined entities.
type scanner struct {
	src   io.Reader
	buf   []byte // buf[pos:end] is unread
	pos   int
	end   int
	base  int64 // offset of buf[0] in the document
	eof   bool
	arena []byte // decoded texts of the current token

	// The current token.
	name   []byte
	attrs  []attr
	text   []byte // decoded
	start  int    // offset in buf
	closes bool   // the tag is self-closing, and next returns its end

	stack []byte        // concatenated names of the open elements
	marks [maxDepth]int // offsets of the names in stack
	depth int
}

func newScanner(r io.Reader) *scanner {
	return &scanner{src: r, buf: make([]byte, minBuf)}
}

// offset returns the offset of the current token in the document.
func (s *scanner) offset() int64 { return s.base + int64(s.start) }

// tag returns the current token as written.
func (s *scanner) tag() []byte { return s.buf[s.start:s.pos] }

// fill drops the bytes that have been read and reads more. It at least doubles
// the unread bytes, so that a long token is not scanned again after every small
// read.
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
		n, err := s.src.Read(s.buf[s.end:])
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

// next reads the next token. It returns tokenEOF at the end of a complete
// document.
func (s *scanner) next() (tokenType, error) {
	if s.closes {
		s.closes = false
		return tokenEnd, s.pop(s.name)
	}
	for {
		before := s.pos
		tok, err := s.token()
		if err == nil && tok == tokenEOF && s.pos > before {
			continue // a comment, an instruction or a directive
		}
		if err != errIncomplete {
			return tok, err
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

// last returns the token at the end of the document, where text may end without
// a '<'.
func (s *scanner) last() (tokenType, error) {
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

// token reads the token at the start of the buffer. Comments, instructions and
// directives are skipped and reported as tokenEOF.
func (s *scanner) token() (tokenType, error) {
	b := s.buf[s.pos:s.end]
	s.start = s.pos
	if len(b) == 0 {
		return tokenEOF, errIncomplete
	}
	if b[0] != '<' {
		n := bytes.IndexByte(b, '<')
		if n < 0 {
			return tokenEOF, errIncomplete
		}
		s.arena = s.arena[:0]
		s.text = s.decode(b[:n], true)
		s.pos += n
		return tokenText, nil
	}
	if len(b) < 2 {
		return tokenEOF, errIncomplete
	}
	switch b[1] {
	case '/':
		return s.endTag(b)
	case '?':
		return tokenEOF, s.skipPast(b, 2, "?>")
	case '!':
		return s.declaration(b)
	}
	return s.startTag(b)
}

// skipPast skips to the end of the first mark in b[from:].
func (s *scanner) skipPast(b []byte, from int, mark string) error {
	n := bytes.Index(b[min(from, len(b)):], []byte(mark))
	if n < 0 {
		return errIncomplete
	}
	s.pos += from + n + len(mark)
	return nil
}

// declaration reads a comment, a CDATA section or a directive.
func (s *scanner) declaration(b []byte) (tokenType, error) {
	const cdata = "<![CDATA["
	if len(b) < len(cdata) && !s.eof {
		return tokenEOF, errIncomplete
	}
	switch {
	case bytes.HasPrefix(b, []byte("<!--")):
		return tokenEOF, s.skipPast(b, 4, "-->")
	case bytes.HasPrefix(b, []byte(cdata)):
		n := bytes.Index(b, []byte("]]>"))
		if n < 0 {
			return tokenEOF, errIncomplete
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

// directive returns the length of the directive at the start of b. An internal
// subset ends at the first "]>" outside a comment; its '<' and '>' are not counted
// because they do not match in exports of version 12.
func directive(b []byte) (int, error) {
	depth, quote, subset := 0, byte(0), false
	for i := 3; i < len(b); i++ { // like encoding/xml, accept any byte after "<!"
		c := b[i]
		switch {
		case c == '<' && bytes.HasPrefix(b[i:], []byte("<!--")) && quote == 0:
			n := bytes.Index(b[i+4:], []byte("-->"))
			if n < 0 {
				return 0, errIncomplete
			}
			i += 4 + n + 2
		case c == '<' && quote == 0 && bytes.HasPrefix(b[i:], []byte("<!ENTITY")):
			return 0, refusedError("the DTD declares an entity")
		case quote == 0 && (bytes.HasPrefix(b[i:], []byte("SYSTEM")) || bytes.HasPrefix(b[i:], []byte("PUBLIC"))):
			return 0, refusedError("the DTD refers to an external entity")
		case subset:
			if c == ']' {
				if j := len(b) - len(bytes.TrimLeft(b[i+1:], " \t\r\n")); j < len(b) && b[j] == '>' {
					return j + 1, nil
				} else if j == len(b) {
					return 0, errIncomplete
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
	return 0, errIncomplete
}

// nameLen returns the length of the XML name at the start of b, by the rule of
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

// startTag reads a start tag at the start of b.
func (s *scanner) startTag(b []byte) (tokenType, error) {
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
			return tokenEOF, errIncomplete
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

// attribute reads name="value" at the start of b and returns its length.
func (s *scanner) attribute(b []byte) (int, error) {
	n := nameLen(b)
	if n == len(b) {
		return 0, errIncomplete
	}
	if n == 0 {
		return 0, syntaxError("an attribute without a name")
	}
	i := n
	for i < len(b) && isSpace(b[i]) {
		i++
	}
	if i == len(b) {
		return 0, errIncomplete
	}
	if b[i] != '=' {
		return 0, syntaxError("an attribute without a value")
	}
	i++
	for i < len(b) && isSpace(b[i]) {
		i++
	}
	if i == len(b) {
		return 0, errIncomplete
	}
	q := b[i]
	if q != '"' && q != '\'' {
		return 0, syntaxError("an attribute value without quotes")
	}
	i++
	end := bytes.IndexByte(b[i:], q)
	if end < 0 {
		return 0, errIncomplete
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

// special marks bytes that prevent a value from being used without decoding.
var special = func() (t [256]bool) {
	for c := range 256 {
		t[c] = c < ' ' && c != '\n' && c != '\t' || c == '&' || c == '<' || c >= utf8.RuneSelf
	}
	return t
}()

// endTag reads an end tag at the start of b.
func (s *scanner) endTag(b []byte) (tokenType, error) {
	n := nameLen(b[2:])
	i := 2 + n
	for i < len(b) && isSpace(b[i]) {
		i++
	}
	if i == len(b) {
		return tokenEOF, errIncomplete
	}
	if b[i] != '>' || n == 0 {
		return tokenEOF, syntaxError("a bad end tag")
	}
	s.name = b[2 : 2+n]
	s.pos += i + 1
	return tokenEnd, s.pop(s.name)
}

// push opens an element.
func (s *scanner) push(name []byte) error {
	if s.depth == maxDepth {
		return refusedError("elements nested over 32 deep")
	}
	s.marks[s.depth] = len(s.stack)
	s.depth++
	s.stack = append(s.stack, name...)
	return nil
}

// pop closes the innermost element, which must have the given name.
func (s *scanner) pop(name []byte) error {
	if s.depth == 0 || !bytes.Equal(s.stack[s.marks[s.depth-1]:], name) {
		return syntaxError("an end tag without its start")
	}
	s.depth--
	s.stack = s.stack[:s.marks[s.depth]]
	return nil
}

// value returns the decoded value of an attribute. It is valid until the next
// call of next.
func (s *scanner) value(a *attr) []byte {
	if a.plain {
		return a.raw
	}
	return s.decode(a.raw, true)
}

// decode resolves references if refs is set, turns line ends into '\n' and
// replaces characters that XML does not allow.
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

// allowed returns r if XML's production Char allows it, and U+FFFD otherwise.
func allowed(r rune) rune {
	if r < ' ' && r != '\t' && r != '\n' && r != '\r' || r == 0xFFFE || r == 0xFFFF {
		return utf8.RuneError
	}
	return r
}

// reference resolves the entity or character reference at the start of b. The
// length n is 0 if there is none; the '&' then stays as written.
func reference(b []byte) (r rune, n int) {
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
	code, err := strconv.ParseUint(string(digits), base, 32)
	if err != nil || code > utf8.MaxRune {
		return 0, 0
	}
	return allowed(rune(code)), end + 1
}

// space skips white space.
func (s *scanner) space() {
	for s.pos < s.end && isSpace(s.buf[s.pos]) {
		s.pos++
	}
}
