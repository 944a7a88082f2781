package enforce

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

func (r *run) ctx() context.Context { return context.Background() }

// operations checks $lastn, $stats, $time-buckets, $everything and $ehr-bundle of every
// patient.
func (r *run) operations(tok *token, bearer string) error {
	for _, p := range patients {
		if err := r.ehrBundle(tok, bearer, p); err != nil {
			return err
		}
		if err := r.everything(tok, bearer, p); err != nil {
			return err
		}
		if err := r.preferredStats(tok, bearer, p); err != nil {
			return err
		}
		for _, code := range append(slices.Clone(codes), derivedCode) {
			var match []*version
			for _, ref := range r.visible(tok, "s", r.of("Observation")) {
				if v := r.d.current(ref); v.patient == p && v.code == code {
					match = append(match, v)
				}
			}
			if err := r.lastn(tok, bearer, p, code, match); err != nil {
				return err
			}
			if code == derivedCode {
				continue // $stats and $time-buckets leave out derived values
			}
			if err := r.timeBuckets(tok, bearer, p, code, match); err != nil {
				return err
			}
			if err := r.stats(tok, bearer, p, code, match); err != nil {
				return err
			}
		}
	}
	return nil
}

// lastn checks $lastn, with max=2, against the visible Observations in match.
func (r *run) lastn(tok *token, bearer, p, code string, match []*version) error {
	slices.SortStableFunc(match, func(a, b *version) int { return b.at - a.at })
	var want []string
	for i, v := range match {
		if i < 2 || v.at == match[1].at {
			want = append(want, v.reference)
		}
	}
	q := "/Observation/$lastn?max=2&patient=Patient/" + p + "&code=" + url.QueryEscape(loinc+"|"+code) +
		"&_include=Observation:device"
	a := r.w.get(bearer, q)
	if !tok.may("s", "Observation") {
		if a.status != 403 {
			return fmt.Errorf("%s: %d, want 403", q, a.status)
		}
		return nil
	}
	r.count("lastn")
	if got := a.entries("match"); a.status != 200 || !slices.Equal(sorted(got), sorted(want)) {
		return fmt.Errorf("%s: %d, %v, want %v", q, a.status, got, want)
	}
	devices := map[string]bool{}
	for _, ref := range want {
		for _, d := range r.d.current(ref).refs["device"] {
			if v := r.d.current(d); v != nil && (tok.sees(r.provisions, "s", v) || tok.sees(r.provisions, "r", v)) {
				devices[d] = true
			}
		}
	}
	for _, d := range a.entries("include") {
		if !devices[d] {
			return fmt.Errorf("%s shows %s", q, d)
		}
		delete(devices, d)
	}
	if len(devices) > 0 {
		return fmt.Errorf("%s lacks %v", q, devices)
	}
	return nil
}

// stats checks $stats against the visible Observations in match.
func (r *run) stats(tok *token, bearer, p, code string, match []*version) error {
	q := "/Observation/$stats?subject=Patient/" + p + "&system=" + url.QueryEscape(loinc) + "&code=" + code +
		"&statistic=count,sum&include=true"
	a := r.w.get(bearer, q)
	if !tok.may("s", "Observation") {
		if a.status != 403 {
			return fmt.Errorf("%s: %d, want 403", q, a.status)
		}
		return nil
	}
	r.count("stats")
	n, sum := 0.0, 0.0
	var want []string
	for _, v := range match {
		if v.measured {
			n, sum = n+1, sum+float64(v.value)
			want = append(want, v.reference)
		}
	}
	got, sources, err := statistics(a.body)
	if err != nil {
		return err
	}
	if a.status != 200 || got["count"] != n || got["sum"] != sum || !slices.Equal(sorted(sources), sorted(want)) {
		return fmt.Errorf("%s: %d, %v of %v, want %v and %v of %v", q, a.status, got, sources, n, sum, want)
	}
	return nil
}

