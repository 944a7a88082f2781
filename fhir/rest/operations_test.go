package rest

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"pulsegate/fhir/r4"
)

// coded is an Observation with codes "a,b" of one system, or a text.
func coded(id, patient, codes, at, value string) string {
	code := `"text":"` + strings.TrimPrefix(codes, "text:") + `"`
	if !strings.HasPrefix(codes, "text:") {
		var cs []string
		for _, c := range strings.Split(codes, ",") {
			cs = append(cs, `{"system":"urn:test","code":"`+c+`"}`)
		}
		code = `"coding":[` + strings.Join(cs, ",") + `]`
	}
	if at != "" {
		at = `,"effectiveDateTime":"` + at + `"`
	}
	if value == "" {
		value = `,"dataAbsentReason":{"text":"not measured"}` // vs-2
	}
	return `{"resourceType":"Observation","id":"` + id +
		`","status":"final","category":[{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/observation-category","code":"vital-signs"}]}],"code":{` +
		code + `},"subject":{"reference":"Patient/` + patient + `"}` + at + value + `}`
}

func (a answer) inOrder() string {
	var out []string
	entries, _ := a.json["entry"].([]any)
	for _, e := range entries {
		m, _ := e.(map[string]any)
		r, _ := m["resource"].(map[string]any)
		out = append(out, fmt.Sprint(r["id"]))
	}
	return strings.Join(out, " ")
}

func TestLastN(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		put := func(id, codes, at string) {
			w.put("Observation/"+id, coded(id, "p1", codes, at, ""), 201)
		}
		put("a1", "a", "2026-01-01T10:00:00Z")
		put("a2", "a", "2026-01-02T10:00:00Z")
		put("a3", "a", "2026-01-03T12:00:00+02:00")
		put("a3b", "a", "2026-01-03T10:00:00Z") // the same instant
		put("b1", "b", "2026-01-05T10:00:00Z")
		put("c1", "c", "2026-01-04T10:00:00Z")
		put("t1", "text:Text", "2026-02-01")
		put("t2", "text:text", "2026-02-02")
		put("u1", "u", "")
		w.put("Observation/x1", coded("x1", "p2", "a", "2026-03-01T10:00:00Z", ""), 201)
		get := func(client, q string) answer { return w.want(200, client, "GET", "/Observation/$lastn?"+q, "") }
		const all = "patient=p1&category=vital-signs"
		for q, want := range map[string]string{
			all:                            "t2 t1 b1 c1 a3 a3b u1",
			all + "&max=3":                 "t2 t1 b1 c1 a3 a3b a2 u1",
			all + "&max=9":                 "t2 t1 b1 c1 a3 a3b a2 a1 u1",
			"subject=Patient/p1&code=b,c":  "b1 c1",
			"patient=p1&code=urn:test|a":   "a3 a3b",
			all + "&date=lt2026-01-03":     "a2",
			"patient=nobody&code=urn:test": "",
		} {
			a := get("all", q)
			got := a.inOrder()
			if !slices.Equal(sortedTies(got), sortedTies(want)) || a.json["type"] != "searchset" ||
				a.json["total"] != float64(len(strings.Fields(want))) {
				t.Errorf("%s: %q, want %q", q, got, want)
			}
		}
		// A translation makes two codes one, and with a third one more.
		put("ac", "a,c", "2026-01-01T09:00:00Z")
		if got := get("all", all+"&code=a,b,c").inOrder(); got != "b1 c1" {
			t.Errorf("translated: %q", got)
		}
		put("bc", "c,b", "2026-01-01T08:00:00Z")
		if got := get("all", all+"&code=a,b,c&max=2").inOrder(); got != "b1 c1" {
			t.Errorf("twice translated: %q", got)
		}
		body := `{"resourceType":"Parameters","parameter":[{"name":"patient","valueString":"p1"},{"name":"code","valueString":"b"},{"name":"max","valuePositiveInt":2}]}`
		if got := w.want(200, "all", "POST", "/Observation/$lastn", body).inOrder(); got != "b1 bc" {
			t.Errorf("POST: %q", got)
		}
		for _, q := range []string{"patient=p1", "code=a", "patient=p1,p2&code=a", all + "&max=0", all + "&max=x",
			all + "&max=1&max=2", all + "&_sort=date", all + "&nothing=1"} {
			w.want(400, "all", "GET", "/Observation/$lastn?"+q, "")
		}
		w.want(400, "all", "POST", "/Observation/$lastn", `{"resourceType":"Patient"}`)
		w.want(401, "", "GET", "/Observation/$lastn?"+all, "")
		if n := w.audited("search-type", "Patient/p1"); n != 9 {
			t.Errorf("%d AuditEvents for p1", n)
		}
		w.consents.set("p1", true)
		if got := get("all", all).inOrder(); got != "" {
			t.Errorf("after the withdrawal: %q", got)
		}
	})
}

