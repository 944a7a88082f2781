package policy_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"pulsegate/fhir"
	"pulsegate/fhir/consent"
	"pulsegate/fhir/subscription"
)

// TestEverySurfaceIsWhatTheInterpreterSays: whatever a token asks, on every way
// out of the server, it is given what the interpreter lets it see, all of it
// and nothing beside it. That samples are answered as documents are, under any
// scopes and consents, is held by conformance/oracle; here are documents.
//
// -rapid.checks N has more cases; a failure prints its seed.
func TestEverySurfaceIsWhatTheInterpreterSays(t *testing.T) {
	asked := map[string]int{}
	rapid.Check(t, func(rt *rapid.T) {
		w := newSurfaces(t, rt, noFault)
		defer w.close()
		w.life()
		for k, n := range w.asked {
			asked[k] += n
		}
	})
	for _, surface := range []string{"read shown", "read hidden", "vread shown", "vread hidden", "history shown", "search some", "total", "include", "$lastn", "$stats", "export", "page", "page of another", "page after a withdrawal", "batch", "notification", "$events"} {
		if asked[surface] == 0 {
			t.Errorf("%s: never", surface)
		}
	}
	t.Log(asked)
}

// found is how the control fails.
type found struct{ what string }

// TestWrongServersAreFound is the control.
func TestWrongServersAreFound(t *testing.T) {
	for f := noFault + 1; f < faults; f++ {
		what := ""
		for seed := range 60 {
			if what = wrong(t, f, seed); what != "" {
				break
			}
		}
		if what == "" {
			t.Errorf("fault %d: nobody noticed", f)
		}
	}
}

// wrong is what a life with the fault comes to.
func wrong(t *testing.T, f fault, seed int) (what string) {
	gen := rapid.Custom(func(rt *rapid.T) (what string) {
		w := newSurfaces(t, rt, f)
		defer w.close()
		defer func() {
			switch r := recover().(type) {
			case nil:
			case found:
				what = r.what
			default:
				panic(r)
			}
		}()
		w.fail = func(s string) { panic(found{s}) }
		w.life()
		return ""
	})
	return gen.Example(seed)
}

// life is one world: data, consents, tokens, and questions.
func (w *surfaces) life() {
	t := w.t
	for _, p := range []string{"p1", "p2"} {
		w.put(&item{resource: resource{typ: "Patient", id: p, patient: p}}, map[string]any{"gender": "female"})
		w.put(&item{resource: resource{typ: "Device", id: "dev-" + p, patient: p}, vendor: "apple", refs: []string{"Patient/" + p}},
			map[string]any{"patient": map[string]any{"reference": "Patient/" + p}})
	}
	w.put(&item{resource: resource{typ: "Practitioner", id: "d1"}}, map[string]any{"active": true})
	w.put(&item{resource: resource{typ: "Group", id: "g1"}}, map[string]any{"type": "person", "actual": true,
		"member": []any{map[string]any{"entity": map[string]any{"reference": "Patient/p1"}}}})
	for i := range rapid.IntRange(4, 12).Draw(t, "observations") {
		id := fmt.Sprint("o", i)
		for v := range rapid.SampledFrom([]int{1, 1, 1, 2}).Draw(t, "versions") {
			w.observe(id, i*10+v)
		}
	}
	for i := range rapid.IntRange(1, 5).Draw(t, "consents") {
		w.agree(agreedTo{id: fmt.Sprint("c", i), patient: w.of("p1", "p1", "p2"), recipient: w.of("k0", "k1", consent.AnyRecipient, "k0"), vendor: w.of("", "", "apple", "oura"),
			categories: rapid.SampledFrom([][]string{nil, nil, {vitalSigns}, {vitalSigns, activity}}).Draw(t, "categories"), ended: w.one(6)})
	}
	if w.one(4) {
		w.agree(agreedTo{id: "deny", patient: w.of("p1", "p2"), recipient: w.of("k0", consent.AnyRecipient), deny: true})
	}
	w.tokens["k0"], w.tokens["k1"] = w.token("k0"), w.token("k1")
	w.subscribe()
	for _, name := range []string{"k0", "k1"} {
		k := w.tokens[name]
		w.reads(k)
		for range 4 {
			w.search(k)
		}
		w.operations(k)
		w.batch(k)
		w.exports(k)
	}
	w.paging()
	w.notified()
}

