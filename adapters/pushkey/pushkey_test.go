package pushkey

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"pulsegate/adapters/apple"
	"pulsegate/adapters/oura"
	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/clocktest"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
)

// world holds the keys of a store in memory.
type world struct {
	*Keys
	t     *testing.T
	clock *clocktest.Clock
	db    *pebblestore.DB
	plain bool // requests are not over TLS
	next  *access.Principal
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, clock: clocktest.At(time.Date(2026, 6, 1, 8, 0, 0, 0, time.UTC)),
		next: &access.Principal{ClientID: "token"}}
	var err error
	if w.db, err = pebblestore.Open("", pebblestore.Options{FS: vfs.NewMem()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.db.Close(); err != nil {
			t.Error(err)
		}
	})
	rec, err := audit.NewRecorder(audit.Options{Store: w.db, Clock: w.clock.Now, Rand: rand.Reader,
		Observer: "https://pulse.example.org"})
	if err != nil {
		t.Fatal(err)
	}
	w.Keys, err = New(Options{Store: w.db, Audit: rec, Clock: w.clock.Now, Rand: rand.Reader,
		Secure: func(*http.Request) bool { return !w.plain }})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// Authenticate makes world the next Authenticator.
func (w *world) Authenticate(*http.Request) (*access.Principal, error) {
	if w.next == nil {
		return nil, fhir.Errorf(fhir.Unauthorized, "test", "an access token is required")
	}
	return w.next, nil
}

var byPatient = audit.Event{Type: audit.Security, Interaction: "configuration",
	Caller: audit.Caller{Principal: &access.Principal{Subject: "u1"}, RemoteIP: "192.0.2.1"}}

func (w *world) create(n NewKey) (Key, string) {
	w.t.Helper()
	k, text, err := w.Create(w.t.Context(), n, byPatient)
	if err != nil {
		w.t.Fatal(err)
	}
	return k, text
}

func (w *world) ada() (Key, string) {
	w.t.Helper()
	return w.create(NewKey{Patient: "ada", Vendor: "apple"})
}

func (w *world) revoke(k Key) {
	w.t.Helper()
	if _, err := w.Revoke(w.t.Context(), "", k.ID, byPatient); err != nil {
		w.t.Fatal(err)
	}
}

// request returns a delivery from an address with headers in pairs.
func request(remote string, headers ...string) *http.Request {
	r := httptest.NewRequest("POST", "/ingest/apple/auto", nil)
	r.RemoteAddr = remote + ":4711"
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	return r
}

func (w *world) try(remote string, headers ...string) (*access.Principal, error) {
	return w.Or(w).Authenticate(request(remote, headers...))
}

func (w *world) refused(kind fhir.Kind, remote string, headers ...string) error {
	w.t.Helper()
	p, err := w.try(remote, headers...)
	if err == nil || fhir.KindOf(err) != kind || p != nil && p.Grant != nil {
		w.t.Errorf("%v, %v; want kind %d", p, err, kind)
	}
	return err
}

// TestKeyDelivers checks both headers, and that the grant of a key permits delivering
// for its patient and vendor and ends with the key.
func TestKeyDelivers(t *testing.T) {
	w := newWorld(t)
	k, text := w.ada()
	for _, h := range [][2]string{{"Authorization", "Bearer " + text}, {"Authorization", "bearer  " + text},
		{"X-API-Key", text}, {"x-api-key", " " + strings.ToUpper(text) + " "}} {
		p, err := w.try("192.0.2.1", h[0], h[1])
		if err != nil {
			t.Fatalf("%q: %v", h, err)
		}
		patient, vendor, ok := p.Grant.Delivers()
		if !ok || patient != "ada" || vendor != "apple" || p.ClientID != "push-key:"+k.ID || p.Patient != "ada" ||
			p.Subject+p.TokenID+p.Operator != "" {
			t.Errorf("%+v", p)
		}
		if err := p.Grant.Live(t.Context()); err != nil {
			t.Error(err)
		}
	}
	p, err := w.try("192.0.2.1", "X-API-Key", text)
	if err != nil {
		t.Fatal(err)
	}
	w.revoke(k)
	if fhir.KindOf(p.Grant.Live(t.Context())) != fhir.Unauthorized {
		t.Error("the grant of a revoked key is live")
	}
	err = w.refused(fhir.Unauthorized, "192.0.2.1", "X-API-Key", text)
	if !strings.Contains(err.Error(), "revoked") {
		t.Error(err)
	}
	if p, _ := w.try("192.0.2.1", "X-API-Key", text); p == nil || p.ClientID != "push-key:"+k.ID || p.Patient != "ada" {
		t.Errorf("the refusal does not name the key: %+v", p)
	}
	w.revoke(k)
	if keys, err := w.List(t.Context(), "ada"); err != nil || len(keys) != 0 {
		t.Errorf("%v, %v", keys, err)
	}
}

