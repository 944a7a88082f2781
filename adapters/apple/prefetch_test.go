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
	"pulsegate/adapters/internal/archive"
	"pulsegate/mapping/sample"
)

func TestPrefetcherReturnsTheStream(t *testing.T) {
	want := bytes.Repeat([]byte("0123456789abcde"), 200_000)
	broken := errors.New("broken")
	for name, r := range map[string]io.Reader{
		"one read": bytes.NewReader(want), "half reads": iotest.HalfReader(bytes.NewReader(want)),
		"trailing error": io.MultiReader(bytes.NewReader(want), iotest.ErrReader(broken)),
		"data with EOF":  iotest.DataErrReader(bytes.NewReader(want)),
	} {
		p := newPrefetcher(r)
		got, err := io.ReadAll(p)
		p.close()
		if !bytes.Equal(got, want) {
			t.Errorf("%s: got %d bytes, want %d", name, len(got), len(want))
		}
		if (err == broken) != (name == "trailing error") || err != nil && err != broken {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPrefetcherStopsOnClose(t *testing.T) {
	p := newPrefetcher(zeros{}) // endless: close must end the goroutine
	if _, err := io.ReadFull(p, make([]byte, 3*prefetchChunk/2)); err != nil {
		t.Fatal(err)
	}
	p.close()
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// failingSink returns err for the first sample, after a delay in which the
// prefetcher reaches the limit of the archive.
type failingSink struct {
	discard
	err error
}

func (s *failingSink) Sample(*sample.Sample) error {
	time.Sleep(50 * time.Millisecond)
	return s.err
}

// TestZipReturnsSinkErrorBeforeReadError breaks the archive behind the bytes
// that the sink has seen.
func TestZipReturnsSinkErrorBeforeReadError(t *testing.T) {
	var buf bytes.Buffer
	if err := applegen.GenerateZip(&buf,
		applegen.Options{Seed: 1, Days: 3, Start: adaptertest.Received().AddDate(0, -1, 0)}); err != nil {
		t.Fatal(err)
	}
	want := errors.New("the store is full")
	limited := &adapter{limits: archive.Limits{Bytes: 300 << 10}}
	err := limited.Decode(t.Context(), input(buf.Bytes()), &failingSink{err: want})
	if !errors.Is(err, want) {
		t.Fatalf("got %v, want the error of the sink", err)
	}
}
