package htmlview

import (
	"io"
	"strings"
)

// longest is the size in bytes of a value that is examined for a link.
const longest = 4 << 10

// flushAt is the size of the output in bytes at which it is written.
const flushAt = 32 << 10

// linker recognizes the values that become links.
type linker struct {
	base   string
	format string
}

// target returns the URL that a value refers to, or an empty string. reference is set
// for the values of Reference.reference.
func (l *linker) target(value string, reference bool) string {
	to := ""
	switch rest, ok := strings.CutPrefix(value, l.base); {
	case ok && l.base != "" && (rest == "" || rest[0] == '/' || rest[0] == '?'):
		to = value
	case reference && relative(value):
		to = l.base + "/" + value
	}
	if to == "" || l.format == "" || strings.Contains(to, "_format=") {
		return to
	}
	if strings.Contains(to, "?") {
		return to + "&_format=" + l.format
	}
	return to + "?_format=" + l.format
}

// relative reports whether a reference has the form Type/id or Type/id/_history/version.
func relative(s string) bool {
	part := strings.Split(s, "/")
	if len(part) != 2 && (len(part) != 4 || part[2] != "_history") {
		return false
	}
	if part[0] == "" || part[0][0] < 'A' || part[0][0] > 'Z' {
		return false
	}
	for _, c := range s {
		ok := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("-./_", c)
		if !ok {
			return false
		}
	}
	return true
}

// painter writes HTML.
type painter struct {
	linker
	dest io.Writer
	out  []byte
	held []byte // the current value, up to longest
	long bool   // the value is longer and has been written in part
}

// escape writes text.
func (p *painter) escape(b []byte) {
	for _, c := range b {
		switch c {
		case '<':
			p.out = append(p.out, "&lt;"...)
		case '>':
			p.out = append(p.out, "&gt;"...)
		case '&':
			p.out = append(p.out, "&amp;"...)
		case '"':
			p.out = append(p.out, "&#34;"...)
		case '\'':
			p.out = append(p.out, "&#39;"...)
		default:
			p.out = append(p.out, c)
		}
	}
}

func (p *painter) open(class string) {
	p.out = append(append(append(p.out, `<span class="`...), class...), `">`...)
}

func (p *painter) end() { p.out = append(p.out, "</span>"...) }

// span writes text of a class.
func (p *painter) span(class string, b []byte) {
	p.open(class)
	p.escape(b)
	p.end()
}

// link writes text that leads to a URL.
func (p *painter) link(to string, text []byte) {
	p.out = append(p.out, `<a href="`...)
	p.escape([]byte(to))
	p.out = append(p.out, `">`...)
	p.escape(text)
	p.out = append(p.out, "</a>"...)
}

// hold appends a byte of a value. A value that becomes too long is written at once.
func (p *painter) hold(c byte, class string) {
	p.held = append(p.held, c)
	if len(p.held) < longest {
		return
	}
	if !p.long {
		p.open(class)
		p.long = true
	}
	p.escape(p.held)
	p.held = p.held[:0]
}

func (p *painter) flush() error {
	_, err := p.dest.Write(p.out)
	p.out = p.out[:0]
	return err
}

func (p *painter) flushFull() error {
	if len(p.out) < flushAt {
		return nil
	}
	return p.flush()
}

// jsonPainter colors JSON.
type jsonPainter struct {
	painter
	quoted, escaped bool
	ended           bool // held is a string, and it is not known yet whether it is a name
	literal         bool // within a number, true, false or null
	name            string
}

// Write implements io.Writer.
func (p *jsonPainter) Write(b []byte) (int, error) {
	for i, c := range b {
		if p.quoted {
			p.hold(c, "s")
			switch {
			case p.escaped:
				p.escaped = false
			case c == '\\':
				p.escaped = true
			case c == '"':
				p.quoted, p.ended = false, true
			}
		} else {
			p.token(c)
		}
		if err := p.flushFull(); err != nil {
			return i, err
		}
	}
	return len(b), nil
}

