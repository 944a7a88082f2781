package server

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/clocktest"
)

// dripping is a body that yields n bytes per Read. Each Read takes wait on the
// clock and respects the deadline.
type dripping struct {
	clock    *clocktest.Clock
	deadline time.Time
	n, left  int
	wait     time.Duration
}

func (d *dripping) Close() error { return nil }

func (d *dripping) Read(p []byte) (int, error) {
	if d.left == 0 {
		return 0, io.EOF
	}
	if end := d.clock.Now().Add(d.wait); end.After(d.deadline) {
		d.clock.Set(d.deadline)
		return 0, os.ErrDeadlineExceeded
	}
	d.clock.Add(d.wait)
	n := min(d.n, d.left, len(p))
	d.left -= n
	return copy(p, bytes.Repeat([]byte("z"), n)), nil
}

func (d *dripping) body() *pacedBody {
	return &pacedBody{ReadCloser: d, now: d.clock.Now, deadline: func(t time.Time) error { d.deadline = t; return nil }}
}

func TestPace(t *testing.T) {
	begin := time.Unix(1e9, 0)
	for name, c := range map[string]struct {
		n, size int
		wait    time.Duration
		cut     bool
	}{
		"a byte a second":              {1, 1 << 20, time.Second, true},
		"one byte, then nothing":       {1, 2, time.Hour, true},
		"a slow link":                  {4 << 10, 4 << 20, 2 * time.Second, false},
		"a small body within the time": {1, 20, time.Second, false},
	} {
		t.Run(name, func(t *testing.T) {
			d := &dripping{clock: clocktest.At(begin), n: c.n, left: c.size, wait: c.wait}
			got, err := io.Copy(io.Discard, d.body())
			if !c.cut {
				if err != nil || got != int64(c.size) {
					t.Fatalf("%d of %d bytes, %v", got, c.size, err)
				}
				if !d.deadline.IsZero() {
					t.Error("the deadline was not removed after the body")
				}
				return
			}
			if took := d.clock.Now().Sub(begin); took > paceGrace+time.Second {
				t.Errorf("the request lasted %v", took)
			}
			if fhir.KindOf(err) != fhir.Invalid || !strings.Contains(err.Error(), "too slowly") ||
				!errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("error %v", err)
			}
		})
	}
}

// TestPaceOwnWork checks that the time the server works between reads does not
// count against the client.
func TestPaceOwnWork(t *testing.T) {
	d := &dripping{clock: clocktest.At(time.Unix(1e9, 0)), n: 10, left: 100, wait: time.Millisecond}
	b := d.body()
	buf := make([]byte, 10)
	for range 10 {
		if _, err := b.Read(buf); err != nil {
			t.Fatal(err)
		}
		d.clock.Add(time.Hour)
	}
}

// deadlines records the last read deadline.
type deadlines struct {
	*httptest.ResponseRecorder
	last time.Time
}

func (d *deadlines) SetReadDeadline(t time.Time) error {
	d.last = t
	return nil
}

// TestPaceUnread checks that the server does not wait for a body that the handler
// left unread.
func TestPaceUnread(t *testing.T) {
	now := time.Unix(1e9, 0)
	for name, c := range map[string]struct {
		read bool
		want time.Time
	}{"read": {true, time.Time{}}, "left unread": {false, now.Add(paceRest)}} {
		t.Run(name, func(t *testing.T) {
			d := &deadlines{ResponseRecorder: httptest.NewRecorder()}
			h := paced{now: func() time.Time { return now },
				next: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					if c.read {
						if _, err := io.ReadAll(r.Body); err != nil {
							t.Error(err)
						}
					}
				})}
			h.ServeHTTP(d, httptest.NewRequest("POST", "/", strings.NewReader("z")))
			if !d.last.Equal(c.want) {
				t.Errorf("deadline %v, wanted %v", d.last, c.want)
			}
		})
	}
}
