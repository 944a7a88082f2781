package server

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"pulsegate/cmd/internal/admin"
	"pulsegate/smart/oauth/authorize"
	"pulsegate/smart/oauth/introspect"
	"pulsegate/smart/oauth/register"
	"pulsegate/smart/oauth/token"
	"pulsegate/smart/people/authn"
)

// eventually calls done until it returns true.
func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("waited in vain for ", what)
		}
	}
}

// bundle is the part of a Bundle that the tests read.
type bundle struct {
	Total int
	Link  []struct{ Relation, URL string }
	Entry []struct{ Resource struct{ ID string } }
}

// pagesOf returns the ids of all pages of a search.
func pagesOf(t *testing.T, c *http.Client, path string, bearer []string) (ids []string) {
	t.Helper()
	for path != "" {
		var b bundle
		send(t, c, http.StatusOK, http.MethodGet, path, "", bearer...).decode(t, &b)
		for _, e := range b.Entry {
			ids = append(ids, e.Resource.ID)
		}
		path = ""
		for _, l := range b.Link {
			if l.Relation == "next" {
				path = l.URL
			}
		}
	}
	return ids
}

// TestPeersBackend takes a backend client through its work, each request at another
// server than the last: registration, token, ingest, search with pages, export,
// subscription, and the end of all when the consent is withdrawn and the token revoked.
func TestPeersBackend(t *testing.T) {
	all := newPeersAt(t, 3, map[string]string{"egress-allow": "127.0.0.0/8", "preferred": "false"}, time.Now, 20*time.Millisecond)
	all.patient(0, "ada")
	c := all.client()
	app := all.registered(c, "system/*.cruds")
	bearer := app.bearer(t, c)

	var sum struct{ Created int }
	send(t, c, http.StatusOK, http.MethodPost, "/ingest/apple/export.xml?patient=ada", twoSamples,
		bearer[0], bearer[1], "Content-Type", "application/xml").decode(t, &sum)
	if sum.Created != 2 {
		t.Fatalf("%d Observations ingested", sum.Created)
	}
	for i := range 5 {
		send(t, c, http.StatusCreated, http.MethodPost, "/fhir/Observation", fmt.Sprintf(
			`{"resourceType":"Observation","status":"final","code":{"text":"n%d"},"subject":{"reference":"Patient/ada"}}`,
			i), bearer...)
	}
	// Each server sees each write at once, and serves each page.
	for i := range all.nodes {
		if ids := pagesOf(t, all.at(i), "/fhir/Observation?patient=ada&_count=100", bearer); len(ids) != 7 {
			t.Errorf("server %d finds %d Observations", i, len(ids))
		}
	}
	ids := pagesOf(t, c, "/fhir/Observation?patient=ada&_count=2", bearer)
	if whole := pagesOf(t, all.at(0), "/fhir/Observation?patient=ada&_count=100", bearer); fmt.Sprint(ids) !=
		fmt.Sprint(whole) {
		t.Errorf("pages of several servers %v, one page %v", ids, whole)
	}
	all.exported(c, bearer)
	all.subscribed(c, bearer)

	send(t, c, http.StatusOK, http.MethodGet, "/fhir/Observation/"+ids[0], "", bearer...)
	if _, err := all.nodes[1].ops().WithdrawConsent(t.Context(), operatorOfTest,
		admin.WithdrawConsent{Patient: "ada"}); err != nil {
		t.Fatal(err)
	}
	vendors := map[bool]int{}
	for i := range all.nodes {
		for _, id := range ids {
			a := send(t, all.at(i), 0, http.MethodGet, "/fhir/Observation/"+id, "", bearer...)
			vendors[a.StatusCode == http.StatusOK]++
		}
	}
	if vendors[false] < 2*len(all.nodes) { // those of the vendor
		t.Errorf("after the withdrawal at another server: %v", vendors)
	}
	for i := range all.nodes {
		send(t, all.at(i), http.StatusOK, http.MethodGet, "/fhir/Patient/ada", "", bearer...)
	}
	send(t, c, http.StatusOK, http.MethodPost, introspect.RevokePath,
		app.authenticated(t, url.Values{"token": {strings.TrimPrefix(bearer[1], "Bearer ")}}), formType...)
	for i := range all.nodes {
		send(t, all.at(i), http.StatusUnauthorized, http.MethodGet, "/fhir/Patient/ada", "", bearer...)
	}
	used := app.assertion(t, time.Now())
	send(t, c, http.StatusOK, http.MethodPost, token.Path, app.form(used), formType...)
	for i := range all.nodes { // the assertion was used at another server
		send(t, all.at(i), http.StatusUnauthorized, http.MethodPost, token.Path, app.form(used), formType...)
	}
	if _, err := all.nodes[2].ops().DisableClient(t.Context(), operatorOfTest, app.id); err != nil {
		t.Fatal(err)
	}
	for i := range all.nodes {
		send(t, all.at(i), http.StatusUnauthorized, http.MethodPost, token.Path, app.form(app.assertion(t, time.Now())),
			formType...)
	}
}

