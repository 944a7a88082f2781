package rest

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"pulsegate/fhir/access"
	"pulsegate/fhir/interaction"
	"pulsegate/fhir/store"
)

// inEntry is a request that a Bundle may have as an entry.
type inEntry struct{ method, url, body string }

// single sends the request alone.
func (q inEntry) single(w *world, client string) answer {
	return w.do(client, q.method, "/"+q.url, q.body)
}

// within sends the request as the entry of a Bundle, and returns its outcome as that of a
// single request.
func (q inEntry) within(w *world, client, typ string) answer {
	w.t.Helper()
	a := w.want(200, client, "POST", "/", bundle(typ, entry("", q.method, q.url, q.body)))
	var b struct {
		Entry []struct {
			Resource json.RawMessage
			Response struct {
				Status  string
				Outcome json.RawMessage
			}
		}
	}
	if err := json.Unmarshal(a.body, &b); err != nil || len(b.Entry) != 1 {
		w.t.Fatalf("%s: %v", a.body, err)
	}
	out := answer{body: b.Entry[0].Resource}
	if b.Entry[0].Response.Outcome != nil {
		out.body = b.Entry[0].Response.Outcome
	}
	if _, err := fmt.Sscan(b.Entry[0].Response.Status, &out.status); err != nil {
		w.t.Fatal(err)
	}
	if out.body != nil {
		if err := json.Unmarshal(out.body, &out.json); err != nil {
			w.t.Fatal(err)
		}
	}
	return out
}

// trail returns a function that returns the AuditEvents since its last call: the outcome, the
// patients and resources, and the query.
func (w *world) trail() func() []string {
	seen := map[string]bool{}
	next := func() (out []string) {
		err := w.store.Scan(w.t.Context(), store.ScanRange{Types: []string{"AuditEvent"}, At: w.store.LastSeq(),
			Filter: access.All().Filter(access.Read)}, func(found *store.Found) bool {
			if id := found.Resource.ID; !seen[id] {
				seen[id] = true
				out = append(out, eventText(w.t, found.Resource.JSON))
			}
			return true
		})
		if err != nil {
			w.t.Fatal(err)
		}
		slices.Sort(out)
		return out
	}
	next()
	return next
}

func eventText(t *testing.T, body []byte) string {
	t.Helper()
	var ev struct {
		Action, Outcome, OutcomeDesc string
		Type                         struct{ Code string }
		Subtype                      []struct{ Code string }
		Entity                       []struct {
			What  struct{ Reference string }
			Query string
			Type  struct{ Code string }
		}
	}
	if err := json.Unmarshal(body, &ev); err != nil {
		t.Fatal(err)
	}
	out := fmt.Sprint(ev.Action, " ", ev.Outcome, " ", ev.OutcomeDesc, " ", ev.Type.Code, ev.Subtype)
	for _, e := range ev.Entity {
		line, err := base64.StdEncoding.DecodeString(e.Query)
		if err != nil {
			t.Fatal(err)
		}
		out += fmt.Sprint("; ", e.Type.Code, " ", e.What.Reference, strings.Replace(string(line), " /fhir/", " ", 1))
	}
	return out
}

// changing matches a sealed position in a link and the time and id of an expansion.
var changing = regexp.MustCompile(`(__page=)[A-Za-z0-9_-]+|("timestamp":)"[^"]*"|("identifier":)"urn:uuid:[^"]*"`)

// lasting returns an answer without what differs from request to request.
func lasting(a answer) string {
	if a.json["resourceType"] == "Bundle" {
		delete(a.json, "id")
		delete(a.json, "meta")
	}
	body, err := json.Marshal(a.json)
	if err != nil {
		return err.Error()
	}
	return changing.ReplaceAllString(string(body), "$1$2$3")
}

