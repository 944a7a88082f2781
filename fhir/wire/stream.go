package wire

import (
	"pulsegate/fhir/definitions"
)

// bundle writes a Bundle in parts. It holds the JSON of one entry at a time, which is
// copied only if it lies in several parts.
func (e *Encoder) bundle(parts [][]byte) {
	p := &partReader{parts: parts}
	st := e.set.Structure("Bundle")
	e.open(st.Name)
	e.out = append(e.out, ` xmlns="`+fhirURI+`">`...)
	e.depth++
	last := -1
	for ok := p.token('{'); ok && e.err == nil; ok = p.token(',') {
		name, good := p.value()
		if !good || len(name) < 2 || !p.token(':') {
			break
		}
		name = name[1 : len(name)-1]
		isType := string(name) == "resourceType"
		m := st.Lookup(name)
		switch {
		case isType:
		case m == nil || int(m.Element) <= last:
			e.fail("a Bundle in parts has members out of order")
			return
		default:
			last = int(m.Element)
		}
		if !isType && m.Many && p.token('[') {
			if !e.streamArray(p, m) {
				break
			}
			continue
		}
		v, good := p.value()
		if !good {
			break
		}
		if !isType {
			e.value(v, m)
		}
	}
	if e.err == nil && (!p.token('}') || !p.ended()) {
		e.fail("a Bundle in parts is malformed")
		return
	}
	e.depth--
	e.close(st.Name)
}

// streamArray writes the elements of an array after its opening bracket.
func (e *Encoder) streamArray(p *partReader, m *definitions.Member) bool {
	if p.token(']') {
		return true
	}
	for {
		v, ok := p.value()
		if !ok {
			return false
		}
		if e.value(v, m); e.err != nil {
			return false
		}
		if !p.token(',') {
			return p.token(']')
		}
	}
}

// value writes one element with the given JSON.
func (e *Encoder) value(v []byte, m *definitions.Member) {
	if err := e.read(v); err != nil {
		e.fail(err.Error())
		return
	}
	e.element(m, 0, -1)
}

// partReader reads JSON in parts. No token but a string may lie in several parts.
type partReader struct {
	parts [][]byte
	pos   int    // in the first part
	carry []byte // the last value, if it lies in several parts
}

// skip skips white space and parts that have been read, and reports whether there is
// more.
func (p *partReader) skip() bool {
	for len(p.parts) > 0 {
		for b := p.parts[0]; p.pos < len(b); p.pos++ {
			if class[b[p.pos]]&classSpace == 0 {
				return true
			}
		}
		p.parts, p.pos = p.parts[1:], 0
	}
	return false
}

func (p *partReader) ended() bool { return !p.skip() }

// token reads a byte if it is c.
func (p *partReader) token(c byte) bool {
	if !p.skip() || p.parts[0][p.pos] != c {
		return false
	}
	p.pos++
	return true
}

// value reads a value and returns its JSON, which is valid until the next call.
func (p *partReader) value() ([]byte, bool) {
	if !p.skip() {
		return nil, false
	}
	var s skipper
	p.carry = p.carry[:0]
	for len(p.parts) > 0 {
		b := p.parts[0][p.pos:]
		n, done := s.skip(b)
		if done && len(p.carry) == 0 {
			p.pos += n
			return b[:n], true
		}
		p.carry = append(p.carry, b[:n]...)
		if done {
			p.pos += n
			return p.carry, true
		}
		p.parts, p.pos = p.parts[1:], 0
	}
	return nil, false
}

// skipper finds the end of a JSON value that comes in parts.
type skipper struct {
	depth           int
	quoted, escaped bool
	begun           bool
}

// skip returns the number of bytes of b that belong to the value, and whether the value
// is complete.
func (s *skipper) skip(b []byte) (n int, done bool) {
	for i := 0; i < len(b); i++ {
		c := b[i]
		switch {
		case s.escaped:
			s.escaped = false
			continue
		case s.quoted:
			switch c {
			case '\\':
				s.escaped = true
			case '"':
				if s.quoted = false; s.depth == 0 {
					return i + 1, true
				}
			}
			continue
		}
		switch c {
		case '"':
			s.quoted = true
		case '{', '[':
			s.depth++
		case '}', ']':
			if s.depth == 0 {
				return i, s.begun // the end of a literal
			}
			if s.depth--; s.depth == 0 {
				return i + 1, true
			}
		case ',', ' ', '\n', '\t', '\r', ':':
			if s.depth == 0 {
				return i, s.begun
			}
		}
		s.begun = true
	}
	return len(b), false
}