// registered registers a backend client over HTTP.
func (all *peers) registered(c *http.Client, scope string) *backendApp {
	t := all.t
	t.Helper()
	initial, err := all.nodes[0].ops().NewRegistrationToken(t.Context(), operatorOfTest,
		admin.NewRegistrationToken{Scope: scope, Uses: 1, Seconds: 600})
	if err != nil {
		t.Fatal(err)
	}
	key, set := keyPair(t)
	body, err := json.Marshal(map[string]any{"client_name": "Backend", "scope": scope, "jwks": json.RawMessage(set),
		"grant_types": []string{"client_credentials"}, "token_endpoint_auth_method": "private_key_jwt"})
	if err != nil {
		t.Fatal(err)
	}
	var out struct {
		ID      string `json:"client_id"`
		Token   string `json:"registration_access_token"`
		Address string `json:"registration_client_uri"`
	}
	header := []string{"Content-Type", "application/json", "Authorization", "Bearer " + initial.Token}
	send(t, c, http.StatusCreated, http.MethodPost, register.Path, string(body), header...).decode(t, &out)
	for i := range all.nodes { // the token is used up at every server, and every server knows the client
		send(t, all.at(i), http.StatusUnauthorized, http.MethodPost, register.Path, string(body), header...)
		send(t, all.at(i), http.StatusOK, http.MethodGet, out.Address, "", "Authorization", "Bearer "+out.Token)
	}
	return &backendApp{id: out.ID, key: key, scope: scope}
}

// exported exports the patient's data.
func (all *peers) exported(c *http.Client, bearer []string) {
	t := all.t
	t.Helper()
	a := send(t, c, http.StatusAccepted, http.MethodGet, "/fhir/Patient/$export?_type=Observation", "",
		append([]string{"Accept", "application/fhir+json", "Prefer", "respond-async"}, bearer...)...)
	status := a.Header.Get("Content-Location")
	var manifest struct {
		Output []struct {
			URL   string
			Count int
		}
	}
	eventually(t, "the export", func() bool {
		a := send(t, c, 0, http.MethodGet, status, "", bearer...)
		if a.StatusCode == http.StatusOK {
			a.decode(t, &manifest)
		} else if a.StatusCode != http.StatusAccepted && a.StatusCode != http.StatusTooManyRequests {
			t.Fatalf("status of the export: %d %s", a.StatusCode, a.body)
		}
		return a.StatusCode == http.StatusOK
	})
	for i := range all.nodes {
		lines := 0
		for _, out := range manifest.Output {
			lines += strings.Count(send(t, all.at(i), http.StatusOK, http.MethodGet, out.URL, "", bearer...).body, "\n")
		}
		if lines != 7 {
			t.Errorf("server %d exports %d Observations", i, lines)
		}
	}
}

// subscribed creates a Subscription and waits for its handshake and one notification.
func (all *peers) subscribed(c *http.Client, bearer []string) {
	t := all.t
	t.Helper()
	got := make(chan string, 100)
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in struct {
			Entry []struct {
				Resource struct {
					Parameter []struct{ Name, ValueCode string }
				}
			}
		}
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil || len(in.Entry) == 0 {
			t.Errorf("a notification cannot be read: %v", err)
			return
		}
		for _, p := range in.Entry[0].Resource.Parameter {
			if p.Name == "type" {
				got <- p.ValueCode
			}
		}
	}))
	t.Cleanup(receiver.Close)
	var sub struct{ ID, Status string }
	send(t, c, http.StatusCreated, http.MethodPost, "/fhir/Subscription", `{"resourceType":"Subscription",
		"status":"requested","reason":"x","criteria":"https://pulsegate.dev/fhir/SubscriptionTopic/observation-recorded",
		"_criteria":{"extension":[{"url":"http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-filter-criteria",
		"valueString":"Observation?patient=Patient/ada"}]},
		"channel":{"type":"rest-hook","endpoint":"`+receiver.URL+`","payload":"application/fhir+json",
		"_payload":{"extension":[{"url":"http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-payload-content",
		"valueCode":"id-only"}]}}}`, bearer...).decode(t, &sub)
	await := func(kind string) {
		t.Helper()
		for {
			select {
			case k := <-got:
				if k == kind {
					return
				}
			case <-time.After(2 * time.Minute):
				t.Fatal("no ", kind)
			}
		}
	}
	await("handshake")
	eventually(t, "an active Subscription", func() bool {
		send(t, c, http.StatusOK, http.MethodGet, "/fhir/Subscription/"+sub.ID, "", bearer...).decode(t, &sub)
		return sub.Status == "active"
	})
	send(t, c, http.StatusCreated, http.MethodPost, "/fhir/Observation",
		`{"resourceType":"Observation","status":"final","code":{"text":"new"},"subject":{"reference":"Patient/ada"}}`,
		bearer...)
	await("event-notification")
	send(t, c, http.StatusNoContent, http.MethodDelete, "/fhir/Subscription/"+sub.ID, "", bearer...)
}

