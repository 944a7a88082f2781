package oracle

import (
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/search"
	"pulsegate/fhir/subscription"
)

// client draws a client.
func (p *pair) client() string { return p.pick("admin", "ehr1", "ehr2", "ehr3") }

// question sends a random request.
func (p *pair) question() {
	switch p.n(20) {
	case 0, 1:
		p.read()
	case 2:
		p.ask(&request{client: p.client(), method: "GET",
			url: "/Observation/" + p.id() + "/_history/" + strconv.Itoa(p.n(5))})
	case 3:
		c := p.client()
		a := p.ask(&request{client: c, method: "GET",
			url: "/Observation/" + p.id() + "/_history" +
				p.pick("", "?_count=1", "?_count=2", "?_since=2026-11-02T09:00:00Z", "?_at=2026-11-02T09:00:00Z")})
		p.pages(c, a, 4)
	case 11:
		c := p.client()
		a := p.ask(&request{client: c, method: "GET", url: p.pick("/Observation", "/Observation", "/Device", "") +
			"/_history?_count=" + p.pick("1", "3", "20") +
			p.pick("", "", "&_since=2026-11-02T09:00:00Z", "&_at=2026-11-02T09:00:00Z", "&_at=2026-11")})
		p.pages(c, a, 4)
	case 4:
		if len(p.links) > 0 {
			i := p.n(len(p.links))
			l := p.links[i]
			p.links = append(p.links[:i], p.links[i+1:]...)
			if p.oneIn(6) { // a link is valid only for its client
				if other := p.client(); other != l.client {
					if a := p.ask(&request{client: other, method: "GET", url: l.url}); a.status != 400 &&
						a.status != 403 {
						p.t.Fatalf("%s followed a page link of %s: %d", other, l.client, a.status)
					}
				}
			}
			p.follow(l, 4)
		}
	case 5:
		p.lastN()
	case 6:
		switch p.n(4) {
		case 0:
			p.stats()
		case 1:
			p.timeBuckets()
		case 2:
			p.everything()
		default:
			p.ehrBundle()
		}
	case 7:
		p.otherTypes()
	case 8:
		p.events()
	case 9:
		if p.oneIn(4) {
			p.export(p.client(), p.pick("/$export", "/Patient/$export", "/Group/g1/$export"))
		}
	case 10:
		if len(p.jobs) > 0 {
			j := p.jobs[p.n(len(p.jobs))]
			p.ask(&request{client: j.client, method: p.pick("GET", "GET", "GET", "DELETE"), url: j.url})
		}
	default:
		p.search("Observation")
	}
}