func (w *surfaces) of(s ...string) string { return rapid.SampledFrom(s).Draw(w.t, "of") }
func (w *surfaces) one(in int) bool       { return rapid.IntRange(1, in).Draw(w.t, "one") == 1 }

// observe makes the next version of an Observation of random content; of the
// patient that it is of already.
func (w *surfaces) observe(id string, at int) {
	x := &item{resource: resource{typ: observation, id: id, patient: w.of("p1", "p1", "p2")}, vendor: w.of("apple", "oura", ""), code: w.of(heartRate, steps), value: rapid.IntRange(40, 180).Draw(w.t, "value"), at: at}
	if old := w.current(observation + "/" + id); old != nil {
		x.patient, x.vendor = old.patient, old.vendor
	}
	x.categories = rapid.SampledFrom([][]string{{vitalSigns}, {vitalSigns}, {activity}, {vitalSigns, activity}}).Draw(w.t, "category")
	status := w.of("final", "final", "preliminary")
	var cats []any
	x.tokens = map[string][]accessToken{"status": {{System: "http://hl7.org/fhir/observation-status", Code: status}}, "code": {{System: loinc, Code: x.code}}}
	for _, c := range x.categories {
		cats = append(cats, map[string]any{"coding": []any{map[string]any{"system": catSystem, "code": c}}})
		x.tokens["category"] = append(x.tokens["category"], accessToken{System: catSystem, Code: c})
	}
	x.refs = []string{"Patient/" + x.patient}
	body := map[string]any{"status": status, "category": cats, "code": map[string]any{"coding": []any{map[string]any{"system": loinc, "code": x.code}}},
		"subject": map[string]any{"reference": "Patient/" + x.patient}, "effectiveDateTime": when(at).Format(time.RFC3339),
		"valueQuantity": map[string]any{"value": x.value, "unit": "1/min", "system": "http://unitsofmeasure.org", "code": "/min"}}
	if w.one(2) {
		x.refs = append(x.refs, "Device/dev-"+x.patient)
		body["device"] = map[string]any{"reference": "Device/dev-" + x.patient}
	}
	w.put(x, body)
}

func when(at int) time.Time {
	return time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC).Add(time.Duration(at) * time.Minute)
}

// token is a random token.
func (w *surfaces) token(name string) *token {
	k := &token{name: name}
	levels := []string{"system/"}
	if !w.one(2) {
		levels = []string{"patient/", "user/"}
		k.user = rapid.SampledFrom([]fhir.Ref{{Type: "Practitioner", ID: "d1"}, {Type: "Patient", ID: "p1"}, {Type: "Patient", ID: "p2"}, {Type: "RelatedPerson", ID: "r1"}}).Draw(w.t, "user")
		k.patient = w.of("", "p1", "p1", "p2")
		k.roles = rapid.SliceOfN(rapid.SampledFrom([]string{"practitioner", "patient", "reader", "keeper"}), 1, 3).Draw(w.t, "roles")
	}
	for len(k.scopes) == 0 || !w.one(3) && len(k.scopes) < 5 {
		if !k.backend() && w.one(6) {
			k.scopes = append(k.scopes, w.of("openid", "fhirUser", "launch/patient"))
			continue
		}
		s := w.of(levels...) + w.of("*", observation, observation, observation, "Patient", "Device", "Practitioner", "Consent") + "."
		if w.one(4) {
			k.scopes = append(k.scopes, s+w.of("read", "read", "write", "*"))
			continue
		}
		s += w.of("r", "s", "rs", "rs", "rs", "cud", "cruds")
		if strings.Contains(s, observation) {
			s += w.of("", "", "?category="+vitalSigns, "?category="+vitalSigns+","+activity, "?category="+catSystem+"|"+activity, "?status=final", "?category="+vitalSigns+"&status=final", "?code="+loinc+"|"+heartRate)
		}
		k.scopes = append(k.scopes, s)
	}
	return k
}

