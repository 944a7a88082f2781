package subscription

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/store"
	"pulsegate/fhir/subscription/topic"
)

// on returns the JSON of a Subscription to a topic, with filters.
func on(endpoint, url string, content Content, filters ...string) string {
	body := strings.Replace(subscriptionJSON(endpoint, content, "", ""), `"criteria":"`+Topic+`"`,
		`"criteria":"`+url+`"`+criteriaExtensions(filters), 1)
	return body
}

func criteriaExtensions(filters []string) string {
	if len(filters) == 0 {
		return ""
	}
	var list []string
	for _, f := range filters {
		list = append(list, `{"url":"`+extBase+`backport-filter-criteria","valueString":"`+f+`"}`)
	}
	return `,"_criteria":{"extension":[` + strings.Join(list, ",") + `]}`
}

// write stores a resource with members after the prefix.
func (w *world) write(typ, id, members string) {
	w.t.Helper()
	w.put("", fhir.Resource{Type: typ, ID: id, JSON: []byte(fhir.Prefix(typ, id) + `},` + members + `}`)})
}

func (w *world) remove(typ, id string) {
	w.t.Helper()
	if _, err := w.st.Commit(context.Background(), &store.Batch{Writes: []store.Write{{Op: store.Remove,
		Resource: fhir.Resource{Type: typ, ID: id}}}}); err != nil {
		w.t.Fatal(err)
	}
}

func observation(patient, status, code string) string {
	return `"status":"` + status + `","category":[{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/observation-category","code":"vital-signs"}]}],"code":{"coding":[{"system":"http://loinc.org","code":"` +
		code + `"}]},"subject":{"reference":"Patient/` + patient + `"}`
}

// active waits until Subscriptions are active.
func (w *world) active(ids ...string) {
	w.t.Helper()
	for _, id := range ids {
		w.until(id+" is active", func() bool { return w.status(id) == "active" })
	}
}

// settled waits until all changes are numbered and delivered, by an event of the topic
// observation-recorded at a receiver of its own.
func (w *world) settled(r *receiver) {
	w.t.Helper()
	w.n++
	w.write("Observation", fmt.Sprint("settle", w.n), observation("settler", "final", "x"))
	want := fmt.Sprint(base, "/Observation/settle", w.n)
	w.until("settled", func() bool {
		_, all := r.events()
		return slices.ContainsFunc(all, func(n notification) bool { return slices.Contains(n.focus, want) })
	})
}

// settler subscribes a receiver for settled.
func (w *world) settler() *receiver {
	r := newReceiver(w.t)
	w.subscribe("settler", subscriptionJSON(r.URL, iDOnly, "Observation?patient=settler", ""))
	w.active("settler")
	return r
}

// numbered waits until a Subscription has a number of events, which no notification
// needs to have told.
func (w *world) numbered(id string, want uint64) {
	w.t.Helper()
	w.until(fmt.Sprint(id, " has ", want, " events"), func() bool { return w.engine.count(id) >= want })
	if n := w.engine.count(id); n != want {
		w.t.Errorf("%s has %d events, want %d", id, n, want)
	}
}

