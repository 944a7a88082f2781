package server

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// pipeListener hands out one end of a pipe at a time. A pipe has no buffer, as
// a connection has whose client does not read.
type pipeListener struct {
	conns chan net.Conn
	once  *sync.Once
}

func (l pipeListener) Accept() (net.Conn, error) {
	c, ok := <-l.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (l pipeListener) Close() error   { l.once.Do(func() { close(l.conns) }); return nil }
func (l pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

// served runs read, a client that has sent one request, and returns how long
// the handler was kept and what it was told.
func served(t *testing.T, handler http.HandlerFunc, read func(c net.Conn)) (kept time.Duration) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := pipeListener{make(chan net.Conn), &sync.Once{}}
		done := make(chan time.Duration, 1)
		srv := &http.Server{Handler: paced{now: time.Now,
			next: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				begin := time.Now()
				handler(w, r)
				done <- time.Since(begin)
			})}}
		ended := make(chan error, 1)
		go func() { ended <- srv.Serve(l) }()
		ours, theirs := net.Pipe()
		l.conns <- theirs
		if _, err := io.WriteString(ours, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		stop := make(chan struct{})
		go func() { defer close(stop); read(ours) }()
		kept = <-done
		<-stop
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
		if err := ours.Close(); err != nil {
			t.Error(err)
		}
		<-ended
	})
	return kept
}

// A client that does not read, or next to nothing, is cut off: for a page and
// for a download of any length.
func TestPaceCutsOffWhoDoesNotRead(t *testing.T) {
	page := func(w http.ResponseWriter, _ *http.Request) {
		if _, err := w.Write(make([]byte, 1<<20)); err == nil {
			t.Error("an answer that nobody read was written")
		}
	}
	download := func(w http.ResponseWriter, _ *http.Request) {
		for {
			if _, err := w.Write(make([]byte, 4<<10)); err != nil {
				return
			}
			w.(http.Flusher).Flush()
		}
	}
	for name, h := range map[string]http.HandlerFunc{"page": page, "download": download} {
		for reader, read := range map[string]func(net.Conn){
			"nothing":         func(net.Conn) { time.Sleep(time.Hour) },
			"a byte a second": func(c net.Conn) { drip(c, 1, time.Second, time.Hour) },
			"quickly, then nothing": func(c net.Conn) {
				if _, err := io.CopyN(io.Discard, c, 512<<10); err != nil {
					t.Error(err)
				}
				time.Sleep(time.Hour)
			},
		} {
			if kept := served(t, h, read); kept > 2*writeGrace {
				t.Errorf("%s, reading %s: kept for %v", name, reader, kept)
			}
		}
	}
}

// drip reads n bytes at a time until an error or for so long.
func drip(c net.Conn, n int, every, life time.Duration) (total int) {
	buf := make([]byte, n)
	for end := time.Now().Add(life); time.Now().Before(end); {
		m, err := io.ReadFull(c, buf)
		total += m
		if err != nil {
			return total
		}
		time.Sleep(every)
	}
	return total
}

// A client on a thin line gets everything, a server that works for long before
// it answers is not cut off, and no download lasts for ever.
func TestPaceLetsThinLinesEnd(t *testing.T) {
	const size = 4 << 20
	var got atomic.Int64
	whole := func(c net.Conn) {
		r := bufio.NewReader(c)
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		n := int64(0)
		for {
			m, err := io.CopyN(io.Discard, resp.Body, 5<<10)
			if n += m; err != nil {
				break
			}
			time.Sleep(time.Second)
		}
		got.Store(n)
	}
	served(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(size))
		time.Sleep(5 * time.Minute) // a long search
		if _, err := io.Copy(w, bytes.NewReader(make([]byte, size))); err != nil {
			t.Errorf("a thin line: %v", err)
		}
	}, whole)
	if got.Load() != size {
		t.Errorf("%d bytes of %d", got.Load(), size)
	}
	kept := served(t, func(w http.ResponseWriter, _ *http.Request) {
		for {
			if _, err := w.Write(make([]byte, 16<<10)); err != nil {
				return
			}
		}
	}, func(c net.Conn) { drip(c, 64<<10, time.Second, 24*time.Hour) })
	if kept > maxAnswer+time.Minute {
		t.Errorf("a download lasted %v", kept)
	}
}