var (
	csrfField   = regexp.MustCompile(`name="csrf" value="([^"]+)"`)
	secretField = regexp.MustCompile(`id="secret">([A-Z2-7 ]+)<`)
	boxField    = regexp.MustCompile(`name="((?:scope|type)\.[0-9]+)" value="([^"]+)" checked`)
	askedField  = regexp.MustCompile(`name="(request|patient)" value="([^"]*)"`)
)

// person is a person's browser.
type person struct {
	t    *testing.T
	c    *http.Client
	page answer // the last one
}

// do sends a request and follows redirects, but not to an app.
func (p *person) do(method, path, body string, header ...string) *person {
	p.t.Helper()
	p.page = send(p.t, p.c, 0, method, path, body, append(header, "Sec-Fetch-Site", "same-origin")...)
	for {
		to, err := p.page.Location()
		if err != nil || !strings.HasPrefix(to.String(), peersBase+"/") {
			return p
		}
		p.page = send(p.t, p.c, 0, http.MethodGet, to.String(), "", "Sec-Fetch-Site", "same-origin")
	}
}

func (p *person) get(path string) *person {
	p.t.Helper()
	return p.do(http.MethodGet, path, "")
}

func (p *person) post(path string, form url.Values) *person {
	p.t.Helper()
	m := csrfField.FindStringSubmatch(p.page.body)
	if m == nil {
		p.t.Fatalf("no form on %s: %d %s", p.page.Request.URL, p.page.StatusCode, p.page.body)
	}
	form.Set("csrf", m[1])
	return p.do(http.MethodPost, path, form.Encode(), formType...)
}

func (p *person) has(text string) *person {
	p.t.Helper()
	if !strings.Contains(p.page.body, text) {
		p.t.Fatalf("no %q on %s: %d %s", text, p.page.Request.URL, p.page.StatusCode, p.page.body)
	}
	return p
}

// TestPeersApp takes a person and an app through their work, each request at another
// server than the last: one-time link, password and code, sign-in, the app's launch,
// consent page, code, refresh, a replayed refresh token, and the end of the app's access.
func TestPeersApp(t *testing.T) {
	all := newPeers(t, 3, nil)
	all.patient(0, "ada")
	const callback, scopes = "https://app.example/cb", "launch/patient offline_access patient/*.rs"
	app, err := all.nodes[0].ops().AddClient(t.Context(), operatorOfTest, admin.NewClient{Name: "Heartbook",
		Method: "none", Scope: scopes, RedirectURIs: []string{callback}})
	if err != nil {
		t.Fatal(err)
	}
	p := all.enrolled("ada")
	redeem := func(c *http.Client, code, verifier string) (int, tokens) {
		a := send(t, c, 0, http.MethodPost, token.Path, url.Values{"grant_type": {"authorization_code"}, "code": {code},
			"redirect_uri": {callback}, "client_id": {app.ID}, "code_verifier": {verifier}}.Encode(), formType...)
		var out tokens
		a.decode(t, &out)
		return a.StatusCode, out
	}
	refresh := func(c *http.Client, old string) (int, tokens) {
		a := send(t, c, 0, http.MethodPost, token.Path, url.Values{"grant_type": {"refresh_token"},
			"refresh_token": {old}, "client_id": {app.ID}}.Encode(), formType...)
		var out tokens
		a.decode(t, &out)
		return a.StatusCode, out
	}
	works := func(access string) (n int) {
		for i := range all.nodes {
			a := send(t, all.at(i), 0, http.MethodGet, "/fhir/Patient/ada", "", "Authorization", "Bearer "+access)
			if a.StatusCode == http.StatusOK {
				n++
			}
		}
		return n
	}

	code, verifier := p.launch(app.ID, callback, scopes)
	status, got := redeem(p.c, code, verifier)
	if status != http.StatusOK || works(got.Access) != 3 {
		t.Fatalf("%d %+v", status, got)
	}
	first, latest := got.Refresh, got
	for range 3 {
		if status, latest = refresh(p.c, latest.Refresh); status != http.StatusOK || works(latest.Access) != 3 {
			t.Fatalf("%d %+v", status, latest)
		}
	}
	// The use of a replaced token at one server ends the authorization at all of them.
	if status, out := refresh(all.at(1), first); status != http.StatusBadRequest || works(latest.Access) != 0 {
		t.Errorf("a replaced token: %d %+v, and access at %d servers", status, out, works(latest.Access))
	}
	if status, _ := refresh(all.at(2), latest.Refresh); status != http.StatusBadRequest {
		t.Errorf("a refresh after that: %d", status)
	}

	// A code works once, at one server.
	code, verifier = p.launch(app.ID, callback, scopes)
	status, got = redeem(all.at(0), code, verifier)
	if status != http.StatusOK || works(got.Access) != 3 {
		t.Fatalf("%d %+v", status, got)
	}
	if status, _ := redeem(all.at(1), code, verifier); status != http.StatusBadRequest {
		t.Errorf("the code at another server: %d", status)
	}
	if n := works(got.Access); n != 0 { // RFC 6749 4.1.2
		t.Errorf("after the second use of its code, a token works at %d servers", n)
	}

	// The person ends the app's access.
	code, verifier = p.launch(app.ID, callback, scopes)
	if _, got = redeem(p.c, code, verifier); works(got.Access) != 3 {
		t.Fatal("the token does not work")
	}
	p.get("/auth/apps").has("Heartbook")
	for _, id := range regexp.MustCompile(`name="id" value="([^"]+)"`).FindAllStringSubmatch(p.page.body, -1) {
		p.get("/auth/apps").post("/auth/apps", url.Values{"id": {id[1]}})
	}
	if n := works(got.Access); n != 0 {
		t.Errorf("after its end, the access of the app works at %d servers", n)
	}
	p.get("/auth/").post("/auth/signout", url.Values{})
	for i := range all.nodes {
		p.c.Transport = all.nodes[i]
		if p.get("/auth/apps"); p.page.Request.URL.Path != "/auth/signin" {
			t.Errorf("after the sign-out, server %d shows %s", i, p.page.Request.URL.Path)
		}
	}
}

