package adaptertest

import (
	"bytes"
	"encoding/json"
	"testing"

	"pulsegate/adapters"
)

// Singles adds a test for formats whose payloads are lists: an element of a
// list that decodes by itself, without a hint, is detected by itself, whatever
// the file's name. Elements are the objects in arrays at the top or one level
// below.
func Singles(format string) Option {
	return func(s *suite) { s.singles[format] = true }
}

func (s *suite) single(t *testing.T, payloads []payload) {
	for _, p := range payloads {
		if !s.singles[p.format] {
			continue
		}
		for d := json.NewDecoder(bytes.NewReader(p.body)); d.More(); {
			var body any
			if err := d.Decode(&body); err != nil {
				t.Fatalf("%s: %v", p.name, err)
			}
			for _, e := range elements(body, 2) {
				raw, err := json.Marshal(e)
				if err != nil {
					t.Fatal(err)
				}
				s.alone(t, p, raw)
			}
		}
	}
	if s.alones == 0 && len(s.singles) > 0 {
		t.Error("no element of any list decodes by itself")
	}
}

func (s *suite) alone(t *testing.T, p payload, raw []byte) {
	r := NewRecorder()
	in := adapters.Input{Format: p.format, Body: bytes.NewReader(raw), Received: Received()}
	if err := s.adapter.Decode(t.Context(), in, r); err != nil || len(r.Samples) == 0 {
		return
	}
	s.alones++
	if f, ok := s.adapter.Detect("payload", raw); !ok || f != p.format {
		t.Errorf("%s: an element of metric %s is not detected by itself", p.name, r.Samples[0].Metric)
	}
}

// elements are the objects in the arrays of v.
func elements(v any, depth int) []map[string]any {
	var out []map[string]any
	switch x := v.(type) {
	case []any:
		for _, e := range x {
			if o, ok := e.(map[string]any); ok {
				out = append(out, o)
			}
		}
	case map[string]any:
		if depth > 0 {
			for _, e := range x {
				out = append(out, elements(e, depth-1)...)
			}
		}
	}
	return out
}
