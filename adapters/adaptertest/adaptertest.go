package adaptertest

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"pulsegate/adapters"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// Received is the time of receipt that the suite gives to every payload.
func Received() time.Time { return time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC) }

// Option changes what the suite expects.
type Option func(*suite)

// Unterminated names a format that has no end mark (plain lines), so that a
// cut payload may look whole: then the last sample may differ from the one of
// the whole payload.
func Unterminated(format string) Option {
	return func(s *suite) { s.unterminated[format] = true }
}

// Large adds the memory test: write streams a valid payload of about size
// bytes; decoding it may hold no more than limit bytes of heap above the
// start (64 MiB if limit is 0).
func Large(format string, size, limit int64, write func(w io.Writer, size int64) error) Option {
	return func(s *suite) { s.large = append(s.large, large{format, size, limit, write}) }
}

type large struct {
	format      string
	size, limit int64
	write       func(io.Writer, int64) error
}

type suite struct {
	adapter      adapters.Adapter
	unterminated map[string]bool
	singles      map[string]bool
	alones       int // elements that decoded by themselves
	large        []large
	canaries     []string
}

type payload struct {
	format, name, path string
	body               []byte
}

func (p payload) input() adapters.Input {
	return adapters.Input{
		Name: p.name, Format: p.format, Body: bytes.NewReader(p.body),
		At: bytes.NewReader(p.body), Size: int64(len(p.body)), Received: Received(),
	}
}

func (p payload) cut(n int) payload { p.body = p.body[:n]; return p }

// Run runs the suite over the payloads in dir.
func Run(t *testing.T, a adapters.Adapter, dir string, opts ...Option) {
	t.Helper()
	s := &suite{adapter: a, unterminated: map[string]bool{}, singles: map[string]bool{}}
	for _, o := range opts {
		o(s)
	}
	payloads := s.load(t, dir)
	t.Run("formats", func(t *testing.T) { s.formats(t, payloads) })
	t.Run("foreign bytes are not ours", s.foreign)
	for _, p := range payloads {
		t.Run(p.format+"/"+p.name, func(t *testing.T) { s.one(t, p) })
	}
	t.Run("single elements", func(t *testing.T) { s.single(t, payloads) })
	t.Run("canaries", func(t *testing.T) { s.canariesOccur(t, payloads) })
	for _, l := range s.large {
		t.Run("bounded memory/"+l.format, func(t *testing.T) { s.bounded(t, l) })
	}
}

func (s *suite) load(t *testing.T, dir string) []payload {
	t.Helper()
	var out []payload
	folders, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range folders {
		if f.Name() == "canaries.txt" {
			b, err := os.ReadFile(filepath.Join(dir, f.Name()))
			if err != nil {
				t.Fatal(err)
			}
			s.canaries = strings.Split(strings.TrimSpace(string(b)), "\n")
		}
		if !f.IsDir() || f.Name() == "fuzz" {
			continue
		}
		files, err := os.ReadDir(filepath.Join(dir, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range files {
			if e.IsDir() || strings.HasSuffix(e.Name(), ".golden") {
				continue
			}
			path := filepath.Join(dir, f.Name(), e.Name())
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, payload{f.Name(), e.Name(), path, b})
		}
	}
	return out
}

func (s *suite) formats(t *testing.T, payloads []payload) {
	have := map[string]bool{}
	for _, p := range payloads {
		have[p.format] = true
	}
	for _, f := range s.adapter.Formats() {
		if f.Name == "" || f.Summary == "" {
			t.Errorf("format %q has no name or no summary", f.Name)
		}
		if !have[f.Name] {
			t.Errorf("format %q has no payload in testdata", f.Name)
		}
		delete(have, f.Name)
	}
	for f := range have {
		t.Errorf("folder %q is no format of the adapter", f)
	}
	err := s.adapter.Decode(t.Context(), adapters.Input{Format: "no-such-format", Body: strings.NewReader("")},
		NewRecorder())
	if err == nil {
		t.Error("an unknown format is decoded without an error")
	}
}

func (s *suite) foreign(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 4096)
	for i := range noise {
		noise[i] = byte(rnd.Uint32())
	}
	for name, head := range map[string][]byte{
		"empty": nil, "noise": noise, "text": []byte("hello\n"), "html": []byte("<!DOCTYPE html><html></html>"),
		"fhir": []byte(`{"resourceType":"Bundle","type":"collection"}`),
	} {
		if f, ok := s.adapter.Detect("payload", head); ok {
			t.Errorf("Detect takes %s for %q", name, f)
		}
	}
}

func (s *suite) one(t *testing.T, p payload) {
	if f, ok := s.adapter.Detect(p.name, p.body[:min(len(p.body), 64<<10)]); !ok || f != p.format {
		t.Errorf("Detect: got %q %v, want %q", f, ok, p.format)
	}
	whole := NewRecorder()
	if err := s.adapter.Decode(t.Context(), p.input(), whole); err != nil {
		t.Fatalf("Decode: %v", err)
	}
	for i, x := range whole.Samples {
		if err := Check(x); err != nil {
			t.Errorf("sample %d (%s): %v", i, x.Metric, err)
		}
	}
	s.silent(t, whole, nil)
	golden(t, p.path+".golden", whole)
	s.again(t, p, whole)
	s.truncated(t, p, whole)
	s.stops(t, p, whole)
}

