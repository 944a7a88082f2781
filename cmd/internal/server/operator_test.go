package server

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"pulsegate/cmd/internal/admin"
	"pulsegate/fhir/store"
)

// adminCalls returns requests for every route of the admin socket. CLIENT stands
// for the id of the client that POST /client registers.
func adminCalls() map[string][]string {
	return map[string][]string{
		"GET /clock":          {""},
		"POST /clock/reset":   {`{}`},
		"GET /patient":        {""},
		"GET /patient/show":   {"?id=ada", "?id=nobody"},
		"POST /client/change": {`{"client_id":"CLIENT","records_consent":true}`},
		"POST /demo/token":    {`{}`},
		"GET /server/info":    {""},
		"POST /patient": {`{"id":"ada","given":"Ada","family":"Beispiel"}`,
			`{"given":"Ben","family":"Beispiel"}`},
		"POST /consent/grant":             {`{"patient":"ada","vendor":"apple","recipient":"any"}`},
		"GET /consent":                    {"", "?patient=ada"},
		"POST /consent/withdraw":          {`{"patient":"ada"}`},
		"POST /client":                    {`{"name":"App","scope":"launch/patient patient/*.rs","auth":"client_secret_basic","redirect_uris":["https://app.example.org/cb"]}`},
		"GET /client":                     {""},
		"POST /client/registration-token": {`{"scope":"patient/*.rs","uses":1,"seconds":60}`},
		"POST /client/disable":            {`{"id":"CLIENT"}`},
		"POST /client/enable":             {`{"id":"CLIENT"}`},
		"POST /user/enable":               {`{"login":"eve"}`},
		"POST /ingest":                    {"?patient=ada&vendor=apple&format=nothing"},
		"GET /quarantine":                 {"", "?patient=ada"},
		"GET /quarantine/show":            {"?id=none"},
		"GET /explain":                    {"?id=none"},
		"POST /quarantine/retry":          {`{}`},
		"POST /audit/verify":              {`{}`},
		"GET /debug/pprof/":               {"", "goroutine?debug=1"},
		"GET /debug/pprof/profile":        {"?seconds=1"},
		"GET /debug/pprof/trace":          {"?seconds=1"},
		"GET /store/search-parameters":    {""},
		"GET /store/stat":                 {""},
		"POST /store/check":               {`{}`},
		"GET /link":                       {"", "?patient=ada"},
		"GET /link/show":                  {"?id=none"},
		"POST /link/unlink":               {`{"id":"none"}`},
		"POST /link/pull":                 {`{"id":"none"}`},
		"POST /push-key/create":           {`{"patient":"ada","vendor":"apple","name":"Phone","seconds":3600}`},
		"GET /push-key":                   {"", "?patient=ada", "?patient=ada&vendor=oura"},
		"POST /push-key/revoke":           {`{"patient":"ada","vendor":"apple"}`},
		"POST /target/add":                {`{"name":"mercy","url":"https://fhir.example.org/r4","client_id":"us"}`},
		"GET /target":                     {""},
		"GET /target/show":                {"?name=mercy"},
		"POST /target/pause":              {`{"name":"mercy"}`},
		"POST /target/resume":             {`{"name":"mercy"}`},
		"POST /target/retry":              {`{"name":"mercy"}`},
		"POST /target/remove":             {`{"name":"none"}`},
		"POST /user/bootstrap":            {`{"login":"root","name":"Root"}`},
		"POST /user":                      {`{"login":"eve","name":"Eve","roles":["auditor"]}`},
		"POST /user/reinvite":             {`{"login":"eve"}`},
		"POST /user/disable":              {`{"login":"eve"}`},
		"GET /user":                       {""},
		"GET /remap":                      {""},
		"POST /remap/cancel":              {`{"vendor":"oura"}`},
		"POST /remap": {`{"vendor":"oura"}`, `{"vendor":"oura","patient":"ada","dryRun":true,"examples":3}`,
			`{"vendor":"nothing"}`},
		"GET /cluster":               {""},
		"POST /cluster/snapshot":     {`{}`},
		"GET /cluster/schema":        {""},
		"POST /cluster/schema/raise": {`{}`},
		"POST /cluster/roll":         {`{}`},
		"GET /pack":                  {""},
		"GET /pack/show": {"?vendor=apple&metric=heart_rate", "?vendor=apple&metric=none",
			"?name=apple"},
	}
}