// enrolled invites a patient, who enrolls with a password and codes and is then signed in.
func (all *peers) enrolled(login string) *person {
	all.t.Helper()
	return all.enrolledAs(admin.NewUser{Login: login, Name: "Ada", Roles: []string{"patient"}, Patient: login})
}

// enrolledAs is like enrolled, for any user.
func (all *peers) enrolledAs(user admin.NewUser) *person {
	t := all.t
	t.Helper()
	invited, err := all.nodes[1].ops().InviteUser(t.Context(), operatorOfTest, user)
	if err != nil {
		t.Fatal(err)
	}
	p := &person{t: t, c: all.client()}
	const password = "correct horse battery"
	p.get(invited.Link).post("/auth/invite", url.Values{"token": {strings.SplitN(invited.Link, "token=", 2)[1]}})
	p.get("/auth/enrol/password")
	m := secretField.FindStringSubmatch(p.page.body)
	if m == nil {
		t.Fatal(p.page.body)
	}
	secret := authn.ParseSecret(m[1])
	p.post("/auth/enrol/password", url.Values{"password": {password}, "repeat": {password},
		"code": {authn.Code(secret, time.Now())}}).has("Your recovery codes")
	for i := range all.nodes { // the link is used up at every server
		other := &person{t: t, c: all.at(i)}
		if other.get(invited.Link); other.page.StatusCode != http.StatusNotFound {
			t.Errorf("the one-time link at server %d: %d", i, other.page.StatusCode)
		}
	}
	return p
}

// tokens is the answer of the token endpoint.
type tokens struct {
	Access  string `json:"access_token"`
	Refresh string `json:"refresh_token"`
	Error   string `json:"error"`
}

// launch lets an app ask the person for access, who allows everything.
func (p *person) launch(client, callback, scopes string) (code, verifier string) {
	p.t.Helper()
	verifier = rand.Text() + rand.Text()
	sum := sha256.Sum256([]byte(verifier))
	p.get(authorize.Path + "?" + url.Values{"response_type": {"code"}, "client_id": {client},
		"redirect_uri": {callback}, "scope": {scopes}, "state": {"s"}, "aud": {peersBase + "/fhir"},
		"code_challenge":        {base64.RawURLEncoding.EncodeToString(sum[:])},
		"code_challenge_method": {"S256"}}.Encode()).has("Heartbook")
	form := url.Values{"decision": {"allow"}}
	for _, re := range []*regexp.Regexp{boxField, askedField} {
		for _, m := range re.FindAllStringSubmatch(p.page.body, -1) {
			form.Add(m[1], m[2])
		}
	}
	p.post("/auth/consent", form)
	to, err := p.page.Location()
	if err != nil || !strings.HasPrefix(to.String(), callback) || to.Query().Get("code") == "" {
		p.t.Fatalf("not back in the app: %d %v %s", p.page.StatusCode, to, p.page.body)
	}
	return to.Query().Get("code"), verifier
}
