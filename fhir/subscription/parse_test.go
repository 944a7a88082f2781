package subscription

import (
	"encoding/json"
	"strings"
	"testing"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/egress"
	"pulsegate/fhir/subscription/topic"
)

// newParser returns a parser with the topics of every server.
func newParser(policy egress.Policy) *parser {
	builtin, err := topic.Builtin(base)
	if err != nil {
		panic(err)
	}
	return &parser{base: base, policy: policy, topics: newCatalog(builtin), mail: postbox{},
		publishers: map[string]Publisher{"broker": &broker{}}}
}

func TestParseRejects(t *testing.T) {
	good := `{"resourceType":"Subscription","id":"s","meta":{},` +
		subscriptionJSON("https://ehr.example.org/hook", fullResource, "Observation?patient=p1", "")
	if _, err := newParser(egress.Policy{}).parse([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ from, to, path string }{
		{Topic, "http://example.org/topic", "Subscription.criteria"},
		{"Observation?patient=p1", "Observation?date=gt2020", "Subscription.criteria.extension[0]"},
		{"Observation?patient=p1", "Patient?patient=p1", "Subscription.criteria.extension[0]"},
		{"Observation?patient=p1", "Observation?patient=p1&patient=p2", "Subscription.criteria.extension[0]"},
		{"Observation?patient=p1", "Observation?code:in=x", "Subscription.criteria.extension[0]"},
		{"backport-filter-criteria", "other", "Subscription.criteria.extension[0]"},
		{extBase + "backport-filter-criteria",
			"http://hl7.org/fhir/5.0/StructureDefinition/extension-Subscription.filterBy",
			"Subscription.criteria.extension[0]"},
		{`"rest-hook"`, `"email"`, "Subscription.channel.endpoint"},
		{`"rest-hook"`, `"websocket"`, "Subscription.channel.endpoint"},
		{`"rest-hook"`, `"sms"`, "Subscription.channel.type"},
		{`"application/fhir+json"`, `"application/fhir+xml"`, "Subscription.channel.payload"},
		{`"application/fhir+json"`, `"application/fhir+json; fhirVersion=5.0"`, "Subscription.channel.payload"},
		{`"full-resource"`, `"everything"`, "Subscription.channel.payload.extension[0]"},
		{`backport-payload-content`, `else`, "Subscription.channel.payload.extension[0]"},
		{"X-Secret: s3", "no colon", "Subscription.channel.header[0]"},
		{"X-Secret: s3", `X: a\r\nY: b`, "Subscription.channel.header[0]"},
		{"X-Secret: s3", "Host: inner", "Subscription.channel.header[0]"},
		{`"channel":{`, `"channel":{"extension":[{"url":"` + extBase +
			`backport-timeout","valueUnsignedInt":100}],`, "Subscription.channel.extension[0]"},
		{`"channel":{`, `"channel":{"extension":[{"url":"x"}],`, "Subscription.channel.extension[0]"},
		{`"requested"`, `"soon"`, "Subscription.status"},
		{`"status"`, `"end":"tomorrow","status"`, "Subscription.end"},
		{`"status"`, `"modifierExtension":[{}],"status"`, "Subscription.modifierExtension"},
	} {
		bad := strings.Replace(good, c.from, c.to, 1)
		if bad == good {
			t.Fatalf("%s does not occur in the Subscription", c.from)
		}
		_, err := newParser(egress.Policy{}).parse([]byte(bad))
		e, ok := err.(*fhir.Error)
		if !ok || e.Kind != fhir.Unprocessable || len(e.Issues) != 1 || e.Issues[0].Expression[0] != c.path {
			t.Errorf("%s -> %s: %v", c.from, c.to, err)
		}
	}
	for _, endpoint := range []string{
		"http://ehr.example.org/hook", "https://127.0.0.1/h", "https://[::1]/h", "https://10.1.2.3/h",
		"https://169.254.169.254/latest/meta-data",
		"https://[::ffff:192.168.0.1]/h", "https://100.64.1.1/", "https://224.0.0.1/", "ftp://ehr.example.org/",
		"https://u:p@ehr.example.org/",
		"file:///etc/passwd", "//ehr.example.org/x", "", "https://", "https://0.0.0.0/", "https://[fd00::1]/",
	} {
		bad := strings.Replace(good, "https://ehr.example.org/hook", endpoint, 1)
		_, err := newParser(egress.Policy{}).parse([]byte(bad))
		e, ok := err.(*fhir.Error)
		if !ok || e.Kind != fhir.Unprocessable || e.Issues[0].Expression[0] != "Subscription.channel.endpoint" {
			t.Errorf("endpoint %q: %v", endpoint, err)
		}
	}
	for _, ok := range [][2]string{
		{Topic, base + "/SubscriptionTopic/observation-recorded"},
		{`"application/fhir+json"`, `"application/fhir+json;charset=utf-8"`},
		{"Observation?patient=p1", "Observation?patient=" + base +
			"/Patient/p1,p2&category=vital-signs&code=http://loinc.org|8867-4,|x"},
	} {
		if _, err := newParser(egress.Policy{}).parse([]byte(strings.Replace(good, ok[0], ok[1], 1))); err != nil {
			t.Errorf("%s: %v", ok[1], err)
		}
	}
}

func TestMatch(t *testing.T) {
	builtin, err := topic.Builtin(base)
	if err != nil {
		t.Fatal(err)
	}
	recorded := newCatalog(builtin).byURL(Topic, base)
	facts := &access.Facts{Type: "Observation", Patient: "p1", Tokens: func(p string) []access.Token {
		switch p {
		case "code":
			return []access.Token{{System: "http://loinc.org", Code: "8867-4"}, {Code: "bare"}}
		case "category":
			return []access.Token{{System: "cat", Code: "vital-signs"}}
		}
		return nil
	}}
	for filter, want := range map[string]bool{
		"patient=p1": true, "patient=p2": false, "patient=p2,Patient/p1": true,
		"code=8867-4": true, "code=http://loinc.org|8867-4": true, "code=http://loinc.org|": true,
		"code=other|8867-4": false,
		"code=|8867-4":      false, "code=|bare": true, "category=vital-signs&code=x": false,
		"category=cat|vital-signs&patient=p1": true,
	} {
		f, err := parseFilter("x", "Observation?"+filter, base, recorded)
		if err != nil {
			t.Fatal(err)
		}
		if got := f.facts(facts, topic.Create); got != want || len(f.Clauses) > 0 {
			t.Errorf("%s: %v", filter, got)
		}
	}
}

func TestSetMember(t *testing.T) {
	for _, c := range []struct{ in, name, value, want string }{
		{`{"a":1,"status":"x","b":[1, 2]}`, "status", "y", `{"a":1,"status":"y","b":[1, 2]}`},
		{`{"a":1, "status" : "x" ,"b":2}`, "status", "", `{"a":1 ,"b":2}`},
		{`{"a":1,"status":"x"}`, "status", "", `{"a":1}`},
		{`{"a":{"status":"x"}}`, "status", "y", `{"a":{"status":"x"},"status":"y"}`},
		{`{"a":"\"}{"}`, "error", "q\"", `{"a":"\"}{","error":"q\""}`},
		{`{"a":1}`, "error", "", `{"a":1}`},
	} {
		got, err := setMember([]byte(c.in), c.name, c.value)
		if err != nil || string(got) != c.want || !json.Valid(got) {
			t.Errorf("%s: %s %v, want %s", c.in, got, err, c.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"resourceType":"Subscription",` +
		subscriptionJSON("https://ehr.example.org/hook", iDOnly, "Observation?code=a|b", "")))
	f.Add([]byte(`{"channel":null}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := newParser(egress.Policy{}).parse(b)
		if err != nil {
			if fhir.KindOf(err) != fhir.Unprocessable {
				t.Fatal(err)
			}
			return
		}
		if s.Endpoint != nil && s.Endpoint.Scheme != "https" || s.Endpoint == nil && s.Channel != websocket &&
			s.Mail == "" && !s.Publisher || s.Content == "" || s.MaxCount < 1 {
			t.Fatalf("accepted %+v", s)
		}
		out, err := setStatus(b, "active", "")
		if err == nil && json.Valid(b) && !json.Valid(out) {
			t.Fatalf("setStatus broke %q", b)
		}
	})
}

// FuzzFilter checks that a filter that is accepted can be matched and indexed.
func FuzzFilter(f *testing.F) {
	for _, s := range []string{"Observation?patient=p1&code=a|b,c", "Observation?trigger=feed-event&category=|x", "Patient?_id=p1", "Observation?code=%zz", "?"} {
		f.Add(s)
	}
	p := newParser(egress.Policy{})
	feed := p.topics.byURL(topic.FeedURL, base)
	facts := &access.Facts{Type: "Observation", ID: "o", Patient: "p1",
		Tokens: func(string) []access.Token { return []access.Token{{Code: "a"}} }}
	f.Fuzz(func(t *testing.T, s string) {
		x, err := parseFilter("x", s, base, feed)
		if err != nil {
			if fhir.KindOf(err) != fhir.Unprocessable {
				t.Fatal(err)
			}
			return
		}
		x.facts(facts, topic.Create)
		owner := &sub{id: "s"}
		spec := &Spec{Topic: feed, Filters: []Filter{x}}
		all := index{types: map[string]*typeIndex{}}
		for _, r := range spec.rules(owner) {
			all.update(r, true)
			all.find(facts, func(*rule) {})
			all.update(r, false)
		}
		if len(all.types) != 0 {
			t.Fatalf("%q stays in the index", s)
		}
	})
}
