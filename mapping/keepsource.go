package mapping

import "bytes"

const (
	deviceOpen    = `,"device":{"reference":"Device/`
	performerOpen = `,"performer":[{"reference":"Patient/`
)

// KeepSource returns body with the device and the performer of earlier. Both are
// versions of one Observation as Map writes it. If earlier has neither a device
// nor a performer, KeepSource returns body and false.
//
// The search for members is textual. It finds no string values, because quotes
// in strings are escaped.
func KeepSource(body, earlier []byte) (out []byte, kept bool) {
	device := find(earlier, deviceOpen, "}")
	performer := find(earlier, performerOpen, "]")
	if device == nil && performer == nil {
		return body, false
	}
	out = cut(cut(body, find(body, deviceOpen, "}")), find(body, performerOpen, "]"))
	at := bytes.LastIndexByte(out, '}')
	if i := bytes.Index(out, []byte(`,"component":[`)); i >= 0 {
		at = i
	}
	out = insert(out, at, device)
	if performer != nil {
		out = insert(out, effectiveEnd(out), performer)
	}
	return out, true
}

// find returns the part of b from open to the next end, or nil.
func find(b []byte, open, end string) []byte {
	i := bytes.Index(b, []byte(open))
	if i < 0 {
		return nil
	}
	j := bytes.Index(b[i:], []byte(end))
	if j < 0 {
		return nil
	}
	return b[i : i+j+len(end)]
}

// cut returns a copy of b without piece.
func cut(b, piece []byte) []byte {
	if piece == nil {
		return b
	}
	before, after, _ := bytes.Cut(b, piece)
	return append(bytes.Clone(before), after...)
}

// insert returns a copy of b with piece at the given offset.
func insert(b []byte, at int, piece []byte) []byte {
	out := make([]byte, 0, len(b)+len(piece))
	return append(append(append(out, b[:at]...), piece...), b[at:]...)
}

// effectiveEnd returns the offset after effective[x], where performer belongs.
func effectiveEnd(b []byte) int {
	for open, end := range map[string]string{`,"effectiveDateTime":"`: `"`, `,"effectivePeriod":{`: `}`} {
		if i := bytes.Index(b, []byte(open)); i >= 0 {
			i += len(open)
			return i + bytes.Index(b[i:], []byte(end)) + 1
		}
	}
	return bytes.LastIndexByte(b, '}')
}
