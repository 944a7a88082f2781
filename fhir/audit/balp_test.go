package audit

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/fhir/go/fhirversion"
	"github.com/google/fhir/go/jsonformat"
	"pgregory.net/rapid"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/element"
	"pulsegate/fhir/store"
)

// This file checks AuditEvents against the rules of R4 and of the BALP profiles. The
// rules are derived from the profiles, independently of the code that builds events.

type tCoding struct{ System, Code, Display string }

type tWho struct {
	Reference, Display string
	Identifier         *struct{ System, Value string }
}

type tEvent struct {
	ResourceType, ID string
	Meta             struct{ Profile []string }
	Type             *tCoding
	Subtype          []tCoding
	Action           string
	Recorded         string
	Outcome          string
	OutcomeDesc      string
	Agent            []struct {
		Type      *struct{ Coding []tCoding }
		Who       *tWho
		Requestor *bool
		Policy    []string
		Network   *struct{ Address, Type string }
		Media     *tCoding
		AltID     string
	}
	Source *struct {
		Observer *tWho
		Type     []tCoding
	}
	Entity []struct {
		What   *tWho
		Type   *tCoding
		Role   *tCoding
		Name   string
		Query  string
		Detail []struct{ Type, ValueString string }
	}
}

func (e *tEvent) agents(system, code string) []int {
	var out []int
	for i, a := range e.Agent {
		if a.Type != nil && slices.ContainsFunc(a.Type.Coding,
			func(c tCoding) bool { return c.System == system && c.Code == code }) {
			out = append(out, i)
		}
	}
	return out
}

func (e *tEvent) entities(system, code string) []int {
	var out []int
	for i, n := range e.Entity {
		if n.Type != nil && n.Type.System == system && n.Type.Code == code {
			out = append(out, i)
		}
	}
	return out
}

func (e *tEvent) hasSubtype(codes ...string) bool {
	return slices.ContainsFunc(e.Subtype, func(c tCoding) bool { return slices.Contains(codes, c.Code) })
}

type rules struct{ errs []error }

func (r *rules) must(ok bool, format string, args ...any) {
	if !ok {
		r.errs = append(r.errs, fmt.Errorf(format, args...))
	}
}

// validate checks the rules of R4 and of the profile in meta.profile.
func validate(body []byte) error {
	var e tEvent
	if err := json.Unmarshal(body, &e); err != nil {
		return err
	}
	r := &rules{}
	r.must(e.ResourceType == "AuditEvent" && fhir.ValidID(e.ID), "type and id")
	r.must(e.Type != nil && e.Type.Code != "", "type 1..1")
	_, err := time.Parse(time.RFC3339, e.Recorded)
	r.must(err == nil, "recorded is an instant")
	r.must(slices.Contains([]string{"C", "R", "U", "D", "E"}, e.Action), "action %q", e.Action)
	r.must(slices.Contains([]string{"0", "4", "8", "12"}, e.Outcome), "outcome %q", e.Outcome)
	r.must(len(e.Agent) > 0, "agent 1..*")
	initiators := 0
	for i, a := range e.Agent {
		r.must(a.Requestor != nil, "agent[%d].requestor 1..1", i)
		if a.Requestor != nil && *a.Requestor {
			initiators++
		}
		if a.Network != nil {
			r.must(slices.Contains([]string{"1", "2", "3", "4", "5"}, a.Network.Type) && a.Network.Address != "",
				"agent[%d].network", i)
		}
		for _, p := range a.Policy {
			r.must(strings.HasPrefix(p, jtiPrefix) && !strings.ContainsAny(p, " \t\n"), "agent[%d].policy", i)
		}
	}
	r.must(initiators <= 1, "at most one initiator, have %d", initiators)
	r.must(e.Source != nil && e.Source.Observer != nil, "source.observer 1..1")
	for i, n := range e.Entity {
		r.must(n.Name == "" || n.Query == "", "sev-1 at entity[%d]", i)
		_, err := base64.StdEncoding.DecodeString(n.Query)
		r.must(err == nil, "entity[%d].query is base64", i)
		for _, d := range n.Detail {
			r.must(strings.TrimSpace(d.Type) != "" && strings.TrimSpace(d.ValueString) != "", "entity[%d].detail", i)
		}
	}
	for _, i := range e.agents(sysBALPAgent, "UserOauthAgent") { // Minimal
		a := e.Agent[i]
		r.must(a.Network == nil && a.Media == nil && len(a.Policy) == 1 && a.Who != nil && *a.Requestor,
			"OAuth Minimal agent")
	}
	r.must(len(e.Meta.Profile) <= 1, "one profile at most")
	if len(e.Meta.Profile) == 1 {
		r.profile(&e, strings.TrimPrefix(e.Meta.Profile[0], profileBase))
	} else {
		r.must(e.Outcome != "0" || e.OutcomeDesc == "", "a reason without a failure")
	}
	return errors.Join(r.errs...)
}