// sortedTies makes an order in which those of one instant are alike.
func sortedTies(s string) []string {
	f := strings.Fields(s)
	if i, j := slices.Index(f, "a3b"), slices.Index(f, "a3"); i >= 0 && j == i+1 {
		f[i], f[j] = f[j], f[i]
	}
	return f
}

func quantity(v string) string {
	return `,"valueQuantity":{"value":` + v +
		`,"unit":"beats/minute","system":"http://unitsofmeasure.org","code":"/min"}`
}

// statsOf reads the statistics Observations, each held to R4.
func (w *world) statsOf(a answer) []map[string]float64 {
	w.t.Helper()
	d, err := validator()
	if err != nil {
		w.t.Fatal(err)
	}
	var p struct {
		Parameter []struct {
			Name     string
			Resource json.RawMessage
		}
	}
	if err := json.Unmarshal(a.body, &p); err != nil {
		w.t.Fatal(err)
	}
	var out []map[string]float64
	for _, x := range p.Parameter {
		if x.Name != "statistics" {
			continue
		}
		if _, err := d.Create("Observation", x.Resource, "s"); err != nil {
			w.t.Errorf("not R4: %s\n%s", r4.OutcomeJSON(err), x.Resource)
		}
		var o struct {
			Component []struct {
				Code struct {
					Coding []struct{ Code, Display, System string }
				}
				ValueQuantity *struct{ Value float64 }
			}
		}
		if err := json.Unmarshal(x.Resource, &o); err != nil {
			w.t.Fatal(err)
		}
		m := map[string]float64{}
		for _, c := range o.Component {
			v := math.NaN()
			if c.ValueQuantity != nil {
				v = c.ValueQuantity.Value
			}
			m[c.Code.Coding[0].Code] = v
		}
		out = append(out, m)
	}
	return out
}

const everyStatistic = "average,maximum,minimum,count,total-count,sum,median,std-dev,variance,20-percent,80-percent,4-lower,4-upper,4-dev,5-1,5-2,5-3,5-4,skew,kurtosis"

