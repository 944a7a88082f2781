package adaptertest

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"pulsegate/adapters"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// Received returns the time of receipt that Run passes with every payload.
func Received() time.Time { return time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC) }

// Option adds to the checks of Run or relaxes them.
type Option func(*suite)

// Unterminated names a format without an end mark, such as plain lines. A cut
// payload of it may look complete, so its last sample may differ from that of
// the complete payload.
func Unterminated(format string) Option {
	return func(s *suite) { s.unterminated[format] = true }
}

// Large adds a memory check. write streams a valid payload of about size bytes.
// Decoding it may increase the heap by at most limit bytes, or by 64 MiB if
// limit is 0.
func Large(format string, size, limit int64, write func(w io.Writer, size int64) error) Option {
	return func(s *suite) { s.large = append(s.large, large{format, size, limit, write}) }
}

type large struct {
	format      string
	size, limit int64
	write       func(io.Writer, int64) error
}

type suite struct {
	adapter       adapters.Adapter
	unterminated  map[string]bool
	singles       map[string]bool
	decodedSingly int // elements that decoded without their list
	large         []large
	canaries      []string
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

// cut returns the first n bytes of p.
func (p payload) cut(n int) payload { p.body = p.body[:n]; return p }

// Run tests a with the payloads in dir.
func Run(t *testing.T, a adapters.Adapter, dir string, opts ...Option) {
	t.Helper()
	s := &suite{adapter: a, unterminated: map[string]bool{}, singles: map[string]bool{}}
	for _, o := range opts {
		o(s)
	}
	payloads := s.load(t, dir)
	t.Run("formats", func(t *testing.T) { s.checkFormats(t, payloads) })
	t.Run("foreign payloads", s.checkForeign)
	for _, p := range payloads {
		t.Run(p.format+"/"+p.name, func(t *testing.T) { s.checkPayload(t, p) })
	}
	t.Run("single elements", func(t *testing.T) { s.checkSingles(t, payloads) })
	t.Run("canaries", func(t *testing.T) { s.checkCanaries(t, payloads) })
	for _, l := range s.large {
		t.Run("bounded memory/"+l.format, func(t *testing.T) { s.checkMemory(t, l) })
	}
}

// load reads the payloads and the canaries below dir.
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

// checkFormats checks that formats and directories correspond.
func (s *suite) checkFormats(t *testing.T, payloads []payload) {
	have := map[string]bool{}
	for _, p := range payloads {
		have[p.format] = true
	}
	for _, f := range s.adapter.Formats() {
		if f.Name == "" || f.Summary == "" {
			t.Errorf("format %q lacks its name or its summary", f.Name)
		}
		if !have[f.Name] {
			t.Errorf("format %q has no payload in testdata", f.Name)
		}
		delete(have, f.Name)
	}
	for f := range have {
		t.Errorf("directory %q is not a format of the adapter", f)
	}
	err := s.adapter.Decode(t.Context(), adapters.Input{Format: "no-such-format", Body: strings.NewReader("")},
		NewRecorder())
	if err == nil {
		t.Error("Decode accepts an unknown format")
	}
}

// checkForeign checks that Detect does not claim payloads of others.
func (s *suite) checkForeign(t *testing.T) {
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
			t.Errorf("Detect recognizes %s as %q", name, f)
		}
	}
}

// checkPayload runs all checks of one payload.
func (s *suite) checkPayload(t *testing.T, p payload) {
	if f, ok := s.adapter.Detect(p.name, p.body[:min(len(p.body), 64<<10)]); !ok || f != p.format {
		t.Errorf("Detect: got %q %v, want %q", f, ok, p.format)
	}
	complete := NewRecorder()
	if err := s.adapter.Decode(t.Context(), p.input(), complete); err != nil {
		t.Fatalf("Decode: %v", err)
	}
	for i, sample := range complete.Samples {
		if err := Check(sample); err != nil {
			t.Errorf("sample %d (%s): %v", i, sample.Metric, err)
		}
	}
	s.checkSilence(t, complete, nil)
	golden(t, p.path+".golden", complete)
	s.checkRepeats(t, p, complete)
	s.checkCuts(t, p, complete)
	s.checkStops(t, p, complete)
	t.Run("wrong types", func(t *testing.T) { s.checkWrongTypes(t, p) })
}

