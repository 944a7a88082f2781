package hints

import (
	"errors"
	"net"
	"strconv"
)

// Bounds on one answer of Redis. The client library allocates as many bytes and
// elements as an answer announces, and follows nested arrays without a bound.
const (
	maxLine     = 4 << 10
	maxBulk     = 1 << 20
	maxElements = 1 << 14
	maxDepth    = 4
)

var errAnswer = errors.New("redis: the answer is not RESP2, or exceeds a limit")

// boundedConn is a connection to Redis. It fails at an answer that is not RESP2 or
// that exceeds a bound, before the library sees it.
type boundedConn struct {
	net.Conn
	line []byte // the beginning of an unfinished line
	skip int    // bytes left of a bulk string, with its end of line
	// open holds the number of elements left in each array that has begun.
	open []int
	bad  bool
}

// Read implements net.Conn.
func (c *boundedConn) Read(b []byte) (int, error) {
	if c.bad {
		return 0, errAnswer
	}
	n, err := c.Conn.Read(b)
	if !c.scan(b[:n]) {
		c.bad = true
		return 0, errAnswer
	}
	return n, err
}

// scan follows the answer through b. It reports false if a bound is exceeded.
func (c *boundedConn) scan(b []byte) bool {
	for len(b) > 0 {
		if c.skip > 0 {
			n := min(c.skip, len(b))
			c.skip -= n
			b = b[n:]
			continue
		}
		if len(c.line) == maxLine {
			return false
		}
		c.line = append(c.line, b[0])
		if b[0] == '\n' {
			if !c.header() {
				return false
			}
			c.line = c.line[:0]
		}
		b = b[1:]
	}
	return true
}

// header handles a complete line.
func (c *boundedConn) header() bool {
	l := c.line
	if len(l) < 3 || l[len(l)-2] != '\r' {
		return false
	}
	switch l[0] {
	case '+', '-', ':':
		c.element()
		return true
	case '$', '*':
	default:
		return false
	}
	n, err := strconv.Atoi(string(l[1 : len(l)-2]))
	switch {
	case err != nil || n < -1:
		return false
	case l[0] == '$':
		if n > maxBulk {
			return false
		}
		if n >= 0 {
			c.skip = n + 2
		}
	case n > 0:
		if n > maxElements || len(c.open) == maxDepth {
			return false
		}
		c.open = append(c.open, n)
		return true
	}
	c.element()
	return true
}

// element counts a complete element of the innermost array.
func (c *boundedConn) element() {
	for len(c.open) > 0 {
		last := len(c.open) - 1
		if c.open[last]--; c.open[last] > 0 {
			return
		}
		c.open = c.open[:last]
	}
}