// TestOwnTopics checks what fires the topics of the server, and that nothing else does.
func TestOwnTopics(t *testing.T) {
	w, r := newWorld(t), newReceiver(t)
	settler := w.settler()
	names := []string{"observation-recorded", "observation-amended", "observation-retracted", "consent-changed",
		"device-changed", "alert"}
	for _, name := range names {
		w.subscribe(name, on(r.URL, topic.Base+name, iDOnly))
	}
	w.active(names...)
	for i, step := range []struct {
		do   func()
		want string // topics that fire
	}{
		{func() { w.write("Observation", "o1", observation("p1", "preliminary", "a")) }, "observation-recorded"},
		{func() { w.write("Observation", "o1", observation("p1", "final", "a")) }, "observation-recorded"},
		{func() { w.write("Observation", "o1", observation("p1", "amended", "a")) }, "observation-recorded observation-amended"},
		{func() { w.write("Observation", "o1", observation("p1", "entered-in-error", "a")) },
			"observation-recorded observation-retracted"},
		{func() { w.write("Observation", "o1", observation("p1", "entered-in-error", "b")) }, "observation-recorded"},
		{func() { w.remove("Observation", "o1") }, ""}, // it was retracted before
		{func() { w.write("Observation", "o2", observation("p1", "final", "a")) }, "observation-recorded"},
		{func() { w.remove("Observation", "o2") }, "observation-retracted"},
		{func() {
			w.write("Observation", "o3", observation("p1", "final", "a")+
				`,"interpretation":[{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/v3-ObservationInterpretation","code":"HH"}]}]`)
		}, "observation-recorded alert"},
		{func() {
			w.write("Observation", "o4", observation("p1", "final", "HKCategoryTypeIdentifierIrregularHeartRhythmEvent"))
		}, "observation-recorded alert"},
		{func() { w.write("Device", "d1", `"status":"active","patient":{"reference":"Patient/p1"}`) }, "device-changed"},
		{func() { w.write("Device", "d1", `"status":"inactive","patient":{"reference":"Patient/p1"}`) }, "device-changed"},
		{func() { w.remove("Device", "d1") }, "device-changed"},
		{func() { w.write("Consent", "c1", `"status":"active","patient":{"reference":"Patient/p1"}`) }, "consent-changed"},
		{func() { w.write("Consent", "c1", `"status":"inactive","patient":{"reference":"Patient/p1"}`) }, "consent-changed"},
		{func() { w.write("Organization", "g1", `"name":"x"`) }, ""},
	} {
		before := map[string]uint64{}
		for _, n := range names {
			before[n] = w.engine.count(n)
		}
		step.do()
		w.settled(settler)
		for _, n := range names {
			got := w.engine.count(n) - before[n]
			if n == "observation-recorded" {
				got-- // the settler's Observation
			}
			if want := slices.Contains(strings.Fields(step.want), n); got > 1 || got == 1 != want {
				t.Errorf("step %d: %s has %d more events, fires %v", i, n, got, want)
			}
		}
	}
}

// TestDeletionNotification checks the form of an event about a deletion, and that its focus
// is hidden if what was deleted would be.
func TestDeletionNotification(t *testing.T) {
	w, r := newWorld(t), newReceiver(t)
	w.subscribe("s", on(r.URL, topic.Base+"device-changed", fullResource, "Device?patient=p1"))
	w.active("s")
	w.write("Device", "d1", `"status":"active","patient":{"reference":"Patient/p1"}`)
	w.write("Device", "d2", `"status":"active","patient":{"reference":"Patient/p2"}`)
	w.remove("Device", "d2")
	w.remove("Device", "d1")
	w.until("deletion", func() bool { n, _ := r.events(); return len(n) == 2 })
	_, all := r.events()
	last := all[len(all)-1]
	if last.focus[len(last.focus)-1] != base+"/Device/d1" {
		t.Errorf("focus %v", last.focus)
	}
	rq := Request{Caller: audit.Caller{Principal: w.principal("ehr")}}
	body, err := w.engine.Events(context.Background(), rq, "s", 2, 2, "")
	if err != nil || !strings.Contains(string(body), `{"fullUrl":"`+base+`/Device/d1","request":{"method":"DELETE","url":"Device/d1"},"response":{"status":"204"}}`) {
		t.Errorf("%v %s", err, body)
	}
	w.consents.withdraw("p1")
	body, err = w.engine.Events(context.Background(), rq, "s", 2, 2, "")
	if err != nil || strings.Contains(string(body), "Device/d1") {
		t.Errorf("after the consent was withdrawn: %v %s", err, body)
	}
}