// statistics returns the sum of each statistic over the units, and the sources.
func statistics(body []byte) (got map[string]float64, sources []string, err error) {
	var out struct {
		Parameter []struct {
			Name     string
			Resource struct {
				ID        string
				Component []struct {
					Code          struct{ Coding []struct{ Code string } }
					ValueQuantity *struct{ Value float64 }
				}
			}
		}
	}
	if err := json.Unmarshal(body, &out); err != nil {
		return nil, nil, err
	}
	got = map[string]float64{}
	for _, param := range out.Parameter {
		if param.Name == "source" {
			sources = append(sources, "Observation/"+param.Resource.ID)
		}
		for _, c := range param.Resource.Component {
			if c.ValueQuantity != nil && param.Name == "statistics" {
				got[c.Code.Coding[0].Code] += c.ValueQuantity.Value
			}
		}
	}
	return got, sources, nil
}

// ehrBundle checks the pages of $ehr-bundle: they contain the visible heart rates that
// qualify for US Core, each with the name of its Device if that is visible and not the
// one of another patient.
func (r *run) ehrBundle(tok *token, bearer, p string) error {
	q := "/Patient/" + p + "/$ehr-bundle?_count=" + fmt.Sprint(r.tc.pageCount)
	if !tok.may("s", "Observation") {
		if a := r.w.get(bearer, q); a.status != 403 {
			return fmt.Errorf("%s: %d, want 403", q, a.status)
		}
		return nil
	}
	r.count("ehr-bundle")
	var want []string
	for _, ref := range r.visible(tok, "s", r.of("Observation")) {
		v := r.d.current(ref)
		status := v.tokens["status"][0].code
		if v.patient != p || v.vendor == "" || v.code != codes[0] || !slices.Contains(v.cats, "vital-signs") ||
			status != "final" && status != "amended" {
			continue
		}
		device := ""
		for _, d := range v.refs["device"] {
			if dv := r.d.current(d); dv != nil && (dv.patient == "" || dv.patient == p) &&
				(tok.sees(r.provisions, "s", dv) || tok.sees(r.provisions, "r", dv)) {
				device = d
				r.count("ehr-bundle with a Device")
			}
		}
		want = append(want, ref+" "+device)
	}
	var got []string
	for next := q; next != ""; {
		a := r.w.get(bearer, next)
		if a.status != 200 || a.json["type"] != "batch" {
			return fmt.Errorf("%s: %d %s", next, a.status, a.body)
		}
		entries, _ := a.json["entry"].([]any)
		for _, e := range entries {
			inner, _ := e.(map[string]any)["resource"].(map[string]any)
			got = append(got, strings.Join(submitted(inner), " "))
			if len(submitted(inner)) == 1 {
				got[len(got)-1] += " "
			}
		}
		next = a.link("next")
	}
	if !slices.Equal(sorted(got), sorted(want)) {
		return fmt.Errorf("%s: %v, want %v", q, got, want)
	}
	return nil
}

// submitted returns the references of the stored resources that an entry for an EHR
// discloses: the Observation by its identifier, and the Device by its name.
func submitted(resource map[string]any) (out []string) {
	list, _ := resource["identifier"].([]any)
	for _, x := range list {
		if id, _ := x.(map[string]any); id["system"] == "urn:ietf:rfc:3986" {
			out = append(out, strings.TrimPrefix(fmt.Sprint(id["value"]), base+"/"))
		}
	}
	contained, _ := resource["contained"].([]any)
	for _, x := range contained {
		names, _ := x.(map[string]any)["deviceName"].([]any)
		for _, n := range names {
			out = append(out, "Device/"+fmt.Sprint(n.(map[string]any)["name"]))
		}
	}
	return out
}

// exported lists the types that an export contains.
var exported = map[string][]string{ // read only
	"/$export": exportedOf(func(string) bool { return true }),
	"/Patient/$export": exportedOf(func(t string) bool {
		code, _ := search.PatientParam(t)
		return code != "" && t != "Group"
	}),
}