// TestReadsInBundle sends every kind of search, history and operation alone and in a batch and
// a transaction, with several tokens. Answers and AuditEvents must be the same.
func TestReadsInBundle(t *testing.T) {
	w := newWorld(t, drivers["pebble"](t))
	terminologyWorld(w)
	w.put("Observation/o1", observation("o1", "p1", "vital-signs", 61), 201)
	w.put("Observation/o2", observation("o2", "p1", "activity", 62), 201)
	w.put("Observation/o3", observation("o3", "p2", "vital-signs", 63), 201)
	w.put("Observation/o1", observation("o1", "p1", "vital-signs", 64), 200)
	stats := `{"name":"patient","valueString":"p1"},{"name":"code","valueString":"8867-4"},` +
		`{"name":"statistic","valueString":"count"}`
	clients := []string{"all", "vitals", "patients", "writer"}
	requests := []inEntry{
		{"GET", "Patient/p1/Observation?code=8867-4", ""}, {"GET", "Patient/p1/Observation?_summary=count", ""},
		{"GET", "Patient/p1/*?_type=Observation,Patient", ""}, {"GET", "Patient/p1/*", ""},
		{"GET", "Patient/p1/Observation?unknown=1", ""}, {"GET", "Patient/p1/Organization", ""},
		{"GET", "Practitioner/p1/Observation", ""}, {"GET", "Patient/none/Observation", ""},
		{"GET", "?_type=Observation", ""}, {"GET", "?_type=Observation,Patient&_id=p1", ""}, {"GET", "?_type=No", ""},
		{"GET", "?_type=Patient&_summary=count", ""},
		{"GET", "Patient/p1/_history", ""}, {"GET", "Observation/o1/_history?_count=1", ""},
		{"GET", "Observation/_history", ""}, {"GET", "_history?_count=2", ""}, {"GET", "_history?_nope=2", ""},
		{"GET", "Observation/o1/_history/1", ""}, {"GET", "Observation/none/_history", ""},
		{"GET", "Observation/$lastn?patient=p1&code=8867-4", ""}, {"GET", "Observation/$lastn?patient=p1", ""},
		{"POST", "Observation/$lastn", parametersOf(`{"name":"patient","valueString":"p1"},{"name":"category","valueString":"vital-signs"}`)},
		{"GET", "Observation/$stats?patient=p1&code=8867-4&statistic=count", ""},
		{"POST", "Observation/$stats", parametersOf(stats)},
		{"POST", "Observation/$stats?patient=p1&code=8867-4&statistic=count", parametersOf(`{"name":"preferred","valueBoolean":false}`)},
		{"GET", "Observation/$time-buckets?patient=p1&code=8867-4&unit=d", ""},
		{"GET", "Patient/p1/$everything?_type=Observation", ""}, {"POST", "Patient/p1/$everything", parametersOf(`{"name":"_count","valueInteger":1}`)},
		{"GET", "Patient/none/$everything", ""}, {"GET", "Patient/$everything", ""}, {"GET", "Patient/p2/$everything?x=1", ""},
		{"GET", "Patient/p1/$ehr-bundle?form=plain", ""},
		{"GET", "Observation/o1/$validate", ""}, {"GET", "Observation/o1/$validate?mode=delete", ""},
		{"POST", "Observation/$validate", observation("", "p1", "vital-signs", 5)},
		{"POST", "Observation/$validate", parametersOf(`{"name":"mode","valueCode":"create"},{"name":"resource","resource":` + observation("", "nobody", "vital-signs", 5) + `}`)},
		{"POST", "Observation/$validate", `{"resourceType":"Observation"}`},
		{"POST", "Observation/$validate?mode=nonsense", observation("", "p1", "vital-signs", 5)},
		{"GET", "Observation/o1/$meta", ""}, {"GET", "Patient/p1/$meta", ""}, {"GET", "Observation/none/$meta", ""},
		{"GET", "ValueSet/$expand?url=urn:all", ""}, {"GET", "ValueSet/$expand?url=urn:none", ""},
		{"POST", "ValueSet/$validate-code", parametersOf(`{"name":"url","valueUri":"urn:all"},{"name":"coding","valueCoding":{"system":"urn:animals","code":"cat"}}`)},
		{"GET", "CodeSystem/$lookup?system=urn:animals&code=cat", ""},
	}
	events, answered := w.trail(), 0
	for _, q := range requests {
		for _, client := range clients {
			alone := q.single(w, client)
			if alone.status == 200 {
				answered++
			}
			want := events()
			for _, typ := range []string{"batch", "transaction"} {
				within := q.within(w, client, typ)
				got := events()
				if within.status != alone.status || lasting(within) != lasting(alone) {
					t.Errorf("%s %s as %s in a %s: %d %.400s\nalone: %d %.400s", q.method, q.url, client, typ,
						within.status, within.body, alone.status, alone.body)
				}
				if !slices.Equal(got, want) {
					t.Errorf("%s %s as %s in a %s: events\n%s\nalone:\n%s", q.method, q.url, client, typ,
						strings.Join(got, "\n"), strings.Join(want, "\n"))
				}
			}
		}
	}
	if t.Log(answered, "answers of", len(requests)*len(clients)); answered < len(requests) {
		t.Error("most requests were refused")
	}
	w.metaInBundle()
	w.refusedInBundle()
}

