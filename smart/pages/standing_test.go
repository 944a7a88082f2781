package pages_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
	"pulsegate/smart/people/breakglass"
	"pulsegate/smart/people/session"
	"pulsegate/smart/people/signin"
)

var operator = signin.Actor{Operator: "uid:0"}

// allowed is an app with all access that a person can give it.
type allowed struct {
	w               *world
	b               *browser
	access, refresh string
}

// code lets the person allow the app and returns the PKCE verifier. The browser
// then has the redirect with the code.
func (b *browser) code(scopes string, more url.Values) (verifier string) {
	b.w.t.Helper()
	to, verifier := b.w.authorizeURL(scopes, more)
	b.ask(to)
	if b.resp.Request.URL.Path == "/auth/patient" {
		b.get("/auth/consent?patient=ada&request=" + requestID(b))
	}
	b.at("/auth/consent")
	form := url.Values{"request": {requestID(b)}, "patient": {"ada"}, "decision": {"allow"}}
	for i := range strings.Fields(scopes) {
		form.Set("scope."+string(rune('0'+i)), "on")
	}
	b.post("/auth/consent", form).status(http.StatusSeeOther)
	return verifier
}

func (w *world) allow(b *browser, scopes string) *allowed {
	w.t.Helper()
	verifier := b.code(scopes, nil)
	status, out := w.redeem(b, verifier)
	if status != 200 {
		w.t.Fatalf("%d %v", status, out)
	}
	a := &allowed{w: w, b: b, access: out["access_token"].(string)}
	a.refresh, _ = out["refresh_token"].(string)
	return a
}

func (a *allowed) renew() (int, map[string]any) {
	a.w.t.Helper()
	return a.w.token(a.b.c, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {a.refresh},
		"client_id": {a.w.app.ID}})
}

// alive reports whether the app's tokens work. It fails the test if only one of
// access token and refresh token works.
func (a *allowed) alive(path string) bool {
	a.w.t.Helper()
	read := a.w.reads(a.b.c, a.access, path)
	status, out := a.renew()
	if status == 200 {
		a.refresh, a.access = out["refresh_token"].(string), out["access_token"].(string)
	}
	switch {
	case read == 200 && status == 200:
		return true
	case read == 401 && status == 400 && out["error"] == "invalid_grant":
		return false
	}
	a.w.t.Fatalf("a read returns %d, a refresh %d %v", read, status, out)
	return false
}

// consentsOf counts the active Consents that record approvals of apps.
func (w *world) consentsOf(patient string) (n int) {
	w.t.Helper()
	q, err := search.Parse("Consent", [][2]string{{"patient", patient}, {"status", "active"}}, search.ParseOptions{})
	must(w.t, err)
	must(w.t, w.store.Find(context.Background(), store.Find{Query: q, Filter: access.All().Filter(access.Search)},
		func(f *store.Found) bool {
			if strings.HasPrefix(f.Resource.ID, "app-") {
				n++
			}
			return true
		}))
	return n
}

// TestChangeOfAccountEndsEverything checks that every change of an account by
// another person ends all its access in the same commit.
func TestChangeOfAccountEndsEverything(t *testing.T) {
	const scopes = "launch/patient offline_access patient/Patient.rs patient/Observation.rs"
	for name, change := range map[string]func(w *world, id string) error{
		"another patient": func(w *world, id string) error {
			return w.signs.SetRoles(context.Background(), signin.From{}, operator, id, []string{"patient"}, "ben", "")
		},
		"another role": func(w *world, id string) error {
			return w.signs.SetRoles(context.Background(), signin.From{}, operator, id,
				[]string{"patient", "auditor"}, "ada", "")
		},
		"reset": func(w *world, id string) error {
			_, _, err := w.signs.Reinvite(context.Background(), signin.From{}, operator, id, true)
			return err
		},
		"another link": func(w *world, id string) error {
			_, _, err := w.signs.Reinvite(context.Background(), signin.From{}, operator, id, false)
			return err
		},
		"disabled and enabled": func(w *world, id string) error {
			if err := w.signs.SetDisabled(context.Background(), signin.From{}, operator, id, true); err != nil {
				return err
			}
			return w.signs.SetDisabled(context.Background(), signin.From{}, operator, id, false)
		},
		// A direct write of the user must end access as well.
		"a writer that only changes the link": func(w *world, id string) error {
			u, err := w.users.Get(context.Background(), id)
			if err != nil {
				return err
			}
			u.Patient = "ben"
			writes, err := w.users.Writes(&u)
			if err == nil {
				_, err = w.store.Commit(context.Background(), &store.Batch{State: writes})
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			b := w.browser()
			b.enroll(w.invite("ada", "Ada Beispiel", "patient"))
			first, second := w.allow(b, scopes), w.allow(b, scopes)
			if !first.alive("Patient/ada") || !second.alive("Patient/ada") {
				t.Fatal("the app has no access to end")
			}
			verifier := b.code(scopes, nil) // a code that is not redeemed yet
			u, err := w.users.ByLogin(context.Background(), "ada")
			must(t, err)
			must(t, change(w, u.ID))
			if first.alive("Patient/ada") || second.alive("Patient/ada") {
				t.Error("an app still has access")
			}
			if status, out := w.redeem(b, verifier); status != 400 || out["error"] != "invalid_grant" {
				t.Errorf("a code from before the change: %d %v", status, out)
			}
			b.get("/auth/").at("/auth/signin")
			if strings.HasPrefix(name, "a writer") {
				return // ends the access only; EndAccess writes the records
			}
			if n := w.consentsOf("ada"); n != 0 {
				t.Errorf("%d consents of apps are still active", n)
			}
			if n := w.events("access-ended"); n != 2 {
				t.Errorf("the end of %d authorizations is recorded", n)
			}
			as, err := w.apps.Authorizations(context.Background(), u.ID)
			if err != nil || len(as) != 0 {
				t.Errorf("%d authorizations are listed, %v", len(as), err)
			}
		})
	}
}

