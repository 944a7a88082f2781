package clusterrun

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// newNodes starts a balancer over n servers, which handle requests with their number.
func newNodes(t *testing.T, n int, handle func(node int, w http.ResponseWriter, r *http.Request)) *balancer {
	t.Helper()
	var addresses []string
	for i := range n {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handle(i, w, r) }))
		t.Cleanup(s.Close)
		addresses = append(addresses, strings.TrimPrefix(s.URL, "http://"))
	}
	b, err := newBalancer(addresses)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// ask returns the answer to a GET request.
func ask(t *testing.T, url string) string {
	t.Helper()
	r, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Body.Close() }()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// TestEachRequestElsewhere sends each request to another process than the last one,
// also over one connection, and none to a process that is down.
func TestEachRequestElsewhere(t *testing.T) {
	b := newNodes(t, 3, func(node int, w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, node) })
	last, seen := "", map[string]int{}
	for range 12 {
		now := ask(t, b.base())
		if now == last {
			t.Errorf("two requests in turn go to process %s", now)
		}
		seen[now]++
		last = now
	}
	if len(seen) != 3 {
		t.Errorf("the requests go to %v, want three processes", seen)
	}
	b.set(1, true)
	for range 6 {
		if now := ask(t, b.base()); now == "1" {
			t.Error("a request goes to a process that is down")
		}
	}
}

// TestRequestAsItCame forwards a request unchanged, but for the address of the client,
// and comes from another address than the client.
func TestRequestAsItCame(t *testing.T) {
	b := newNodes(t, 2, func(_ int, w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		_, _ = fmt.Fprint(w, r.Host, " ", r.RequestURI, " ", r.Header["X-Forwarded-For"], " ",
			r.Header["X-Forwarded-Host"], " ", r.Header["Accept-Encoding"], " ", host)
	})
	addr := b.listener.Addr().String()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_, err = io.WriteString(c, "GET /a%2fb/..?x=1;y=%zz HTTP/1.1\r\nHost: public.test\r\n"+
		"X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Host: evil.test\r\n\r\n")
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	const want = "public.test /a%2fb/..?x=1;y=%zz [192.0.2.1 127.0.0.1] [evil.test] [] " + proxyAddress
	if string(body) != want {
		t.Errorf("the process gets %s, want %s", body, want)
	}
}

// TestStreams passes on each piece of an answer before the next one is written.
func TestStreams(t *testing.T) {
	more := make(chan struct{})
	b := newNodes(t, 2, func(_ int, w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "first\n")
		_ = http.NewResponseController(w).Flush()
		<-more
		_, _ = io.WriteString(w, "second\n")
	})
	r, err := http.Get(b.base())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Body.Close() }()
	lines := bufio.NewReader(r.Body)
	if line, err := lines.ReadString('\n'); err != nil || line != "first\n" {
		t.Errorf("first piece: %q, %v", line, err)
	}
	close(more)
	if line, err := lines.ReadString('\n'); err != nil || line != "second\n" {
		t.Errorf("second piece: %q, %v", line, err)
	}
}

// TestEndOfConnection ends the connection of the client when the process ends its own.
func TestEndOfConnection(t *testing.T) {
	b := newNodes(t, 2, func(int, http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	if r, err := http.Get(b.base()); err == nil {
		_ = r.Body.Close()
		t.Errorf("status %d, want no answer", r.StatusCode)
	}
}