// TestPatientDataFeed checks US Core's topic: filters, alternatives by type, trigger codes
// in notifications, and deletions.
func TestPatientDataFeed(t *testing.T) {
	w, r := newWorld(t), newReceiver(t)
	settler := w.settler()
	w.subscribe("all", on(r.URL, topic.FeedURL, iDOnly))
	w.subscribe("both", on(r.URL, topic.FeedURL, iDOnly, "Observation?patient=p1&trigger=feed-event&category=vital-signs", "Patient?_id=p1"))
	w.subscribe("deleted", on(r.URL, topic.FeedURL, iDOnly, "Observation?patient=p1&trigger="+topic.TriggerSystem+"|delete"))
	w.subscribe("coded", on(r.URL, topic.FeedURL, iDOnly, "Observation?patient=p1&code=http://loinc.org|8867-4"))
	w.active("all", "both", "deleted", "coded")
	w.write("Observation", "o1", observation("p1", "final", "8867-4"))
	w.write("Observation", "o2", observation("p2", "final", "8867-4"))
	w.write("Observation", "o3", observation("p1", "final", "1-1"))
	w.write("Patient", "p1", `"gender":"female"`)
	w.write("Patient", "p2", `"gender":"female"`)
	w.remove("Observation", "o1")
	w.settled(settler)
	w.numbered("all", 7) // with the settler's
	w.numbered("both", 4)
	w.numbered("deleted", 1)
	w.numbered("coded", 2)
	rq := Request{Caller: audit.Caller{Principal: w.principal("ehr")}}
	body, err := w.engine.Events(context.Background(), rq, "coded", 1, 2, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`{"name":"trigger","valueCoding":{"system":"` + topic.FeedSystem + `","code":"feed-event"}},{"name":"trigger","valueCoding":{"system":"` + topic.TriggerSystem + `","code":"create"}}`,
		`{"system":"` + topic.TriggerSystem + `","code":"delete"}`, `"method":"DELETE"`,
	} {
		if !strings.Contains(string(body), want) {
			t.Errorf("%s lacks %s", body, want)
		}
	}
}

