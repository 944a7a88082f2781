package wire

import "errors"

// node is a JSON value. Its position in decoded order makes the first child of an object
// or array the next node.
type node struct {
	key, keyEnd uint32 // of the name between its quotes; both zero in an array
	start, end  uint32
	next        uint32 // index of the node after this one and its children
}

var errJSON = errors.New("the JSON is malformed")

// maxJSONDepth is more than the depth of what the server stores in a Bundle in a Bundle.
const maxJSONDepth = 256

// reader reads JSON into nodes. The JSON was validated or written by the server, so the
// reader checks only what it needs to stay within bounds.
type reader struct {
	json  []byte
	pos   int
	nodes []node
}

// read reads one value.
func (r *reader) read(b []byte) error {
	if len(b) > 1<<31 {
		return errJSON
	}
	r.json, r.pos, r.nodes = b, 0, r.nodes[:0]
	if !r.value(0, 0, 0) {
		return errJSON
	}
	if r.space(); r.pos < len(b) {
		return errJSON
	}
	return nil
}

func (r *reader) space() {
	for r.pos < len(r.json) && class[r.json[r.pos]]&classSpace != 0 {
		r.pos++
	}
}

// value reads a value with the given key.
func (r *reader) value(key, keyEnd, depth int) bool {
	r.space()
	if r.pos >= len(r.json) || depth > maxJSONDepth {
		return false
	}
	n := len(r.nodes)
	r.nodes = append(r.nodes, node{key: uint32(key), keyEnd: uint32(keyEnd), start: uint32(r.pos)})
	ok := true
	switch r.json[r.pos] {
	case '{':
		ok = r.members(depth, '}', true)
	case '[':
		ok = r.members(depth, ']', false)
	case '"':
		ok = r.string()
	default:
		start := r.pos
		for r.pos < len(r.json) && literalByte(r.json[r.pos]) {
			r.pos++
		}
		ok = r.pos > start
	}
	r.nodes[n].end, r.nodes[n].next = uint32(r.pos), uint32(len(r.nodes))
	return ok
}

func literalByte(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c == '-' || c == '+' || c == '.' || c == 'E'
}

// members reads the members of an object or the elements of an array.
func (r *reader) members(depth int, closing byte, keys bool) bool {
	r.pos++
	if r.space(); r.pos < len(r.json) && r.json[r.pos] == closing {
		r.pos++
		return true
	}
	for {
		key, keyEnd := 0, 0
		if keys {
			r.space()
			key = r.pos + 1
			if r.pos >= len(r.json) || r.json[r.pos] != '"' || !r.string() {
				return false
			}
			keyEnd = r.pos - 1
			if r.space(); r.pos >= len(r.json) || r.json[r.pos] != ':' {
				return false
			}
			r.pos++
		}
		if !r.value(key, keyEnd, depth+1) {
			return false
		}
		if r.space(); r.pos >= len(r.json) {
			return false
		}
		r.pos++
		switch r.json[r.pos-1] {
		case ',':
		case closing:
			return true
		default:
			return false
		}
	}
}

// string reads a string from its opening quote.
func (r *reader) string() bool {
	b := r.json
	for i := r.pos + 1; i < len(b); i++ {
		switch b[i] {
		case '"':
			r.pos = i + 1
			return true
		case '\\':
			i++
		}
	}
	return false
}
