package apple

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"
	"time"

	"pulsegate/adapters/adaptertest"
	"pulsegate/adapters/apple/applegen"
	"pulsegate/mapping/sample"
)

func TestAheadGivesTheStream(t *testing.T) {
	want := bytes.Repeat([]byte("0123456789abcde"), 200_000)
	broken := errors.New("broken")
	for name, r := range map[string]io.Reader{
		"whole": bytes.NewReader(want), "halves": iotest.HalfReader(bytes.NewReader(want)),
		"error after":   io.MultiReader(bytes.NewReader(want), iotest.ErrReader(broken)),
		"data with EOF": iotest.DataErrReader(bytes.NewReader(want)),
	} {
		a := readAhead(r)
		got, err := io.ReadAll(a)
		a.close()
		if !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, want %d", name, len(got), len(want))
		}
		if (err == broken) != (name == "error after") || err != nil && err != broken {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestAheadStops closes before the end: an endless stream must not go on.
func TestAheadStops(t *testing.T) {
	a := readAhead(zeros{})
	if _, err := io.ReadFull(a, make([]byte, 3*aheadChunk/2)); err != nil {
		t.Fatal(err)
	}
	a.close()
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// stopping is a sink that ends decoding at once.
type stopping struct {
	discard
	err error
}

func (s *stopping) Sample(*sample.Sample) error {
	time.Sleep(50 * time.Millisecond) // for the reading ahead to meet the limit
	return s.err
}

// TestZipSinkErrorWins: the archive breaks further on than the sink reads.
func TestZipSinkErrorWins(t *testing.T) {
	var buf bytes.Buffer
	if err := applegen.GenerateZip(&buf,
		applegen.Options{Seed: 1, Days: 3, Start: adaptertest.Received().AddDate(0, -1, 0)}); err != nil {
		t.Fatal(err)
	}
	want := errors.New("the store is full")
	err := (&Adapter{Limits: Limits{Bytes: 300 << 10}}).Decode(t.Context(), input(buf.Bytes()), &stopping{err: want})
	if !errors.Is(err, want) {
		t.Fatalf("%v, want the sink's error", err)
	}
}
