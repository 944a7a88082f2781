package relay

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"errors"
	"io"
	"math/big"
	"net"
	"testing"
	"time"

	"pulsegate/fhir/clocktest"
	"pulsegate/fhir/cluster/hints"
	"pulsegate/fhir/store"
)

// nothing is a store whose commits succeed and write nothing.
type nothing struct{ Local }

func (nothing) Commit(context.Context, *store.Batch) (store.Result, error) {
	return store.Result{}, nil
}
func (nothing) LastSeq() store.Seq                     { return 0 }
func (nothing) Watch(func(store.Commit)) (stop func()) { return func() {} }

// connect dials a listener with a TLS configuration and reads the hello.
func connect(t *testing.T, address string, conf *tls.Config) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := (&tls.Dialer{Config: conf}).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = readFrame(bufio.NewReader(c), maxFrame) // TLS 1.3 reports a refused certificate with the first read
	return err
}

// TestPeersAuthenticate connects with certificates and configurations of several
// kinds. Only processes with a key of the cluster are served.
func TestPeersAuthenticate(t *testing.T) {
	keys := clusterKeys(t, 1)
	tr := trust(t, keys, time.Now)
	p := newProcess(t, "a", nothing{}, tr, nil)
	stranger := trust(t, clusterKeys(t, 2), time.Now)
	late := trust(t, keys, func() time.Time { return time.Now().Add(-2 * leafLife) })
	for _, tc := range []struct {
		name   string
		ok     bool
		change func(c *tls.Config)
	}{
		{"a peer", true, func(*tls.Config) {}},
		{"another cluster key", false, func(c *tls.Config) {
			c.GetClientCertificate = stranger.client().GetClientCertificate
		}},
		{"no certificate", false, func(c *tls.Config) { c.GetClientCertificate = nil }},
		{"a certificate that has expired", false, func(c *tls.Config) {
			c.GetClientCertificate = late.client().GetClientCertificate
		}},
		{"a certificate that signed itself", false, func(c *tls.Config) {
			c.GetClientCertificate = nil
			c.Certificates = []tls.Certificate{selfSigned(t)}
		}},
		{"TLS 1.2", false, func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 }},
		{"another version of the protocol", false, func(c *tls.Config) {
			c.NextProtos, c.VerifyConnection = []string{"pulsegate-relay/99"}, nil
		}},
		{"no version of the protocol", false, func(c *tls.Config) { c.NextProtos, c.VerifyConnection = nil, nil }},
		{"a client of another cluster", false, func(c *tls.Config) { *c = *stranger.client() }},
	} {
		conf := tr.client()
		tc.change(conf)
		if err := connect(t, p.holder.Address, conf); (err == nil) != tc.ok {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
	c, err := net.Dial("tcp", p.holder.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	if b, _ := io.ReadAll(c); bytes.Contains(b, []byte("instance")) {
		t.Error("a plain connection was served")
	}
}

func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Pulsegate cluster"},
		DNSNames: []string{peerName}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, c, c, pub, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// TestClientRefuses connects to sequencers that are not what the lease names. The
// process then commits itself.
func TestClientRefuses(t *testing.T) {
	keys := clusterKeys(t, 1)
	tr := trust(t, keys, time.Now)
	ok := newProcess(t, "ok", nothing{}, tr, nil)
	other := newProcess(t, "other", nothing{}, trust(t, clusterKeys(t, 2), time.Now), nil)
	if c, err := dial(t.Context(), ok.holder, tr, timing, nil); err != nil {
		t.Error(err)
	} else {
		c.close(errClosed)
	}
	renamed := ok.holder
	renamed.Instance = "an earlier one"
	for name, h := range map[string]hints.Holder{"another cluster": other.holder, "another instance": renamed} {
		if _, err := dial(t.Context(), h, tr, timing, nil); err == nil {
			t.Errorf("%s: connected", name)
		}
	}
	future, err := tls.Listen("tcp", "127.0.0.1:0", func() *tls.Config {
		c := tr.server()
		c.NextProtos, c.VerifyConnection = []string{"pulsegate-relay/99"}, nil
		return c
	}())
	if err != nil {
		t.Fatal(err)
	}
	defer future.Close()
	go func() {
		for {
			c, err := future.Accept()
			if err != nil {
				return
			}
			_ = c.(*tls.Conn).Handshake() // fails
			_ = c.Close()
		}
	}()
	p := newProcess(t, "p", nothing{}, tr, nil)
	p.lease.set(hints.Holder{Node: "future", Instance: "future", Address: future.Addr().String()})
	if p.reconnect(); p.link.Load() != nil {
		t.Error("connected to a process with another version of the protocol")
	}
	if _, err := p.Commit(t.Context(), put("x")); err != nil {
		t.Errorf("a process without a version in common does not commit itself: %v", err)
	}
}

// TestKeyReplacement connects processes while the cluster key is replaced.
func TestKeyReplacement(t *testing.T) {
	steps := [][]byte{{1}, {1, 2}, {2, 1}, {2}}
	for i, server := range steps {
		for j, client := range steps {
			p := newProcess(t, "a", nothing{}, trust(t, clusterKeys(t, server...), time.Now), nil)
			err := connect(t, p.holder.Address, trust(t, clusterKeys(t, client...), time.Now).client())
			if want := i-j <= 1 && j-i <= 1; (err == nil) != want {
				t.Errorf("server at step %d, client at step %d: %v", i, j, err)
			}
		}
	}
}

// TestCertificateRenewed checks that a running process replaces its certificate before
// it expires, and that all processes have the same authority.
func TestCertificateRenewed(t *testing.T) {
	clock := clocktest.At(time.Now())
	keys := clusterKeys(t, 1)
	tr, other := trust(t, keys, clock.Now), trust(t, keys, clock.Now)
	if !tr.ca.Equal(other.ca) {
		t.Error("two processes with one cluster key have different authorities")
	}
	first, err := tr.certificate()
	if err != nil {
		t.Fatal(err)
	}
	serials := map[string]bool{}
	for range 20 {
		now := clock.Add(5 * time.Hour)
		c, err := tr.certificate()
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.ParseCertificate(c.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		serials[leaf.SerialNumber.String()] = true
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: other.pool, DNSName: peerName, CurrentTime: now,
			KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
			t.Error(err)
		}
	}
	if len(serials) < 7 {
		t.Errorf("%d certificates in 100 hours", len(serials))
	}
	old, err := x509.ParseCertificate(first.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := old.Verify(x509.VerifyOptions{Roots: other.pool, CurrentTime: clock.Now()}); err == nil {
		t.Error("the first certificate is still valid")
	}
}

// TestFrameLimits sends frames that a peer must not send. The connection ends, and
// others are served.
func TestFrameLimits(t *testing.T) {
	tr := trust(t, clusterKeys(t, 1), time.Now)
	p := newProcess(t, "a", nothing{}, tr, nil)
	header := func(n uint32, kind byte) []byte {
		return append(binary.BigEndian.AppendUint32(nil, n), kind, 0, 0, 0, 0, 0, 0, 0, 7)
	}
	for name, tc := range map[string]struct {
		bytes []byte
		want  int // type of the answer, or -1 if the connection ends
	}{
		"too large":       {header(maxFrame+1, frameCommit), -1},
		"unknown type":    {header(0, 99), -1},
		"an answer":       {header(0, frameResult), -1},
		"no batch":        {header(0, frameCommit), frameBusy},
		"malformed batch": {append(header(3, frameCommit), 0xff, 0xff, 0xff), frameBusy},
		"ping":            {header(0, framePing), framePong},
	} {
		c, err := tls.Dial("tcp", p.holder.Address, tr.client())
		if err != nil {
			t.Fatal(err)
		}
		in := bufio.NewReader(c)
		if _, err := readFrame(in, maxFrame); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(tc.bytes); err != nil {
			t.Fatal(err)
		}
		f, err := readFrame(in, maxFrame)
		if got := int(f.kind); tc.want < 0 && err == nil || tc.want >= 0 && (err != nil || got != tc.want) {
			t.Errorf("%s: frame of type %d, %v", name, got, err)
		}
		_ = c.Close()
	}
	eventually(t, "connections closed", func() bool {
		p.server.mu.Lock()
		defer p.server.mu.Unlock()
		return len(p.server.peers) == 0
	})
	// Beyond the number of peers, connections are closed at once.
	var all []net.Conn
	for range maxPeers {
		c, err := net.Dial("tcp", p.holder.Address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		all = append(all, c)
	}
	eventually(t, "all peers", func() bool {
		p.server.mu.Lock()
		defer p.server.mu.Unlock()
		return len(p.server.peers) == maxPeers
	})
	if err := connect(t, p.holder.Address, tr.client()); err == nil {
		t.Errorf("connection %d was served", len(all)+1)
	}
}

// TestBusy fills the server with batches in progress. More are refused at once.
func TestBusy(t *testing.T) {
	tr := trust(t, clusterKeys(t, 1), time.Now)
	p := newProcess(t, "a", nothing{}, tr, nil)
	b := put("x")
	b.ID[0] = 1
	payload, err := p.codec.AppendBatch(appendSent(nil, time.Now()), b)
	if err != nil {
		t.Fatal(err)
	}
	c, err := dial(t.Context(), p.holder, tr, timing, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close(errClosed)
	p.server.calls.Add(maxCalls)
	if _, err := c.commit(payload, b, patience); !errors.Is(err, errBusy) {
		t.Errorf("too many calls: %v", err)
	}
	p.server.calls.Add(-maxCalls)
	p.server.inflight.Add(maxInflight)
	if _, err := c.commit(payload, b, patience); !errors.Is(err, errBusy) {
		t.Errorf("too many bytes: %v", err)
	}
	p.server.inflight.Add(-maxInflight)
	if _, err := c.commit(payload, b, patience); err == nil || errors.Is(err, errBusy) {
		t.Errorf("an empty result of one write: %v", err) // nothing answers without outcomes
	}
}