// touches reports whether anything of a type may be done at all, as the scopes
// read. A role may still take it away.
func (k *token) touches(do, typ string) bool {
	return slices.ContainsFunc(k.scopes, func(s string) bool {
		if s == "fhirUser" {
			return do == "r" && typ == k.user.Type
		}
		level, rest, ok := strings.Cut(s, "/")
		head, _, _ := strings.Cut(rest, "?")
		t, perm, _ := strings.Cut(head, ".")
		perm = strings.NewReplacer("read", "rs", "write", "cud", "*", "cruds").Replace(perm)
		return ok && (level == "system") == k.backend() && (t == "*" || t == typ) && strings.Contains(perm, do)
	})
}

func (w *surfaces) bad(k *token, what string, args ...any) {
	s := fmt.Sprintf("%s: %s", k, fmt.Sprintf(what, args...))
	if w.fail != nil {
		w.fail(s)
	}
	w.t.Fatal(s)
}

// gone compares how something hidden and something absent are answered.
func (w *surfaces) gone(k *token, typ, path, absent string) {
	a, b := w.ask(k.name, "GET", path, ""), w.ask(k.name, "GET", absent, "")
	if a.Code != b.Code || a.Body.String() != b.Body.String() || a.Code != 404 && a.Code != 403 {
		w.bad(k, "%s is answered with %d, what is not there with %d:\n%s\n%s", path, a.Code, b.Code, a.Body, b.Body)
	}
	if !k.touches("r", typ) && a.Code != 403 {
		w.bad(k, "%s without any scope: %d", path, a.Code)
	}
	if a.Header().Get("ETag") != "" || a.Header().Get("Last-Modified") != "" {
		w.bad(k, "%s tells of its version", path)
	}
}

// reads are read, vread and history of everything.
func (w *surfaces) reads(k *token) {
	for _, x := range w.items {
		now := w.current(x.ref())
		path := fmt.Sprintf("%s/_history/%d", x.ref(), x.version)
		if w.sees(k, "r", x) {
			if a := w.ask(k.name, "GET", path, ""); a.Code != 200 || !strings.Contains(a.Body.String(), `"id":"`+x.id+`"`) {
				w.bad(k, "%s is seen, and answered with %d", path, a.Code)
			}
			w.asked["vread shown"]++
		} else {
			w.gone(k, x.typ, path, x.typ+"/nobody/_history/1")
			w.asked["vread hidden"]++
		}
		if x != now {
			continue
		}
		if w.sees(k, "r", x) {
			if a := w.ask(k.name, "GET", x.ref(), ""); a.Code != 200 || a.Header().Get("ETag") != fmt.Sprintf(`W/"%d"`, x.version) {
				w.bad(k, "%s is seen, and answered with %d", x.ref(), a.Code)
			}
			w.asked["read shown"]++
		} else {
			w.gone(k, x.typ, x.ref(), x.typ+"/nobody")
			w.asked["read hidden"]++
		}
		w.history(k, x)
	}
}

func (w *surfaces) history(k *token, now *item) {
	var want []string
	for _, x := range slices.Backward(w.items) {
		if x.ref() == now.ref() && w.sees(k, "r", x) {
			want = append(want, strconv.Itoa(x.version))
		}
	}
	if len(want) == 0 {
		w.gone(k, now.typ, now.ref()+"/_history", now.typ+"/nobody/_history")
		return
	}
	a := w.ask(k.name, "GET", now.ref()+"/_history", "")
	if a.Code != 200 {
		w.bad(k, "history of %s: %d", now.ref(), a.Code)
	}
	var got []string
	b := w.parse("history", a)
	for _, e := range b.Entry {
		var r struct{ Meta struct{ VersionID string } }
		if err := json.Unmarshal(e.Resource, &r); err != nil {
			w.bad(k, "history of %s: %v", now.ref(), err)
		}
		got = append(got, r.Meta.VersionID)
	}
	if !slices.Equal(got, want) || b.Total == nil || *b.Total != len(want) {
		w.bad(k, "history of %s has %v, want %v", now.ref(), got, want)
	}
	w.asked["history shown"]++
}