// token writes a byte outside of strings.
func (p *jsonPainter) token(c byte) {
	if p.ended {
		p.string(c == ':')
	}
	word := c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c == '-' || c == '+' || c == '.' || c == 'E'
	if word != p.literal {
		if word {
			p.open("n")
		} else {
			p.end()
		}
		p.literal = word
	}
	if c == '"' {
		p.quoted = true
		p.held = append(p.held[:0], c)
		return
	}
	p.escape([]byte{c})
}

// string writes the string in held.
func (p *jsonPainter) string(isName bool) {
	p.ended = false
	switch {
	case p.long:
		p.escape(p.held)
		p.end()
		p.long = false
	case isName:
		p.name = string(p.held[1 : len(p.held)-1])
		p.span("k", p.held)
	default:
		value := string(p.held[1 : len(p.held)-1])
		to := ""
		if !strings.Contains(value, `\`) {
			to = p.target(value, p.name == "reference")
		}
		if to == "" {
			p.span("s", p.held)
			break
		}
		p.open("s")
		p.escape([]byte{'"'})
		p.link(to, []byte(value))
		p.escape([]byte{'"'})
		p.end()
	}
	p.held = p.held[:0]
}

func (p *jsonPainter) close() error {
	if p.ended {
		p.string(false)
	}
	return p.flush()
}

// xmlPainter colors XML as wire.ToXML writes it.
type xmlPainter struct {
	painter
	state   xmlState
	quote   byte
	element string // name of the last start tag
}

type xmlState uint8

const (
	inText xmlState = iota
	inName          // of an element, in held
	inTag
	inAttribute // name of an attribute, in held
	inValue     // in held
	inComment   // or declaration
)

// Write implements io.Writer.
func (p *xmlPainter) Write(b []byte) (int, error) {
	for i, c := range b {
		p.byte(c)
		if err := p.flushFull(); err != nil {
			return i, err
		}
	}
	return len(b), nil
}

func (p *xmlPainter) byte(c byte) {
	switch p.state {
	case inText:
		p.escape([]byte{c})
		if c == '<' {
			p.state = inName
		}
	case inName:
		switch {
		case len(p.held) == 0 && (c == '!' || c == '?'):
			p.escape([]byte{c})
			p.state = inComment
		case len(p.held) == 0 && c == '/':
			p.escape([]byte{c})
		case c == ' ' || c == '>' || c == '/' || c == '\n' || c == '\t':
			p.element = string(p.held)
			p.span("k", p.held)
			p.held = p.held[:0]
			p.state = inTag
			p.tag(c)
		default:
			p.held = append(p.held, c)
		}
	case inTag:
		p.tag(c)
	case inAttribute:
		if c != '=' {
			p.held = append(p.held, c)
			return
		}
		p.span("a", p.held)
		p.held = p.held[:0]
		p.escape([]byte{c})
		p.state = inTag
	case inValue:
		if c != p.quote {
			p.hold(c, "s")
			return
		}
		p.value()
		p.escape([]byte{c})
		p.state = inTag
	case inComment:
		p.escape([]byte{c})
		if c == '>' {
			p.state = inText
		}
	}
}

// tag writes a byte between the attributes of a tag.
func (p *xmlPainter) tag(c byte) {
	switch c {
	case '>':
		p.escape([]byte{c})
		p.state = inText
	case '"', '\'':
		p.escape([]byte{c})
		p.quote, p.state = c, inValue
	case ' ', '/', '\n', '\t', '\r':
		p.escape([]byte{c})
	default:
		p.held = append(p.held, c)
		p.state = inAttribute
	}
}

// ampersand undoes the only escape that URLs of this server have.
var ampersand = strings.NewReplacer("&amp;", "&")

// value writes the value of an attribute.
func (p *xmlPainter) value() {
	switch {
	case p.long:
		p.escape(p.held)
		p.end()
		p.long = false
	default:
		to := p.target(ampersand.Replace(string(p.held)), p.element == "reference")
		if to == "" {
			p.span("s", p.held)
			break
		}
		p.open("s")
		p.link(to, p.held)
		p.end()
	}
	p.held = p.held[:0]
}