// exportedOf returns the types that may be exported and that in accepts.
func exportedOf(in func(string) bool) []string {
	return slices.DeleteFunc(slices.Sorted(slices.Values(fhir.Types)), func(t string) bool {
		switch t {
		case "AuditEvent", "Binary", "Bundle", "OperationOutcome", "Parameters", "Subscription":
			return true
		}
		return !in(t)
	})
}

// exports checks that the files of each export contain exactly the visible resources,
// and that forbidden exports are refused.
func (r *run) exports(tok *token, bearer string) error {
	for _, path := range []string{"/$export", "/Patient/$export", "/Group/g1/$export", "/Group/absent/$export"} {
		types := exported[path]
		group := strings.HasPrefix(path, "/Group")
		if group {
			types = exported["/Patient/$export"]
		}
		types = slices.DeleteFunc(slices.Clone(types), func(t string) bool { return tok.person || !tok.may("r", t) })
		want := 202
		switch {
		case len(types) == 0 || group && !tok.may("r", "Group"):
			want = 403
		case group && (path != "/Group/g1/$export" || !tok.sees(r.provisions, "r", r.d.current("Group/g1"))):
			want = 404
		}
		a := r.w.do(bearer, "GET", path, "", "Prefer", "respond-async")
		r.count("export " + fmt.Sprint(want))
		if a.status != want {
			return fmt.Errorf("%s: %d, want %d", path, a.status, want)
		}
		if want != 202 {
			continue
		}
		wanted := map[string]bool{}
		for _, t := range types {
			for _, ref := range r.visible(tok, "r", r.of(t)) {
				v := r.d.current(ref)
				switch {
				case path == "/$export":
				case v.patient == "" || group && !slices.Contains(r.tc.group, v.patient):
					continue
				}
				wanted[ref] = true
			}
		}
		if err := r.files(bearer, path, a.header.Get("Content-Location"), wanted); err != nil {
			return err
		}
		r.count("export")
	}
	return nil
}

// files downloads the files of an export and compares them with want.
func (r *run) files(bearer, path, status string, want map[string]bool) error {
	var a answer
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(200 * time.Microsecond) {
		if a = r.w.get(bearer, status); a.status == 200 {
			break
		}
		if a.status != 202 && a.status != 429 || time.Now().After(end) {
			return fmt.Errorf("%s: status %d %s", path, a.status, a.body)
		}
	}
	list, _ := a.json["output"].([]any)
	for _, entry := range list {
		f := r.w.get(bearer, entry.(map[string]any)["url"].(string))
		if f.status != 200 {
			return fmt.Errorf("%s: file %d", path, f.status)
		}
		for line := range bytes.Lines(f.body) {
			var res struct{ ResourceType, ID string }
			if err := json.Unmarshal(line, &res); err != nil {
				return err
			}
			ref := res.ResourceType + "/" + res.ID
			if !want[ref] {
				return fmt.Errorf("%s contains %s, which is not expected or a duplicate", path, ref)
			}
			delete(want, ref)
		}
	}
	if len(want) > 0 {
		return fmt.Errorf("%s lacks %v", path, want)
	}
	return nil
}

// pages checks that a page link works after the consents have changed, and not for
// another client.
func (r *run) pages(a *token, ta string, b *token, tb string) error {
	all, err := r.w.operator("Observation", "_sort=-date&_count=1000")
	if err != nil {
		return err
	}
	first := r.w.get(ta, "/Observation?_sort=-date&_count="+fmt.Sprint(r.tc.pageCount))
	next, shown := first.link("next"), first.entries("match")
	follow := func(tok *token, bearer string) error {
		if next == "" {
			return nil
		}
		rest := all[slices.Index(all, shown[len(shown)-1])+1:]
		want := r.visible(tok, "s", rest)
		var got []string
		for url := next; url != ""; {
			page := r.w.get(bearer, url)
			if page.status != 200 {
				return fmt.Errorf("page: %d %s", page.status, page.body)
			}
			got, url = append(got, page.entries("match")...), page.link("next")
		}
		if !slices.Equal(got, want) {
			return fmt.Errorf("pages after %v: %v, want %v", shown, got, want)
		}
		return nil
	}
	// A page link is bound to its client. It is invalid for others.
	other := func() error {
		if next == "" {
			return nil
		}
		want := 400
		if !b.may("s", "Observation") {
			want = 403
		}
		if page := r.w.get(tb, next); page.status != want {
			return fmt.Errorf("a page of another client: %d, want %d", page.status, want)
		}
		r.count("page of another")
		return nil
	}
	if err := other(); err != nil {
		return err
	}
	if r.tc.notify {
		return nil // the consents change in notifications
	}
	r.change()
	if next != "" {
		r.count("page after a change")
	}
	if err := follow(a, ta); err != nil {
		return err
	}
	return other()
}