// TestCredentials checks which requests are authenticated by a key, by the next
// Authenticator, or refused.
func TestCredentials(t *testing.T) {
	w := newWorld(t)
	_, text := w.ada()
	_, other := w.ada()
	const token, key, refused = "token", "key", "refused"
	for name, c := range map[string]struct {
		headers []string
		want    string
	}{
		"none":          {nil, token},
		"a token":       {[]string{"Authorization", "Bearer eyJ"}, token},
		"basic":         {[]string{"Authorization", "Basic " + text}, token},
		"DPoP":          {[]string{"Authorization", "DPoP " + text}, token},
		"the key alone": {[]string{"Authorization", text}, refused},
		"bearer":        {[]string{"Authorization", "Bearer " + text}, key},
		"api key":       {[]string{"X-API-Key", text}, key},
		"both":          {[]string{"Authorization", "Bearer " + text, "X-API-Key", text}, refused},
		"two keys":      {[]string{"Authorization", "Bearer " + text, "X-API-Key", other}, refused},
		"token and key": {[]string{"Authorization", "Bearer eyJ", "X-API-Key", text}, refused},
		"key twice":     {[]string{"X-API-Key", text, "X-API-Key", text}, refused},
		"key and token": {[]string{"Authorization", "Bearer " + text, "Authorization", "Bearer eyJ"},
			refused},
		"a gateway's key, token":  {[]string{"Authorization", "Bearer eyJ", "X-API-Key", "gateway"}, token},
		"a gateway's key, bearer": {[]string{"Authorization", "Bearer " + text, "X-API-Key", "gateway"}, key},
		"another kind of key":     {[]string{"X-API-Key", "sk_live_123"}, refused},
		"empty":                   {[]string{"X-API-Key", ""}, refused},
		"prefix":                  {[]string{"X-API-Key", Prefix}, refused},
		"two in one":              {[]string{"X-API-Key", text + "," + text}, refused},
		"with a newline inside":   {[]string{"X-API-Key", text[:20] + "\n" + text[20:]}, refused},
		"long":                    {[]string{"X-API-Key", Prefix + strings.Repeat("0", 1<<16)}, refused},
		"NUL":                     {[]string{"X-API-Key", text + "\x00"}, refused},
		"path":                    {[]string{"X-API-Key", Prefix + "../../.._" + text[len(Prefix)+9:]}, refused},
		"a query, not a header":   {[]string{"Referer", "https://x.example/?key=" + text}, token},
		"a cookie":                {[]string{"Cookie", "X-API-Key=" + text}, token},
	} {
		p, err := w.try("198.51.100."+fmt.Sprint(len(name)), c.headers...)
		got := refused
		switch {
		case err == nil && p == w.next:
			got = token
		case err == nil:
			got = key
		case fhir.KindOf(err) != fhir.Unauthorized:
			t.Errorf("%s: %v", name, err)
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s (%v)", name, got, c.want, err)
		}
		if err != nil && strings.Contains(fmt.Sprintf("%+v %s", err, err), text[30:40]) {
			t.Errorf("%s: the error quotes the key: %v", name, err)
		}
	}
}

