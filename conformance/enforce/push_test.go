package enforce

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/egress"
	"pulsegate/fhir/push"
	"pulsegate/fhir/store"
)

// fixedToken is the access token for every target.
type fixedToken struct{}

func (fixedToken) Token(context.Context) (string, error) { return "token", nil }
func (fixedToken) Reject(string)                         {}

// startPush starts sending to targets.
func startPush(f fault, at *site, local egress.Policy,
	grantFor func(context.Context, string, string) (*access.Grant, error)) {
	at.push = must(push.New(context.Background(), push.Options{Store: at.store, Audit: at.rec, Clock: time.Now,
		Base: base, Policy: local, Roles: at.roles, MinBackoff: time.Millisecond, MaxBackoff: 8 * time.Millisecond,
		TokensFor: func(push.Target) (push.Tokens, error) { return fixedToken{}, nil },
		GrantFor: func(ctx context.Context, id string) (*access.Grant, error) {
			if f == pushesAll {
				return access.All(), nil
			}
			return grantFor(ctx, id, "")
		}}))
}

// push returns the engine of another site than the last time, as of everything that was
// committed.
func (w *world) push() *push.Engine {
	if err := w.db.Sync(context.Background()); err != nil {
		panic(err)
	}
	w.pushes++
	return w.sites[w.pushes%len(w.sites)].push
}

// accept answers a create at a target. The caller holds mu.
func (w *world) accept(answer http.ResponseWriter, path string, body []byte) {
	name, _, _ := strings.Cut(path, "/")
	var o struct{ Identifier []struct{ Value string } }
	if err := json.Unmarshal(body, &o); err != nil || len(o.Identifier) == 0 {
		answer.WriteHeader(http.StatusBadRequest)
		return
	}
	ref := strings.TrimPrefix(o.Identifier[len(o.Identifier)-1].Value, base+"/")
	w.pushed[name] = append(w.pushed[name], ref)
	answer.Header().Set("Location", fmt.Sprint("Observation/e", len(w.pushed[name])))
	answer.WriteHeader(http.StatusCreated)
}

// drops reports whether the fault keeps an AuditEvent from being recorded.
func (s faulty) drops(body []byte, event *loggedEvent) bool {
	switch s.fault {
	case patchesUnrecorded:
		return bytes.Contains(body, []byte(`"code":"patch"`))
	case pushesUnrecorded:
		return bytes.Contains(body, []byte(`"push"`))
	case createsUnrecorded: // if the Observation was phone-made
		return bytes.Contains(body, []byte(`"code":"create"`)) && bytes.Contains(body, []byte(`"code":"XrequestId"`)) &&
			slices.ContainsFunc(event.refs, func(text string) bool {
				ref, ok := fhir.ParseRef(text)
				_, facts, err := s.database.Read(context.Background(), ref, 0)
				return ok && err == nil && facts.Vendor != ""
			})
	}
	return false
}

// pushes checks that a target gets exactly the Observations that its recipient may see, and
// that an AuditEvent of their patient names each. a is the token of the client ca or of a
// person.
func (r *run) pushes(a *token) error {
	const name = "ca"
	owner := token{client: name, scopes: r.tc.scopes}
	if a.client != name {
		r.w.register(&owner, r.tc.scopes)
	}
	var want []string
	for _, ref := range r.of("Observation") {
		v := r.d.current(ref)
		if v.patient == "" || !v.measured {
			continue // a target is not told of what was entered in error
		}
		if !owner.sees(r.provisions, "r", v) {
			r.count("not pushed")
			continue
		}
		r.count("pushed")
		want = append(want, ref)
	}
	r.w.log.mu.Lock()
	delete(r.w.log.byRequest, "") // events without a request
	r.w.log.mu.Unlock()
	commit := func(ctx context.Context, ws ...store.StateWrite) error {
		_, err := r.w.db.Commit(ctx, &store.Batch{State: ws})
		return err
	}
	if _, err := r.w.push().Add(r.ctx(), push.Target{Name: name, Base: r.w.receiver.URL + "/ehr/" + name,
		Recipient: name, ClientID: "us", Scope: "system/Observation.crus", Form: push.FormStored},
		time.Unix(1, 0), commit); err != nil {
		return err
	}
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(200 * time.Microsecond) {
		d, err := r.w.push().Show(r.ctx(), name)
		if err != nil {
			return err
		}
		if d.Waiting == 0 && d.Backfill == nil {
			break
		}
		if time.Now().After(end) {
			return fmt.Errorf("the target still waits for %d", d.Waiting)
		}
	}
	if err := r.w.push().Remove(r.ctx(), name, commit); err != nil {
		return err
	}
	r.w.mu.Lock()
	got := slices.Clone(r.w.pushed[name])
	r.w.mu.Unlock()
	if !slices.Equal(sorted(got), sorted(want)) {
		return fmt.Errorf("sent to the target %v, want %v", got, want)
	}
	r.w.log.mu.Lock()
	defer r.w.log.mu.Unlock()
	for _, ref := range got {
		patient := r.d.current(ref).patient
		if !slices.ContainsFunc(r.w.log.byRequest[""], func(e loggedEvent) bool {
			return e.patient == patient && slices.Contains(e.refs, ref)
		}) {
			return fmt.Errorf("%s was sent to a target, which no event of %s names", ref, patient)
		}
	}
	return nil
}
