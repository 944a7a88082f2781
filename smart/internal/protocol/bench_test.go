package protocol

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jws"

	"pulsegate/smart/client"
	"pulsegate/smart/oauth/introspect"
	"pulsegate/smart/oauth/token"
)

// The benchmarks report requests per second and the CPU time per request in
// microseconds. The CPU time depends little on other load on the machine. The
// requests are passed to the handler without a socket. The embedded store syncs
// every commit, which includes the AuditEvent and its leaf.

// cpu returns the CPU time that the process has used.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// bench sends the requests in parallel. As in a server under load, many
// requests wait for each commit.
func (w *world) bench(b *testing.B, path string, body func(i int) string) {
	var n, failed atomic.Int64
	b.SetParallelism(64)
	start := cpu()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			i := int(n.Add(1) - 1)
			r := httptest.NewRequest("POST", w.base+path, strings.NewReader(body(i)))
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			r.RemoteAddr = "192.0.2.1:1"
			rec := httptest.NewRecorder()
			w.handler.ServeHTTP(rec, r)
			if rec.Code != http.StatusOK || strings.Contains(rec.Body.String(), `"active":false`) {
				failed.Add(1)
			}
		}
	})
	b.StopTimer()
	b.ReportMetric(float64((cpu()-start).Microseconds())/float64(b.N), "cpu-µs/op")
	if failed.Load() > 0 {
		b.Fatal(failed.Load(), "requests failed")
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
}

func BenchmarkBackendToken(b *testing.B) {
	w := newWorld(b)
	es := w.backend("system/*.rs")
	key := must(rsa.GenerateKey(rand.Reader, 2048))
	j := must(jwk.FromRaw(&key.PublicKey))
	if err := j.Set(jwk.KeyIDKey, "k1"); err != nil {
		b.Fatal(err)
	}
	rs := must(w.clients.Add(b.Context(), client.Client{Name: "RS384", JWKS: must(json.Marshal(m{"keys": []any{j}})),
		Scope: "system/*.rs"}))
	signRS := func() string {
		h := jws.NewHeaders()
		if err := errors.Join(h.Set(jws.KeyIDKey, "k1"), h.Set(jws.TypeKey, "JWT")); err != nil {
			b.Fatal(err)
		}
		c := m{"iss": rs.ID, "sub": rs.ID, "aud": w.base + token.Path, "jti": rand.Text(),
			"exp": w.clock.now().Add(4 * time.Minute).Unix()}
		return string(must(jws.Sign(must(json.Marshal(c)), jws.WithKey(jwa.RS384, key, jws.WithProtectedHeaders(h)))))
	}
	for name, sign := range map[string]func() string{"ES384": func() string { return w.assertion(es.ID) },
		"RS384": signRS} {
		b.Run(name, func(b *testing.B) {
			bodies := make([]string, b.N) // signed in advance, as clients do
			for i := range bodies {
				bodies[i] = url.Values{"grant_type": {"client_credentials"}, "scope": {"system/*.rs"},
					"client_assertion":      {sign()},
					"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}}.Encode()
			}
			w.bench(b, token.Path, func(i int) string { return bodies[i] })
		})
	}
}

func BenchmarkIntrospection(b *testing.B) {
	w := newWorld(b)
	rs := w.app(client.SecretPost, func(c *client.Client) { c.Inspects = true })
	app := w.app(client.None, nil)
	form := func(tok any) string {
		return url.Values{"token": {tok.(string)}, "client_id": {rs.ID},
			"client_secret": {"s3cret-of-the-app"}}.Encode()
	}
	var bodies []string
	for range 50 {
		bodies = append(bodies, form(w.authorize(app, offline)["access_token"]))
	}
	b.Run("cached", func(b *testing.B) { // the signatures are not verified again
		w.bench(b, introspect.Path, func(i int) string { return bodies[i%len(bodies)] })
	})
	b.Run("new", func(b *testing.B) { // each token is introspected once
		back := w.backend("system/*.rs")
		fresh := make([]string, b.N)
		for i := range fresh {
			tok := must(w.tokens.Issue(b.Context(), back.ID, "system/*.rs", time.Minute, "uid:0"))
			fresh[i] = form(tok.Access)
		}
		w.bench(b, introspect.Path, func(i int) string { return fresh[i] })
	})
	b.Run("new-person", func(b *testing.B) { // also reads the authorization and the roles
		_, c := claimsOf(b, w.authorize(app, offline)["access_token"])
		fresh := make([]string, b.N)
		for i := range fresh {
			c["jti"] = rand.Text()
			fresh[i] = form(must(w.ring.Sign(token.Type, c)))
		}
		w.bench(b, introspect.Path, func(i int) string { return fresh[i] })
	})
}
