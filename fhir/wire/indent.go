package wire

import "io"

// Indenter indents JSON by two spaces per level as it is written. The JSON must be
// valid. White space between tokens is replaced. Close writes the end.
type Indenter struct {
	dest    io.Writer
	out     []byte
	depth   int
	quoted  bool
	escaped bool
	opened  bool // the last token was { or [
}

// NewIndenter returns an Indenter that writes to w.
func NewIndenter(w io.Writer) *Indenter { return &Indenter{dest: w} }

// Write implements io.Writer.
func (x *Indenter) Write(b []byte) (int, error) {
	for start := 0; start < len(b); {
		if x.quoted {
			start += x.text(b[start:])
			continue
		}
		x.token(b[start])
		start++
		if len(x.out) >= flushAt {
			if err := x.flush(); err != nil {
				return start, err
			}
		}
	}
	return len(b), nil
}

// text copies a part of a string and returns its length.
func (x *Indenter) text(b []byte) int {
	for i, c := range b {
		switch {
		case x.escaped:
			x.escaped = false
		case c == '\\':
			x.escaped = true
		case c == '"':
			x.quoted = false
			x.out = append(x.out, b[:i+1]...)
			return i + 1
		}
	}
	x.out = append(x.out, b...)
	return len(b)
}

// token writes a byte outside of strings.
func (x *Indenter) token(c byte) {
	switch c {
	case ' ', '\t', '\r', '\n':
		return
	case '}', ']':
		x.depth--
		if !x.opened {
			x.newline()
		}
		x.opened = false
		x.out = append(x.out, c)
		return
	}
	if x.opened {
		x.newline()
	}
	x.opened = c == '{' || c == '['
	x.out = append(x.out, c)
	switch c {
	case '{', '[':
		x.depth++
	case ',':
		x.newline()
	case ':':
		x.out = append(x.out, ' ')
	case '"':
		x.quoted = true
	}
}

func (x *Indenter) newline() {
	x.out = append(x.out, '\n')
	for range x.depth {
		x.out = append(x.out, ' ', ' ')
	}
}

func (x *Indenter) flush() error {
	_, err := x.dest.Write(x.out)
	x.out = x.out[:0]
	return err
}

// Close writes what has not been written, and a line break.
func (x *Indenter) Close() error {
	x.out = append(x.out, '\n')
	return x.flush()
}
