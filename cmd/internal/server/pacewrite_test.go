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

// pipeListener accepts one end of a pipe at a time. A pipe has no buffer, like a
// connection with a client that does not read.
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

// serveOnce sends one request to handler, runs read as the client, and returns how
// long the handler ran.
func serveOnce(t *testing.T, handler http.HandlerFunc, read func(c net.Conn)) (took time.Duration) {
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
		took = <-done
		<-stop
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
		if err := ours.Close(); err != nil {
			t.Error(err)
		}
		<-ended
	})
	return took
}

// TestPaceCutsOffSlowReaders checks that a client which reads nothing, or next to
// nothing, is cut off, for a page and for a download of any length.
func TestPaceCutsOffSlowReaders(t *testing.T) {
	page := func(w http.ResponseWriter, _ *http.Request) {
		if _, err := w.Write(make([]byte, 1<<20)); err == nil {
			t.Error("Write succeeded although the client did not read")
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
			if took := serveOnce(t, h, read); took > 2*writeGrace {
				t.Errorf("%s, reading %s: the handler took %v", name, reader, took)
			}
		}
	}
}

// drip reads n bytes at a time, until an error or until life has passed. It
// returns the number of bytes read.
func drip(c net.Conn, n int, every, life time.Duration) (total int) {
	buf := make([]byte, n)
	for end := time.Now().Add(life); time.Now().Before(end); {
		got, err := io.ReadFull(c, buf)
		total += got
		if err != nil {
			return total
		}
		time.Sleep(every)
	}
	return total
}

// TestPaceAllowsSlowLinks checks that a client on a slow link receives the whole
// answer, that a server which works long before it answers is not cut off, and
// that no download lasts longer than maxAnswer.
func TestPaceAllowsSlowLinks(t *testing.T) {
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
			read, err := io.CopyN(io.Discard, resp.Body, 5<<10)
			if n += read; err != nil {
				break
			}
			time.Sleep(time.Second)
		}
		got.Store(n)
	}
	serveOnce(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(size))
		time.Sleep(5 * time.Minute) // a long search
		if _, err := io.Copy(w, bytes.NewReader(make([]byte, size))); err != nil {
			t.Errorf("a slow link: %v", err)
		}
	}, whole)
	if got.Load() != size {
		t.Errorf("%d bytes of %d", got.Load(), size)
	}
	took := serveOnce(t, func(w http.ResponseWriter, _ *http.Request) {
		for {
			if _, err := w.Write(make([]byte, 16<<10)); err != nil {
				return
			}
		}
	}, func(c net.Conn) { drip(c, 64<<10, time.Second, 24*time.Hour) })
	if took > maxAnswer+time.Minute {
		t.Errorf("a download lasted %v", took)
	}
}
