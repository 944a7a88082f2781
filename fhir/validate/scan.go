package validate

import "unicode/utf8"

// The scanner reads JSON (RFC 8259) from d.body at d.pos. Its functions return
// false at the first fault of syntax, with d.pos at or near it.

// space skips white space between tokens.
func (d *Document) space() {
	for d.pos < len(d.body) {
		switch d.body[d.pos] {
		case ' ', '\t', '\r', '\n':
			d.spaced = true
			d.pos++
		default:
			return
		}
	}
}

// plainByte holds the bytes that need no attention in a string: all but quotes,
// backslashes, control characters and bytes of other characters than ASCII.
var plainByte = func() (t [256]bool) { // read only
	for c := range t {
		t[c] = c >= ' ' && c != '"' && c != '\\' && c < utf8.RuneSelf
	}
	return t
}()

// stringToken reads a string and reports whether it has escapes. d.pos must be
// at the opening quote.
func (d *Document) stringToken() (escaped, ok bool) {
	b, i := d.body, d.pos+1
	start, ascii := i, true
	for {
		for i < len(b) && plainByte[b[i]] {
			i++
		}
		if i >= len(b) {
			d.pos = i
			return escaped, false
		}
		switch c := b[i]; {
		case c == '"':
			d.pos = i + 1
			if !ascii && !utf8.Valid(b[start:i]) {
				d.pos, d.invalidUTF8 = start, true
				return escaped, false
			}
			return escaped, true
		case c == '\\':
			escaped = true
			n := escapeLength(b[i:])
			if n == 0 {
				d.pos = i
				return escaped, false
			}
			i += n
		case c < ' ':
			d.pos = i
			return escaped, false
		default:
			ascii = false
			i++
		}
	}
}

// escapeLength returns the length of the escape sequence at the beginning of b,
// or zero if it is not valid. Surrogates must come in pairs.
func escapeLength(b []byte) int {
	if len(b) < 2 {
		return 0
	}
	switch b[1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 2
	case 'u':
		r, ok := hex4(b)
		switch {
		case !ok || r >= 0xDC00 && r < 0xE000:
			return 0
		case r >= 0xD800 && r < 0xDC00:
			if len(b) < 12 || b[6] != '\\' || b[7] != 'u' {
				return 0
			}
			if low, ok := hex4(b[6:]); !ok || low < 0xDC00 || low >= 0xE000 {
				return 0
			}
			return 12
		}
		return 6
	}
	return 0
}

// hex4 returns the number in an escape sequence \uXXXX.
func hex4(b []byte) (r rune, ok bool) {
	if len(b) < 6 {
		return 0, false
	}
	for _, c := range b[2:6] {
		n := hexDigit(c)
		if n < 0 {
			return 0, false
		}
		r = r<<4 | rune(n)
	}
	return r, true
}

// appendUnescaped appends the text of a string. The string has no quotes, and its
// escape sequences are valid.
func appendUnescaped(out, s []byte) []byte {
	for i := 0; i < len(s); {
		if s[i] != '\\' {
			out = append(out, s[i])
			i++
			continue
		}
		n := escapeLength(s[i:])
		switch c := s[i+1]; c {
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			r, _ := hex4(s[i:])
			if n == 12 {
				low, _ := hex4(s[i+6:])
				r = 0x10000 + (r-0xD800)<<10 + (low - 0xDC00)
			}
			out = utf8.AppendRune(out, r)
		default:
			out = append(out, c)
		}
		i += max(n, 2)
	}
	return out
}

// numberToken reads a number.
func (d *Document) numberToken() bool {
	b, i := d.body, d.pos
	if b[i] == '-' {
		i++
	}
	switch {
	case i < len(b) && b[i] == '0':
		i++
	case i < len(b) && b[i] >= '1' && b[i] <= '9':
		i = skipDigits(b, i)
	default:
		d.pos = i
		return false
	}
	if i < len(b) && b[i] == '.' {
		j := skipDigits(b, i+1)
		if j == i+1 {
			d.pos = j
			return false
		}
		i = j
	}
	if i < len(b) && b[i]|0x20 == 'e' {
		i++
		if i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		j := skipDigits(b, i)
		if j == i {
			d.pos = j
			return false
		}
		i = j
	}
	d.pos = i
	return true
}

func skipDigits(b []byte, i int) int {
	for i < len(b) && digit(b[i]) {
		i++
	}
	return i
}

// literal reads true, false or null.
func (d *Document) literal(word string) bool {
	if len(d.body)-d.pos < len(word) || string(d.body[d.pos:d.pos+len(word)]) != word {
		return false
	}
	d.pos += len(word)
	return true
}

// skip reads a value that has no definition. It checks the syntax and the limits
// and adds no nodes.
func (d *Document) skip(depth int) bool {
	d.space()
	if d.pos >= len(d.body) {
		return false
	}
	if d.skipped++; len(d.nodes)+d.skipped > d.limits.Values {
		return d.stop(stopValues)
	}
	switch c := d.body[d.pos]; c {
	case '"':
		_, ok := d.stringToken()
		return ok
	case 't':
		return d.literal("true")
	case 'f':
		return d.literal("false")
	case 'n':
		return d.literal("null")
	case '{', '[':
		if depth > d.limits.Depth {
			return d.stop(stopDepth)
		}
		return d.skipList(c == '{', depth)
	default:
		return d.numberToken()
	}
}

// skipList reads an object or array.
func (d *Document) skipList(object bool, depth int) bool {
	d.pos++
	for first := true; ; first = false {
		end, ok := d.more(object, first)
		if !ok || end {
			return ok
		}
		if object {
			if _, ok := d.stringToken(); !ok || !d.colon() {
				return false
			}
		}
		if !d.skip(depth + 1) {
			return false
		}
	}
}

// more reads what stands between the members of an object or the elements of an
// array: a comma, the beginning of the next one or the end of the list.
func (d *Document) more(object, first bool) (end, ok bool) {
	d.space()
	if d.pos >= len(d.body) {
		return false, false
	}
	closing := byte(']')
	if object {
		closing = '}'
	}
	c := d.body[d.pos]
	if c == closing {
		d.pos++
		return true, true
	}
	if !first {
		if c != ',' {
			return false, false
		}
		d.pos++
		d.space()
		if d.pos >= len(d.body) {
			return false, false
		}
		c = d.body[d.pos]
	}
	return false, !object || c == '"'
}

// colon reads the colon after a name.
func (d *Document) colon() bool {
	d.space()
	if d.pos >= len(d.body) || d.body[d.pos] != ':' {
		return false
	}
	d.pos++
	d.space()
	return d.pos < len(d.body)
}
