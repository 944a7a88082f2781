package rest

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"

	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/cluster/role"
	"pulsegate/fhir/cluster/role/roletest"
	"pulsegate/fhir/cluster/sealed/sealedtest"
	"pulsegate/fhir/store/pebblestore/pebbletest"
)

// TestAuditLogOfACluster asks two processes in turn for checkpoints and verifications.
// Only the second has the role of the notary.
func TestAuditLogOfACluster(t *testing.T) {
	gin.SetMode(gin.ReleaseMode)
	db := pebbletest.Open(t)
	rec, err := audit.NewRecorder(audit.Options{Store: db, Clock: time.Now, Rand: rand.Reader,
		Observer: "https://pulse.example.org"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	start := func(roles role.Roles) (http.Handler, *audit.Notary) {
		n, err := audit.OpenSharedNotary(t.Context(), audit.NotaryOptions{Store: db, Dir: t.TempDir(),
			Rand: rand.Reader, Every: 10 * time.Millisecond, Roles: roles}, sealedtest.Open(t, db, "cluster"))
		if err != nil {
			t.Fatal(err)
		}
		e := gin.New()
		(&AuditLog{Store: db, Recorder: rec, Notary: n, Clock: time.Now}).Mount(e.Group("/", func(c *gin.Context) {
			c.Set(keyPrincipal, &access.Principal{ClientID: "auditor", TokenID: "t",
				Grant: &access.Grant{AllPatients: true, Rules: access.All().Rules}})
		}))
		return e, n
	}
	one, _ := start(roletest.Never{})
	two, notary := start(role.Alone{})
	go func() { ended <- notary.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	ask := func(h http.Handler, method, path, body string) string {
		t.Helper()
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
		if w.Code != http.StatusOK {
			t.Fatal(w.Code, w.Body)
		}
		return w.Body.String()
	}
	for range 3 {
		checkpoint := ask(one, "GET", "/AuditEvent/$checkpoint", "")
		var report audit.Report
		if err := json.Unmarshal([]byte(ask(two, "POST", "/AuditEvent/$verify", checkpoint)), &report); err != nil {
			t.Fatal(err)
		}
		if !report.OK || len(report.Checkpoints) != 2 || report.Size != db.Log().Size() {
			t.Errorf("%+v", report)
		}
		one, two = two, one
	}
}