// change replaces the provisions by nextProvisions.
func (r *run) change() {
	for i := range r.tc.nextProvisions {
		if i >= len(r.provisions) || r.provisions[i].active != r.tc.nextProvisions[i].active {
			r.d.consent(&r.tc.nextProvisions[i])
		}
	}
	r.provisions = r.tc.nextProvisions
}

// trail checks that a search of the AuditEvents of the server returns exactly the visible
// ones. Each request adds events, the search itself included.
func (r *run) trail(tok *token, bearer string) error {
	for _, path := range []string{"/Patient/p1", "/Patient/p2", "/Patient/absent", "/Observation?patient=p1",
		"/Consent?patient=p2"} {
		r.w.get(bearer, path)
	}
	q := "date=ge2020-01-01&_count=1000"
	before, err := r.w.operator("AuditEvent", q)
	if err != nil {
		return err
	}
	a := r.w.get(bearer, "/AuditEvent?"+q)
	if !tok.may("s", "AuditEvent") {
		if a.status != 403 {
			return fmt.Errorf("the trail: %d, want 403", a.status)
		}
		return nil
	}
	r.count("trail")
	got := a.entries("match")
	for _, ref := range before {
		v, err := r.event(ref)
		if err != nil {
			return err
		}
		if sees := tok.sees(r.provisions, "s", v); sees != slices.Contains(got, ref) {
			return fmt.Errorf("the trail: %s of patient %q: visible in the model %v, shown %v", ref, v.patient, sees,
				got)
		}
		// A read gives the same result.
		want := 200
		if !tok.may("r", "AuditEvent") {
			want = 403
		} else if !tok.sees(r.provisions, "r", v) {
			want = 404
		}
		if one := r.w.get(bearer, "/"+ref); one.status != want {
			return fmt.Errorf("%s of patient %q: %d, want %d", ref, v.patient, one.status, want)
		}
	}
	for _, ref := range got { // includes events written in between
		v, err := r.event(ref)
		if err != nil {
			return err
		}
		if !tok.sees(r.provisions, "s", v) {
			return fmt.Errorf("the trail shows %s of patient %q", ref, v.patient)
		}
	}
	return nil
}

// event returns an AuditEvent for the model, with the patient that its text names.
func (r *run) event(ref string) (*version, error) {
	id := strings.TrimPrefix(ref, "AuditEvent/")
	res, _, err := r.w.db.Read(r.ctx(), fhir.Ref{Type: "AuditEvent", ID: id}, 0)
	if err != nil {
		return nil, err
	}
	type reference struct{ Reference string }
	var e struct {
		Action string
		Agent  []struct{ Who reference }
		Entity []struct{ What reference }
	}
	if err := json.Unmarshal(res.JSON, &e); err != nil {
		return nil, err
	}
	v := &version{typ: "AuditEvent", id: id, reference: ref, tokens: map[string][]coded{"action": {{"", e.Action}}}}
	var refs []string
	for _, agent := range e.Agent {
		refs = append(refs, agent.Who.Reference)
	}
	for _, entity := range e.Entity {
		refs = append(refs, entity.What.Reference)
	}
	for _, ref := range refs {
		if p, ok := strings.CutPrefix(ref, "Patient/"); ok && v.patient == "" {
			v.patient = p
		}
	}
	return v, nil
}

