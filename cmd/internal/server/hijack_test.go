package server

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
)

// TestPacedHijack takes connections over through gin, as a WebSocket does.
func TestPacedHijack(t *testing.T) {
	e := gin.New()
	e.GET("/", func(c *gin.Context) {
		conn, _, err := c.Writer.Hijack()
		if err != nil {
			c.Header("Refused", "1")
			c.Writer.WriteHeaderNow()
			return
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: test\r\n\r\nown"); err != nil {
			t.Error(err)
		}
	})
	for version, want := range map[string]int{"HTTP/1.1": http.StatusSwitchingProtocols,
		"HTTP/2.0": http.StatusOK} { // where a request has no connection of its own
		srv := httptest.NewUnstartedServer(paced{now: time.Now, next: e})
		srv.EnableHTTP2 = version == "HTTP/2.0"
		srv.StartTLS()
		r, err := srv.Client().Get(srv.URL)
		if err != nil {
			t.Fatal(err)
		}
		if r.StatusCode != want || r.Proto != version {
			t.Errorf("%s: %s %d, want %d", version, r.Proto, r.StatusCode, want)
		}
		if refused := r.Header.Get("Refused") != ""; refused != srv.EnableHTTP2 {
			t.Errorf("%s: refused %t", version, refused)
		}
		if want == http.StatusSwitchingProtocols {
			if b, err := io.ReadAll(r.Body); err != nil || string(b) != "own" {
				t.Errorf("read %q: %v", b, err)
			}
		}
		if err := r.Body.Close(); err != nil {
			t.Error(err)
		}
		srv.Close()
	}
}