// TestUnknownKey checks that a genuine form is not enough: unknown IDs, and a known ID
// with another secret, are refused with the same words.
func TestUnknownKey(t *testing.T) {
	w := newWorld(t)
	k, _ := w.ada()
	id, s, err := draw(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	one := w.refused(fhir.Unauthorized, "192.0.2.1", "X-API-Key", format(id, s))
	two := w.refused(fhir.Unauthorized, "192.0.2.1", "X-API-Key", format(k.ID, s))
	if one.Error() != two.Error() {
		t.Errorf("%v and %v", one, two)
	}
}

// TestTLSOnly checks that no key is looked at on a connection without TLS.
func TestTLSOnly(t *testing.T) {
	w := newWorld(t)
	_, text := w.ada()
	w.plain = true
	w.refused(fhir.Forbidden, "192.0.2.1", "X-API-Key", text)
	w.refused(fhir.Forbidden, "192.0.2.1", "X-API-Key", "nonsense")
	if p, err := w.try("192.0.2.1", "Authorization", "Bearer eyJ"); err != nil || p != w.next {
		t.Errorf("a token: %v, %v", p, err)
	}
	if keys, err := w.List(t.Context(), "ada"); err != nil || len(keys) != 1 || !keys[0].Use.At.IsZero() {
		t.Errorf("the refused request counts as a use: %v, %v", keys, err)
	}
	w.plain = false
	if _, err := w.try("192.0.2.1", "X-API-Key", text); err != nil {
		t.Error(err)
	}
}

// TestGuessingIsLimited checks the limits per address and claimed ID: neither another
// address nor another key at the same address is affected.
func TestGuessingIsLimited(t *testing.T) {
	w := newWorld(t)
	ada, adaText := w.ada()
	_, benText := w.create(NewKey{Patient: "ben", Vendor: "apple"})
	guess := func(id string) error {
		_, s, err := draw(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		_, err = w.try("192.0.2.1", "X-API-Key", format(id, s))
		return err
	}
	for claimed, next := range map[string]func() string{
		"a known ID": func() string { return ada.ID },
		"unknown IDs": func() string {
			id, _, err := draw(rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			return id
		},
	} {
		tries := 0
		for ; tries < 100 && fhir.KindOf(guess(next())) == fhir.Unauthorized; tries++ {
		}
		if tries < 1 || tries > 20 {
			t.Errorf("%s: %d guesses", claimed, tries)
		}
	}
	err := w.refused(fhir.TooMany, "192.0.2.1", "X-API-Key", adaText)
	if wait := (&waiting{}); !errors.As(err, &wait) || wait.RetryAfter() <= 0 {
		t.Errorf("no time to wait: %v", err)
	}
	w.refused(fhir.TooMany, "192.0.2.1", "X-API-Key", "nonsense")
	for _, c := range [][2]string{{"192.0.2.1", benText}, {"192.0.2.2", adaText}} {
		if _, err := w.try(c[0], "X-API-Key", c[1]); err != nil {
			t.Errorf("%s: %v", c[0], err)
		}
	}
	w.clock.Add(time.Second)
	if _, err := w.try("192.0.2.1", "X-API-Key", adaText); err != nil {
		t.Errorf("after a second: %v", err)
	}
}

// TestRate checks the limit of deliveries per key.
func TestRate(t *testing.T) {
	w := newWorld(t)
	_, ada := w.ada()
	_, ben := w.create(NewKey{Patient: "ben", Vendor: "apple"})
	accepted := 0
	for range 200 {
		if _, err := w.try(fmt.Sprintf("192.0.2.%d", accepted), "X-API-Key", ada); err == nil {
			accepted++
		}
	}
	err := w.refused(fhir.TooMany, "192.0.2.1", "X-API-Key", ada)
	if wait := (&waiting{}); !errors.As(err, &wait) || wait.RetryAfter() != 500*time.Millisecond || accepted != 120 {
		t.Errorf("%d accepted, then %v", accepted, err)
	}
	if _, err := w.try("192.0.2.1", "X-API-Key", ben); err != nil {
		t.Errorf("another key: %v", err)
	}
	w.clock.Add(time.Second)
	for range 2 {
		if _, err := w.try("192.0.2.1", "X-API-Key", ada); err != nil {
			t.Errorf("after a second: %v", err)
		}
	}
	w.refused(fhir.TooMany, "192.0.2.1", "X-API-Key", ada)
}

// TestExpiry checks that a key ends at its expiry, and remains listed for a while.
func TestExpiry(t *testing.T) {
	w := newWorld(t)
	k, text := w.create(NewKey{Patient: "ada", Vendor: "apple", Life: 24 * time.Hour})
	if _, err := w.try("192.0.2.1", "X-API-Key", text); err != nil {
		t.Fatal(err)
	}
	w.clock.Set(k.Expires.Add(-time.Nanosecond))
	p, err := w.try("192.0.2.1", "X-API-Key", text)
	if err != nil {
		t.Fatal(err)
	}
	w.clock.Set(k.Expires)
	if err := w.refused(fhir.Unauthorized, "192.0.2.1", "X-API-Key", text); !strings.Contains(err.Error(), "expired") {
		t.Error(err)
	}
	if p.Grant.Live(t.Context()) == nil {
		t.Error("the grant of an expired key is live")
	}
	for after, want := range map[time.Duration]int{time.Hour: 1, keepEnded + time.Hour: 0} {
		w.clock.Set(k.Expires.Add(after))
		if keys, err := w.List(t.Context(), "ada"); err != nil || len(keys) != want {
			t.Errorf("after %v: %v, %v", after, keys, err)
		}
	}
}

// TestUse checks that a use is recorded at most once an hour, with what the app says
// about itself.
func TestUse(t *testing.T) {
	w := newWorld(t)
	k, text := w.ada()
	send := func(name string) Use {
		t.Helper()
		if _, err := w.try("192.0.2.1", "X-API-Key", text, "automation-name", name, "automation-id", "A-1",
			"automation-aggregation", "None", "automation-period", "Since Last Sync"); err != nil {
			t.Fatal(err)
		}
		keys, err := w.List(t.Context(), "ada")
		if err != nil || len(keys) != 1 || keys[0].ID != k.ID {
			t.Fatalf("%v, %v", keys, err)
		}
		return keys[0].Use
	}
	began := w.clock.Now()
	first := Use{At: began, Automation: "Clinic", AutomationID: "A-1", Aggregation: "None", Period: "Since Last Sync"}
	if got := send("Clinic"); got != first {
		t.Errorf("%+v", got)
	}
	before := w.db.LastSeq()
	w.clock.Add(59 * time.Minute)
	if got := send("Renamed"); got != first || w.db.LastSeq() != before {
		t.Errorf("%+v, %d commits within an hour", got, w.db.LastSeq()-before)
	}
	w.clock.Add(time.Minute)
	if got := send("Renamed"); got.Automation != "Renamed" || !got.At.Equal(began.Add(time.Hour)) {
		t.Errorf("%+v", got)
	}
	w.clock.Set(began) // the clock was set back
	if got := send("Back"); got.Automation != "Back" || !got.At.Equal(began) {
		t.Errorf("%+v", got)
	}
	w.clock.Add(2 * time.Hour)
	before = w.db.LastSeq()
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			if _, err := w.try("192.0.2.1", "X-API-Key", text); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := w.db.LastSeq() - before; n != 1 {
		t.Errorf("%d commits for requests at once", n)
	}
}

// TestClean checks that text of an app can be shown on a page and in a terminal.
func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"Health Metrics":                  "Health Metrics",
		"  two\t words\r\n":               "two words",
		"\x1b[31mred\x1b[0m":              "[31mred[0m",
		"a\u202egpj.exe":                  "agpj.exe",
		"caf\xe9":                         "caf",
		"Größe 体重":                        "Größe 体重",
		"<script>alert(1)</script>":       "<script>alert(1)</script>", // templates escape it
		strings.Repeat("é", 200):          strings.Repeat("é", maxText),
		"\x00":                            "",
		strings.Repeat(" ", 1000) + "end": "",
	} {
		if got := clean(in); got != want {
			t.Errorf("clean(%q) = %q, want %q", in, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		in := rapid.OneOf(rapid.String(), rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string {
			return string(b)
		})).Draw(t, "text")
		out := clean(in)
		if !utf8.ValidString(out) || utf8.RuneCountInString(out) > maxText || clean(out) != out ||
			strings.ContainsFunc(out, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Fatalf("clean(%q) = %q", in, out)
		}
	})
}

// TestCreateAndRevokeRules checks the limits of Create, and that a patient can revoke
// their own keys only.
func TestCreateAndRevokeRules(t *testing.T) {
	w := newWorld(t)
	for name, n := range map[string]NewKey{
		"no patient": {Vendor: "apple"}, "bad patient": {Patient: "a/b", Vendor: "apple"},
		"no vendor": {Patient: "ada"},
		"long name": {Patient: "ada", Vendor: "apple", Name: strings.Repeat("x", maxText+1)},
		"past":      {Patient: "ada", Vendor: "apple", Life: -time.Second},
	} {
		if _, _, err := w.Create(t.Context(), n, byPatient); fhir.KindOf(err) != fhir.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	first, _ := w.create(NewKey{Patient: "ada", Vendor: "apple", Name: "My\x07 phone", Life: time.Hour})
	if first.Name != "My phone" {
		t.Errorf("name %q", first.Name)
	}
	for range maxKeys - 1 {
		w.ada()
	}
	if _, _, err := w.Create(t.Context(), NewKey{Patient: "ada", Vendor: "apple"}, byPatient); fhir.KindOf(err) !=
		fhir.Conflict {
		t.Errorf("one key too many: %v", err)
	}
	ben, _ := w.create(NewKey{Patient: "ben", Vendor: "oura", Operator: true})
	w.clock.Add(2 * time.Hour)
	w.ada() // the first one has expired
	for _, c := range [][2]string{{"ada", ben.ID}, {"ada", "00000000"}, {"", "no id"}, {"", "../key"}, {"", ""}} {
		if _, err := w.Revoke(t.Context(), c[0], c[1], byPatient); fhir.KindOf(err) != fhir.NotFound {
			t.Errorf("revoked %q: %v", c, err)
		}
	}
	if k, err := w.Revoke(t.Context(), "ben", strings.ToUpper(ben.ID), byPatient); err != nil || k.ID != ben.ID {
		t.Errorf("%v, %v", k, err)
	}
	all, err := w.List(t.Context(), "")
	if err != nil || len(all) != maxKeys+1 {
		t.Errorf("%d keys, %v", len(all), err)
	}
	if _, err := w.List(t.Context(), "a/b"); fhir.KindOf(err) != fhir.Invalid {
		t.Error(err)
	}
}

// TestSecretIsNotStored checks that neither the store nor the audit trail has the
// secret of a key in any form, and that every change has its AuditEvent.
func TestSecretIsNotStored(t *testing.T) {
	w := newWorld(t)
	k, text := w.ada()
	if _, err := w.try("192.0.2.1", "X-API-Key", text); err != nil {
		t.Fatal(err)
	}
	w.revoke(k)
	_, s, err := parse(text)
	if err != nil {
		t.Fatal(err)
	}
	var content strings.Builder
	if err := w.db.List(t.Context(), "", func(key string, value []byte) bool {
		content.WriteString(key + "\n" + string(value) + "\n")
		return true
	}); err != nil {
		t.Fatal(err)
	}
	events := 0
	q, err := search.Parse("AuditEvent", nil, search.ParseOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.db.Find(t.Context(), store.Find{Query: q, Filter: access.All().Filter(access.Search)},
		func(f *store.Found) bool {
			if strings.Contains(string(f.Resource.JSON), k.ID) &&
				strings.Contains(string(f.Resource.JSON), "Patient/ada") {
				events++
			}
			content.Write(f.Resource.JSON)
			return true
		}); err != nil {
		t.Fatal(err)
	}
	if events != 2 {
		t.Errorf("%d AuditEvents name the key and the patient, want 2", events)
	}
	for _, form := range []string{text[len(Prefix)+9:], string(s[:]), hex.EncodeToString(s[:8]),
		base64.StdEncoding.EncodeToString(s[:])[:20], base64.RawURLEncoding.EncodeToString(s[:])[:20],
		fmt.Sprint(s[:])[1:40], strings.ReplaceAll(fmt.Sprint(s[:]), " ", ",")[1:40]} {
		if strings.Contains(content.String(), form) {
			t.Errorf("the secret is stored as %q", form)
		}
	}
	if !strings.Contains(content.String(), prefixKey+k.ID) {
		t.Error("control: the record is not in the content")
	}
}

// TestRevokeDuringUse checks that a revocation is not lost to requests at the same
// time.
func TestRevokeDuringUse(t *testing.T) {
	w := newWorld(t)
	k, text := w.ada()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if _, err := w.try("192.0.2.1", "X-API-Key", text); err != nil && fhir.KindOf(err) != fhir.Unauthorized {
				t.Error(err)
			}
		})
		all.Go(func() {
			if _, err := w.Revoke(context.WithoutCancel(t.Context()), "ada", k.ID, byPatient); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	w.refused(fhir.Unauthorized, "192.0.2.1", "X-API-Key", text)
}

// TestSettings checks the settings for an app and for other formats.
func TestSettings(t *testing.T) {
	all := SettingsFor("https://pulse.example.org", apple.New(), "KEY")
	hae := all[0]
	if hae.App != "Health Auto Export" || hae.Method != "POST" ||
		hae.URL != "https://pulse.example.org/ingest/apple/health-auto-export" || hae.Header != "Authorization" ||
		hae.Value != "Bearer KEY" {
		t.Errorf("%+v", hae)
	}
	choices := fmt.Sprint(hae.Choices)
	for _, want := range []string{"JSON", "Aggregation", "Period"} {
		if !strings.Contains(choices, want) {
			t.Errorf("no %s in %s", want, choices)
		}
	}
	if len(all) != len(apple.New().Formats()) {
		t.Errorf("%d settings", len(all))
	}
	if o := SettingsFor("https://pulse.example.org", oura.New(), "KEY"); len(o) != 1 || o[0].App != "" {
		t.Errorf("%+v", o)
	}
}