func TestChangeOfAccountEndsLaunchAndEmergency(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	doc := w.browser()
	doc.enroll(w.invite("doc", "Dr. Doc", "practitioner"))
	u, err := w.users.ByLogin(ctx, "doc")
	must(t, err)
	handle := func() string {
		doc.get("/auth/launches").post("/auth/launches",
			url.Values{"client": {w.app.ID}, "patient": {"ada"}}).status(200)
		return strings.SplitN(between(doc.body, w.base+"/app/launch?", `"`), "launch=", 2)[1]
	}
	used, unused := handle(), handle()
	doc.code("launch patient/Observation.rs", url.Values{"launch": {used}})
	doc.get("/auth/emergency?patient=ada").post("/auth/emergency",
		url.Values{"patient": {"ada"}, "reason": {"unconscious after a fall"}}).has("Open now")

	// setting the same roles again ends access as well
	must(t, w.signs.SetRoles(ctx, signin.From{}, operator, u.ID, []string{"practitioner"}, "", "doc"))
	if open, err := w.glass.Active(ctx, u.ID); err != nil || len(open) != 0 {
		t.Errorf("emergency access is still active: %v %v", open, err)
	}
	if w.events("110138") != 1 {
		t.Error("the end of the emergency access is not recorded")
	}
	to, _ := w.authorizeURL("launch patient/Observation.rs", url.Values{"launch": {unused}})
	doc.get(to)
	if at := doc.resp.Header.Get("Location"); !strings.Contains(at, "error=invalid_request") {
		t.Errorf("a launch from before the change is accepted: %s", at)
	}
	all, err := w.glass.List(ctx)
	must(t, err)
	if len(all) != 1 || !all[0].Pending() || !all[0].End.Before(all[0].Start.Add(breakglass.Life)) {
		t.Errorf("the override is not kept for its review: %+v", all)
	}
}

// TestCodeRacesWithChange checks the race between the change of an account and
// the redemption of a code: whichever commits first, the code gives no access
// afterwards.
func TestCodeRacesWithChange(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	b.enroll(w.invite("ada", "Ada Beispiel", "patient"))
	u, err := w.users.ByLogin(context.Background(), "ada")
	must(t, err)
	verifier := b.code("launch/patient offline_access patient/Patient.rs patient/Observation.rs", nil)
	x, ok, err := w.signs.Hold(context.Background(), signin.Subject(&u, sessionOf(t, w, u.ID)))
	if err != nil || !ok {
		t.Fatalf("%v %v", ok, err)
	}
	must(t, w.signs.SetRoles(context.Background(), signin.From{}, operator, u.ID, []string{"patient"}, "ben", ""))
	if _, err := w.store.Commit(context.Background(),
		&store.Batch{State: []store.StateWrite{x}}); fhir.KindOf(err) != fhir.Conflict {
		t.Errorf("a commit with a Hold from before the change: %v", err)
	}
	if status, _ := w.redeem(b, verifier); status != 400 || w.consentsOf("ada") != 0 {
		t.Errorf("%d, %d consents", status, w.consentsOf("ada"))
	}
}

