package topic

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/fhirpath"
	"pulsegate/fhir/r4"
)

const base = "https://pulse.example.org/fhir"

const example = `{"resourceType":"SubscriptionTopic","id":"done","url":"https://example.org/SubscriptionTopic/done",
"version":"2","title":"Done","status":"active","date":"2026-01-01","description":"An Observation became final.",
"resourceTrigger":[{"description":"final","resource":"http://hl7.org/fhir/StructureDefinition/Observation",
"supportedInteraction":["create","update"],"queryCriteria":{"previous":"status:not=final","resultForCreate":"test-passes",
"current":"status=final","resultForDelete":"test-fails","requireBoth":true},
"fhirPathCriteria":"(%previous.id.empty() or %previous.status != 'final') and %current.status = 'final'"}],
"canFilterBy":[{"description":"patient","resource":"Observation","filterParameter":"patient"},
{"resource":"Observation","filterParameter":"code","modifier":["not"]}],
"notificationShape":[{"resource":"Observation","include":["Observation:device"],"revInclude":["Provenance:target"]}]}`

func parse(t *testing.T, text string) *Topic {
	t.Helper()
	p, err := Parse([]byte(text), base)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestForms checks that a SubscriptionTopic of R5 and the Basic that it becomes are the
// same topic, and that the Basic is valid R4.
func TestForms(t *testing.T) {
	want := parse(t, example)
	body, err := want.Basic()
	if err != nil {
		t.Fatal(err)
	}
	got := parse(t, string(body))
	for _, x := range []*Topic{want, got} {
		for i := range x.Triggers { // compiled criteria hold functions
			x.Triggers[i].previous, x.Triggers[i].current, x.Triggers[i].expression = nil, nil, nil
		}
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the Basic is %+v, want %+v", got, want)
	}
	builtin, err := Builtin(base)
	if err != nil {
		t.Fatal(err)
	}
	v, err := r4.New(r4.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range append(builtin, want) {
		body, err := x.Basic()
		if err != nil {
			t.Fatal(err)
		}
		sendable := (&fhir.Resource{Type: "Basic", ID: x.ID, JSON: body}).Sendable()
		if _, err := v.Resource("Basic", sendable, x.ID); err != nil {
			t.Errorf("%s is not valid: %v", x.ID, err)
		}
		again, err := Parse(body, base)
		if err != nil || again.URL != x.URL || again.Feed != x.Feed || len(again.Filters) != len(x.Filters) {
			t.Errorf("%s is not read back: %+v %v", x.ID, again, err)
		}
	}
}

// TestGuidesExample reads the example of the Subscriptions Backport guide, for a type that
// every server stores.
func TestGuidesExample(t *testing.T) {
	dir := os.Getenv("PULSEGATE_FIXTURES")
	if dir == "" {
		t.Skip("PULSEGATE_FIXTURES names no folder")
	}
	raw, err := os.ReadFile(filepath.Join(dir, "r4/subscriptions-backport/Basic-r4-encounter-complete.json"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Parse(raw, base); fhir.KindOf(err) != fhir.Unprocessable {
		t.Errorf("with what this server does not support (_in, :iterate): %v", err)
	}
	s := strings.NewReplacer("Encounter:patient&iterate=Patient.link", "Encounter:device", "Encounter:practitioner", "Encounter:performer",
		"Encounter:service-provider", "Encounter:specimen", "Encounter:account", "Encounter:focus", "Encounter:diagnosis", "Encounter:derived-from",
		"Encounter:observation", "Encounter:has-member", "Encounter:location", "Encounter:encounter", "Encounter:subject", "Provenance:target",
		"_in", "code").Replace(string(raw))
	s = strings.ReplaceAll(strings.ReplaceAll(s, `"Encounter`, `"Observation`), "StructureDefinition/Encounter", "StructureDefinition/Observation")
	s = strings.ReplaceAll(s, "finished", "final")
	x := parse(t, s)
	if x.URL != "http://hl7.org/fhir/uv/subscriptions-backport/SubscriptionTopic/r4-encounter-complete" || x.Status != "draft" ||
		len(x.Triggers) != 1 || !x.Triggers[0].RequireBoth || !x.Triggers[0].CreatePasses ||
		x.Triggers[0].FHIRPath == "" ||
		len(x.Filters) != 2 || len(x.Shapes) != 1 || len(x.Shapes[0].Include) != 7 {
		t.Errorf("%+v", x)
	}
}

func TestRejects(t *testing.T) {
	parse(t, example)
	deep := strings.Repeat("(", 5000) + "true" + strings.Repeat(")", 5000)
	for _, c := range []struct{ from, to, path string }{
		{"https://example.org/SubscriptionTopic/done", "done", "SubscriptionTopic.url"},
		{"https://example.org/SubscriptionTopic/done", "https://example.org/t?x=1", "SubscriptionTopic.url"},
		{`"status":"active"`, `"status":"new"`, "SubscriptionTopic.status"},
		{`"status":"active"`, `"status":"active","modifierExtension":[{"url":"x"}]`, "SubscriptionTopic.modifierExtension"},
		{`"status":"active"`, `"status":"active","eventTrigger":[{}]`, "SubscriptionTopic.eventTrigger"},
		{`"resourceTrigger"`, `"other"`, "SubscriptionTopic.resourceTrigger"},
		{"StructureDefinition/Observation", "StructureDefinition/Subscription", "SubscriptionTopic.resourceTrigger[0].resource"},
		{"StructureDefinition/Observation", "StructureDefinition/AuditEvent", "SubscriptionTopic.resourceTrigger[0].resource"},
		{"StructureDefinition/Observation", "StructureDefinition/Nothing", "SubscriptionTopic.resourceTrigger[0].resource"},
		{`"create","update"`, `"read"`, "SubscriptionTopic.resourceTrigger[0].supportedInteraction[0]"},
		{`"test-passes"`, `"maybe"`, "SubscriptionTopic.resourceTrigger[0].queryCriteria.resultForCreate"},
		{`"status=final"`, `"nothing=1"`, "SubscriptionTopic.resourceTrigger[0].queryCriteria.current"},
		{`"status=final"`, `"status="`, "SubscriptionTopic.resourceTrigger[0].queryCriteria.current"},
		{`"status=final"`, `"_sort=date"`, "SubscriptionTopic.resourceTrigger[0].queryCriteria.current"},
		{`"status=final"`, `"status=final&_count=1"`, "SubscriptionTopic.resourceTrigger[0].queryCriteria.current"},
		{`"status=final"`, `"subject:Patient.name=x"`, "SubscriptionTopic.resourceTrigger[0].queryCriteria.current"},
		{`"status=final"`, `"_has:Provenance:target:agent=x"`, "SubscriptionTopic.resourceTrigger[0].queryCriteria.current"},
		{`"status=final"`, `"Patient?name=x"`, "SubscriptionTopic.resourceTrigger[0].queryCriteria.current"},
		{`"status=final"`, `"status=` + strings.Repeat("a,", 5000) + `"`, "SubscriptionTopic.resourceTrigger[0].queryCriteria.current"},
		{"%current.status = 'final'", "%current.status = ", "SubscriptionTopic.resourceTrigger[0].fhirPathCriteria"},
		{"%current.status = 'final'", deep, "SubscriptionTopic.resourceTrigger[0].fhirPathCriteria"},
		{`"filterParameter":"patient"`, `"filterParameter":"nothing"`, "SubscriptionTopic.canFilterBy[0].filterParameter"},
		{`"filterParameter":"patient"`, `"filterParameter":"trigger"`, "SubscriptionTopic.canFilterBy[0].filterParameter"},
		{`"resource":"Observation","filterParameter":"patient"`, `"resource":"Device","filterParameter":"patient"`,
			"SubscriptionTopic.canFilterBy[0].resource"},
		{`Observation:device"`, `Observation:code"`, "SubscriptionTopic.notificationShape[0].include[0]"},
		{`Observation:device"`, `Observation:device:iterate"`, "SubscriptionTopic.notificationShape[0].include[0]"},
		{`Provenance:target"`, `AuditEvent:entity"`, "SubscriptionTopic.notificationShape[0].revInclude[0]"},
		{`Provenance:target"`, `Device:patient"`, "SubscriptionTopic.notificationShape[0].revInclude[0]"},
		{`"resourceType":"SubscriptionTopic"`, `"resourceType":"Patient"`, "SubscriptionTopic"},
		{`"title":"Done"`, `"title":"` + strings.Repeat("x", 5000) + `"`, "SubscriptionTopic.title"},
		{`"title":"Done"`, `"title":["Done"]`, "SubscriptionTopic"},
		{`"title":"Done"`, `"title":"` + strings.Repeat("x", MaxSize) + `"`, "SubscriptionTopic"},
	} {
		bad := strings.Replace(example, c.from, c.to, 1)
		if bad == example {
			t.Fatalf("%s does not occur", c.from)
		}
		_, err := Parse([]byte(bad), base)
		e, ok := err.(*fhir.Error)
		if !ok || e.Kind != fhir.Unprocessable || len(e.Issues) != 1 || e.Issues[0].Expression[0] != c.path {
			t.Errorf("%.60s -> %.60s: %v", c.from, c.to, err)
		}
	}
	if _, err := Parse([]byte(example+"{}"), base); fhir.KindOf(err) != fhir.Unprocessable {
		t.Errorf("text after the end: %v", err)
	}
	if _, err := Parse([]byte(`{"resourceType":"Basic","code":{"coding":[{"code":"x"}]}}`), base); fhir.KindOf(err) != fhir.Unprocessable {
		t.Errorf("another Basic: %v", err)
	}
	if _, err := Criteria("Subscription.criteria", "Observation", "my-parameter=x", base); fhir.KindOf(err) !=
		fhir.Unprocessable || !strings.Contains(err.Error(), "SearchParameter resources define") {
		t.Errorf("a parameter that is none of R4: %v", err)
	}
	wrong := `{"resourceType":"Basic","code":{"coding":[{"system":"` + CodeSystem + `","code":"` + Code + `"}]},` +
		`"extension":[{"url":"` + r5 + `url","valueBoolean":true}]}`
	if _, err := Parse([]byte(wrong), base); fhir.KindOf(err) != fhir.Unprocessable ||
		!strings.Contains(err.Error(), "wrong type") {
		t.Errorf("an element of the wrong type: %v", err)
	}
}

func version(status string) *Version {
	if status == "" {
		return &Version{}
	}
	return &Version{Time: time.Unix(1e9, 0), JSON: []byte(`{"resourceType":"Observation","id":"o","status":"` + status +
		`","code":{"text":"x"}}`)}
}

// TestFires checks R5's rules for queryCriteria and fhirPathCriteria.
func TestFires(t *testing.T) {
	for _, c := range []struct {
		name, criteria, path string
		previous, current    string
		want                 bool
	}{
		{"none", ``, ``, "final", "final", true},
		{"current", `"current":"status=final"`, ``, "", "final", true},
		{"current", `"current":"status=final"`, ``, "final", "amended", false},
		{"current on delete", `"current":"status=final"`, ``, "final", "", false},
		{"current on delete", `"current":"status=final","resultForDelete":"test-passes"`, ``, "final", "", true},
		{"previous", `"previous":"status=final"`, ``, "final", "amended", true},
		{"previous on create", `"previous":"status=final"`, ``, "", "final", false},
		{"previous on create", `"previous":"status=final","resultForCreate":"test-passes"`, ``, "", "amended", true},
		{"either", `"previous":"status=final","current":"status=amended"`, ``, "final", "final", true},
		{"either", `"previous":"status=final","current":"status=amended"`, ``, "amended", "final", false},
		{"both", `"previous":"status=final","current":"status=amended","requireBoth":true`, ``, "final", "final", false},
		{"both", `"previous":"status=final","current":"status=amended","requireBoth":true`, ``, "final", "amended", true},
		{"path", ``, `%current.status = 'final' and %previous.empty()`, "", "final", true},
		{"path", ``, `%current.status = 'final' and %previous.empty()`, "amended", "final", false},
		{"path on delete", ``, `%current.empty() and %previous.status = 'final'`, "final", "", true},
		{"path and query", `"current":"status=final"`, `%previous.exists()`, "", "final", false},
		{"empty result", ``, `%current.value > 1`, "", "final", false},
	} {
		trigger := `{"resource":"Observation"`
		if c.criteria != "" {
			trigger += `,"queryCriteria":{` + c.criteria + `}`
		}
		if c.path != "" {
			b, err := json.Marshal(c.path)
			if err != nil {
				t.Fatal(err)
			}
			trigger += `,"fhirPathCriteria":` + string(b)
		}
		x := parse(t, `{"resourceType":"SubscriptionTopic","url":"https://example.org/t","status":"active","resourceTrigger":[`+trigger+`}]}`)
		by := Update
		switch {
		case c.previous == "":
			by = Create
		case c.current == "":
			by = Delete
		}
		got, err := x.Triggers[0].Fires(context.Background(), by, version(c.previous), version(c.current), nil)
		if err != nil || got != c.want {
			t.Errorf("%s (%s %s), %q to %q: %v %v", c.name, c.criteria, c.path, c.previous, c.current, got, err)
		}
	}
	only := parse(t, strings.Replace(example, `"create","update"`, `"delete"`, 1)).Triggers[0]
	if got, err := only.Fires(context.Background(), Create, version(""), version("final"), nil); got || err != nil {
		t.Errorf("an interaction that is not supported: %v %v", got, err)
	}
}

// held is a Terminology in which urn:done has the code final, and every code subsumes itself.
type held struct{ asked int }

func (h *held) MemberOf(_ context.Context, v fhirpath.Value, set string) (bool, error) {
	h.asked++
	code, _ := v.Text()
	return set == "urn:done" && code == "final", nil
}

func (h *held) Subsumes(_ context.Context, a, b fhirpath.Value) (bool, error) {
	h.asked++
	return a.JSON() == b.JSON(), nil
}

// TestTerminology tests criteria that ask about terminology. Without one they fail, and many
// questions are too costly.
func TestTerminology(t *testing.T) {
	h := &held{}
	for path, want := range map[string]bool{"%current.status.memberOf('urn:done')": true,
		"%current.status.memberOf('urn:other')": false, "%current.code.subsumes(%previous.code)": true,
		"%current.code.subsumedBy(%previous.status)": false} {
		x := parse(t, `{"resourceType":"SubscriptionTopic","url":"https://example.org/t","status":"active",`+
			`"resourceTrigger":[{"resource":"Observation","fhirPathCriteria":"`+path+`"}]}`).Triggers[0]
		got, err := x.Fires(context.Background(), Update, version("preliminary"), version("final"), h)
		if err != nil || got != want {
			t.Errorf("%s: %v %v", path, got, err)
		}
		if got, err := x.Fires(context.Background(), Update, version("final"), version("final"), nil); got || err == nil {
			t.Errorf("%s without terminology: %v %v", path, got, err)
		}
	}
	x := parse(t, `{"resourceType":"SubscriptionTopic","url":"https://example.org/t","status":"active",`+
		`"resourceTrigger":[{"resource":"Observation","fhirPathCriteria":"`+
		`%current.note.where(%current.status.memberOf('urn:done').not()).exists()"}]}`).Triggers[0]
	h.asked = 0
	body := `{"resourceType":"Observation","id":"o","status":"final","code":{"text":"x"},"note":[` +
		strings.Repeat(`{"text":"x"},`, 999) + `{"text":"x"}]}`
	got, err := x.Fires(context.Background(), Create, &Version{},
		&Version{JSON: []byte(body), Time: time.Unix(1e9, 0)}, h)
	if got || fhir.KindOf(err) != fhir.TooCostly || h.asked > 50 {
		t.Errorf("%d questions: %v %v", h.asked, got, err)
	}
}

// TestBombs checks that an expensive expression fails within its limits. Control: without
// the limit of steps it would visit 10^9 values.
func TestBombs(t *testing.T) {
	list := strings.Repeat(`{"text":"x"},`, 999) + `{"text":"x"}`
	body := `{"resourceType":"Observation","id":"o","status":"final","code":{"text":"x"},"note":[` + list + `]}`
	x := parse(t, strings.Replace(strings.Replace(example, `"queryCriteria"`, `"other"`, 1),
		"(%previous.id.empty() or %previous.status != 'final') and %current.status = 'final'",
		"%current.note.select(%current.note.select(%current.note.text)).count() > 1", 1))
	got, err := x.Triggers[0].Fires(context.Background(), Create, &Version{},
		&Version{JSON: []byte(body), Time: time.Unix(1e9, 0)}, nil)
	if got || fhir.KindOf(err) != fhir.TooCostly {
		t.Errorf("%v %v", got, err)
	}
}

func TestCodes(t *testing.T) {
	for by, want := range map[Interaction]string{Create: "create", Update: "update", Delete: "delete"} {
		c := Codes(by)
		if len(c) != 2 || c[0].Code != FeedEvent || c[1].Code != want || c[1].System != TriggerSystem {
			t.Errorf("%v: %v", by, c)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(example))
	x, err := Parse([]byte(example), base)
	if err != nil {
		f.Fatal(err)
	}
	b, err := x.Basic()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"resourceType":"Basic","code":{"coding":[{"system":"http://hl7.org/fhir/fhir-types","code":"SubscriptionTopic"}]}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := Parse(b, base)
		if err != nil {
			if fhir.KindOf(err) != fhir.Unprocessable {
				t.Fatal(err)
			}
			return
		}
		x.ID = "x"
		body, err := x.Basic()
		if err != nil {
			t.Fatal(err)
		}
		if again, err := Parse(body, base); err != nil || again.URL != x.URL || len(again.Triggers) != len(x.Triggers) {
			t.Fatalf("%s is not read back: %v", body, err)
		}
		for i := range x.Triggers {
			for _, by := range []Interaction{Create, Update, Delete} {
				if _, err := x.Triggers[i].Fires(context.Background(), by, version("final"), version("amended"), nil); err != nil {
					switch fhir.KindOf(err) {
					case fhir.Unprocessable, fhir.TooCostly, fhir.Unavailable, fhir.Invalid:
					default:
						t.Fatal(err)
					}
				}
			}
		}
	})
}