// notifications checks that a Subscription of a backend delivers what its registered
// scopes allow, both when events are numbered and when they are sent, and that $events
// returns what the token allows.
func (r *run) notifications(tok *token, bearer string) error {
	if !r.tc.notify {
		return nil
	}
	if tok.person {
		for _, q := range []string{"/Subscription/$status", "/Subscription/s1/$status", "/Subscription/s1/$events"} {
			if a := r.w.get(bearer, q); a.status != 403 {
				return fmt.Errorf("%s for a person: %d", q, a.status)
			}
		}
		r.change()
		return nil
	}
	owner := token{client: tok.client, scopes: r.tc.scopes}
	r.subscribe("s1", tok.client)
	r.subscribeSocket("w1", tok.client)
	// Once the Observation of the witness is numbered, all before it are.
	witness := token{client: "witness", scopes: []string{"system/Observation.rs"}}
	r.w.register(&witness, witness.scopes)
	r.subscribe("s2", witness.client)
	var events []*version
	loggedEvent := 0
	for i, m := range r.tc.added {
		v := m.version(fmt.Sprint("n", i))
		r.d.put(v, m.body())
		if owner.sees(r.provisions, "r", v) {
			events = append(events, v)
		}
		if witness.sees(r.provisions, "r", v) {
			loggedEvent++
		}
	}
	derived, err := r.derive()
	if err != nil {
		return err
	}
	for _, v := range derived {
		if owner.sees(r.provisions, "r", v) {
			r.count("event of a derived value")
			events = append(events, v)
		}
		if witness.sees(r.provisions, "r", v) {
			loggedEvent++
		}
	}
	last := measure{author: witness.client, status: "final", code: codes[0]}
	r.d.put(last.version("last"), last.body())
	if err := r.numbered("s2", loggedEvent+1); err != nil {
		return err
	}
	if err := r.delivered(events); err != nil {
		return err
	}
	r.change()
	want := 200
	if !tok.may("r", "Subscription") {
		want = 403
	}
	a := r.w.get(bearer, "/Subscription/s1/$events")
	if a.status != want {
		return fmt.Errorf("$events: %d, want %d", a.status, want)
	}
	// The Subscription of another client seems absent, regardless of the scopes.
	none := 404
	if want != 200 {
		none = want
	}
	for _, path := range []string{"s2", "s2/_history", "s2/_history/1", "s2/$status", "s2/$events",
		"s2/$get-ws-binding-token"} {
		if a := r.w.get(bearer, "/Subscription/"+path); a.status != none {
			return fmt.Errorf("Subscription/%s of another client: %d, want %d", path, a.status, none)
		}
		r.count("another's subscription")
	}
	if a := r.w.do(bearer, "POST", "/Subscription/s2/$resend", ""); a.status != none {
		return fmt.Errorf("$resend of another client: %d, want %d", a.status, none)
	}
	if err := errors.Join(r.resent(&owner, bearer, want, events), r.socket(&owner, bearer, want, events)); err != nil {
		return err
	}
	if want == 200 {
		var seen []*version
		for _, v := range events {
			if tok.sees(r.provisions, "r", v) {
				seen = append(seen, v)
			} else {
				r.count("hidden event")
			}
		}
		if err := r.notice(a.body, len(events), seen); err != nil {
			return fmt.Errorf("$events: %w", err)
		}
	}
	return nil
}

// subscribe creates a Subscription of a client.
func (r *run) subscribe(id, client string) {
	res := fhir.Resource{Type: "Subscription", ID: id,
		JSON: []byte(fhir.Prefix("Subscription", id) + `},"status":"requested","reason":"test","criteria":"` +
			fhir.Canonical + `/SubscriptionTopic/observation-recorded","channel":{"type":"rest-hook","endpoint":"` +
			r.w.receiver.URL + "/" + id +
			`","payload":"application/fhir+json","_payload":{"extension":[{"url":"http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-payload-content","valueCode":"` +
			r.tc.content + `"}]}}}`)}
	must(r.w.db.Commit(r.ctx(), &store.Batch{Writes: []store.Write{{Resource: res, Author: client}}}))
}

