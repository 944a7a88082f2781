package ouragen_test

import (
	"bytes"
	"io"
	"testing"
	"time"

	"pulsegate/adapters"
	"pulsegate/adapters/adaptertest"
	"pulsegate/adapters/oura"
	"pulsegate/adapters/oura/ouragen"
)

func file(t *testing.T, seed uint64) []byte {
	t.Helper()
	var out bytes.Buffer
	err := ouragen.Generate(func(string) (io.Writer, error) { return &out, nil },
		ouragen.Options{Seed: seed, Days: 10, Start: time.Date(2026, 10, 20, 0, 0, 0, 0, time.UTC),
			Offset: -5 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestFileDecodesWithoutRejects(t *testing.T) {
	a, body := oura.New(), file(t, 1)
	if f, ok := a.Detect("oura.json", body[:min(len(body), 64<<10)]); !ok || f != "v2" {
		t.Error("oura.json is not detected")
	}
	r := adaptertest.NewRecorder()
	if err := a.Decode(t.Context(), adapters.Input{Name: "oura.json", Body: bytes.NewReader(body),
		Received: adaptertest.Received()}, r); err != nil {
		t.Fatal(err)
	}
	if len(r.Rejects) > 0 || len(r.Drops) > 0 {
		t.Errorf("rejects %v, drops %v", r.Rejects, r.Drops)
	}
	nights := 0
	for _, s := range r.Samples {
		if err := adaptertest.Check(s); err != nil {
			t.Errorf("%s: %v", s.Metric, err)
		}
		if s.Metric == "sleep" {
			nights++
		}
	}
	if nights != 10 {
		t.Errorf("%d nights in 10 days", nights)
	}
}

func TestDeterministic(t *testing.T) {
	if !bytes.Equal(file(t, 1), file(t, 1)) {
		t.Error("equal seeds give different bytes")
	}
	if bytes.Equal(file(t, 1), file(t, 2)) {
		t.Error("different seeds give the same bytes")
	}
}
