package wire

import (
	"bytes"
	"unicode/utf8"
)

// Limits of the XML reader.
const (
	maxDepth      = 64 // of FHIR elements; the validator allows 50 levels of JSON
	maxNarrative  = 128
	maxName       = 64 // bytes
	maxAttributes = 64 // of one element
	maxPrefixes   = 32 // namespace declarations in force at a time
)

// namespace classifies the names of elements and attributes.
type namespace uint8

const (
	noNamespace namespace = iota
	fhirNamespace
	xhtmlNamespace
	schemaNamespace // of xsi:schemaLocation
	xmlNamespace    // of xml:lang
	foreign
)

const (
	fhirURI  = "http://hl7.org/fhir"
	xhtmlURI = "http://www.w3.org/1999/xhtml"
)

func namespaceOf(uri []byte) namespace {
	switch string(uri) {
	case "":
		return noNamespace
	case fhirURI:
		return fhirNamespace
	case xhtmlURI:
		return xhtmlNamespace
	case "http://www.w3.org/2001/XMLSchema-instance":
		return schemaNamespace
	case "http://www.w3.org/XML/1998/namespace":
		return xmlNamespace
	}
	return foreign
}

// binding is a namespace declaration.
type binding struct {
	prefix []byte // nil for the default namespace
	space  namespace
	depth  int // of the element that has the declaration
}

type attribute struct {
	prefix, local []byte
	raw           []byte // between the quotes
	at            int
	space         namespace
}

// tag is a start or empty-element tag. Its slices refer to the document.
type tag struct {
	prefix, local []byte
	space         namespace
	attributes    []attribute
	start, end    int  // offsets in the document
	empty         bool // <name/>
	declares      bool // the tag has the attribute xmlns
}

// scanner reads XML from b at pos. Its functions report the first fault with fail and
// return false from then on.
type scanner struct {
	body     []byte
	pos      int
	depth    int // of open elements
	bindings []binding
	// open has the qualified names of the open elements.
	open [][]byte
	tag  tag // the last start tag

	fault   string // rule of the first fault, or empty
	faultAt int
}

func (s *scanner) fail(at int, rule string) bool {
	if s.fault == "" {
		s.fault, s.faultAt = rule, at
	}
	return false
}

const (
	ruleWellFormed = "the body is not well-formed XML: "
	ruleEnd        = ruleWellFormed + "it ends too early"
	ruleDTD        = "XML with a document type (DTD) is refused"
	rulePI         = "XML with processing instructions is refused"
	ruleEntity     = "XML may have the entities lt, gt, amp, quot and apos, and character references; others are refused"
	ruleCharacter  = "XML must not have this character"
	ruleName       = ruleWellFormed + "a name is missing or malformed"
)

// Classes of bytes.
const (
	classSpace = 1 << iota
	className
	classStart // may start a name
	// classStop marks bytes that need attention in values and text: markup, white space
	// other than blanks, and characters that XML does not allow.
	classStop
)

var class = func() (t [256]uint8) { // read only
	for c := range 256 {
		switch {
		case c == ' ':
			t[c] = classSpace
		case c == '\t' || c == '\n' || c == '\r':
			t[c] = classSpace | classStop
		case c < ' ' || c == '<' || c == '&':
			t[c] = classStop
		case c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_':
			t[c] = className | classStart
		case c >= '0' && c <= '9' || c == '-' || c == '.':
			t[c] = className
		}
	}
	return t
}()

// checkText reports characters that XML 1.0 excludes and that the class table does not
// know: bytes that are not UTF-8, U+FFFE and U+FFFF.
func (s *scanner) checkText() bool {
	if !utf8.Valid(s.body) {
		n := 0
		for n < len(s.body) {
			r, size := utf8.DecodeRune(s.body[n:])
			if r == utf8.RuneError && size == 1 {
				break
			}
			n += size
		}
		return s.fail(n, "the body is not valid UTF-8")
	}
	for _, bad := range []string{"\uFFFE", "\uFFFF"} {
		if i := bytes.Index(s.body, []byte(bad)); i >= 0 {
			return s.fail(i, ruleCharacter)
		}
	}
	return true
}

func (s *scanner) space() {
	for s.pos < len(s.body) && class[s.body[s.pos]]&classSpace != 0 {
		s.pos++
	}
}

func (s *scanner) has(prefix string) bool {
	return len(s.body)-s.pos >= len(prefix) && string(s.body[s.pos:s.pos+len(prefix)]) == prefix
}

// prolog reads what may come before the root element.
func (s *scanner) prolog() bool {
	if s.has("<?xml") && len(s.body) > s.pos+5 && class[s.body[s.pos+5]]&classSpace != 0 {
		if !s.declaration() {
			return false
		}
	}
	return s.misc()
}