// query is a random search.
func (w *surfaces) query() (typ, q string) {
	typ = w.of(observation, observation, observation, observation, "Patient", "Device", "Consent", "Practitioner")
	if typ != observation {
		return typ, w.of("", "_id=p1,dev-p1,c0", "_lastUpdated=gt2020-01-01")
	}
	clauses := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"patient=p1", "subject=Patient/p2", "patient=p1,p2", "category=" + vitalSigns, "category:not=" + activity, "code=" + loinc + "%7C" + heartRate,
		"status=final", "date=ge2026-03-01T08:30:00Z", "date=lt2026-03-01T09:00:00Z", "value-quantity=gt90", "_id=o1,o2,o3,o4", "device=dev-p1", "device:missing=true", "combo-code=" + steps, "_lastUpdated=gt2020-01-01",
		"subject:Patient=p1", "code:text=heart", "device=Device/dev-p2", "status:not=final", "date=2026-03-01"}), 0, 3, rapid.ID[string]).Draw(w.t, "clauses")
	if w.one(2) {
		clauses = append(clauses, "_sort="+w.of("date", "-date", "_id", "-_lastUpdated", "status,-date"))
	}
	if w.one(3) {
		clauses = append(clauses, "_summary="+w.of("true", "data", "text"))
	}
	return typ, strings.Join(clauses, "&")
}

// all reads a search to its end.
func (w *surfaces) all(k, path string) (matches, included []string, status int) {
	for path != "" {
		a := w.ask(k, "GET", path, "")
		if a.Code != 200 {
			return nil, nil, a.Code
		}
		b := w.parse(path, a)
		for _, e := range b.Entry {
			ref := strings.TrimPrefix(e.FullURL, fhirBase+"/")
			switch e.Search.Mode {
			case "match":
				matches = append(matches, ref)
			case "include":
				included = append(included, ref)
			}
		}
		path = b.next()
	}
	return matches, included, 200
}

// search compares with what the root finds, which no filter touches.
func (w *surfaces) search(k *token) {
	typ, q := w.query()
	every, _, status := w.all("root", typ+"?"+q+"&_count=1000")
	if status != 200 {
		w.bad(k, "%s?%s: the root has %d", typ, q, status)
	}
	var want []string
	for _, ref := range every {
		if x := w.current(ref); x != nil && w.sees(k, "s", x) {
			want = append(want, ref)
		}
	}
	include := ""
	if typ == observation && w.one(2) {
		include = "&_include=Observation:device&_include=Observation:subject"
	}
	got, included, status := w.all(k.name, typ+"?"+q+"&_count="+w.of("1", "2", "3", "100")+include)
	switch {
	case !k.touches("s", typ):
		if status != 403 {
			w.bad(k, "%s?%s without any scope: %d", typ, q, status)
		}
		return
	case status == 403 && len(want) == 0:
		return // a role takes all of the type away
	case status != 200 || !slices.Equal(got, want):
		w.bad(k, "%s?%s has %d %v, want %v of %v", typ, q, status, got, want, every)
	}
	if len(want) > 0 && len(want) < len(every) {
		w.asked["search some"]++
	}
	for _, x := range [][2]string{{"_count=0&_total=accurate", ""}, {"_summary=count", ""}} {
		a := w.ask(k.name, "GET", typ+"?"+strings.ReplaceAll(q, "_summary=", "_x=")+"&"+x[0], "", "Prefer", "handling=lenient")
		if a.Code != 200 {
			w.bad(k, "%s?%s&%s: %d %s", typ, q, x[0], a.Code, a.Body)
		}
		if b := w.parse("total", a); b.Total == nil || *b.Total != len(want) {
			w.bad(k, "%s?%s&%s: the total is not %d: %s", typ, q, x[0], len(want), a.Body)
		}
		w.asked["total"]++
	}
	if include != "" {
		w.included(k, want, included)
	}
}

