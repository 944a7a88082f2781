package wire

import (
	"strings"
	"testing"
)

// largest records the largest piece that was written.
type largest struct{ total, piece int }

func (w *largest) Write(b []byte) (int, error) {
	w.total += len(b)
	w.piece = max(w.piece, len(b))
	return len(b), nil
}

// TestStreaming shows that a Bundle in parts is converted entry by entry: what is held
// depends on the largest entry, not on the Bundle. The control is the same Bundle in one
// part, which is held whole.
func TestStreaming(t *testing.T) {
	const entries = 5000
	parts := [][]byte{[]byte(`{"resourceType":"Bundle","type":"searchset","entry":[`)}
	for i := range entries {
		if i > 0 {
			parts = append(parts, []byte(","))
		}
		parts = append(parts, []byte(`{"resource":`), []byte(observation), []byte(`,"search":{"mode":"match"}}`))
	}
	parts = append(parts, []byte("]}"))
	var e Encoder
	var w largest
	if err := e.Encode(&w, parts...); err != nil {
		t.Fatal(err)
	}
	if w.total < entries*len(observation) || w.piece > 2*flushAt || cap(e.nodes) > 1000 || cap(e.out) > 4*flushAt {
		t.Errorf("%d bytes in pieces of up to %d, %d nodes, buffer of %d", w.total, w.piece, cap(e.nodes), cap(e.out))
	}
	var whole []string
	for _, p := range parts {
		whole = append(whole, string(p))
	}
	if err := e.Encode(&w, []byte(strings.Join(whole, ""))); err != nil {
		t.Fatal(err)
	}
	if cap(e.nodes) < entries {
		t.Errorf("the control held %d nodes", cap(e.nodes))
	}
}

// TestOutOfOrder shows that a Bundle in parts with members out of order is an error, and in
// one part is put in order.
func TestOutOfOrder(t *testing.T) {
	const first, last = `{"resourceType":"Bundle","entry":[{"fullUrl":"urn:x"}],`, `"type":"batch"}`
	var e Encoder
	if err := e.Encode(&largest{}, []byte(first), []byte(last)); err == nil {
		t.Error("no error")
	}
	if got := string(toXML(t, []byte(first+last))); !strings.Contains(got, `<type value="batch"/><entry>`) {
		t.Error(got)
	}
}
