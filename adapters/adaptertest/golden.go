package adaptertest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"testing"
	"time"

	"pulsegate/mapping/sample"
)

// line is one line of a golden file. It has names instead of numbers, and empty
// fields are omitted.
type line struct {
	Metric     string           `json:"metric,omitempty"`
	Channel    string           `json:"channel,omitempty"`
	Start      string           `json:"start,omitempty"`
	End        string           `json:"end,omitempty"`
	Zone       string           `json:"zone,omitempty"`
	IANA       string           `json:"iana,omitempty"`
	Day        string           `json:"day,omitempty"`
	Value      *value           `json:"value,omitempty"`
	Components map[string]value `json:"components,omitempty"`
	Device     *sample.Device   `json:"device,omitempty"`
	Source     *sample.Source   `json:"source,omitempty"`
	VendorID   string           `json:"vendorId,omitempty"`
	SharedID   bool             `json:"sharedId,omitempty"`
	KeyValue   bool             `json:"keyValue,omitempty"`
	Revision   int64            `json:"revision,omitempty"`
	Coarse     bool             `json:"coarse,omitempty"`
	Status     string           `json:"status,omitempty"`
	User       bool             `json:"userEntered,omitempty"`
	Method     string           `json:"method,omitempty"`
	Note       string           `json:"note,omitempty"`
	Reject     string           `json:"reject,omitempty"`
	Where      string           `json:"where,omitempty"`
	Detail     string           `json:"detail,omitempty"`
	Component  string           `json:"component,omitempty"`
	Drop       string           `json:"drop,omitempty"`
	Count      int              `json:"count,omitempty"`
}

type value struct {
	Kind string `json:"kind"`
	Num  string `json:"num,omitempty"`
	High string `json:"high,omitempty"`
	Unit string `json:"unit,omitempty"`
	Text string `json:"text,omitempty"`
	Bool *bool  `json:"bool,omitempty"`
	*sample.SeriesData
}

// viewValue renders a value for a golden file.
func viewValue(v sample.Value) value {
	types := []string{"none", "number", "code", "text", "interval", "series", "boolean"}
	out := value{Kind: types[v.Kind], Num: v.Num, High: v.High, Unit: v.Unit, Text: v.Text, SeriesData: v.Series}
	if v.Kind == sample.Boolean {
		out.Bool = &v.Bool
	}
	return out
}

// view renders a sample for a golden file.
func view(s *sample.Sample) line {
	l := line{
		Metric: s.Metric, Channel: s.Channel, IANA: s.IANA, VendorID: s.VendorID, SharedID: s.SharedID,
		KeyValue: s.KeyValue,
		Revision: s.Revision, Coarse: s.Coarse,
		User: s.UserEntered, Method: s.Method, Note: s.Note,
		Status: []string{"", "preliminary", "retracted"}[s.Status],
	}
	if !s.Start.IsZero() {
		l.Start = s.Start.Format(time.RFC3339Nano)
		l.Zone = []string{"stated", "instant", "floating"}[s.Zone]
	}
	if !s.End.IsZero() {
		l.End = s.End.Format(time.RFC3339Nano)
	}
	if !s.Day.IsZero() {
		l.Day = fmt.Sprintf("%04d-%02d-%02d", s.Day.Year, s.Day.Month, s.Day.Day)
	}
	if s.Value.Kind != sample.None {
		v := viewValue(s.Value)
		l.Value = &v
	}
	for _, c := range s.Components {
		if l.Components == nil {
			l.Components = map[string]value{}
		}
		l.Components[c.Name] = viewValue(c.Value)
	}
	if d := s.Device; d.Name+d.Manufacturer+d.Model+d.Hardware+d.Kind+d.Serial+d.Software+d.Firmware+
		d.Battery != "" || len(d.Facts) > 0 {
		l.Device = &d
	}
	if s.Source != (sample.Source{}) {
		l.Source = &s.Source
	}
	return l
}

// JSONLines renders the contents of a Recorder as one JSON object per line:
// samples and rejects in order, then the sorted drops.
func JSONLines(r *Recorder) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	var lines []line
	for _, s := range r.Samples {
		lines = append(lines, view(s))
	}
	for _, reject := range r.Rejects {
		lines = append(lines, line{Reject: reject.Reason, Metric: reject.Metric, Where: reject.Where,
			Detail: reject.Detail, Component: reject.Component, VendorID: reject.VendorID})
	}
	for _, k := range slices.Sorted(maps.Keys(r.Drops)) {
		lines = append(lines, line{Drop: k, Count: r.Drops[k]})
	}
	for _, l := range lines {
		if err := enc.Encode(l); err != nil {
			return nil, err
		}
	}
	return buf.Bytes(), nil
}

// golden compares the contents of r with the golden file at path, or writes the
// file with -update.
func golden(t *testing.T, path string, r *Recorder) {
	t.Helper()
	got, err := JSONLines(r)
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (run the test with -update to write it)", err)
	}
	g, w := bytes.Split(got, []byte("\n")), bytes.Split(want, []byte("\n"))
	for i := range max(len(g), len(w)) {
		switch {
		case i >= len(g):
			t.Fatalf("line %d is missing: want %s", i+1, w[i])
		case i >= len(w):
			t.Fatalf("line %d is unexpected: %s", i+1, g[i])
		case !bytes.Equal(g[i], w[i]):
			t.Fatalf("line %d:\n got %s\nwant %s", i+1, g[i], w[i])
		}
	}
}