func TestOwnSessions(t *testing.T) {
	w := newWorld(t)
	desk := w.browser()
	desk.headers["User-Agent"] = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
	k := desk.enroll(w.invite("ada", "Ada Beispiel", "patient"))
	phone := w.browser()
	phone.headers["User-Agent"] = "Mozilla/5.0 (iPhone; CPU iPhone OS 19_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/19.0 Mobile/15E148 Safari/604.1"
	phone.get("/auth/signin").passkey("/auth/passkey", k.Get)
	online := w.allow(phone, "launch/patient online_access patient/Patient.rs patient/Observation.rs")
	offline := w.allow(phone, "launch/patient offline_access patient/Patient.rs patient/Observation.rs")

	desk.get("/auth/").has("Firefox on Linux", "this browser", "Safari on iPhone", "127.0.0.1")
	sid := between(desk.body, `name="session" value="`, `"`)
	// Another person cannot end the session or find out that it exists.
	other := w.browser()
	other.enroll(w.invite("ben", "Ben Ejemplo", "administrator"))
	other.get("/auth/").post("/auth/sessions", url.Values{"session": {sid}}).status(200)
	phone.get("/auth/apps").at("/auth/apps")

	desk.get("/auth/").post("/auth/sessions", url.Values{"session": {sid}}).status(200).has("That session has ended")
	phone.get("/auth/apps").at("/auth/signin")
	desk.get("/auth/").at("/auth/")
	if online.alive("Patient/ada") || !offline.alive("Patient/ada") {
		t.Error("an app bound to the session still has access, or one with offline access has none")
	}
	if w.events("session-ended") != 1 {
		t.Error("the end of the session is not recorded")
	}

	phone.get("/auth/signin").passkey("/auth/passkey", k.Get)
	phone.get("/auth/").at("/auth/")
	desk.get("/auth/").post("/auth/sessions",
		url.Values{"do": {"everything"}}).status(200).has("no app has access")
	phone.get("/auth/").at("/auth/signin")
	desk.get("/auth/apps").at("/auth/apps").has("No app has access")
	if offline.alive("Patient/ada") {
		t.Error("an app still has access after everything was ended")
	}
	if w.events("everything-ended") != 1 {
		t.Error("the end of everything is not recorded")
	}
}

// sessionOf returns the only session of a user.
func sessionOf(t *testing.T, w *world, id string) *session.Session {
	t.Helper()
	u, err := w.users.Get(context.Background(), id)
	must(t, err)
	xs, err := w.signs.ListSessions(context.Background(), &u)
	if err != nil || len(xs) != 1 {
		t.Fatalf("%d sessions, %v", len(xs), err)
	}
	return &xs[0]
}

// TestOneAdministratorLink checks that at most one bootstrap link is valid.
func TestOneAdministratorLink(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	link := func(login string) string {
		t.Helper()
		_, token, err := w.signs.Bootstrap(ctx, "uid:0", login, "Root Admin")
		must(t, err)
		return w.base + "/auth/invite?token=" + token
	}
	first, second := link("root"), link("admin")
	third := link("Root")
	for _, void := range []string{first, second} {
		w.browser().get(void).status(404)
	}
	w.browser().enroll(third)
	if _, _, err := w.signs.Bootstrap(ctx, "uid:0", "again", "Root Admin"); fhir.KindOf(err) != fhir.Invalid {
		t.Errorf("a link was created although an administrator exists: %v", err)
	}
	w.browser().get(second).status(404)
}

// TestChangeOfAccountAmidRefreshes checks that apps that refresh their tokens
// without pause neither survive a change of the account nor delay it.
func TestChangeOfAccountAmidRefreshes(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	b.enroll(w.invite("ada", "Ada Beispiel", "patient"))
	u, err := w.users.ByLogin(context.Background(), "ada")
	must(t, err)
	type app struct {
		access, refresh string
		renewed         atomic.Int64
	}
	apps := make([]*app, 4)
	for i := range apps {
		a := w.allow(b, "launch/patient offline_access patient/Patient.rs patient/Observation.rs")
		apps[i] = &app{access: a.access, refresh: a.refresh}
	}
	var wg sync.WaitGroup
	for _, a := range apps {
		wg.Go(func() {
			for { // until the access ends
				resp, err := b.c.PostForm(w.base+"/oauth/token",
					url.Values{"grant_type": {"refresh_token"}, "refresh_token": {a.refresh}, "client_id": {w.app.ID}})
				if err != nil {
					t.Error(err)
					return
				}
				var out struct {
					Access  string `json:"access_token"`
					Refresh string `json:"refresh_token"`
				}
				err = json.NewDecoder(resp.Body).Decode(&out)
				if cerr := resp.Body.Close(); err != nil || cerr != nil {
					t.Error(err, cerr)
					return
				}
				switch resp.StatusCode {
				case http.StatusOK:
					a.access, a.refresh = out.Access, out.Refresh
					a.renewed.Add(1)
				case http.StatusTooManyRequests:
				default:
					return
				}
			}
		})
	}
	for _, a := range apps {
		for a.renewed.Load() == 0 {
			runtime.Gosched()
		}
	}
	must(t, w.signs.SetRoles(context.Background(), signin.From{}, operator, u.ID, []string{"patient"}, "ben", ""))
	for _, id := range []string{"ada", "ben"} {
		if n := w.consentsOf(id); n != 0 {
			t.Errorf("%d consents of apps are still active", n)
		}
	}
	wg.Wait()
	for _, a := range apps {
		if s := w.reads(b.c, a.access, "Patient/ada"); s != 401 {
			t.Errorf("the last token can read: %d", s)
		}
	}
	if n := w.events("access-ended"); n != len(apps) {
		t.Errorf("the end of %d authorizations is recorded", n)
	}
}