// read reads an Observation, sometimes conditionally or by HEAD.
func (p *pair) read() {
	r := &request{client: p.client(), method: p.pick("GET", "GET", "GET", "HEAD"), url: "/Observation/" + p.id()}
	switch p.n(5) {
	case 0:
		r.header = []string{"If-None-Match", p.pick(`W/"1"`, `W/"2"`, `*`)}
	case 1:
		r.header = []string{"If-Modified-Since",
			p.worlds[0].clock().Add(-time.Duration(p.n(20)) * time.Hour).UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT")}
	}
	p.ask(r)
}

// otherTypes reads or searches resources of other types.
func (p *pair) otherTypes() {
	if p.oneIn(2) && len(p.others) > 0 {
		p.ask(&request{client: p.client(), method: "GET",
			url: "/" + p.others[p.n(len(p.others))] + p.pick("", "/_history", "/_history/1")})
		return
	}
	p.search(p.pick("Provenance", "Device", "AuditEvent", "AuditEvent", "Patient", "Consent"))
}

// example returns a resource of a type and its search values.
func (p *pair) example(typ string) (fhir.Ref, *search.Values) {
	ref := fhir.Ref{Type: typ, ID: p.id()}
	if typ != "Observation" {
		ref = fhir.Ref{}
		for range 20 {
			if len(p.others) == 0 {
				break
			}
			if r, ok := fhir.ParseRef(p.others[p.n(len(p.others))]); ok && r.Type == typ {
				ref = r
				break
			}
		}
		switch typ {
		case "Patient":
			ref = fhir.Ref{Type: typ, ID: p.pick(patients...)}
		case "Consent":
			ref = fhir.Ref{Type: typ, ID: "c0" + p.pick(patients...)}
		case "AuditEvent":
			if len(p.audits) > 0 {
				ref = fhir.Ref{Type: typ, ID: p.audits[p.n(len(p.audits))]}
			}
		}
	}
	r := p.stored(ref)
	if r.JSON == nil {
		return ref, nil
	}
	v, err := search.Extract(typ, r.JSON)
	if err != nil {
		p.t.Fatal(err)
	}
	return ref, v
}

var escaped = strings.NewReplacer(`\`, `\\`, "$", `\$`, ",", `\,`, "|", `\|`)

// searchValue returns a value for a parameter, mostly one similar to v.
func (p *pair) searchValue(k search.ParamType, v *search.Value) string {
	prefix := ""
	if p.oneIn(2) && (k == search.TypeDate || k == search.TypeQuantity) {
		prefix = p.pick("eq", "ne", "gt", "lt", "ge", "le", "sa", "eb", "ap")
	}
	switch k {
	case search.TypeToken:
		switch p.n(4) {
		case 0:
			return escaped.Replace(v.Code)
		case 1:
			return escaped.Replace(v.System) + "|"
		}
		return escaped.Replace(v.System) + "|" + escaped.Replace(v.Code)
	case search.TypeDate:
		at := time.UnixMilli(v.Lo + int64(p.n(3)-1)*int64(p.n(7200_000))).UTC()
		return prefix + at.Format(p.pick("2006", "2006-01", "2006-01-02", "2006-01-02T15:04Z", "2006-01-02T15:04:05Z",
			"2006-01-02T15:04:05.000Z", "2006-01-02T15:04:05.000Z"))
	case search.TypeQuantity:
		n := strconv.FormatFloat(v.Num, 'f', -1, 64)
		if p.oneIn(3) {
			n = p.pick("62", "62.0", "0", "100", "1e2", "-1", "97.5")
		}
		switch p.n(3) {
		case 0:
			return prefix + n
		case 1:
			return prefix + n + "||" + escaped.Replace(v.Code)
		}
		return prefix + n + "|" + escaped.Replace(v.System) + "|" + escaped.Replace(v.Code)
	case search.TypeReference:
		if v.RefID == "" {
			return escaped.Replace(v.Code)
		}
		return p.pick("", v.RefType+"/", base+"/"+v.RefType+"/") + v.RefID
	}
	s := v.Code
	if len(s) > 3 && p.oneIn(2) {
		s = s[:3]
	}
	return escaped.Replace(s)
}

// condition returns one condition of a search.
func (p *pair) condition(typ string, vs *search.Values) string {
	all := search.Params(typ)
	param := all[p.n(len(all))]
	if p.oneIn(2) && vs != nil { // a parameter that the example has a value for
		for range 30 {
			if param = all[p.n(len(all))]; len(vs.ByParam[param.Code]) > 0 {
				break
			}
		}
	}
	if p.oneIn(8) {
		return param.Code + ":missing=" + p.pick("true", "false")
	}
	var list []string
	for len(list) == 0 || p.oneIn(4) {
		var v search.Value
		if vs != nil && len(vs.ByParam[param.Code]) > 0 {
			v = vs.ByParam[param.Code][p.n(len(vs.ByParam[param.Code]))]
		}
		w := p.searchValue(param.Type, &v)
		if w == "" || w == "|" {
			w = p.pick("x", "vital-signs", "1")
		}
		list = append(list, w)
		if p.oneIn(2) {
			_, vs = p.example(typ)
		}
	}
	mod := ""
	switch {
	case !p.oneIn(4):
	case param.Type == search.TypeToken:
		mod = p.pick(":not", ":text")
	case param.Type == search.TypeString:
		mod = p.pick(":exact", ":contains")
	case param.Type == search.TypeReference:
		mod = p.pick(":Patient", ":Device", ":identifier")
	}
	return param.Code + mod + "=" + url.QueryEscape(strings.Join(list, ","))
}

// query returns a random query.
func (p *pair) query(typ string) string {
	var q []string
	_, vs := p.example(typ)
	if typ == "Observation" && p.oneIn(2) {
		q = append(q, p.pick("patient=p1", "subject=Patient/p2", "patient=p3"))
	}
	for p.oneIn(2) || len(q) == 0 && !p.oneIn(8) {
		q = append(q, p.condition(typ, vs))
	}
	if p.oneIn(2) {
		var keys []string
		all := search.Params(typ)
		for len(keys) == 0 || len(keys) < 3 && p.oneIn(3) {
			k := all[p.n(len(all))].Code
			if p.oneIn(2) {
				k = p.pick("_id", "_lastUpdated", "date", "date")
				if typ != "Observation" && typ != "AuditEvent" {
					k = "_lastUpdated"
				}
			}
			keys = append(keys, p.pick("", "-")+k)
		}
		q = append(q, "_sort="+strings.Join(keys, ","))
	}
	if !p.oneIn(3) {
		q = append(q, "_count="+p.pick("0", "1", "2", "5", "7", "20", "100", "1000"))
	}
	if p.oneIn(4) {
		q = append(q, "_total="+p.pick("none", "estimate", "accurate"))
	}
	if p.oneIn(6) {
		q = append(q, "_summary="+p.pick("true", "text", "data", "count", "false"))
	} else if p.oneIn(6) {
		q = append(q, "_elements="+p.pick("code", "status,subject", "valueQuantity,effectiveDateTime"))
	}
	switch {
	case typ == "Observation" && p.oneIn(4):
		q = append(q, "_include="+p.pick("Observation:subject", "Observation:device", "Observation:patient",
			"Observation:device&_include:iterate=Device:patient"))
	case typ == "Provenance" && p.oneIn(3):
		q = append(q, "_include=Provenance:target")
	}
	return strings.Join(q, "&")
}

// search sends a random query by GET or POST, and mostly reads further pages.
func (p *pair) search(typ string) {
	c, q := p.client(), p.query(typ)
	r := &request{client: c, method: "GET", url: "/" + typ + "?" + q}
	if p.oneIn(8) {
		r = &request{client: c, method: "POST", url: "/" + typ + "/_search", body: q,
			header: []string{"Content-Type", "application/x-www-form-urlencoded"}}
	}
	a := p.ask(r)
	if typ == "AuditEvent" {
		for _, m := range regexp.MustCompile(`"fullUrl":"[^"]*/AuditEvent/(\w+)"`).FindAllStringSubmatch(a.body, 5) {
			if p.audits = append(p.audits, m[1]); len(p.audits) > 200 {
				p.audits = p.audits[100:]
			}
		}
	}
	if a.status == 200 {
		p.pages(c, a, 4+8000/(100+p.size))
	}
}