func (w *surfaces) included(k *token, matches, got []string) {
	want := map[string]bool{}
	for _, ref := range matches {
		for _, to := range w.current(ref).refs {
			if x := w.current(to); w.sees(k, "s", x) || w.sees(k, "r", x) {
				want[to] = true
			}
		}
	}
	have := map[string]bool{}
	for _, ref := range got {
		have[ref] = true
	}
	if fmt.Sprint(have) != fmt.Sprint(want) {
		w.bad(k, "includes %v, want %v", have, want)
	}
	w.asked["include"]++
}

// mine are the Observations of a patient and a code that k finds, newest first.
func (w *surfaces) mine(k *token, do, patient, code string) (out []*item) {
	for _, x := range w.items {
		if x.typ == observation && x == w.current(x.ref()) && x.patient == patient && x.code == code && w.sees(k, do, x) {
			out = append(out, x)
		}
	}
	slices.SortFunc(out, func(a, b *item) int { return b.at - a.at })
	return out
}

// operations are $lastn and $stats.
func (w *surfaces) operations(k *token) {
	patient, code := w.of("p1", "p2"), w.of(heartRate, steps)
	want := w.mine(k, "s", patient, code)
	query := "patient=" + patient + "&code=" + loinc + "%7C" + code
	a := w.ask(k.name, "GET", "Observation/$lastn?max=2&"+query, "")
	if a.Code == 403 {
		if len(want) > 0 {
			w.bad(k, "$lastn: 403, want %d", len(want))
		}
		return
	}
	if !k.touches("s", observation) || a.Code != 200 {
		w.bad(k, "$lastn: %d %s", a.Code, a.Body)
	}
	var got, newest []string
	for _, e := range w.parse("$lastn", a).Entry {
		got = append(got, strings.TrimPrefix(e.FullURL, fhirBase+"/"))
	}
	for _, x := range want[:min(2, len(want))] {
		newest = append(newest, x.ref())
	}
	if !slices.Equal(got, newest) {
		w.bad(k, "$lastn has %v, want %v", got, newest)
	}
	w.asked["$lastn"]++
	a = w.ask(k.name, "GET", "Observation/$stats?statistic=count,sum&subject=Patient/"+patient+"&coding="+loinc+"%7C"+code, "")
	count, sum := statistic(a.Body.String(), "count"), statistic(a.Body.String(), "sum")
	total := 0
	for _, x := range want {
		total += x.value
	}
	if a.Code != 200 || len(want) > 0 && (count != strconv.Itoa(len(want)) || sum != strconv.Itoa(total)) || len(want) == 0 && count != "" && count != "0" {
		w.bad(k, "$stats: %d, count %q and sum %q, want %d and %d: %s", a.Code, count, sum, len(want), total, a.Body)
	}
	w.asked["$stats"]++
}

// statistic is the value of one component, as written.
func statistic(body, code string) string {
	_, rest, ok := strings.Cut(body, `"code":"`+code+`"`)
	if !ok {
		return ""
	}
	if _, rest, ok = strings.Cut(rest, `"value":`); !ok {
		return ""
	}
	i := strings.IndexAny(rest, ",}")
	return rest[:max(i, 0)]
}

// batch asks for several things at once.
func (w *surfaces) batch(k *token) {
	var entries, want []string
	for _, x := range w.items {
		if x.typ != observation || x != w.current(x.ref()) {
			continue
		}
		entries = append(entries, `{"request":{"method":"GET","url":"`+x.ref()+`"}}`)
		if w.sees(k, "r", x) {
			want = append(want, x.ref())
		}
	}
	a := w.ask(k.name, "POST", fhirBase+"/", `{"resourceType":"Bundle","type":"batch","entry":[`+strings.Join(entries, ",")+`]}`)
	if a.Code != 200 {
		w.bad(k, "batch: %d %s", a.Code, a.Body)
	}
	var got []string
	for _, e := range w.parse("batch", a).Entry {
		var r struct{ ResourceType, ID string }
		if len(e.Resource) > 0 && strings.HasPrefix(e.Response.Status, "200") {
			if err := json.Unmarshal(e.Resource, &r); err != nil {
				w.bad(k, "batch: %v", err)
			}
			got = append(got, r.ResourceType+"/"+r.ID)
		}
	}
	if !slices.Equal(got, want) {
		w.bad(k, "batch has %v, want %v", got, want)
	}
	w.asked["batch"]++
}