// checkRepeats checks that decoding again gives the same result.
func (s *suite) checkRepeats(t *testing.T, p payload, complete *Recorder) {
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
		if !reflect.DeepEqual(r.Samples, complete.Samples) {
			t.Errorf("%s: the samples differ", name)
		}
		if !reflect.DeepEqual(r.Drops, complete.Drops) || len(r.Rejects) != len(complete.Rejects) {
			t.Errorf("%s: the drops or rejects differ", name)
		}
	}
}

// checkCuts decodes prefixes of the payload.
func (s *suite) checkCuts(t *testing.T, p payload, complete *Recorder) {
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
			t.Errorf("cut at %d: the error is not a PayloadError: %v", n, err)
		}
		s.checkSilence(t, r, err)
		got := r.Samples
		if s.unterminated[p.format] && len(got) > 0 {
			got = got[:len(got)-1]
		}
		if len(got) > len(complete.Samples) {
			t.Errorf("cut at %d: %d samples, but the complete payload has %d", n, len(got), len(complete.Samples))
			continue
		}
		for i := range got {
			if !reflect.DeepEqual(got[i], complete.Samples[i]) {
				t.Errorf("cut at %d: sample %d differs from that of the complete payload", n, i)
				break
			}
		}
	}
}

// checkStops checks that Decode returns the error of a failing sink and of a
// canceled context.
func (s *suite) checkStops(t *testing.T, p payload, complete *Recorder) {
	if len(complete.Samples) > 0 {
		errFull := errors.New("sink is full")
		r := NewRecorder()
		r.Fail = func(n int) error {
			if n >= len(complete.Samples)/2 {
				return errFull
			}
			return nil
		}
		if err := s.adapter.Decode(t.Context(), p.input(), r); !errors.Is(err, errFull) {
			t.Errorf("Decode does not return the error of the sink: %v", err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.adapter.Decode(ctx, p.input(), NewRecorder()); !errors.Is(err, context.Canceled) {
		t.Errorf("Decode does not return the error of a canceled context: %v", err)
	}
}

// checkSilence checks that no canary occurs in err, in a reject or in a drop.
func (s *suite) checkSilence(t *testing.T, r *Recorder, err error) {
	t.Helper()
	if text := s.leak(r, err); text != "" {
		t.Error(text)
	}
}

// leak reports where a canary or one of the given texts occurs: in err, in a reject or
// in a drop. It returns "" if none does.
func (s *suite) leak(r *Recorder, err error, texts ...string) string {
	for _, c := range slices.Concat(s.canaries, texts) {
		if err != nil && strings.Contains(err.Error(), c) {
			return fmt.Sprintf("an error contains a text of the payload: %v", err)
		}
		for _, reject := range r.Rejects {
			text := strings.Join([]string{reject.Where, reject.Detail, reject.Metric, reject.Component}, "\x00")
			if strings.Contains(text, c) {
				return fmt.Sprintf("a reject contains a text of the payload: %q", text)
			}
		}
		for k := range r.Drops {
			if strings.Contains(k, c) {
				return fmt.Sprintf("a drop contains a text of the payload: %s", k)
			}
		}
	}
	return ""
}

// checkCanaries checks that every canary occurs in a payload.
func (s *suite) checkCanaries(t *testing.T, payloads []payload) {
	if len(s.canaries) == 0 {
		t.Fatal("testdata/canaries.txt is missing or empty")
	}
	for _, c := range s.canaries {
		found := false
		for _, p := range payloads {
			found = found || bytes.Contains(p.body, []byte(c))
		}
		if !found {
			t.Errorf("canary %q does not occur in any payload", c)
		}
	}
}

// checkMemory decodes a large payload and checks the growth of the heap.
func (s *suite) checkMemory(t *testing.T, l large) {
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
		t.Error("the large payload has no sample")
	}
	if c.peak > uint64(limit) {
		t.Errorf("the heap grew by %d MiB, the limit is %d MiB", c.peak>>20, limit>>20)
	}
	t.Logf("%d samples, %d bytes, heap growth at most %d MiB", c.samples, c.bytes, c.peak>>20)
}