func (r *rules) slice(e *tEvent, system, code string) {
	at := e.agents(system, code)
	r.must(len(at) == 1, "agent %s 1..1, have %d", code, len(at))
	for _, i := range at {
		a := e.Agent[i]
		r.must(a.Who != nil && a.Network != nil && a.Media == nil, "agent %s: who and network 1..1, media 0..0", code)
	}
}

func (r *rules) patientEntity(e *tEvent, want int) {
	at := e.entities(sysEntityType, "1")
	r.must(len(at) == want, "patient entity: %d, want %d", len(at), want)
	for _, i := range at {
		n := e.Entity[i]
		r.must(n.Role != nil && n.Role.Code == "1" && n.What != nil &&
			strings.HasPrefix(n.What.Reference, "Patient/"), "patient entity")
	}
}

func (r *rules) profile(e *tEvent, name string) {
	switch name {
	case "IHE.IUA.71":
		r.must(e.Type.Code == "110114" && len(e.Subtype) == 1 && e.Subtype[0].Code == "ITI-71" && e.Action == "E" &&
			e.Outcome == "0", "IUA head")
		r.slice(e, element.DICOM, "110150")
		r.slice(e, sysBALPAgent, "AuthzOauthService")
		r.must(len(e.Agent) == 2+len(e.agents(element.ParticipationType, "IRCP")) && len(e.Agent) <= 3, "closed agents")
		r.must(len(e.Entity) == 1 && e.Entity[0].Role.Code == "24" && e.Entity[0].Query != "" &&
			e.Entity[0].What == nil, "closed entity")
		return
	case "IHE.BasicAudit.PrivacyDisclosure.Source", "IHE.BasicAudit.PrivacyDisclosure.Recipient":
		own, typ, action := "110153", "110106", "R"
		if strings.HasSuffix(name, "Recipient") {
			own, typ, action = "110152", "110107", "C"
		}
		r.must(e.Type.System == element.DICOM && e.Type.Code == typ && e.Action == action && e.hasSubtype("disclose"),
			"disclosure head")
		r.slice(e, element.DICOM, "110153")
		r.slice(e, element.DICOM, "110152")
		for _, i := range e.agents(element.DICOM, own) {
			a, o := e.Agent[i].Who, e.Source.Observer
			r.must(a != nil && a.Identifier != nil && o.Identifier != nil && *a.Identifier == *o.Identifier,
				"val-audit-source")
		}
		r.patientEntity(e, 1)
		r.must(len(e.Entity) >= 2 && len(e.entities(sysEntityType, "2")) > 0, "data entity")
		return
	}
	r.restProfile(e, name)
}