// refusedCalls lists the calls of adminCalls that the server refuses before there
// is anything to record, because they name something that does not exist.
var refusedCalls = map[string]bool{
	"GET /quarantine/show?id=none": true,

	"GET /pack/show?vendor=apple&metric=none": true, "GET /pack/show?name=apple": true,

	"GET /patient/show?id=nobody": true,

	// The server is alone; TestClusterCommands has the rest.
	"POST /cluster/snapshot": true, "GET /cluster/schema": true, "POST /cluster/schema/raise": true,
	"POST /cluster/roll": true,

	"GET /link/show?id=none": true,
	"POST /link/pull":        true,
	"POST /link/unlink":      true, // TestUnlinkCommitsOnce unlinks an account
	"POST /target/remove":    true, // the state is deleted after the answer
	"POST /remap/cancel":     true, // no job is running
	"POST /remap":            true, // an unknown vendor
	"POST /demo/token":       true, // the server is no demo
} // read only

// TestOperatorCommandsCommitOnce checks that every command writes its change and
// its AuditEvent in one commit. With two commits, a crash between them would
// leave a change without a record.
func TestOperatorCommandsCommitOnce(t *testing.T) {
	s := mustOpen(t, t.TempDir())
	srv := &admin.Server{Ops: operations{s}, Log: s.log}
	h := srv.Handler(admin.Operator{Name: "uid:0"})
	commits := watchCommits(t, s)
	calls := adminCalls()
	order := []string{"POST /patient", "POST /consent/grant", "POST /push-key/create", "POST /client",
		"POST /target/add", "POST /user/bootstrap", "POST /user"}
	for _, p := range srv.Routes() {
		if calls[p] == nil {
			t.Errorf("%s: adminCalls has no request for this route", p)
		}
		order = append(order, p)
	}
	var client string
	for _, pattern := range order {
		method, path, _ := strings.Cut(pattern, " ")
		for _, call := range calls[pattern] {
			target, body := path+call, ""
			if method == "POST" && !strings.HasPrefix(call, "?") {
				target, body = path, strings.ReplaceAll(call, "CLIENT", client)
			}
			w := httptest.NewRecorder()
			commits.take()
			h.ServeHTTP(w, httptest.NewRequest(method, target, strings.NewReader(body)))
			if _, rest, ok := strings.Cut(w.Body.String(), `"client_id":"`); ok && pattern == "POST /client" {
				client, _, _ = strings.Cut(rest, `"`)
			}
			got := commits.take()
			for _, c := range got {
				if c.leaves == 0 {
					t.Errorf("%s %s: a commit without an AuditEvent: %+v", method, target, c)
				}
			}
			refused := refusedCalls[method+" "+target]
			if len(got) == 0 && w.Code < 400 || w.Code >= 300 && len(got) == 0 && !refused &&
				w.Code != http.StatusConflict {
				t.Errorf("%s %s: %d and no AuditEvent: %s", method, target, w.Code, w.Body)
			}
		}
		delete(calls, pattern) // each route once, in the order above
	}
}

// counted is one commit.
type counted struct {
	seq     store.Seq
	leaves  uint64
	changes int
}

// commitLog counts the audit leaves and changes of each commit.
type commitLog struct {
	mu   sync.Mutex
	size uint64
	list []counted
}

// watchCommits returns a log of the commits of s from now on.
func watchCommits(t *testing.T, s *services) *commitLog {
	l := &commitLog{size: s.store.Log().Size()}
	t.Cleanup(s.store.Watch(func(c store.Commit) {
		size := s.store.Log().Size()
		l.mu.Lock()
		defer l.mu.Unlock()
		l.list = append(l.list, counted{c.Seq, size - l.size, len(c.Changes)})
		l.size = size
	}))
	return l
}

// take returns the commits since the last call.
func (l *commitLog) take() []counted {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := l.list
	l.list = nil
	return out
}
