package adaptertest

import (
	"bytes"
	"encoding/json"
	"testing"

	"pulsegate/adapters"
)

// Singles adds a check for a format with lists of objects. Each element of a
// list that can be decoded without the list and without a hint must also be
// detected, with any file name. Lists are arrays at the top level or inside one
// or two nested objects.
func Singles(format string) Option {
	return func(s *suite) { s.singles[format] = true }
}

// checkSingles checks the elements of all payloads.
func (s *suite) checkSingles(t *testing.T, payloads []payload) {
	for _, p := range payloads {
		if !s.singles[p.format] {
			continue
		}
		for dec := json.NewDecoder(bytes.NewReader(p.body)); dec.More(); {
			var body any
			if err := dec.Decode(&body); err != nil {
				t.Fatalf("%s: %v", p.name, err)
			}
			for _, e := range elements(body, 2) {
				raw, err := json.Marshal(e)
				if err != nil {
					t.Fatal(err)
				}
				s.checkSingle(t, p, raw)
			}
		}
	}
	if s.decodedSingly == 0 && len(s.singles) > 0 {
		t.Error("no element of any list decodes without its list")
	}
}

// checkSingle checks that Detect recognizes raw if it can be decoded.
func (s *suite) checkSingle(t *testing.T, p payload, raw []byte) {
	r := NewRecorder()
	in := adapters.Input{Format: p.format, Body: bytes.NewReader(raw), Received: Received()}
	if err := s.adapter.Decode(t.Context(), in, r); err != nil || len(r.Samples) == 0 {
		return
	}
	s.decodedSingly++
	if f, ok := s.adapter.Detect("payload", raw); !ok || f != p.format {
		t.Errorf("%s: an element of metric %s is not detected without its list", p.name, r.Samples[0].Metric)
	}
}

// elements returns the objects in the arrays of v.
func elements(v any, depth int) []map[string]any {
	var out []map[string]any
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			if o, ok := e.(map[string]any); ok {
				out = append(out, o)
			}
		}
	case map[string]any:
		if depth > 0 {
			for _, e := range v {
				out = append(out, elements(e, depth-1)...)
			}
		}
	}
	return out
}
