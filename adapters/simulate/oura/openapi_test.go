package oura_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"pulsegate/adapters/adaptertest"
	"pulsegate/adapters/simulate/oura"
)

// description is the part of Oura's OpenAPI document that the test reads.
type description struct {
	Paths map[string]map[string]struct {
		Parameters []struct{ Name, In string }
		Responses  map[string]any
	}
	Components struct {
		Schemas map[string]struct {
			Enum []string
		}
	}
	compiler *jsonschema.Compiler
}

// readDescription reads the document. If current is set, the member meta is not required:
// later versions of the API have removed it.
func readDescription(t *testing.T, current bool) *description {
	t.Helper()
	raw, err := os.ReadFile(adaptertest.Fixtures(t, "oura/openapi/openapi-1.29.json"))
	if err != nil {
		t.Fatal(err)
	}
	var d description
	if err := json.Unmarshal(raw, &d); err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	if current {
		schemas := doc.(map[string]any)["components"].(map[string]any)["schemas"].(map[string]any)
		for _, s := range schemas {
			if list, ok := s.(map[string]any)["required"].([]any); ok {
				s.(map[string]any)["required"] = slices.DeleteFunc(list, func(v any) bool { return v == "meta" })
			}
		}
		ring := schemas["PublicRingHardwareType"].(map[string]any)
		ring["enum"] = append(ring["enum"].([]any), "or5") // added by a later version
	}
	d.compiler = jsonschema.NewCompiler()
	d.compiler.AssertFormat()
	if err := d.compiler.AddResource("openapi.json", doc); err != nil {
		t.Fatal(err)
	}
	return &d
}

// validate checks a body against the schema of an answer.
func (d *description) validate(path, method string, status int, body string) error {
	pointer := fmt.Sprintf("openapi.json#/paths/%s/%s/responses/%d/content/application~1json/schema",
		strings.ReplaceAll(path, "/", "~1"), method, status)
	schema, err := d.compiler.Compile(pointer)
	if err != nil {
		return err
	}
	instance, err := jsonschema.UnmarshalJSON(strings.NewReader(body))
	if err != nil {
		return err
	}
	return schema.Validate(instance)
}

// component checks a body against a named schema. The alternatives of list replies
// accept any object, so that documents are checked one by one.
func (d *description) component(name, body string) error {
	schema, err := d.compiler.Compile("openapi.json#/components/schemas/" + name)
	if err != nil {
		return err
	}
	instance, err := jsonschema.UnmarshalJSON(strings.NewReader(body))
	if err != nil {
		return err
	}
	return schema.Validate(instance)
}

// lists maps the types to the schemas of their list replies.
var lists = map[string]string{"sleep": "MultiDocumentResponse_PublicModifiedSleepModel_",
	"daily_sleep":              "MultiDocumentResponse_PublicDailySleep_",
	"daily_readiness":          "MultiDocumentResponse_PublicDailyReadiness_",
	"daily_activity":           "MultiDocumentResponse_PublicDailyActivity_",
	"daily_stress":             "MultiDocumentResponse_PublicDailyStress_",
	"daily_spo2":               "MultiDocumentResponse_PublicDailySpO2_",
	"daily_resilience":         "MultiDocumentResponse_DailyResilienceModel_",
	"daily_cardiovascular_age": "MultiDocumentResponse_PublicDailyCardiovascularAge_",
	"vO2_max":                  "MultiDocumentResponse_PublicVO2Max_",
	"sleep_time":               "MultiDocumentResponse_PublicSleepTime_",
	"workout":                  "MultiDocumentResponse_PublicWorkout_",
	"session":                  "MultiDocumentResponse_PublicSession_",
	"enhanced_tag":             "MultiDocumentResponse_EnhancedTagModel_", "tag": "MultiDocumentResponse_TagModel_",
	"rest_mode_period":   "MultiDocumentResponse_PublicRestModePeriod_",
	"ring_configuration": "MultiDocumentResponse_PublicRingConfiguration_",
	"heartrate":          "TimeSeriesResponse_PublicHeartRateRow_",
	"ring_battery_level": "TimeSeriesResponse_PublicRingBatteryLevelRow_"}

// TestDescription walks through every path of Oura's description of its API and checks
// parameters and answers of both versions of the API against it.
func TestDescription(t *testing.T) {
	for name, current := range map[string]bool{"version 1.29": false, "current": true} {
		t.Run(name, func(t *testing.T) {
			d := readDescription(t, current)
			w := newWorld(t, 3, func(o *oura.Options) { o.OldAPI = !current })
			tok := w.link(2, everything)
			seen := 0
			for path, methods := range d.Paths {
				if strings.Contains(path, "/sandbox/") {
					continue
				}
				for method, op := range methods {
					var params []string
					for _, p := range op.Parameters {
						if p.In == "query" {
							params = append(params, p.Name)
						}
					}
					seen++
					if strings.HasPrefix(path, "/v2/usercollection/") {
						w.checkCollection(d, path, params, tok.Access)
					} else if method != "get" && method != "post" && method != "put" && method != "delete" {
						t.Errorf("%s %s", method, path)
					}
				}
			}
			if seen < 40 {
				t.Errorf("only %d operations", seen)
			}
			w.checkWebhooks(d)
		})
	}
}