// exports are the three levels of $export: for backends only.
func (w *surfaces) exports(k *token) {
	level := w.of("$export", "Patient/$export", "Group/g1/$export")
	const types = observation + ",Device,Patient"
	a := w.ask(k.name, "GET", level+"?_type="+url.QueryEscape(types), "", "Prefer", "respond-async", "Accept", "application/fhir+json")
	allowed := k.backend()
	for _, t := range strings.Split(types, ",") {
		allowed = allowed && k.touches("r", t)
	}
	if !allowed {
		if a.Code != 403 && a.Code != 404 {
			w.bad(k, "%s: %d", level, a.Code)
		}
		return
	}
	if level == "Group/g1/$export" && a.Code == 404 || a.Code == 403 {
		return // the Group itself is not to be seen
	}
	if a.Code != 202 {
		w.bad(k, "%s: %d %s", level, a.Code, a.Body)
	}
	job := a.Header().Get("Content-Location")
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		if a = w.ask(k.name, "GET", job, ""); a.Code == 200 {
			break
		}
		if a.Code != 202 || time.Now().After(end) {
			w.bad(k, "%s: status %d", level, a.Code)
		}
		time.Sleep(5 * time.Millisecond)
	}
	if other := w.ask(w.other(k), "GET", job, ""); other.Code != 404 && other.Code != 403 {
		w.bad(k, "another client is told of the export: %d", other.Code)
	}
	var m struct{ Output []struct{ URL string } }
	if err := json.Unmarshal(a.Body.Bytes(), &m); err != nil {
		w.bad(k, "%s: %v", level, err)
	}
	if w.one(3) { // what is withdrawn before the download is not in it
		w.withdraw()
	}
	got := map[string]bool{}
	for _, f := range m.Output {
		if o := w.ask(w.other(k), "GET", f.URL, ""); o.Code == 200 {
			w.bad(k, "another client downloads the file")
		}
		a := w.ask(k.name, "GET", f.URL, "")
		for line := range strings.Lines(a.Body.String()) {
			var r struct{ ResourceType, ID string }
			if err := json.Unmarshal([]byte(line), &r); err != nil {
				w.bad(k, "%s: %v", level, err)
			}
			got[r.ResourceType+"/"+r.ID] = true
		}
	}
	want := map[string]bool{}
	for _, x := range w.items {
		if x != w.current(x.ref()) || !strings.Contains(types, x.typ) || level == "Group/g1/$export" && x.patient != "p1" {
			continue
		}
		if w.sees(k, "r", x) {
			want[x.ref()] = true
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		w.bad(k, "%s has %v, want %v", level, got, want)
	}
	w.asked["export"]++
}

func (w *surfaces) other(k *token) string {
	if k.name == "k0" {
		return "k1"
	}
	return "k0"
}

// withdraw ends a consent.
func (w *surfaces) withdraw() {
	a := w.agreed[rapid.IntRange(0, len(w.agreed)-1).Draw(w.t, "withdrawn")]
	if !a.deny {
		a.ended = true
		w.agree(a)
	}
}

