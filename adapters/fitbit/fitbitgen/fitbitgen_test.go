package fitbitgen_test

import (
	"bytes"
	"io"
	"testing"
	"time"

	"pulsegate/adapters"
	"pulsegate/adapters/adaptertest"
	"pulsegate/adapters/fitbit"
	"pulsegate/adapters/fitbit/fitbitgen"
)

func pages(t *testing.T, seed uint64) map[string]*bytes.Buffer {
	t.Helper()
	out := map[string]*bytes.Buffer{}
	err := fitbitgen.Generate(func(name string) (io.Writer, error) {
		out[name] = &bytes.Buffer{}
		return out[name], nil
	}, fitbitgen.Options{Seed: seed, Days: 10, Start: time.Date(2026, 10, 20, 0, 0, 0, 0, time.UTC),
		Offset: 2 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestPagesDecodeWithoutRejects(t *testing.T) {
	a := fitbit.New()
	for name, page := range pages(t, 1) {
		if f, ok := a.Detect(name, page.Bytes()[:min(page.Len(), 64<<10)]); !ok || f != "google-health" {
			t.Errorf("%s is not detected", name)
		}
		r := adaptertest.NewRecorder()
		if err := a.Decode(t.Context(), adapters.Input{Name: name, Body: page, Received: adaptertest.Received()},
			r); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if len(r.Samples) == 0 || len(r.Rejects) > 0 || len(r.Drops) > 0 {
			t.Errorf("%s: %d samples, rejects %v, drops %v", name, len(r.Samples), r.Rejects, r.Drops)
		}
		for _, s := range r.Samples {
			if err := adaptertest.Check(s); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

func TestDeterministic(t *testing.T) {
	one, two, other := pages(t, 1), pages(t, 1), pages(t, 2)
	for name := range one {
		if !bytes.Equal(one[name].Bytes(), two[name].Bytes()) {
			t.Errorf("%s differs between two calls with equal options", name)
		}
	}
	if bytes.Equal(one["list_sleep.json"].Bytes(), other["list_sleep.json"].Bytes()) {
		t.Error("different seeds give the same bytes")
	}
}
