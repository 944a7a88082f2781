package clusterrun

import (
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"sync"
	"time"
)

// proxyAddress is the address from which a balancer connects to the processes. It is
// not that of the clients, so that a process which trusts it tells the two apart.
const proxyAddress = "127.0.0.2"

// balancer is a load balancer without sessions. Each request goes to another process
// than the last one.
type balancer struct {
	server   *http.Server
	listener net.Listener

	// mu guards the fields below.
	mu    sync.Mutex
	nodes []string // addresses
	down  []bool
	last  int
}

// newBalancer listens on a free port of the loopback interface. It forwards to nodes.
func newBalancer(nodes []string) (*balancer, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	b := &balancer{listener: l, nodes: nodes, down: make([]bool, len(nodes)), last: -1}
	dialer := net.Dialer{Timeout: 5 * time.Second, LocalAddr: &net.TCPAddr{IP: net.ParseIP(proxyAddress)}}
	b.server = &http.Server{ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0),
		Handler: &httputil.ReverseProxy{Rewrite: b.rewrite, FlushInterval: -1, ErrorHandler: abort,
			ErrorLog: log.New(io.Discard, "", 0),
			Transport: &http.Transport{DialContext: dialer.DialContext, DisableCompression: true,
				MaxIdleConnsPerHost: 16, ExpectContinueTimeout: time.Second}}}
	go func() { _ = b.server.Serve(l) }() // returns when it is closed
	return b, nil
}

// base returns the URL of the balancer.
func (b *balancer) base() string { return "http://" + b.listener.Addr().String() }

// rewrite sends a request on as it came, with the address of the client appended.
func (b *balancer) rewrite(r *httputil.ProxyRequest) {
	r.Out.URL.Scheme, r.Out.URL.Host = "http", b.next()
	r.Out.URL.RawQuery = r.In.URL.RawQuery
	for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host"} {
		if v := r.In.Header[name]; v != nil {
			r.Out.Header[name] = v
		}
	}
	host, _, _ := net.SplitHostPort(r.In.RemoteAddr)
	r.Out.Header.Add("X-Forwarded-For", host)
	r.Out.Header.Set("X-Forwarded-Proto", "http")
}

// abort ends the client's connection when the process has ended its own, so that a
// client sees what it would see at the process.
func abort(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }

// next returns the address of the process for the next request.
func (b *balancer) next() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	for range b.nodes {
		b.last = (b.last + 1) % len(b.nodes)
		if !b.down[b.last] {
			break
		}
	}
	return b.nodes[b.last]
}

// set includes a process or leaves it out.
func (b *balancer) set(node int, down bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.down[node] = down
}

func (b *balancer) isDown(node int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.down[node]
}

func (b *balancer) close() error {
	if err := b.server.Close(); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}