func (r *rules) restProfile(e *tEvent, name string) {
	pattern, ok := strings.CutPrefix(name, "IHE.BasicAudit.")
	r.must(ok, "unknown profile %s", name)
	verb, withPatient := strings.CutPrefix(pattern, "Patient")
	type row struct {
		action         string
		subtypes       []string
		client, server [2]string
	}
	src, dst := [2]string{element.DICOM, "110153"}, [2]string{element.DICOM, "110152"}
	table := map[string]row{
		"Create": {"C", []string{"create"}, src, dst},
		"Read":   {"R", []string{"read", "vread"}, dst, src},
		"Update": {"U", []string{"update", "patch"}, src, dst},
		"Delete": {"D", []string{"delete"}, [2]string{element.DICOM, "110150"},
			[2]string{element.ProvenanceParticipantType, "custodian"}},
		"Query": {"E", []string{"search", "search-type", "search-system", "operation"}, src, dst},
	}
	w, ok := table[verb]
	r.must(ok, "unknown profile %s", name)
	r.must(e.Type.System == sysEventType && e.Type.Code == "rest", "type rest")
	r.must(len(e.Subtype) == 1 && e.hasSubtype(w.subtypes...) && e.Subtype[0].System == sysInteraction, "subtype")
	r.must(e.Action == w.action, "action %s", e.Action)
	r.must(e.Outcome == "0", "success only")
	r.must(len(e.Agent) >= 2, "agent 2..*")
	r.slice(e, w.client[0], w.client[1])
	r.slice(e, w.server[0], w.server[1])
	for _, i := range e.entities(sysBALPEntity, "XrequestId") {
		n := e.Entity[i]
		r.must(n.What != nil && n.What.Identifier != nil && n.What.Identifier.Value != "", "X-Request-Id")
	}
	r.must(len(e.entities(sysBALPEntity, "XrequestId")) <= 1, "transaction 0..1")
	want := 0
	if withPatient {
		want = 1
	}
	r.patientEntity(e, want)
	data := e.entities(sysEntityType, "2")
	r.must(len(data) == 1, "one type 2 entity, have %d", len(data))
	for _, i := range data {
		n := e.Entity[i]
		if verb == "Query" {
			r.must(n.Role != nil && n.Role.Code == "24" && n.Query != "" && n.What == nil && len(n.Detail) == 0,
				"query entity")
			continue
		}
		r.must(n.Role != nil && slices.Contains([]string{"4", "3", "20"}, n.Role.Code) && n.What != nil &&
			n.Query == "" && len(n.Detail) == 0, "data entity")
	}
}

// nullStore is a Store for tests that only call Prepare.
type nullStore struct{ store.Store }