// paging follows a page's link in another's name, and after a withdrawal: what
// comes is what the asker may see now, of the rest.
func (w *surfaces) paging() {
	k := w.tokens[w.of("k0", "k1")]
	first := w.ask(k.name, "GET", "Observation?_sort=date&_count=1", "")
	if first.Code != 200 {
		return
	}
	next := w.parse("page", first).next()
	if next == "" {
		return
	}
	w.asked["page"]++
	matched := w.parse("page", first).Entry
	at := w.current(strings.TrimPrefix(matched[0].FullURL, fhirBase+"/"))
	rest := func(name string) []string {
		var out []*item
		for _, x := range w.items {
			if x.typ == observation && x == w.current(x.ref()) && x.at > at.at && w.sees(w.tokens[name], "s", x) {
				out = append(out, x)
			}
		}
		slices.SortFunc(out, func(a, b *item) int { return a.at - b.at })
		var refs []string
		for _, x := range out {
			refs = append(refs, x.ref())
		}
		return refs
	}
	if got, _, status := w.all(w.other(k), next); status == 200 {
		if want := rest(w.other(k)); !slices.Equal(got, want) {
			w.bad(w.tokens[w.other(k)], "the page of another has %v, want %v", got, want)
		}
		w.asked["page of another"]++
	} else if status != 403 && status != 400 {
		w.bad(k, "the page of another: %d", status)
	}
	w.withdraw()
	got, _, status := w.all(k.name, next)
	if want := rest(k.name); status != 200 || !slices.Equal(got, want) {
		w.bad(k, "after a withdrawal the page has %d %v, want %v", status, got, want)
	}
	w.asked["page after a withdrawal"]++
}

// subscribe makes a Subscription of k0, if it may have one.
func (w *surfaces) subscribe() {
	k := w.tokens["k0"]
	if !k.backend() || w.one(2) {
		return
	}
	for _, s := range []string{"Subscription.cruds", observation + ".rs?category=" + vitalSigns} {
		k.scopes = append(k.scopes, "system/"+s)
	}
	const ext = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/"
	body := `{"resourceType":"Subscription","id":"s1","status":"requested","reason":"test","criteria":"` + subscription.Topic + `","channel":{"type":"rest-hook","endpoint":"` + w.receiver.URL +
		`","payload":"application/fhir+json","_payload":{"extension":[{"url":"` + ext + `backport-payload-content","valueCode":"full-resource"}]}}}`
	if a := w.ask(k.name, "PUT", "Subscription/s1", body); a.Code != 201 {
		w.bad(k, "Subscription: %d %s", a.Code, a.Body)
	}
	for end := time.Now().Add(20 * time.Second); !strings.Contains(w.ask(k.name, "GET", "Subscription/s1", "").Body.String(), `"status":"active"`); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			w.bad(k, "the Subscription is never active")
		}
	}
	w.subscribed = true
}

// notified has Observations written, and compares what is sent and what
// $events gives.
func (w *surfaces) notified() {
	if !w.subscribed {
		return
	}
	k := w.tokens["k0"]
	n := 2 + rapid.IntRange(0, 2).Draw(w.t, "new")
	want := map[string]bool{}
	for i := range n {
		id := fmt.Sprint("n", i)
		w.observe(id, 1000+i)
		if x := w.current(observation + "/" + id); w.sees(k, "r", x) {
			want[x.ref()] = true
		}
	}
	told := func(bodies ...[]byte) map[string]bool {
		got := map[string]bool{}
		for _, b := range bodies {
			var x bundle
			if err := json.Unmarshal(b, &x); err != nil {
				w.bad(k, "notification: %v", err)
			}
			for _, e := range x.Entry {
				if ref := strings.TrimPrefix(e.FullURL, fhirBase+"/"); strings.HasPrefix(ref, observation) {
					got[ref] = true
				}
			}
		}
		return got
	}
	sent := func() map[string]bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return told(w.received...)
	}
	settled := w.db.T()
	for end := time.Now().Add(20 * time.Second); fmt.Sprint(sent()) != fmt.Sprint(want); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			w.bad(k, "told of %v, want %v", sent(), want)
		}
	}
	_ = settled
	w.asked["notification"]++
	if w.one(2) {
		w.withdraw()
		for ref := range want {
			if !w.sees(k, "r", w.current(ref)) {
				delete(want, ref)
			}
		}
	}
	a := w.ask(k.name, "GET", "Subscription/s1/$events?content=full-resource", "")
	if got := told(a.Body.Bytes()); a.Code != 200 || fmt.Sprint(got) != fmt.Sprint(want) {
		w.bad(k, "$events: %d %v, want %v", a.Code, got, want)
	}
	if o := w.ask("k1", "GET", "Subscription/s1/$events", ""); o.Code == http.StatusOK {
		w.bad(w.tokens["k1"], "another's events are given out")
	}
	w.asked["$events"]++
}