// next returns the URL of the next page, or "".
func next(a answer) string {
	var b struct {
		Link []struct{ Relation, URL string }
	}
	if json.Unmarshal([]byte(a.body), &b) != nil {
		return ""
	}
	for _, l := range b.Link {
		if l.Relation == "next" {
			return l.URL
		}
	}
	return ""
}

// pages follows the next link of an answer, immediately or after later changes.
func (p *pair) pages(client string, a answer, limit int) {
	if u := next(a); u != "" {
		if l := (link{client, u}); p.oneIn(3) {
			if p.links = append(p.links, l); len(p.links) > 30 {
				p.links = p.links[10:]
			}
		} else {
			p.follow(l, limit)
		}
	}
}

// follow reads at most limit pages, sometimes with writes in between.
func (p *pair) follow(l link, limit int) {
	for ; l.url != "" && limit > 0; limit-- {
		l.url = next(p.ask(&request{client: l.client, method: "GET", url: l.url}))
		if p.oneIn(10) {
			p.write()
		}
	}
}

// lastN sends a random $lastn.
func (p *pair) lastN() {
	p.ask(&request{client: p.client(), method: "GET", url: "/Observation/$lastn?patient=" + p.pick(patients...) +
		p.pick("&category=vital-signs", "&category=activity", "&code=http://loinc.org|8867-4", "&code=8867-4,55423-8",
			"&code=HKCategoryTypeIdentifierSleepAnalysis", "&category=vital-signs&date=ge2026-10-01") +
		p.pick("", "&max=2", "&max=5", "&max=100") + p.pick("", "&_summary=true", "&_include=Observation:device")})
}

// stats sends a random $stats.
func (p *pair) stats() {
	p.ask(&request{client: p.client(), method: "GET",
		url: "/Observation/$stats?subject=Patient/" + p.pick(patients...) +
			"&statistic=average,maximum,minimum,count,median,std-dev,sum,variance,20-percent,80-percent,4-lower,4-upper,skew,kurtosis,total-count" +
			p.pick("&code=8867-4&system=http://loinc.org", "&code=8867-4", "&code=55423-8", "&code=85354-9",
				"&code=8480-6", "&code=41981-2&code=9279-1", "&code=HKCategoryTypeIdentifierSleepAnalysis") +
			p.pick("", "", "&duration=24", "&period=2026-10-01/2026-10-02", "&include=true&limit=3")})
}

// timeBuckets sends a random $time-buckets.
func (p *pair) timeBuckets() {
	p.ask(&request{client: p.client(), method: "GET", url: "/Observation/$time-buckets?subject=Patient/" + p.pick(patients...) +
		p.pick("&code=8867-4&system=http://loinc.org", "&code=8867-4", "&code=55423-8", "&code=85354-9",
			"&code=41981-2&code=9279-1", "&code=HKCategoryTypeIdentifierSleepAnalysis") +
		p.pick("&minutes=15", "&minutes=1", "&calendar=day&zone=Europe/Berlin", "&calendar=hour&zone=Asia/Kolkata",
			"&calendar=week&zone=America/New_York", "&calendar=year&zone=UTC", "&calendar=day") +
		p.pick("", "", "&start=2026-10-01", "&start=2026-10-01&end=2026-10-02", "&end=2026-10-02T12:00:00Z")})
}