func testRecorder(t testing.TB, seed uint64) *Recorder {
	t.Helper()
	var s [32]byte
	s[0], s[1] = byte(seed), byte(seed>>8)
	r, err := NewRecorder(Options{
		Store: nullStore{}, Rand: rand.NewChaCha8(s), Observer: "https://pulse.example.org",
		Clock: func() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.UTC) },
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func interactions() []string {
	return []string{"read", "vread", "create", "update", "patch", "delete", "search-type", "search-system",
		"history-instance", "history-type", "capabilities", "batch", "transaction", "operation", "$export",
		"patient add", ""}
}

func drawEvent(t *rapid.T) Event {
	text := rapid.OneOf(rapid.Just(""), rapid.String(), rapid.Just("quote\" back\\ \x00\x01\u2028<a>\xff"))
	ev := Event{
		Type: rapid.OneOf(rapid.Map(rapid.IntRange(1, int(Lifecycle)),
			func(n int) EventType { return EventType(n) }),
			rapid.SampledFrom([]EventType{SignIn, SignOut, Security, Decision})).Draw(t, "kind"),
		Interaction: rapid.SampledFrom(interactions()).Draw(t, "interaction"),
		Outcome:     rapid.SampledFrom([]string{"", Success, Minor, Serious, Major}).Draw(t, "outcome"),
		Reason:      text.Draw(t, "reason"),
		Caller: Caller{RemoteIP: rapid.SampledFrom([]string{"", "192.0.2.7", "2001:db8::1"}).Draw(t, "ip"),
			RequestID: text.Draw(t, "request")},
		Patient: rapid.SampledFrom([]string{"", "p1", "not an id", strings.Repeat("a", 64)}).Draw(t, "patient"),
		Query:   text.Draw(t, "query"),
		Recipient: rapid.SampledFrom([]string{"", "https://ehr.example.org/hook", "ehr.example.org"}).Draw(t,
			"recipient"),
	}
	if rapid.Bool().Draw(t, "principal") {
		ev.Principal = &access.Principal{
			ClientID: text.Draw(t, "client"), ClientName: text.Draw(t, "name"), Subject: text.Draw(t, "sub"),
			Issuer:   "https://pulse.example.org",
			TokenID:  rapid.SampledFrom([]string{"", "jti-1", "a b\n"}).Draw(t, "jti"),
			Operator: rapid.SampledFrom([]string{"", "uid:0"}).Draw(t, "operator"),
			Patient:  rapid.SampledFrom([]string{"", "p3", "not an id"}).Draw(t, "principal's patient"),
		}
	}
	for range rapid.IntRange(0, 3).Draw(t, "data") {
		ev.Data = append(ev.Data, DataRef{
			Ref: fhir.Ref{
				Type: rapid.SampledFrom([]string{"Observation", "Patient", "Device", "bad type"}).Draw(t, "type"),
				ID:   rapid.SampledFrom([]string{"o1", "p-2", "", "x\"y", "a/b"}).Draw(t, "id"),
			},
			Version: rapid.Uint64Range(0, 9).Draw(t, "version"),
		})
	}
	for range rapid.IntRange(0, 2).Draw(t, "extra") {
		ev.Extra = append(ev.Extra, [2]string{text.Draw(t, "k"), text.Draw(t, "v")})
	}
	return ev
}

// TestRandomEventsValidate checks that every event is a valid R4 AuditEvent and
// conforms to the profile that it claims.
func TestRandomEventsValidate(t *testing.T) {
	um, err := jsonformat.NewUnmarshaller("UTC", fhirversion.R4)
	if err != nil {
		t.Fatal(err)
	}
	rec := testRecorder(t, 1)
	claimed := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		w, leaf, err := rec.Prepare(drawEvent(t))
		if err != nil {
			t.Fatal(err)
		}
		body := w.Resource.JSON
		if err := validate(body); err != nil {
			t.Fatalf("%v\n%s", err, body)
		}
		stamped := fhir.Stamp(body, "AuditEvent", w.Resource.ID, 1, time.Now())
		if stamped == nil {
			t.Fatalf("not canonical: %s", body)
		}
		if _, err := um.UnmarshalR4(stamped); err != nil {
			t.Fatalf("not R4: %v\n%s", err, stamped)
		}
		f, ok := parseLeaf(leaf)
		if !ok || f.id != w.Resource.ID || !f.matches(body) || f.matches(append(slices.Clone(body), ' ')) {
			t.Fatal("the leaf does not match the event")
		}
		back, ok := unstamp(stamped, w.Resource.ID)
		if !ok || string(back) != string(body) {
			t.Fatal("unstamp does not reverse Stamp")
		}
		var e tEvent
		if err := json.Unmarshal(body, &e); err != nil {
			t.Fatal(err)
		}
		if len(e.Meta.Profile) == 1 {
			claimed[e.Meta.Profile[0]]++
		}
	})
	t.Logf("profiles claimed: %v", claimed)
}

