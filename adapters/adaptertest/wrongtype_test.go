package adaptertest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"pulsegate/adapters"
	"pulsegate/mapping/sample"
)

// control is an adapter for {"unit":"…","points":[{"at":"…","value":1,"parts":[{"n":1}]}]}.
// A flaw makes it break one requirement.
type control struct {
	adapters.Adapter
	flaw string
}

// Decode implements adapters.Adapter.
func (c control) Decode(_ context.Context, in adapters.Input, sink adapters.Sink) error {
	body, err := io.ReadAll(in.Body)
	if err != nil {
		return err
	}
	var page struct {
		Unit   string            `json:"unit"`
		Points []json.RawMessage `json:"points"`
	}
	if err := json.Unmarshal(body, &page); err != nil {
		return c.fail()
	}
	for i, raw := range page.Points {
		s, bad := readControl(raw, page.Unit)
		if bad != nil {
			if err := c.reject(sink, i, bad, s, string(raw)); err != nil || c.flaw == "ends" {
				return err
			}
			if c.flaw != "invalid" {
				continue
			}
		}
		if err := sink.Sample(s); err != nil {
			return err
		}
	}
	return nil
}

func (c control) fail() error {
	switch c.flaw {
	case "plain error":
		return errors.New("not a page")
	case "error without a place":
		return &adapters.PayloadError{Format: "control", Rule: "not a page"}
	}
	return &adapters.PayloadError{Format: "control", Where: "offset 0", Rule: "not a page"}
}

func (c control) reject(sink adapters.Sink, i int, bad error, s *sample.Sample, raw string) error {
	r := sample.Reject{Reason: sample.ReasonBadValue, Where: fmt.Sprintf("points[%d]", i), Detail: bad.Error()}
	switch c.flaw {
	case "panic":
		panic("cannot convert")
	case "stops":
		return c.fail()
	case "silent":
		return nil
	case "value only": // the sample remains, without its value
		s.Value, s.Start, s.Components = sample.Value{Kind: sample.Text, Text: "unknown"}, Received(), nil
		return sink.Sample(s)
	case "leak":
		r.Detail = raw
	case "reject without a place":
		r.Where = ""
	case "reject without a rule":
		r.Detail = ""
	case "drop":
		sink.Drop(sample.DropPlaceholder, raw, 1)
	}
	return sink.Reject(&r)
}

func readControl(raw json.RawMessage, unit string) (*sample.Sample, error) {
	s := &sample.Sample{Metric: "m", Value: sample.Value{Kind: sample.Number, Num: "0", Unit: unit}}
	var p struct {
		At    time.Time   `json:"at"`
		Value json.Number `json:"value"`
		Parts []struct {
			N json.Number `json:"n"`
		} `json:"parts"`
	}
	if err := json.Unmarshal(raw, &p); err != nil {
		return s, errors.New("a member of the point has a wrong type")
	}
	if p.At.IsZero() || p.Value == "" {
		return s, errors.New("the point lacks a member")
	}
	s.Start, s.Value.Num = p.At, string(p.Value)
	for i, part := range p.Parts {
		s.Components = append(s.Components, sample.Component{Name: fmt.Sprint("part", i),
			Value: sample.Value{Kind: sample.Number, Num: string(part.N)}})
	}
	for _, c := range s.Components {
		if c.Value.Num == "" {
			return s, errors.New("a part lacks its number")
		}
	}
	return s, nil
}

// TestWrongTypes checks that an adapter without flaws passes and that each requirement
// is checked.
func TestWrongTypes(t *testing.T) {
	p := payload{format: "control", name: "page.json", body: []byte(`{"unit":"u","points":[
		{"at":"2026-05-04T08:00:00Z","value":1,"parts":[{"n":1},{"n":2}]},
		{"at":"2026-05-04T08:01:00Z","value":2},{"at":"2026-05-04T08:02:00Z","value":3}]}`)}
	for flaw, want := range map[string]string{
		"":                       "",
		"panic":                  "panics",
		"stops":                  "of other items are missing",
		"ends":                   "of other items are missing",
		"silent":                 "missing without a reject",
		"value only":             "changed a value without a reject",
		"leak":                   "a reject contains a text",
		"drop":                   "a drop contains a text",
		"invalid":                "a sample of m",
		"reject without a place": "a reject names no place",
		"reject without a rule":  "a reject names no place",
		"plain error":            "not a PayloadError",
		"error without a place":  "names no place",
	} {
		s := &suite{adapter: control{flaw: flaw}}
		n, problems := s.wrongTypes(t.Context(), p)
		again, _ := s.wrongTypes(t.Context(), p)
		if n < 40 || n != again {
			t.Errorf("%q: %d variants, then %d", flaw, n, again)
		}
		all := strings.Join(problems, "\n")
		if want == "" && all != "" || !strings.Contains(all, want) {
			t.Errorf("flaw %q: want %q, got %s", flaw, want, all)
		}
	}
}

// TestLayout checks the places and elements of JSON, XML and CSV.
func TestLayout(t *testing.T) {
	for body, want := range map[string]struct {
		places   []string
		elements []string // what is left without the element
	}{
		`{"a":[{"b":1},{"c":"x\"y"}],"d":[2, null]}`: {
			[]string{`{"a":[{"b":1},{"c":"x\"y"}],"d":[2, null]}`, `[{"b":1},{"c":"x\"y"}]`, `{"b":1}`, "1",
				`{"c":"x\"y"}`, `"x\"y"`, "[2, null]", "2", "null"},
			[]string{`{"a":[{"c":"x\"y"}],"d":[2, null]}`, `{"a":[{"b":1}],"d":[2, null]}`},
		},
		`<a b="1"><c d="2"/><c d="3"></c></a>`: {[]string{"1", "2", "3"},
			[]string{"", `<a b="1"><c d="3"></c></a>`, `<a b="1"><c d="2"/></a>`}},
		"x,\"y,z\"\n1;2\n": {[]string{"x", `"y,z"`, "1", "2"}, []string{"x,\"y,z\"\n"}},
	} {
		l, err := layoutOf(payload{body: []byte(body)})
		if err != nil {
			t.Fatal(err)
		}
		var places, elements []string
		for _, p := range l.places {
			places = append(places, body[p.from:p.to])
		}
		for _, e := range l.elements {
			elements = append(elements, body[:e.from]+body[e.to:])
		}
		if got, want := fmt.Sprintf("%q %q", places, elements),
			fmt.Sprintf("%q %q", want.places, want.elements); got != want {
			t.Errorf("%s:\n got %s\nwant %s", body, got, want)
		}
	}
}

// TestVariantsAreBounded checks the limits for long payloads.
func TestVariantsAreBounded(t *testing.T) {
	l, err := layoutOf(payload{body: []byte("[" + strings.Repeat("1,", 5000) + "1]")})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(l.variants()); n != 5+5+sampledShapes {
		t.Errorf("%d variants of a list of numbers", n)
	}
	var b strings.Builder
	for i := range 500 {
		fmt.Fprintf(&b, `,"m%d":1`, i)
	}
	if l, err = layoutOf(payload{body: []byte("{" + b.String()[1:] + "}")}); err != nil {
		t.Fatal(err)
	}
	if n := len(l.variants()); n != maxVariants {
		t.Errorf("%d variants of an object with many members", n)
	}
}