// state returns a value of the state of the store.
func (r *run) state(key string) string { return string(must(r.w.db.Get(r.ctx(), key))) }

// numbered waits until a Subscription has n events.
func (r *run) numbered(id string, n int) error {
	for end := time.Now().Add(2 * time.Minute); !strings.Contains(r.state("subscription/"+id+"/head"),
		fmt.Sprintf(`"events":%d}`, n)); time.Sleep(200 * time.Microsecond) {
		if time.Now().After(end) {
			return fmt.Errorf("%s has %s, want %d events", id, r.state("subscription/"+id+"/head"), n)
		}
	}
	return nil
}

// delivered waits for the notifications and compares them with events.
func (r *run) delivered(events []*version) error {
	if head := r.state("subscription/s1/head"); !strings.Contains(head, fmt.Sprintf(`"events":%d}`, len(events))) {
		return fmt.Errorf("numbered %s, want %d", head, len(events))
	}
	for end := time.Now().Add(2 * time.Minute); len(events) > 0 &&
		r.state("subscription/s1/sent") != fmt.Sprint(len(events)); time.Sleep(200 * time.Microsecond) {
		if time.Now().After(end) {
			return fmt.Errorf("sent %s of %d", r.state("subscription/s1/sent"), len(events))
		}
	}
	r.w.mu.Lock()
	defer r.w.mu.Unlock()
	var got, want []string
	for _, b := range r.w.received {
		refs, _, err := observed(b)
		if err != nil {
			return err
		}
		got = append(got, refs...)
	}
	for _, v := range events {
		r.count("event")
		want = append(want, v.reference)
	}
	if !slices.Equal(sorted(got), sorted(want)) {
		return fmt.Errorf("notified of %v, want %v", got, want)
	}
	return nil
}

// notice compares the events in a Bundle with want.
func (r *run) notice(body []byte, numbered int, want []*version) error {
	refs, total, err := observed(body)
	if err != nil {
		return err
	}
	var wanted []string
	for _, v := range want {
		wanted = append(wanted, v.reference)
	}
	if !slices.Equal(sorted(refs), sorted(wanted)) || total != numbered {
		return fmt.Errorf("%v of %d, want %v of %d", refs, total, wanted, numbered)
	}
	return nil
}

// observed returns the Observations in a notification, which must be equal in the entries
// and in the focus of the events, and the number of events.
func observed(body []byte) (refs []string, events int, err error) {
	var b struct {
		Entry []struct {
			FullURL  string
			Resource *struct {
				ResourceType, ID string
				Parameter        []struct {
					Name string
					Part []struct {
						Name           string
						ValueReference struct{ Reference string }
					}
				}
			}
		}
	}
	if err := json.Unmarshal(body, &b); err != nil {
		return nil, 0, err
	}
	var focus []string
	for _, e := range b.Entry {
		if ref, ok := strings.CutPrefix(e.FullURL, base+"/"); ok {
			refs = append(refs, ref)
			if e.Resource != nil && e.Resource.ResourceType+"/"+e.Resource.ID != ref {
				return nil, 0, fmt.Errorf("entry %s contains %s", ref, e.Resource.ID)
			}
			continue
		}
		if e.Resource == nil {
			continue
		}
		for _, p := range e.Resource.Parameter {
			if p.Name != "notification-event" {
				continue
			}
			events++
			for _, part := range p.Part {
				if part.Name == "focus" {
					focus = append(focus, strings.TrimPrefix(part.ValueReference.Reference, base+"/"))
				}
			}
		}
	}
	if !slices.Equal(sorted(focus), sorted(refs)) {
		return nil, 0, fmt.Errorf("focus %v, entries %v", focus, refs)
	}
	return refs, events, nil
}