// TestProfilesClaimed checks the profiles of common events. A builder that never
// claims a profile would pass TestRandomEventsValidate.
func TestProfilesClaimed(t *testing.T) {
	client := &access.Principal{ClientID: "ehr", ClientName: "EHR", Subject: "ehr",
		Issuer: "https://pulse.example.org", TokenID: "j1"}
	obs := []DataRef{{Ref: fhir.Ref{Type: "Observation", ID: "o1"}, Version: 2}}
	org := []DataRef{{Ref: fhir.Ref{Type: "Organization", ID: "h1"}}}
	for _, c := range []struct {
		ev   Event
		want string
	}{
		{Event{Type: Rest, Interaction: "create", Data: obs, Patient: "p1"}, "IHE.BasicAudit.PatientCreate"},
		{Event{Type: Rest, Interaction: "create", Data: org}, "IHE.BasicAudit.Create"},
		{Event{Type: Rest, Interaction: "read", Data: obs, Patient: "p1"}, "IHE.BasicAudit.PatientRead"},
		{Event{Type: Rest, Interaction: "vread", Data: org}, "IHE.BasicAudit.Read"},
		{Event{Type: Rest, Interaction: "read", Data: []DataRef{{Ref: fhir.Ref{Type: "Patient", ID: "p1"}}}},
			"IHE.BasicAudit.PatientRead"},
		{Event{Type: Rest, Interaction: "update", Data: obs, Patient: "p1"}, "IHE.BasicAudit.PatientUpdate"},
		{Event{Type: Rest, Interaction: "delete", Data: obs, Patient: "p1"}, "IHE.BasicAudit.PatientDelete"},
		{Event{Type: Rest, Interaction: "search-type", Query: "GET /fhir/Observation?code=x"}, "IHE.BasicAudit.Query"},
		{Event{Type: Rest, Interaction: "search-type", Query: "GET /fhir/Observation?patient=p1", Patient: "p1"},
			"IHE.BasicAudit.PatientQuery"},
		{Event{Type: Export, Interaction: "operation", Query: "GET /fhir/$export"}, "IHE.BasicAudit.Query"},
		{Event{Type: TokenIssue, Query: "grant_type=client_credentials"}, "IHE.IUA.71"},
		{Event{Type: Disclosure, Patient: "p1", Data: obs, Recipient: "https://ehr.example.org/hook"},
			"IHE.BasicAudit.PrivacyDisclosure.Source"},
		{Event{Type: Disclosure, Patient: "p1", Query: "GET /fhir/$export-file/j/Observation.0.ndjson"},
			"IHE.BasicAudit.PrivacyDisclosure.Source"},
		{Event{Type: Ingest, Patient: "p1", Data: obs}, "IHE.BasicAudit.PrivacyDisclosure.Recipient"},
		{Event{Type: ConsentDeny, Patient: "p1"}, ""},
		{Event{Type: IngestRefuse, Patient: "p1"}, ""},
		{Event{Type: Rest, Interaction: "read", Data: obs, Patient: "p1", Outcome: Serious, Reason: "scope"}, ""},
		{Event{Type: Rest, Interaction: "history-instance", Data: obs, Patient: "p1"}, ""},
		{Event{Type: AuditRead, Interaction: "search-type", Query: "GET /fhir/AuditEvent"}, ""},
		{Event{Type: Operator, Interaction: "patient add"}, ""},
		{Event{Type: Lifecycle, Interaction: "start"}, ""},
	} {
		c.ev.Principal, c.ev.RemoteIP, c.ev.RequestID = client, "192.0.2.1", "r-1"
		w, _, err := testRecorder(t, 2).Prepare(c.ev)
		if err != nil {
			t.Fatal(err)
		}
		if err := validate(w.Resource.JSON); err != nil {
			t.Errorf("%s: %v", c.want, err)
		}
		var e tEvent
		if err := json.Unmarshal(w.Resource.JSON, &e); err != nil {
			t.Fatal(err)
		}
		got := ""
		if len(e.Meta.Profile) > 0 {
			got = strings.TrimPrefix(e.Meta.Profile[0], profileBase)
		}
		if got != c.want {
			t.Errorf("type %d, %s claims %q, want %q", c.ev.Type, c.ev.Interaction, got, c.want)
		}
	}
}