// checkCollection reads a path of the data API with all of its parameters.
func (w *world) checkCollection(d *description, path string, params []string, token string) {
	w.t.Helper()
	typ, _, _ := strings.Cut(strings.TrimPrefix(path, "/v2/usercollection/"), "/")
	want := map[string]string{"start_date": "2026-10-01", "end_date": "2026-11-09T23:59:59",
		"start_datetime": "2026-10-20T00:00:00Z", "end_datetime": "2026-11-09T23:59:59+00:00", "fields": "",
		"next_token": "",
		"latest":     "false"}
	q := url.Values{}
	for _, p := range params {
		if value, known := want[p]; !known {
			w.t.Errorf("%s: the parameter %s is not known", path, p)
		} else if value != "" {
			q.Set(p, value)
		}
	}
	switch {
	case typ == "interbeat_interval": // needs a scope that is not granted to anybody
		if a := w.get(path, token); a.status != 403 {
			w.t.Errorf("%s: %d", path, a.status)
		}
	case typ == "personal_info":
		if a := w.get(path, token); d.validate(path, "get", a.status, a.body) != nil {
			w.t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	case strings.HasSuffix(path, "{document_id}"):
		w.checkDocument(d, path, typ, token)
	default:
		a := w.get(path+"?"+q.Encode(), token)
		if err := d.validate(path, "get", a.status, a.body); a.status != 200 || err != nil {
			w.t.Errorf("%s: %d %v", path, a.status, err)
		}
		if err := d.component(lists[typ], a.body); err != nil || !strings.Contains(a.body, `"timestamp"`) &&
			!strings.Contains(a.body, `"id"`) {
			w.t.Errorf("%s: %v in %.200s", path, err, a.body)
		}
		for _, p := range slices.DeleteFunc(params, func(p string) bool {
			return !strings.Contains(p, "date") && p != "latest"
		}) {
			a := w.get(path+"?"+p+"=x", token)
			if err := d.validate(path, "get", a.status, a.body); a.status != 422 || err != nil {
				w.t.Errorf("%s with a bad %s: %d %v", path, p, a.status, err)
			}
		}
	}
}

func (w *world) checkDocument(d *description, path, typ, token string) {
	w.t.Helper()
	docs := w.cloud.Truth(w.cloud.Accounts()[2], typ)
	if len(docs) == 0 {
		w.t.Errorf("no document of %s", typ)
		return
	}
	for _, r := range docs[:min(len(docs), 5)] {
		a := w.get(strings.ReplaceAll(path, "{document_id}", r.ID), token)
		if err := d.validate(path, "get", a.status, a.body); a.status != 200 || err != nil {
			w.t.Errorf("%s: %d %v", path, a.status, err)
		}
	}
	a := w.get(strings.ReplaceAll(path, "{document_id}", "x"), token)
	if d.Paths[path]["get"].Responses[fmt.Sprint(a.status)] == nil || a.status != 404 {
		w.t.Errorf("%s of an unknown id: %d", path, a.status)
	}
}

// checkWebhooks calls every operation on subscriptions.
func (w *world) checkWebhooks(d *description) {
	w.t.Helper()
	rec := newReceiver(w.t, w, moi.Secret)
	known := d.Components.Schemas["ExtApiV2DataType"].Enum
	const base = "/v2/webhook/subscription"
	check := func(path, method string, a answer, status int) {
		w.t.Helper()
		if a.status != status {
			w.t.Errorf("%s %s: %d %s", method, path, a.status, a.body)
		} else if status != 204 {
			if err := d.validate(path, method, status, a.body); err != nil &&
				!strings.Contains(err.Error(), "date-time") {
				w.t.Errorf("%s %s: %v", method, path, err)
			}
		}
	}
	var sub map[string]string
	for _, typ := range documentTypes {
		if !slices.Contains(known, strings.ToLower(typ)) {
			w.t.Errorf("the description has no data type for %s", typ)
		}
		var a answer
		a, sub = w.subscription("POST", "", creation(rec, "create", strings.ToLower(typ)))
		check(base, "post", a, 201)
	}
	a, _ := w.subscription("POST", "", map[string]string{})
	check(base, "post", a, 422)
	a, _ = w.subscription("GET", "", nil)
	check(base, "get", a, 200)
	a, _ = w.subscription("GET", "/"+sub["id"], nil)
	check(base+"/{id}", "get", a, 200)
	a, _ = w.subscription("PUT", "/"+sub["id"], map[string]string{"verification_token": "my token"})
	check(base+"/{id}", "put", a, 200)
	a, _ = w.subscription("PUT", "/renew/"+sub["id"], nil)
	check(base+"/renew/{id}", "put", a, 200)
	a, _ = w.subscription("DELETE", "/"+sub["id"], nil)
	check(base+"/{id}", "delete", a, 204)
}

// TestDescriptionControl checks that the schemas refuse documents of another version.
func TestDescriptionControl(t *testing.T) {
	d := readDescription(t, false)
	w := newWorld(t, 1, nil)
	r := w.cloud.Truth(w.cloud.Accounts()[0], "sleep")[0]
	if err := d.component("PublicModifiedSleepModel", string(r.JSON)); err == nil {
		t.Error("a night without meta is accepted")
	}
	if err := d.component(lists["sleep"], `{"data":[`+string(r.JSON)+`],"next_token":null}`); err == nil {
		t.Error("a list of nights without meta is accepted")
	}
}

// TestEveryTypeHasASchema checks the table of this test against the types of the cloud.
func TestEveryTypeHasASchema(t *testing.T) {
	have := slices.Sorted(maps.Keys(lists))
	want := append(slices.Clone(documentTypes), "heartrate", "ring_battery_level")
	slices.Sort(want)
	if !slices.Equal(have, want) {
		t.Errorf("%v, want %v", have, want)
	}
}
