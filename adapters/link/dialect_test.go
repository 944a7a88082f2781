package link_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"testing"
	"time"

	"pulsegate/adapters/cloud"
	"pulsegate/adapters/link"
)

// wrapped makes the world's token endpoint require a parameter and wrap its answers with
// a status of its own, as Withings does.
func wrapped(w *world) {
	w.srv.token = func(rw http.ResponseWriter, r *http.Request) bool {
		reply := map[string]any{"status": 503}
		if r.PostForm.Get("action") == "requesttoken" {
			if answer := w.srv.issue(r.PostForm); answer != nil {
				answer["userid"] = 363
				reply = map[string]any{"status": 0, "body": answer}
			}
		}
		_ = json.NewEncoder(rw).Encode(reply)
		return true
	}
	w.vendor.dialect = func(o *cloud.OAuth) {
		o.TokenParams = map[string]string{"action": "requesttoken"}
		o.Unwrap = func(status int, body []byte) (int, []byte) {
			var reply struct {
				Status int
				Body   json.RawMessage
			}
			if json.Unmarshal(body, &reply) != nil || reply.Status != 0 {
				return http.StatusBadRequest, []byte(`{"error":"invalid_grant"}`)
			}
			return status, reply.Body
		}
		o.Account = func(member func(string) any) string {
			if member("userid") == 363.0 {
				return "363"
			}
			return ""
		}
	}
}

// TestDialect checks that an account is linked and refreshed at a token endpoint whose
// requests and answers have another form than the standard prescribes, and that the
// account is the one that the answer states.
func TestDialect(t *testing.T) {
	w := newWorld(t, true)
	wrapped(w)
	l := w.connect("p1")
	if !slices.Equal(l.Accounts, []string{"363"}) {
		t.Errorf("accounts %q", l.Accounts)
	}
	first := w.mustToken(l.ID, "")
	w.clock.Add(24 * time.Hour)
	if w.mustToken(l.ID, "") == first || w.srv.count("/token", "refresh_token") != 1 {
		t.Error("the token was not refreshed")
	}
}

// TestDialectRefusal checks that a refusal with HTTP status 200 ends the grant.
func TestDialectRefusal(t *testing.T) {
	w := newWorld(t, true)
	wrapped(w)
	l := w.connect("p1")
	w.clock.Add(24 * time.Hour)
	w.srv.token = func(rw http.ResponseWriter, _ *http.Request) bool {
		_, _ = rw.Write([]byte(`{"status":503,"error":"invalid refresh_token"}`))
		return true
	}
	_, err := w.token(w.links, l.ID, "")
	w.problem(err, cloud.Unauthorized, l.ID, link.Reconnect, "invalid_grant")
}