// TestTokenIssueNamesPerson checks that the event of a token names the person who
// authorized the app.
func TestTokenIssueNamesPerson(t *testing.T) {
	w, _, err := testRecorder(t, 5).Prepare(Event{Type: TokenIssue, Query: "grant_type=authorization_code",
		Caller: Caller{Principal: &access.Principal{ClientID: "app", Subject: "u1", Issuer: "https://pulse.example.org",
			TokenID: "j1"}, RemoteIP: "192.0.2.1"}})
	if err != nil {
		t.Fatal(err)
	}
	var e tEvent
	if err := json.Unmarshal(w.Resource.JSON, &e); err != nil {
		t.Fatal(err)
	}
	who := e.agents(element.ParticipationType, "IRCP")
	if err := validate(w.Resource.JSON); err != nil || len(who) != 1 || len(e.Meta.Profile) != 1 {
		t.Fatalf("%v %s", err, w.Resource.JSON)
	}
	if a := e.Agent[who[0]]; a.Who.Identifier.Value != "u1" || !*a.Requestor {
		t.Errorf("%s", w.Resource.JSON)
	}
}

// TestPatientAgent checks that the event of a delivery with a push key names the key
// and the patient.
func TestPatientAgent(t *testing.T) {
	w, _, err := testRecorder(t, 6).Prepare(Event{Type: Ingest, Patient: "p1",
		Data: []DataRef{{Ref: fhir.Ref{Type: "Consent", ID: "c1"}}},
		Caller: Caller{Principal: &access.Principal{ClientID: "push-key:k1", ClientName: "Push key", Patient: "p1"},
			RemoteIP: "192.0.2.1"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := validate(w.Resource.JSON); err != nil {
		t.Fatal(err)
	}
	var e tEvent
	if err := json.Unmarshal(w.Resource.JSON, &e); err != nil {
		t.Fatal(err)
	}
	source := e.agents(element.DICOM, "110153")
	who := e.agents(element.ParticipationType, "AUT")
	if len(source) != 1 || e.Agent[source[0]].Who.Identifier.Value != "push-key:k1" || *e.Agent[source[0]].Requestor ||
		len(who) != 1 || e.Agent[who[0]].Who.Reference != "Patient/p1" || !*e.Agent[who[0]].Requestor ||
		len(e.Meta.Profile) != 1 {
		t.Errorf("%s", w.Resource.JSON)
	}
}

// TestValidateRejects checks that validate detects violations of the profiles.
func TestValidateRejects(t *testing.T) {
	w, _, err := testRecorder(t, 3).Prepare(Event{Type: Rest, Interaction: "read", Patient: "p1",
		Caller: Caller{Principal: &access.Principal{ClientID: "c", TokenID: "j"}, RemoteIP: "192.0.2.1"},
		Data:   []DataRef{{Ref: fhir.Ref{Type: "Observation", ID: "o"}}}})
	if err != nil {
		t.Fatal(err)
	}
	good := string(w.Resource.JSON)
	if err := validate([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for _, c := range [][2]string{
		{`"outcome":"0"`, `"outcome":"4"`}, {`"action":"R"`, `"action":"E"`}, {`"code":"110152"`, `"code":"110155"`},
		{`"Patient/p1"`, `"Device/p1"`}, {`"network":`, `"netw":`}, {`"requestor":false`, `"requestor":true`},
		{`"code":"read"`, `"code":"create"`}, {`PatientRead`, `PatientQuery`}, {`"observer":`, `"obs":`},
	} {
		bad := strings.Replace(good, c[0], c[1], 1)
		if bad == good {
			t.Errorf("%s is not in the event", c[0])
		} else if validate([]byte(bad)) == nil {
			t.Errorf("accepted after %s -> %s", c[0], c[1])
		}
	}
}

func BenchmarkPrepare(b *testing.B) {
	rec := testRecorder(b, 4)
	ev := Event{Type: Rest, Interaction: "create", Patient: "p1",
		Caller: Caller{Principal: &access.Principal{ClientID: "c", TokenID: "j", Subject: "c", Issuer: "i"},
			RemoteIP: "192.0.2.1", RequestID: "r"},
		Data: []DataRef{{Ref: fhir.Ref{Type: "Observation", ID: "o"}, Version: 1}}}
	for b.Loop() {
		if _, _, err := rec.Prepare(ev); err != nil {
			b.Fatal(err)
		}
	}
}