func TestStats(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		for i, v := range []string{"2", "4", "4", "4", "5", "5", "7", "9"} {
			id := fmt.Sprint("v", i)
			w.put("Observation/"+id, coded(id, "p1", "a", fmt.Sprintf("2026-01-01T10:%02d:00Z", i), quantity(v)), 201)
		}
		w.put("Observation/none", coded("none", "p1", "a", "2026-01-01T11:00:00Z", `,"valueString":"high"`), 201)
		w.put("Observation/wrong", strings.Replace(coded("wrong", "p1", "a", "2026-01-01T11:00:00Z",
			quantity("500")), `"final"`, `"entered-in-error"`, 1), 201)
		w.put("Observation/later", coded("later", "p1", "a", "2026-05-01T12:00:00Z", quantity("700")), 201)
		w.put("Observation/other", coded("other", "p2", "a", "2026-01-01T12:00:00Z", quantity("800")), 201)
		const q = "subject=Patient/p1&code=a&system=urn:test&period=2026-01-01/2026-01-31"
		a := w.want(200, "all", "GET", "/Observation/$stats?"+q+"&statistic="+everyStatistic, "")
		got := w.statsOf(a)
		if len(got) != 1 || len(got[0]) != 20 {
			t.Fatalf("%s", a.body)
		}
		for k, want := range map[string]float64{"average": 5, "maximum": 9, "minimum": 2, "count": 8,
			"total-count": 9, "sum": 40, "median": 4.5,
			"variance": 32.0 / 7, "std-dev": math.Sqrt(32.0 / 7), "20-percent": 4, "80-percent": 6.2, "4-lower": 4,
			"4-upper": 5.5, "4-dev": .75,
			"5-1": 4, "5-2": 4, "5-3": 5, "5-4": 6.2, "skew": .818487553, "kurtosis": .940625} {
			if math.Abs(got[0][k]-want) > 1e-6 {
				t.Errorf("%s: %v, want %v", k, got[0][k], want)
			}
		}
		s := string(a.body)
		for _, has := range []string{`"subject":{"reference":"Patient/p1"}`,
			`"effectivePeriod":{"start":"2026-01-01T00:00:00.000Z","end":"2026-02-01T00:00:00.000Z"}`,
			`"code":"/min"`, `"status":"final"`} {
			if !strings.Contains(s, has) {
				t.Errorf("without %s: %s", has, s)
			}
		}
		// The sources, as many as asked for.
		a = w.want(200, "all", "GET", "/Observation/$stats?"+q+"&statistic=count&include=true&limit=3", "")
		if strings.Count(string(a.body), `"name":"source"`) != 3 {
			t.Errorf("sources: %s", a.body)
		}
		// Too few values: undefined, and said so.
		got = w.statsOf(w.want(200, "all", "GET",
			"/Observation/$stats?subject=Patient/p2&code=a&statistic=average&statistic=std-dev,skew", ""))
		if len(got) != 1 || got[0]["average"] != 800 || !math.IsNaN(got[0]["std-dev"]) || !math.IsNaN(got[0]["skew"]) {
			t.Errorf("one value: %v", got)
		}
		got = w.statsOf(w.want(200, "all", "GET",
			"/Observation/$stats?subject=Patient/p1&code=zzz&statistic=count,average", ""))
		if len(got) != 1 || got[0]["count"] != 0 || !math.IsNaN(got[0]["average"]) {
			t.Errorf("none: %v", got)
		}
		w.statsPanel()
		for _, bad := range []string{"code=a&statistic=count", "subject=Patient/p1&statistic=count",
			"subject=Patient/p1&code=a",
			"subject=Group/g&code=a&statistic=count", q + "&statistic=mode", q + "&statistic=regression",
			q + "&statistic=count&duration=-1",
			q + "&statistic=count&include=maybe", q + "&statistic=count&subject=Patient/p2",
			q + "&statistic=count&nothing=1", "subject=Patient/p1&code=a&statistic=count&period=x/y"} {
			w.want(400, "all", "GET", "/Observation/$stats?"+bad, "")
		}
		if b := w.want(400, "all", "GET", "/Observation/$stats?"+q+"&statistic=count,mode",
			"").body; !strings.Contains(string(b), "value 2 of the parameter statistic number 1") {
			t.Errorf("refusal: %s", b)
		}
		w.consents.set("p1", true)
		if got = w.statsOf(w.want(200, "all", "GET", "/Observation/$stats?"+q+"&statistic=total-count",
			"")); got[0]["total-count"] != 0 {
			t.Errorf("after the withdrawal: %v", got)
		}
		if w.audited("search-type", "Patient/p2") == 0 {
			t.Error("no AuditEvent for p2")
		}
	})
}

// statsPanel asks for a panel, and for one of its components.
func (w *world) statsPanel() {
	w.t.Helper()
	for i, v := range []string{"120", "130"} {
		id := fmt.Sprint("bp", i)
		w.put("Observation/"+id, coded(id, "p1", "panel", "2026-01-02T10:00:00Z",
			`,"component":[{"code":{"coding":[{"system":"urn:test","code":"sys"}]}`+quantity(v)+
				`},{"code":{"coding":[{"system":"urn:test","code":"dia"}]}`+quantity("80")+`}]`), 201)
	}
	got := w.statsOf(w.want(200, "all", "GET",
		"/Observation/$stats?subject=Patient/p1&code=panel&statistic=count,average", ""))
	if len(got) != 2 || got[1]["average"] != 125 || got[0]["average"] != 80 || got[1]["count"] != 2 {
		w.t.Errorf("panel: %v", got)
	}
	body := `{"resourceType":"Parameters","parameter":[{"name":"subject","valueUri":"Patient/p1"},{"name":"coding","valueCoding":{"system":"urn:test","code":"sys"}},{"name":"period","valuePeriod":{"start":"2026-01-02"}},{"name":"statistic","valueCode":"sum"}]}`
	got = w.statsOf(w.want(200, "all", "POST", "/Observation/$stats", body))
	if len(got) != 1 || got[0]["sum"] != 250 {
		w.t.Errorf("component: %v", got)
	}
}