// TestFeedAdjustment checks that filters that the server does not support are removed from
// a Subscription to the Patient Data Feed, which then has the status error until the client
// has accepted it, and that other topics refuse them.
func TestFeedAdjustment(t *testing.T) {
	w, r := newWorld(t), newReceiver(t)
	ctx := context.Background()
	check := func(id, body string, prev *fhir.Resource) (*fhir.Resource, error) {
		return w.engine.Check(ctx, w.principal("ehr"), &fhir.Resource{Type: "Subscription", ID: id,
			JSON: []byte(fhir.Prefix("Subscription", id) + `},` + body)}, prev)
	}
	const kept = "Observation?patient=p1&category=vital-signs"
	filters := []string{"CareTeam?participant=x", kept, "Observation?patient=p1&trigger=http://terminology.hl7.org/CodeSystem/v2-0003|R01",
		"Observation?patient=p1&status=final"}
	out, err := check("s", on(r.URL, topic.FeedURL, iDOnly, filters...), nil)
	if err != nil {
		t.Fatal(err)
	}
	text := string(out.JSON)
	if !strings.Contains(text, `"status":"error"`) || !strings.Contains(text, kept) || !strings.Contains(text, adjustedText) ||
		strings.Contains(text, "CareTeam") || strings.Contains(text, "R01") || strings.Contains(text, "status=final") {
		t.Errorf("adjusted: %s", text)
	}
	w.put("ehr", *out)
	w.until("the reason is shown", func() bool {
		b, err := w.engine.Status(ctx, Request{Caller: audit.Caller{Principal: w.principal("ehr")}}, []string{"s"}, nil, true)
		return err == nil && strings.Contains(string(b), adjustedText)
	})
	prev, _, err := w.st.Read(ctx, fhir.Ref{Type: "Subscription", ID: "s"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := check("s", on(r.URL, topic.FeedURL, iDOnly, kept), &prev)
	if err != nil || !strings.Contains(string(accepted.JSON), `"status":"requested"`) || strings.Contains(string(accepted.JSON), `"error"`) {
		t.Fatalf("accepted: %v", err)
	}
	w.put("ehr", *accepted)
	w.active("s")
	for name, body := range map[string]string{
		"nothing is left":    on(r.URL, topic.FeedURL, iDOnly, "CareTeam?participant=x"),
		"different patients": on(r.URL, topic.FeedURL, iDOnly, "Observation?patient=p1", "Observation?patient=p2"),
		"another topic":      on(r.URL, Topic, iDOnly, kept, "CareTeam?participant=x"),
	} {
		if _, err := check("x", body, nil); fhir.KindOf(err) != fhir.Unprocessable {
			t.Errorf("%s: %v", name, err)
		}
	}
}

const operatorTopic = `{"resourceType":"SubscriptionTopic","id":"done","url":"https://example.org/SubscriptionTopic/done","status":"active",
"resourceTrigger":[{"resource":"Observation","queryCriteria":{"previous":"status:not=final","resultForCreate":"test-passes","current":"status=final","requireBoth":true},
"fhirPathCriteria":"%current.value.exists()"}],"canFilterBy":[{"resource":"Observation","filterParameter":"patient"},{"resource":"Observation","filterParameter":"value-quantity"}],
"notificationShape":[{"resource":"Observation","include":["Observation:device"],"revInclude":["Provenance:target"]}]}`

// operatorWrites writes a topic as the operator does.
func (w *world) operatorWrites(id, text string) error {
	w.t.Helper()
	x, err := topic.Parse([]byte(text), base)
	if err != nil {
		w.t.Fatal(err)
	}
	x.ID = id
	body, err := x.Basic()
	if err != nil {
		w.t.Fatal(err)
	}
	next := &fhir.Resource{Type: "Basic", ID: id, JSON: body}
	out, err := w.engine.CheckBasic(context.Background(),
		&access.Principal{Operator: "uid:0", Grant: access.All()}, next, nil)
	if err == nil {
		w.put("", *out)
	}
	return err
}

// TestOperatorTopic adds a topic with criteria, filters and a shape, uses it with the three
// contents, changes it, and retires it.
func TestOperatorTopic(t *testing.T) {
	w, r := newWorld(t), newReceiver(t)
	settler := w.settler()
	body := on(r.URL, "https://example.org/SubscriptionTopic/done", fullResource, "Observation?patient=p1&value-quantity=gt50")
	if _, err := w.engine.Check(context.Background(), w.principal("ehr"), &fhir.Resource{Type: "Subscription", ID: "s",
		JSON: []byte(fhir.Prefix("Subscription", "s") + `},` + body)}, nil); fhir.KindOf(err) != fhir.Unprocessable {
		t.Errorf("before the topic exists: %v", err)
	}
	if err := w.operatorWrites("done", operatorTopic); err != nil {
		t.Fatal(err)
	}
	w.subscribe("s", body)
	w.subscribe("ids", strings.Replace(body, "full-resource", "id-only", 1))
	w.subscribe("none", strings.Replace(body, "full-resource", "empty", 1))
	w.active("s", "ids", "none")
	w.write("Device", "d1", `"status":"active","patient":{"reference":"Patient/p1"}`)
	w.write("Device", "d2", `"status":"active","patient":{"reference":"Patient/p2"}`)
	value := func(n string) string {
		return `,"valueQuantity":{"value":` + n + `,"system":"http://unitsofmeasure.org","code":"/min"},"device":{"reference":"Device/d1"}`
	}
	w.write("Provenance", "v1", `"target":[{"reference":"Observation/o1"},{"reference":"Patient/p1"}],"recorded":"2026-01-01T00:00:00Z","agent":[{"who":{"reference":"Device/d1"}}]`)
	w.write("Observation", "o1", observation("p1", "preliminary", "a")+value("60")) // not final
	w.write("Observation", "o2", observation("p1", "final", "a"))                   // no value
	w.write("Observation", "o3", observation("p1", "final", "a")+value("40"))       // filtered
	w.write("Observation", "o4", observation("p2", "final", "a")+value("60"))       // filtered
	w.write("Observation", "o1", observation("p1", "final", "a")+value("60"))       // fires
	w.write("Observation", "o1", observation("p1", "final", "a")+value("61"))       // was final
	w.settled(settler)
	for _, id := range []string{"s", "ids", "none"} {
		w.numbered(id, 1)
	}
	rq := Request{Caller: audit.Caller{Principal: w.principal("ehr")}}
	for id, want := range map[string]int{"s": 2, "ids": 2, "none": 0} {
		b, err := w.engine.Events(context.Background(), rq, id, 1, 1, "")
		if err != nil {
			t.Fatal(err)
		}
		text := string(b)
		if n := strings.Count(text, `"name":"additional-context"`); n != want {
			t.Errorf("%s: %d resources accompany the focus, want %d: %s", id, n, want, text)
		}
		if got := strings.Contains(text, `"resource":{"resourceType":"Device","id":"d1"`) &&
			strings.Contains(text, `"resource":{"resourceType":"Provenance","id":"v1"`); got != (id == "s") {
			t.Errorf("%s: resources: %v", id, got)
		}
	}
	// A resource hidden from the caller does not accompany the focus.
	narrow := w.principal("ehr")
	narrow.Grant.Rules = []access.Rule{{Type: "Observation", May: access.Read}, {Type: "Subscription", May: access.Read}}
	b, err := w.engine.Events(context.Background(), Request{Caller: audit.Caller{Principal: narrow}}, "s", 1, 1, "")
	if err != nil || strings.Contains(string(b), "additional-context") || strings.Contains(string(b), `"resourceType":"Provenance"`) {
		t.Errorf("with a narrow grant: %v %s", err, b)
	}
	// A change of the topic applies to Subscriptions at once.
	if err := w.operatorWrites("done", strings.Replace(operatorTopic, "%current.value.exists()", "false", 1)); err != nil {
		t.Fatal(err)
	}
	w.write("Observation", "o5", observation("p1", "final", "a")+value("60"))
	w.settled(settler)
	w.numbered("s", 1)
	if err := w.operatorWrites("done", strings.Replace(operatorTopic, `"active"`, `"retired"`, 1)); err != nil {
		t.Fatal(err)
	}
	w.until("unsupported", func() bool {
		b, err := w.engine.Status(context.Background(), rq, []string{"s"}, nil, true)
		return err == nil && strings.Contains(string(b), "not supported by the current configuration")
	})
	list, err := w.engine.Topics(context.Background())
	if err != nil || slices.ContainsFunc(list, func(x *topic.Topic) bool { return x.ID == "done" }) {
		t.Errorf("the retired topic is offered: %v", err)
	}
}

// TestWhoWritesTopics checks that clients write no topics, but other Basics, and that a
// topic cannot take the URL of another.
func TestWhoWritesTopics(t *testing.T) {
	w := newWorld(t)
	if err := w.operatorWrites("done", operatorTopic); err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	stored, _, err := w.st.Read(ctx, fhir.Ref{Type: "Basic", ID: "done"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	x, err := topic.Parse([]byte(operatorTopic), base)
	if err != nil {
		t.Fatal(err)
	}
	body, err := x.Basic()
	if err != nil {
		t.Fatal(err)
	}
	is := &fhir.Resource{Type: "Basic", ID: "done", JSON: body}
	other := &fhir.Resource{Type: "Basic", ID: "done", JSON: []byte(fhir.Prefix("Basic", "done") + `},"code":{"text":"x"}}`)}
	client := w.principal("ehr")
	for name, c := range map[string]struct{ next, prev *fhir.Resource }{
		"create": {is, nil}, "update": {is, &stored}, "overwrite": {other, &stored}, "delete": {nil, &stored}} {
		if _, err := w.engine.CheckBasic(ctx, client, c.next, c.prev); fhir.KindOf(err) != fhir.Forbidden {
			t.Errorf("%s by a client: %v", name, err)
		}
	}
	if out, err := w.engine.CheckBasic(ctx, client, other, nil); err != nil || out != other {
		t.Errorf("another Basic: %v", err)
	}
	if err := w.operatorWrites("again", operatorTopic); fhir.KindOf(err) != fhir.Conflict {
		t.Errorf("a second topic with the URL: %v", err)
	}
	if err := w.operatorWrites("own", strings.Replace(operatorTopic, "https://example.org/SubscriptionTopic/", topic.Base, 1)); fhir.KindOf(err) != fhir.Conflict {
		t.Errorf("a topic with a URL of this server: %v", err)
	}
	// A Basic that a client wrote before it could be checked is no topic.
	w.put("mallory", fhir.Resource{Type: "Basic", ID: "evil", JSON: []byte(strings.Replace(strings.Replace(string(body), `"id":"done"`, `"id":"evil"`, 1),
		"SubscriptionTopic/done", "SubscriptionTopic/evil", 1))})
	list, err := w.engine.Topics(ctx)
	if err != nil || len(list) != 8 {
		t.Errorf("%d topics: %v", len(list), err)
	}
}

// TestScopesOfTypes checks that a Subscription needs scopes for what its filters name.
func TestScopesOfTypes(t *testing.T) {
	w := newWorld(t)
	p := w.principal("ehr")
	p.Grant.Rules = []access.Rule{{Type: "Observation", May: access.Read}}
	for body, want := range map[string]fhir.Kind{
		on("http://127.0.0.1:1/x", topic.FeedURL, iDOnly):                                                   0,
		on("http://127.0.0.1:1/x", topic.FeedURL, iDOnly, "Observation?patient=p1"):                         0,
		on("http://127.0.0.1:1/x", topic.FeedURL, iDOnly, "Observation?patient=p1", "Patient?_id=p1"):       fhir.Forbidden,
		on("http://127.0.0.1:1/x", topic.Base+"device-changed", iDOnly):                                     fhir.Forbidden,
		strings.Replace(on("http://127.0.0.1:1/x", "Device?patient=p1", iDOnly), `,"_payload"`, `,"_p"`, 1): fhir.Forbidden,
	} {
		_, err := w.engine.Check(context.Background(), p, &fhir.Resource{Type: "Subscription", ID: "x",
			JSON: []byte(fhir.Prefix("Subscription", "x") + `},` + body)}, nil)
		if want == 0 && err != nil || want != 0 && fhir.KindOf(err) != want {
			t.Errorf("%s: %v", body, err)
		}
	}
}

// TestLookups checks by counting that a change is compared with the Subscriptions that may
// match it, not with all: 10,000 narrow ones cost one comparison. Control: without patient
// and code, each of them is compared.
func TestLookups(t *testing.T) {
	const n = 10_000
	for _, c := range []struct {
		name   string
		filter func(i int) string
		want   uint64 // comparisons of one change
		events int
	}{
		{"patient and code", func(i int) string {
			return fmt.Sprintf("Observation?patient=p%d&code=http://loinc.org|%d-1", i%100, i/100)
		}, 1, 1},
		{"patient", func(i int) string { return fmt.Sprintf("Observation?patient=p%d", i) }, 1, 1},
		{"code", func(i int) string { return fmt.Sprintf("Observation?code=%d-1,%d-2", i, i) }, 1, 1},
		{"id", func(i int) string { return fmt.Sprintf("Observation?_id=o%d", i) }, 0, 0}, // the topic has no such filter
		{"control", func(i int) string { return "Observation?category=vital-signs" }, n, n},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, st := indexed(t, n, c.filter)
			if c.want == 0 {
				return
			}
			facts := access.Facts{Type: "Observation", ID: "o1", Patient: "p7", Tokens: func(p string) []access.Token {
				if p == "code" {
					return []access.Token{{System: "http://loinc.org", Code: "7-1"}}
				}
				return []access.Token{{Code: "vital-signs"}}
			}}
			change := &store.Change{Seq: 9, Ref: fhir.Ref{Type: "Observation", ID: "o1"}, Version: 1, Created: true, Facts: facts}
			if err := st.change(context.Background(), change, 0); err != nil {
				t.Fatal(err)
			}
			if f.evaluations != c.want || len(st.numbered) != c.events {
				t.Errorf("%d comparisons and %d events, want %d and %d", f.evaluations, len(st.numbered), c.want, c.events)
			}
			for _, s := range f.subs {
				f.reindex(s, nil, "")
			}
			if len(f.index.types) != 0 {
				t.Errorf("the index keeps %v", f.index.types)
			}
		})
	}
}

// indexed returns a follower with n Subscriptions, which have no senders.
func indexed(t *testing.T, n int, filter func(i int) string) (*follower, *stepState) {
	t.Helper()
	w := newWorld(t)
	f := &follower{Engine: w.engine, opts: w.engine.opts, subs: map[string]*sub{},
		index: index{types: map[string]*typeIndex{}}}
	builtin, err := topic.Builtin(base)
	if err != nil {
		t.Fatal(err)
	}
	x := newCatalog(builtin).byURL(Topic, base)
	for i := range n {
		parsed, err := parseFilter("x", filter(i), base, x)
		if err != nil {
			if strings.Contains(filter(i), "_id") {
				return f, nil
			}
			t.Fatal(err)
		}
		s := &sub{id: fmt.Sprint("s", i), owner: "ehr", status: "active", spec: &Spec{Topic: x, Filters: []Filter{parsed}}}
		f.subs[s.id] = s
		f.reindex(s, s.spec, s.status)
	}
	return f, &stepState{follower: f, grants: map[string]*access.Grant{}, numbered: map[string]uint64{},
		counted: map[string]uint64{}, runs: map[string]*run{}}
}