// declaration reads the XML declaration.
func (s *scanner) declaration() bool {
	start := s.pos
	end := bytes.Index(s.body[s.pos:], []byte("?>"))
	if end < 0 || end > 200 {
		return s.fail(start, ruleWellFormed+"the XML declaration does not end")
	}
	end += s.pos
	s.pos += len("<?xml")
	for s.space(); s.pos < end; s.space() {
		a, ok := s.attribute()
		if !ok || s.pos > end {
			return s.fail(start, ruleWellFormed+"the XML declaration is malformed")
		}
		switch {
		case string(a.local) == "version" && string(a.raw) != "1.0":
			return s.fail(a.at, "the body must be XML 1.0")
		case string(a.local) == "encoding" && !bytes.EqualFold(a.raw, []byte("utf-8")):
			return s.fail(a.at, "the body must be encoded in UTF-8")
		}
	}
	s.pos = end + len("?>")
	return true
}

// misc skips white space and comments.
func (s *scanner) misc() bool {
	for {
		s.space()
		switch {
		case s.has("<!--"):
			if !s.comment() {
				return false
			}
		case s.has("<!"):
			return s.fail(s.pos, ruleDTD)
		case s.has("<?"):
			return s.fail(s.pos, rulePI)
		default:
			return true
		}
	}
}

// comment skips a comment.
func (s *scanner) comment() bool {
	start := s.pos
	text := s.body[s.pos+len("<!--"):]
	end := bytes.Index(text, []byte("--"))
	if end < 0 {
		return s.fail(start, ruleEnd)
	}
	if end+2 >= len(text) || text[end+2] != '>' {
		return s.fail(start, ruleWellFormed+"a comment has two hyphens")
	}
	for i, c := range text[:end] {
		if c < ' ' && class[c]&classSpace == 0 {
			return s.fail(start+len("<!--")+i, ruleCharacter)
		}
	}
	s.pos += len("<!--") + end + len("-->")
	return true
}

// name reads a name with an optional prefix. Names have ASCII characters only, as those
// of FHIR and XHTML do.
func (s *scanner) name() (prefix, local []byte, ok bool) {
	start := s.pos
	local, ok = s.plainName()
	if ok && s.pos < len(s.body) && s.body[s.pos] == ':' {
		prefix = local
		s.pos++
		local, ok = s.plainName()
	}
	if !ok || s.pos-start > maxName {
		return nil, nil, s.fail(start, ruleName)
	}
	return prefix, local, true
}

func (s *scanner) plainName() ([]byte, bool) {
	start := s.pos
	if start >= len(s.body) || class[s.body[start]]&classStart == 0 {
		return nil, false
	}
	for s.pos < len(s.body) && class[s.body[s.pos]]&className != 0 {
		s.pos++
	}
	return s.body[start:s.pos], true
}

// attribute reads a name and a quoted value.
func (s *scanner) attribute() (a attribute, ok bool) {
	a.at = s.pos
	if a.prefix, a.local, ok = s.name(); !ok {
		return a, false
	}
	s.space()
	if s.pos >= len(s.body) || s.body[s.pos] != '=' {
		return a, s.fail(s.pos, ruleWellFormed+"an attribute has no value")
	}
	s.pos++
	s.space()
	if s.pos >= len(s.body) || s.body[s.pos] != '"' && s.body[s.pos] != '\'' {
		return a, s.fail(s.pos, ruleWellFormed+"the value of an attribute has no quotes")
	}
	quote := s.body[s.pos]
	s.pos++
	n := bytes.IndexByte(s.body[s.pos:], quote)
	if n < 0 {
		return a, s.fail(a.at, ruleEnd)
	}
	a.raw = s.body[s.pos : s.pos+n]
	s.pos += n + 1
	return a, true
}

// start reads a start tag into s.tag and resolves its namespaces. s.pos is at its
// opening bracket.
func (s *scanner) start() bool {
	t := &s.tag
	t.start, t.empty, t.declares = s.pos, false, false
	t.attributes = t.attributes[:0]
	s.pos++
	nameAt := s.pos
	var ok bool
	if t.prefix, t.local, ok = s.name(); !ok {
		return false
	}
	qualified := s.body[nameAt:s.pos]
	s.depth++
	for {
		before := s.pos
		s.space()
		if s.pos >= len(s.body) {
			return s.fail(t.start, ruleEnd)
		}
		switch s.body[s.pos] {
		case '>':
			s.pos++
			t.end = s.pos
			s.open = append(s.open, qualified)
			return s.resolve()
		case '/':
			if !s.has("/>") {
				return s.fail(s.pos, ruleWellFormed+"a tag is malformed")
			}
			s.pos += 2
			t.empty, t.end = true, s.pos
			ok := s.resolve()
			s.close()
			return ok
		}
		if s.pos == before {
			return s.fail(s.pos, ruleWellFormed+"a tag is malformed")
		}
		a, ok := s.attribute()
		if !ok {
			return false
		}
		if len(t.attributes) == maxAttributes {
			return s.fail(a.at, "an XML element has too many attributes")
		}
		t.attributes = append(t.attributes, a)
	}
}

