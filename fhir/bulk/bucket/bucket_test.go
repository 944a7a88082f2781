//go:build unix

package bucket_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/bulk/bucket"
	"pulsegate/fhir/bulk/bucket/s3test"
	"pulsegate/fhir/egress"
)

func options(url string) bucket.Options {
	return bucket.Options{URL: url, Region: s3test.Region, ID: s3test.ID, Secret: s3test.Secret, Clock: time.Now,
		Policy: egress.Policy{AllowPrivate: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, AllowHTTP: true}}
}

func open(t *testing.T, o bucket.Options) *bucket.Bucket {
	t.Helper()
	b, err := bucket.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// pieces writes a text in pieces of n bytes.
func pieces(text []byte, n int) func(io.Writer) error {
	return func(w io.Writer) error {
		for len(text) > 0 {
			k := min(n, len(text))
			if _, err := w.Write(text[:k]); err != nil {
				return err
			}
			text = text[k:]
		}
		return nil
	}
}

// TestObjects puts objects of all sizes around the size of a part into a real object store,
// replaces and deletes them.
func TestObjects(t *testing.T) {
	srv := s3test.New(t, "")
	b := open(t, options(srv.URL+"/ehr/exports/"))
	const part = 8 << 20
	text := make([]byte, 2*part+1)
	_, _ = rand.Read(text) // never fails
	want := map[string]string{}
	for name, n := range map[string]int{"empty": 0, "a/one": 1, "a/part": part, "a/more": part + 1, "Patient.2.ndjson": 2*part + 1} {
		if err := b.Put(t.Context(), name, pieces(text[:n], 300<<10)); err != nil {
			t.Fatal(name, err)
		}
		want["ehr/exports/"+name] = string(text[:n])
	}
	check := func() {
		t.Helper()
		got, err := srv.Objects()
		if err != nil || len(got) != len(want) {
			t.Fatalf("%d objects, want %d: %v", len(got), len(want), err)
		}
		for name := range want {
			if got[name] != want[name] {
				t.Errorf("%s has %d bytes, or others", name, len(got[name]))
			}
		}
		if n, err := srv.Unfinished(); n != 0 || err != nil {
			t.Errorf("%d files of unfinished uploads: %v", n, err)
		}
	}
	check()
	if got := b.Locate("a/one"); got != "s3://exports/ehr/exports/a/one" {
		t.Error(got)
	}
	// An upload that fails makes no object, and leaves the earlier one.
	broken := errors.New("broken")
	for _, n := range []int{10, part + 10} {
		err := b.Put(t.Context(), "a/one", func(w io.Writer) error {
			if err := pieces(text[:n], 100<<10)(w); err != nil {
				return err
			}
			return broken
		})
		if !errors.Is(err, broken) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	err := b.Put(ctx, "a/one", func(w io.Writer) error {
		defer cancel()
		return pieces(text[:part+10], part)(w)
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("a canceled upload: %v", err)
	}
	check()
	if err := b.Put(t.Context(), "a/one", pieces([]byte("new"), 1)); err != nil {
		t.Fatal(err)
	}
	want["ehr/exports/a/one"] = "new"
	for range 2 { // the second time, there is none
		if err := b.Delete(t.Context(), "a/more"); err != nil {
			t.Fatal(err)
		}
	}
	delete(want, "ehr/exports/a/more")
	check()
	for _, bad := range []string{"", "a?b", "a b", "ä"} {
		if err := b.Put(t.Context(), bad, pieces(nil, 1)); err == nil {
			t.Errorf("the name %q is accepted", bad)
		}
	}
}

// TestRefused checks that the object store refuses a wrong key, region and clock, so that the
// signatures of TestObjects count for something, and that errors do not hold the key.
func TestRefused(t *testing.T) {
	srv := s3test.New(t, "")
	for name, change := range map[string]func(*bucket.Options){
		"secret": func(o *bucket.Options) { o.Secret = "another-secret" },
		"id":     func(o *bucket.Options) { o.ID = "another-id" },
		"region": func(o *bucket.Options) { o.Region = "us-other-1" },
		"clock":  func(o *bucket.Options) { o.Clock = func() time.Time { return time.Now().Add(-time.Hour) } },
		"bucket": func(o *bucket.Options) { o.URL = strings.Replace(o.URL, "/exports", "/absent", 1) },
	} {
		o := options(srv.URL)
		change(&o)
		err := open(t, o).Put(t.Context(), "x", pieces([]byte("text"), 1))
		if err == nil {
			t.Errorf("%s: accepted", name)
		} else if strings.Contains(err.Error(), o.Secret) || strings.Contains(err.Error(), o.ID) {
			t.Errorf("%s: the error holds the key: %v", name, err)
		}
	}
	if got, err := srv.Objects(); err != nil || len(got) != 0 {
		t.Errorf("objects %v %v", got, err)
	}
}

// TestAddresses checks which addresses are accepted.
func TestAddresses(t *testing.T) {
	for url, ok := range map[string]bool{
		"https://s3.example.org/b": true, "https://s3.example.org/b/p/q/": true, "http://127.0.0.1:1/b": true,
		"https://s3.example.org": false, "https://s3.example.org/": false, "http://s3.example.org/b": true,
		"https://u:p@s3.example.org/b": false, "https://s3.example.org/b?x=1": false, "https://10.0.0.1/b": false,
		"s3://b/p": false, "https://s3.example.org/b c": false, "": false, "https://s3.example.org/b%2Fc": true,
	} {
		if _, err := bucket.New(options(url)); (err == nil) != ok {
			t.Errorf("%s: %v", url, err)
		}
	}
	o := options("http://s3.example.org/b")
	o.Policy.AllowHTTP = false
	if _, err := bucket.New(o); err == nil {
		t.Error("http is accepted without permission")
	}
	o = options("https://127.0.0.1:1/b")
	o.Policy.AllowPrivate = nil
	if _, err := bucket.New(o); err == nil {
		t.Error("a private address is accepted without permission")
	}
}

// certificate writes a certificate for 127.0.0.1 and its key to a file.
func certificate(t *testing.T) (path string, pool *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(24 * time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	path = filepath.Join(t.TempDir(), "tls.pem")
	err = os.WriteFile(path, append(cert, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})...), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	pool = x509.NewCertPool()
	pool.AppendCertsFromPEM(cert)
	return path, pool
}

// TestTLS checks that the certificate of the object store is verified.
func TestTLS(t *testing.T) {
	path, pool := certificate(t)
	srv := s3test.New(t, path)
	o := options(srv.URL)
	if !strings.HasPrefix(o.URL, "https://") {
		t.Fatal(o.URL)
	}
	if err := open(t, o).Put(t.Context(), "x", pieces([]byte("text"), 1)); err == nil {
		t.Error("a certificate of an unknown authority is accepted")
	}
	o.Policy.TLS = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	if err := open(t, o).Put(t.Context(), "x", pieces([]byte("text"), 1)); err != nil {
		t.Error(err)
	}
}

// TestBadAnswers checks answers that are not those of a working object store, among them the
// error that comes with status 200.
func TestBadAnswers(t *testing.T) {
	started := "<InitiateMultipartUploadResult><UploadId>u1</UploadId></InitiateMultipartUploadResult>"
	for name, c := range map[string]struct {
		start, complete string
		status          int
	}{
		"an error with status 200": {started, "<Error><Code>InternalError</Code></Error>", 200},
		"no upload id":             {"<InitiateMultipartUploadResult/>", "", 200},
		"not XML":                  {"{}", "", 200},
		"throttled":                {started, "", 503},
		"a redirect":               {started, "", 307},
	} {
		aborted := false
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			switch {
			case r.Method == http.MethodDelete:
				aborted = true
				w.WriteHeader(http.StatusNoContent)
			case r.URL.Query().Has("uploads"):
				_, _ = io.WriteString(w, c.start)
			case r.Method == http.MethodPost:
				w.WriteHeader(c.status)
				_, _ = io.WriteString(w, c.complete)
			default:
				w.Header().Set("ETag", `"e"`)
			}
		}))
		o := options(srv.URL + "/b")
		o.PartBytes = 10
		err := open(t, o).Put(t.Context(), "x", pieces(bytes.Repeat([]byte("x"), 25), 7))
		if fhir.KindOf(err) != fhir.Unavailable {
			t.Errorf("%s: %v", name, err)
		}
		if (c.start == started) != aborted {
			t.Errorf("%s: aborted %v", name, aborted)
		}
		srv.Close()
	}
}