// everything sends a random $everything and follows its pages.
func (p *pair) everything() {
	c := p.client()
	a := p.ask(&request{client: c, method: "GET", url: "/Patient/" + p.pick(patients...) + "/$everything?_count=" +
		p.pick("1", "7", "1000") + p.pick("", "&_type=Observation", "&_type=Device,Provenance", "&_since=2026-11-02T09:00:00Z") +
		p.pick("", "&start=2026-10-01", "&start=2026-10-01&end=2026-10-02")})
	p.pages(c, a, 4)
}

// ehrBundle sends a random $ehr-bundle and follows its pages.
func (p *pair) ehrBundle() {
	c := p.client()
	a := p.ask(&request{client: c, method: "GET",
		url: "/Patient/" + p.pick(patients...) + "/$ehr-bundle?subject=Patient/e" +
			p.pick("", "&form=us-core", "&form=physical-activity") + p.pick("", "&every=0", "&every=5", "&every=1440") +
			p.pick("", "&code=8867-4", "&start=2026-10-01", "&end=2026-10-02T12:00:00Z", "&preferred=true") +
			p.pick("", "&_count=1", "&_count=3")})
	p.pages(c, a, 4)
}

// write writes an Observation over REST, mostly one that was ingested.
func (p *pair) write() {
	id, c := p.id(), p.pick("admin", "admin", "ehr1", "ehr2")
	r := &request{client: c, url: "/Observation/" + id}
	if p.oneIn(3) {
		r.header = append(r.header, "If-Match", p.pick(`W/"1"`, `W/"1"`, `W/"2"`))
	}
	if p.oneIn(6) {
		r.header = append(r.header, "Prefer", p.pick("return=minimal", "return=OperationOutcome"))
	}
	if p.oneIn(6) {
		r.url = "/Observation?_id=" + id
	}
	switch p.n(8) {
	case 0, 1:
		r.method = "DELETE"
	case 2, 3, 4:
		r.method, r.body = "PUT", p.edited(id)
	case 5, 6:
		r.method, r.header = "PATCH", append(r.header, "Content-Type", "application/json-patch+json")
		r.body = p.pick(`[{"op":"replace","path":"/status","value":"amended"}]`,
			`[{"op":"test","path":"/valueQuantity/value","value":61},{"op":"remove","path":"/device"}]`,
			`[{"op":"add","path":"/note","value":[{"text":"x"}]},{"op":"move","from":"/note","path":"/category"}]`,
			`[{"op":"replace","path":"/valueQuantity/value","value":61.50}]`)
	default:
		r.method, r.url, r.body = "POST", "/Observation", p.edited(id)
		if p.oneIn(2) {
			_, vs := p.example("Observation")
			r.header = append(r.header, "If-None-Exist", p.condition("Observation", vs))
		}
	}
	p.ask(r)
}

// bundle sends a batch or transaction with samples.
func (p *pair) bundle() {
	var entries []string
	used := map[string]bool{}
	for range 1 + p.n(6) {
		id := p.id()
		if used[id] {
			continue
		}
		used[id] = true
		switch p.n(6) {
		case 0:
			entries = append(entries, `{"request":{"method":"DELETE","url":"Observation/`+id+`"}}`)
		case 1:
			entries = append(entries, `{"request":{"method":"GET","url":"Observation/`+id+`"}}`)
		case 2:
			entries = append(entries, `{"request":{"method":"GET","url":`+
				quoted("Observation?"+p.query("Observation"))+`}}`)
		case 3:
			entries = append(entries, `{"resource":`+p.edited(id)+`,"request":{"method":"POST","url":"Observation"}}`)
		default:
			match := ""
			if p.oneIn(4) {
				match = `,"ifMatch":"W/\"1\""`
			}
			entries = append(entries, `{"resource":`+p.edited(id)+`,"request":{"method":"PUT","url":"Observation/`+
				id+`"`+
				match+`}}`)
		}
	}
	p.ask(&request{client: p.pick("admin", "admin", "ehr1"), method: "POST", url: "/",
		body: `{"resourceType":"Bundle","type":"` + p.pick("batch", "transaction", "transaction") + `","entry":[` +
			strings.Join(entries, ",") + `]}`})
}

