// Package smarttest provides a base for tests of OAuth endpoints: the embedded
// store, an HTTP server, the client registry and the audit recorder, with a
// clock that the test sets.
package smarttest

import (
	"crypto/rand"
	"log/slog"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/gin-gonic/gin"

	"pulsegate/fhir/audit"
	"pulsegate/fhir/store/pebblestore"
	"pulsegate/smart/client"
	"pulsegate/smart/scope"
)

// Base is a test server. It is closed when its test ends.
type Base struct {
	DB      *pebblestore.DB
	Engine  *gin.Engine
	Server  *httptest.Server
	Scopes  scope.Parser
	Clients *client.Registry
	Audit   *audit.Recorder
	Logger  *slog.Logger
	Now     time.Time
}

// New starts a Base with its clock at now. Tests mount an endpoint on its
// Engine.
func New(t *testing.T, now time.Time) *Base {
	t.Helper()
	gin.SetMode(gin.ReleaseMode)
	b := &Base{Engine: gin.New(), Scopes: scope.Parser{TokenParam: scope.Registered},
		Logger: slog.New(slog.DiscardHandler), Now: now}
	var err error
	if b.DB, err = pebblestore.Open(t.TempDir(),
		pebblestore.Options{Clock: b.Clock, Logger: b.Logger, CacheBytes: 8 << 20}); err != nil {
		t.Fatal(err)
	}
	b.Server = httptest.NewServer(b.Engine)
	t.Cleanup(func() {
		b.Server.Close()
		if err := b.DB.Close(); err != nil {
			t.Error(err)
		}
	})
	b.Clients = &client.Registry{Store: b.DB, Scopes: b.Scopes, Clock: b.Clock}
	if b.Audit, err = audit.NewRecorder(audit.Options{Store: b.DB, Clock: b.Clock, Rand: rand.Reader,
		Observer: b.Server.URL, Logger: b.Logger}); err != nil {
		t.Fatal(err)
	}
	return b
}

// Clock returns the time that the test has set.
func (b *Base) Clock() time.Time { return b.Now }