func (s *suite) again(t *testing.T, p payload, whole *Recorder) {
	detected := p.input()
	detected.Format = ""
	bytewise := p.input()
	bytewise.Body = iotest.OneByteReader(bytes.NewReader(p.body))
	for name, in := range map[string]adapters.Input{"twice": p.input(), "format by detection": detected,
		"byte by byte": bytewise} {
		r := NewRecorder()
		if err := s.adapter.Decode(t.Context(), in, r); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !reflect.DeepEqual(r.Samples, whole.Samples) {
			t.Errorf("%s: other samples than before", name)
		}
		if !reflect.DeepEqual(r.Drops, whole.Drops) || len(r.Rejects) != len(whole.Rejects) {
			t.Errorf("%s: other drops or rejects than before", name)
		}
	}
}

func (s *suite) truncated(t *testing.T, p payload, whole *Recorder) {
	rnd := rand.New(rand.NewPCG(uint64(len(p.body)), 7))
	cuts := []int{0}
	for n := 1; n < len(p.body); n *= 2 {
		cuts = append(cuts, n)
	}
	for range 48 {
		cuts = append(cuts, rnd.IntN(len(p.body)+1))
	}
	for _, n := range cuts {
		r := NewRecorder()
		err := s.adapter.Decode(t.Context(), p.cut(n).input(), r)
		var pe *adapters.PayloadError
		if err != nil && !errors.As(err, &pe) && !errors.Is(err, adapters.ErrUnknownFormat) {
			t.Errorf("cut at %d: error is no PayloadError: %v", n, err)
		}
		s.silent(t, r, err)
		got := r.Samples
		if s.unterminated[p.format] && len(got) > 0 {
			got = got[:len(got)-1]
		}
		if len(got) > len(whole.Samples) {
			t.Errorf("cut at %d: %d samples, the whole has %d", n, len(got), len(whole.Samples))
			continue
		}
		for i := range got {
			if !reflect.DeepEqual(got[i], whole.Samples[i]) {
				t.Errorf("cut at %d: sample %d differs from the whole's", n, i)
				break
			}
		}
	}
}

// stops holds that a full sink and a dead context end the decoding with
// their own error.
func (s *suite) stops(t *testing.T, p payload, whole *Recorder) {
	if len(whole.Samples) > 0 {
		full := errors.New("sink is full")
		r := NewRecorder()
		r.Fail = func(n int) error {
			if n >= len(whole.Samples)/2 {
				return full
			}
			return nil
		}
		if err := s.adapter.Decode(t.Context(), p.input(), r); !errors.Is(err, full) {
			t.Errorf("the sink's error is not returned: %v", err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.adapter.Decode(ctx, p.input(), NewRecorder()); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled context is not returned: %v", err)
	}
}

func (s *suite) silent(t *testing.T, r *Recorder, err error) {
	t.Helper()
	for _, c := range s.canaries {
		if err != nil && strings.Contains(err.Error(), c) {
			t.Errorf("error text holds a canary: %v", err)
		}
		for _, x := range r.Rejects {
			if strings.Contains(x.Where+"\x00"+x.Detail+"\x00"+x.Metric+"\x00"+x.Component, c) {
				t.Errorf("reject holds a canary: %s %s", x.Where, x.Detail)
			}
		}
		for k := range r.Drops {
			if strings.Contains(k, c) {
				t.Errorf("drop holds a canary: %s", k)
			}
		}
	}
}

func (s *suite) canariesOccur(t *testing.T, payloads []payload) {
	if len(s.canaries) == 0 {
		t.Fatal("testdata/canaries.txt is missing or empty")
	}
	for _, c := range s.canaries {
		found := false
		for _, p := range payloads {
			found = found || bytes.Contains(p.body, []byte(c))
		}
		if !found {
			t.Errorf("canary %q is in no payload", c)
		}
	}
}

func (s *suite) bounded(t *testing.T, l large) {
	limit := l.limit
	if limit == 0 {
		limit = 64 << 20
	}
	pr, pw := io.Pipe()
	written := make(chan error, 1)
	go func() {
		err := l.write(pw, l.size)
		written <- err
		pw.CloseWithError(err)
	}()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	c := &counter{base: m.HeapAlloc}
	in := adapters.Input{Name: "large", Format: l.format, Body: pr, Received: Received()}
	if err := s.adapter.Decode(t.Context(), in, c); err != nil {
		t.Fatalf("Decode: %v", err)
	}
	if err := <-written; err != nil {
		t.Fatalf("generator: %v", err)
	}
	if c.samples == 0 {
		t.Error("no sample in the large payload")
	}
	if c.peak > uint64(limit) {
		t.Errorf("heap grew by %d MiB, limit %d MiB", c.peak>>20, limit>>20)
	}
	t.Logf("%d samples, %d bytes, heap at most +%d MiB", c.samples, c.bytes, c.peak>>20)
}