// metaInBundle changes a Meta in a batch, which a transaction must not.
func (w *world) metaInBundle() {
	w.t.Helper()
	tag := parametersOf(`{"name":"meta","valueMeta":{"tag":[{"system":"urn:t","code":"x"}]}}`)
	q := inEntry{"POST", "Observation/o1/$meta-add", tag}
	events := w.trail()
	if a := q.within(w, "all", "batch"); a.status != 200 || !strings.Contains(string(a.body), `"urn:t"`) {
		w.t.Errorf("$meta-add in a batch: %d %s", a.status, a.body)
	}
	got := events()
	if len(got) != 1 || !strings.HasPrefix(got[0], "U 0  rest[{update}]") || !strings.Contains(got[0], "Observation/o1/_history/3") {
		w.t.Errorf("events of $meta-add: %s", got)
	}
	if a := q.within(w, "reader", "batch"); a.status != 403 {
		w.t.Errorf("$meta-add without a scope: %d %s", a.status, a.body)
	}
	if a := (inEntry{"GET", q.url, ""}).within(w, "all", "batch"); a.status != 405 {
		w.t.Errorf("$meta-add by GET: %d %s", a.status, a.body)
	}
	// The entries of a batch have the order of the Bundle, those of a transaction that of R4.
	reads := []string{entry("", "GET", "Patient/p2/Observation?_summary=count", ""),
		entry("", "POST", "Observation", observation("", "p2", "vital-signs", 8)),
		entry("", "POST", "Observation/$lastn", parametersOf(`{"name":"patient","valueString":"p2"}`,
			`{"name":"code","valueString":"8867-4"}`, `{"name":"max","valueInteger":9}`)),
		entry("", "GET", "?_type=Observation&patient=p2&_summary=count", "")}
	for typ, want := range map[string]string{"batch": `"total":1 "total":2 "total":2`,
		"transaction": `"total":3 "total":3 "total":3`} {
		a := w.want(200, "all", "POST", "/", bundle(typ, reads...))
		got := regexp.MustCompile(`"total":[0-9]+`).FindAllString(string(a.body), -1)
		if typ == "batch" && len(got) == 3 && got[0] != `"total":1` { // it came second
			want = `"total":2 "total":3 "total":3`
		}
		if strings.Join(got, " ") != want {
			w.t.Errorf("%s: %v, want %s: %s", typ, got, want, a.body)
		}
	}
	before := w.want(200, "all", "GET", "/Observation/o2", "").header.Get("ETag")
	a := w.want(405, "all", "POST", "/", bundle("transaction",
		entry("", "PUT", "Observation/o2", observation("o2", "p1", "activity", 9)),
		entry("", "POST", "Observation/o1/$meta-add", tag)))
	if !strings.Contains(string(a.body), "Bundle.entry[1]") || !strings.Contains(string(a.body), "use a batch") {
		w.t.Errorf("$meta-add in a transaction: %s", a.body)
	}
	if got := w.want(200, "all", "GET", "/Observation/o2", "").header.Get("ETag"); got != before {
		w.t.Error("a transaction that was refused has changed something")
	}
}

// refusedInBundle sends entries that are refused.
func (w *world) refusedInBundle() {
	w.t.Helper()
	for _, q := range []inEntry{
		{"GET", "Patient/p1/nonsense", ""}, {"GET", "Patient/p1/Observation/o1", ""}, {"GET", "Patient/p1/$", ""},
		{"GET", "Observation/$nonsense", ""}, {"GET", "Patient/p1/$lastn?code=1", ""}, {"GET", "Observation/$everything", ""},
		{"GET", "$everything", ""}, {"GET", "Patient/$export", ""}, {"GET", "Patient/p1/$everything/x", ""},
		{"POST", "", `{"resourceType":"Bundle","type":"batch"}`}, {"POST", "/", `{"resourceType":"Patient"}`},
		{"POST", "Patient/p1/Observation", observation("", "p1", "vital-signs", 8)},
		{"POST", "Observation/_history", observation("", "p1", "vital-signs", 8)},
		{"PUT", "?_id=p1", `{"resourceType":"Patient","id":"p1"}`}, {"DELETE", "?_type=Patient", ""},
		{"DELETE", "Patient/p1/Observation?code=8867-4", ""}, {"DELETE", "_history", ""},
		{"PUT", "Patient/p1/$meta-add", parametersOf(`{"name":"meta","valueMeta":{"tag":[{"code":"x"}]}}`)},
		{"DELETE", "Observation/o1/$meta", ""},
	} {
		a := q.within(w, "all", "batch")
		if a.status != 400 || a.json["resourceType"] != "OperationOutcome" ||
			!strings.Contains(string(a.body), "Bundle.entry[0].request") {
			w.t.Errorf("%s %s: %d %s", q.method, q.url, a.status, a.body)
		}
		w.want(400, "all", "POST", "/", bundle("transaction", entry("", q.method, q.url, q.body)))
	}
	large := parametersOf(`{"name":"patient","valueString":"` + strings.Repeat("x", interaction.MaxParameters) + `"}`)
	if a := (inEntry{"POST", "Observation/$lastn", large}).within(w, "all", "batch"); a.status != 413 {
		w.t.Errorf("large Parameters: %d %s", a.status, a.body)
	}
	w.limits.BundleBytes = 4 << 10
	defer func() { w.limits.BundleBytes = 0 }()
	var many []string
	for range 20 {
		many = append(many, entry("", "GET", "Observation/$lastn?patient=p1&code=8867-4&max=9", ""),
			entry("", "GET", "Patient/p1/Observation", ""), entry("", "GET", "?_type=Observation", ""))
	}
	for _, typ := range []string{"batch", "transaction"} {
		a := w.want(200, "all", "POST", "/", bundle(typ, many...))
		var answers int
		for _, s := range statuses(a) {
			if s == "200 OK" {
				answers++
			} else if s != "422" && s != "403" {
				w.t.Errorf("an entry without room: %s", s)
			}
		}
		if answers == 0 || answers == len(many) {
			w.t.Errorf("%d answers in a %s of 4 KiB", answers, typ)
		}
	}
}