// quoted returns s as a JSON string.
func quoted(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		return `""`
	}
	return string(b)
}

// subscription creates, changes or deletes the only Subscription of a client.
func (p *pair) subscription() {
	c := p.pick("ehr1", "ehr2", "ehr3")
	at := -1
	for i, s := range p.subs {
		if s.client == c {
			at = i
		}
	}
	if at >= 0 && p.oneIn(4) {
		if a := p.ask(&request{client: c, method: "DELETE", url: "/Subscription/" + p.subs[at].id}); a.status == 204 {
			p.subs = append(p.subs[:at], p.subs[at+1:]...)
		}
		return
	}
	const ext = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/"
	filter := p.pick("", "Observation?patient=Patient/p1", "Observation?category=vital-signs",
		"Observation?code=http://loinc.org|8867-4", "Observation?patient=Patient/p2,Patient/p3&category=activity")
	if filter != "" {
		filter = `,"_criteria":{"extension":[{"url":"` + ext + `backport-filter-criteria","valueString":"` +
			filter + `"}]}`
	}
	count := p.pick("", `"extension":[{"url":"`+ext+`backport-max-count","valuePositiveInt":`+
		p.pick("1", "7", "100")+`}],`)
	if strings.Contains(count, ":1}") && p.size > 2000 {
		count = ""
	}
	id := "s" + c
	body := `{"resourceType":"Subscription","id":"` + id + `","status":"` + p.pick("requested", "requested", "off") +
		`","reason":"oracle","criteria":"` + subscription.Topic + `"` + filter +
		`,"channel":{` + count + `"type":"rest-hook","endpoint":"` + p.receiver.URL + `/` + c +
		`","payload":"application/fhir+json","_payload":{"extension":[{"url":"` + ext +
		`backport-payload-content","valueCode":"` + p.pick("empty", "id-only", "full-resource") +
		`"}]},"header":["X-Secret: s3"]}}`
	if at < 0 {
		p.subs = append(p.subs, subscribed{id, c}) // needed by settle
	}
	if a := p.ask(&request{client: c, method: "PUT", url: "/Subscription/" + id, body: body}); a.status >= 300 &&
		at < 0 {
		p.subs = p.subs[:len(p.subs)-1]
	}
}

// events requests the status or the events of a Subscription.
func (p *pair) events() {
	if len(p.subs) == 0 {
		return
	}
	s := p.subs[p.n(len(p.subs))]
	u := "/Subscription/" + s.id + p.pick("", "/$status", "/$events", "/$events",
		fmt.Sprintf("/$events?eventsSinceNumber=%d&eventsUntilNumber=%d", 1+p.n(20), 10+p.n(40)),
		"/$events?content=full-resource", "/$events?content=id-only")
	p.ask(&request{client: p.pick(s.client, s.client, s.client, "admin"), method: "GET", url: u})
}

// export starts an export and downloads its files.
func (p *pair) export(client, path string) {
	var q []string
	if p.oneIn(2) {
		q = append(q, "_type="+p.pick("Observation", "Observation,Device", "Provenance,Observation,Patient"))
	}
	if p.oneIn(2) {
		q = append(q, "_since="+p.worlds[0].clock().Add(
			-time.Duration(p.n(400))*time.Minute).UTC().Format(time.RFC3339))
	}
	u := path
	if len(q) > 0 {
		u += "?" + strings.Join(q, "&")
	}
	a := p.ask(&request{client: client, method: "GET", url: u, header: []string{"Prefer", "respond-async"}})
	m := regexp.MustCompile(`Content-Location: (\S+)`).FindStringSubmatch(a.head)
	if a.status != 202 || m == nil {
		return
	}
	l := link{client, m[1]}
	if p.jobs = append(p.jobs, l); len(p.jobs) > 20 {
		p.jobs = p.jobs[10:]
	}
	if p.oneIn(3) { // later writes must not appear in the export
		p.write()
		p.ingest(p.payload())
	}
	p.download(l)
}

// download downloads the files of an export.
func (p *pair) download(l link) {
	a := p.ask(&request{client: l.client, method: "GET", url: l.url})
	var m struct {
		Output, Deleted, Error []struct{ URL string }
	}
	if a.status != 200 || json.Unmarshal([]byte(a.body), &m) != nil {
		return
	}
	for _, f := range append(append(m.Output, m.Deleted...), m.Error...) {
		r := &request{client: l.client, method: "GET", url: f.URL}
		if p.oneIn(4) {
			r.header = []string{"Accept-Encoding", p.pick("gzip", "zstd")}
		}
		p.ask(r)
	}
}
