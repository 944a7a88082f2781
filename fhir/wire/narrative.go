package wire

import (
	"bytes"
	"encoding/xml"
	"strconv"
)

// narrative appends the XHTML of the element whose start tag was read last, up to its
// end tag. It copies the text as it is, except that prefixes are removed, CDATA sections
// become text, and the root declares its namespace.
//
// If fromJSON is set, named HTML entities become character references, because XML has
// no others without a document type. Otherwise, they are refused and line breaks are
// normalized (XML 1.0 section 2.11).
func (s *scanner) narrative(out []byte, fromJSON bool) ([]byte, bool) {
	out, ok := s.appendTag(out, true, fromJSON)
	if !ok || s.tag.empty {
		return out, ok
	}
	for floor := len(s.open); len(s.open) >= floor; {
		end := s.pos
		for end < len(s.body) && class[s.body[end]]&classStop == 0 {
			end++
		}
		run := s.body[s.pos:end]
		if i := bytes.Index(run, []byte("]]>")); i >= 0 {
			return out, s.fail(s.pos+i, ruleWellFormed+"narrative has the end of a CDATA section without its start")
		}
		out = append(out, run...)
		s.pos = end
		if end == len(s.body) {
			return out, s.fail(end, ruleEnd)
		}
		if s.body[end] == '<' {
			out, ok = s.appendMarkup(out, fromJSON)
		} else {
			out, ok = s.appendSpecial(out, s.body, fromJSON)
		}
		if !ok {
			return out, false
		}
	}
	return out, true
}

// appendMarkup appends the markup at s.pos.
func (s *scanner) appendMarkup(out []byte, fromJSON bool) ([]byte, bool) {
	start := s.pos
	switch {
	case s.has("</"):
		if !s.end() {
			return out, false
		}
		name := s.body[start+len("</") : s.pos]
		if i := bytes.IndexByte(name, ':'); i >= 0 {
			name = name[i+1:]
		}
		return append(append(out, "</"...), name...), true
	case s.has("<!--"):
		if !s.comment() {
			return out, false
		}
		return append(out, s.body[start:s.pos]...), true
	case s.has("<![CDATA["):
		return s.appendCDATA(out)
	case s.has("<!"):
		return out, s.fail(start, ruleDTD)
	case s.has("<?"):
		return out, s.fail(start, rulePI)
	}
	if !s.start() {
		return out, false
	}
	if s.depth > maxNarrative {
		return out, s.fail(start, "narrative is nested too deeply")
	}
	return s.appendTag(out, false, fromJSON)
}

// appendCDATA appends the text of a CDATA section.
func (s *scanner) appendCDATA(out []byte) ([]byte, bool) {
	const opening = "<![CDATA["
	end := bytes.Index(s.body[s.pos:], []byte("]]>"))
	if end < 0 {
		return out, s.fail(s.pos, ruleEnd)
	}
	for i, c := range s.body[s.pos+len(opening) : s.pos+end] {
		switch {
		case c == '&':
			out = append(out, "&amp;"...)
		case c == '<':
			out = append(out, "&lt;"...)
		case c == '>':
			out = append(out, "&gt;"...)
		case c < ' ' && class[c]&classSpace == 0:
			return out, s.fail(s.pos+len(opening)+i, ruleCharacter)
		default:
			out = append(out, c)
		}
	}
	s.pos += end + len("]]>")
	return out, true
}

// appendSpecial appends the reference or the control character at s.pos. It must not
// read beyond b, which has the same offsets as the document.
func (s *scanner) appendSpecial(out, b []byte, fromJSON bool) ([]byte, bool) {
	switch c := b[s.pos]; c {
	case '&':
		if r, n := reference(b[s.pos:]); r == '\r' && !fromJSON {
			s.pos += n
			return append(out, '\r'), true // which becomes a reference again
		} else if n > 0 {
			out = append(out, b[s.pos:s.pos+n]...)
			s.pos += n
			return out, true
		}
		if r, n := htmlEntity(b[s.pos:]); fromJSON && n > 0 {
			out = appendReference(out, r)
			s.pos += n
			return out, true
		}
		return out, s.fail(s.pos, ruleEntity)
	case '\r':
		s.pos++
		switch {
		case fromJSON:
			return append(out, "&#13;"...), true
		case s.pos < len(b) && b[s.pos] == '\n':
			s.pos++
		}
		return append(out, '\n'), true
	case '\n', '\t':
		s.pos++
		return append(out, c), true
	}
	return out, s.fail(s.pos, ruleCharacter)
}

// htmlEntity decodes the named entity of HTML 4 at the beginning of b.
func htmlEntity(b []byte) (r string, n int) {
	const longest = len("&thetasym;")
	end := bytes.IndexByte(b[:min(len(b), longest)], ';')
	if end < 2 {
		return "", 0
	}
	r = xml.HTMLEntity[string(b[1:end])]
	if r == "" {
		return "", 0
	}
	return r, end + 1
}

func appendReference(out []byte, text string) []byte {
	for _, r := range text {
		out = append(out, "&#"...)
		out = strconv.AppendInt(out, int64(r), 10)
		out = append(out, ';')
	}
	return out
}

// appendTag appends the last start tag. If root is set, it declares the namespace.
func (s *scanner) appendTag(out []byte, root, fromJSON bool) ([]byte, bool) {
	t := &s.tag
	if t.prefix == nil && (t.declares || !root) {
		plain := true
		for i := range t.attributes {
			for _, c := range t.attributes[i].raw {
				plain = plain && class[c]&classStop == 0
			}
		}
		if plain {
			return append(out, s.body[t.start:t.end]...), true
		}
	}
	out = append(append(out, '<'), t.local...)
	if root && !t.declares {
		out = append(out, ` xmlns="`+xhtmlURI+`"`...)
	}
	for i := range t.attributes {
		a := &t.attributes[i]
		if root && t.prefix != nil && t.declares && a.prefix == nil && string(a.local) == "xmlns" {
			a.raw = []byte(xhtmlURI)
		}
		out = append(out, ' ')
		if a.prefix != nil {
			out = append(append(out, a.prefix...), ':')
		}
		out = append(append(out, a.local...), `="`...)
		var ok bool
		if out, ok = s.appendValue(out, a, fromJSON); !ok {
			return out, false
		}
		out = append(out, '"')
	}
	if t.empty {
		out = append(out, '/')
	}
	return append(out, '>'), true
}

// appendValue appends the value of an attribute of narrative for double quotes. It
// moves s.pos.
func (s *scanner) appendValue(out []byte, a *attribute, fromJSON bool) ([]byte, bool) {
	end := s.pos // anywhere, if the value was replaced
	s.pos = 0
	b := a.raw
	ok := true
	for s.pos < len(b) {
		switch c := b[s.pos]; {
		case c == '"':
			out = append(out, "&quot;"...)
			s.pos++
		case c == '<':
			return out, s.fail(a.at, ruleWellFormed+"an attribute has an unescaped bracket")
		case class[c]&classStop == 0:
			out = append(out, c)
			s.pos++
		default:
			if out, ok = s.appendSpecial(out, b, fromJSON); !ok {
				s.faultAt = a.at
				return out, false
			}
		}
	}
	s.pos = end
	return out, true
}