// resolve applies the namespace declarations of the last tag and resolves the
// prefixes of its name and its attributes.
func (s *scanner) resolve() bool {
	t := &s.tag
	prefixed := t.prefix != nil
	for i := range t.attributes {
		a := &t.attributes[i]
		isDefault := a.prefix == nil && string(a.local) == "xmlns"
		if !isDefault && string(a.prefix) != "xmlns" {
			prefixed = prefixed || a.prefix != nil
			continue
		}
		b := binding{space: namespaceOf(a.raw), depth: s.depth}
		if isDefault {
			t.declares = true
		} else {
			b.prefix = a.local
		}
		if len(s.bindings) == maxPrefixes {
			return s.fail(a.at, "the XML has too many namespace declarations")
		}
		s.bindings = append(s.bindings, b)
	}
	t.space = s.lookup(nil)
	if prefixed && !s.resolvePrefixes() {
		return false
	}
	for i := range t.attributes {
		a := &t.attributes[i]
		for j := range i {
			o := &t.attributes[j]
			if bytes.Equal(o.local, a.local) && (bytes.Equal(o.prefix, a.prefix) ||
				a.space != noNamespace && a.space != foreign && o.space == a.space) {
				return s.fail(a.at, ruleWellFormed+"an attribute is given twice")
			}
		}
	}
	return true
}

func (s *scanner) resolvePrefixes() bool {
	const undeclared = ruleWellFormed + "the prefix of a name is not declared"
	t := &s.tag
	if t.prefix != nil {
		if t.space = s.lookup(t.prefix); t.space == noNamespace {
			return s.fail(t.start, undeclared)
		}
	}
	for i := range t.attributes {
		a := &t.attributes[i]
		if a.prefix == nil || string(a.prefix) == "xmlns" {
			continue
		}
		if a.space = s.lookup(a.prefix); a.space == noNamespace {
			return s.fail(a.at, undeclared)
		}
	}
	return true
}

// lookup returns the namespace of a prefix, or the default namespace for nil.
func (s *scanner) lookup(prefix []byte) namespace {
	for i := len(s.bindings) - 1; i >= 0; i-- {
		if b := &s.bindings[i]; bytes.Equal(b.prefix, prefix) {
			return b.space
		}
	}
	if string(prefix) == "xml" {
		return xmlNamespace
	}
	return noNamespace
}

// close ends the scope of the innermost element.
func (s *scanner) close() {
	for n := len(s.bindings); n > 0 && s.bindings[n-1].depth == s.depth; n-- {
		s.bindings = s.bindings[:n-1]
	}
	s.depth--
}

// end reads an end tag and compares it with its start tag.
func (s *scanner) end() bool {
	at := s.pos
	name := s.open[len(s.open)-1]
	s.pos += 2
	if len(s.body)-s.pos < len(name) || !bytes.Equal(s.body[s.pos:s.pos+len(name)], name) {
		return s.fail(at, ruleWellFormed+"an end tag does not match its start tag")
	}
	s.pos += len(name)
	s.space()
	if s.pos >= len(s.body) || s.body[s.pos] != '>' {
		return s.fail(at, ruleWellFormed+"an end tag does not match its start tag")
	}
	s.pos++
	s.open = s.open[:len(s.open)-1]
	s.close()
	return true
}

// child goes to the next child of a FHIR element. It returns false at the end tag, which
// it reads, and after a fault. Otherwise, s.tag is the tag of the child.
func (s *scanner) child() bool {
	if !s.misc() {
		return false
	}
	switch {
	case s.pos >= len(s.body):
		return s.fail(s.pos, ruleEnd)
	case s.body[s.pos] != '<':
		return s.fail(s.pos, "a FHIR element must not have text; values are in the attribute value")
	case s.has("</"):
		s.end()
		return false
	}
	return s.start()
}

// reference decodes the entity or character reference at the beginning of b. It
// returns 0 if it is not one of those that are allowed.
func reference(b []byte) (r rune, n int) {
	const longest = len("&#x0010FFFF;")
	end := bytes.IndexByte(b[:min(len(b), longest)], ';')
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
	digits, base := name[1:], rune(10)
	if digits[0] == 'x' {
		if digits, base = digits[1:], 16; len(digits) == 0 {
			return 0, 0
		}
	}
	for _, c := range digits {
		d := rune(hexValue(c))
		if d < 0 || d >= base {
			return 0, 0
		}
		r = r*base + d
	}
	if !isCharacter(r) {
		return 0, 0
	}
	return r, end + 1
}

func hexValue(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return int(c|0x20-'a') + 10
	}
	return -1
}

// isCharacter reports whether XML 1.0 allows a character.
func isCharacter(r rune) bool {
	return r == '\t' || r == '\n' || r == '\r' || r >= ' ' && r < 0xD800 || r >= 0xE000 && r < 0xFFFE ||
		r >= 0x10000 && r <= utf8.MaxRune
}
