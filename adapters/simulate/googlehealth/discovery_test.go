package googlehealth_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// method is a method of the discovery document.
type method struct {
	ID         string         `json:"id"`
	HTTPMethod string         `json:"httpMethod"`
	FlatPath   string         `json:"flatPath"`
	Path       string         `json:"path"`
	Request    map[string]any `json:"request"`
	Response   map[string]any `json:"response"`
	Scopes     []string       `json:"scopes"`
	Parameters map[string]struct {
		Location string `json:"location"`
		Pattern  string `json:"pattern"`
		Required bool   `json:"required"`
	} `json:"parameters"`

	flat *regexp.Regexp // of the flat path
}

// discovery checks exchanges with the API against the discovery document.
type discovery struct {
	methods  []method
	standard map[string]json.RawMessage
	types    []string // data types in kebab case
	schemas  map[string]*jsonschema.Schema

	mu   sync.Mutex
	seen map[string]int // successful exchanges by method id; guarded by mu
}

const discoveryFile = "fitbit/google-health/google-health-v4.discovery.20261030.json"

// loadDiscovery returns the discovery document, or nil if PULSEGATE_FIXTURES is not set.
var loadDiscovery = sync.OnceValues(func() (*discovery, error) {
	root := os.Getenv("PULSEGATE_FIXTURES")
	if root == "" {
		return nil, nil
	}
	raw, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(discoveryFile)))
	if err != nil {
		return nil, err
	}
	var doc struct {
		Schemas    map[string]map[string]any  `json:"schemas"`
		Resources  map[string]json.RawMessage `json:"resources"`
		Parameters map[string]json.RawMessage `json:"parameters"`
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, err
	}
	d := &discovery{schemas: map[string]*jsonschema.Schema{}, standard: doc.Parameters, seen: map[string]int{}}
	for _, r := range doc.Resources {
		if err := d.collect(r); err != nil {
			return nil, err
		}
	}
	for name, member := range doc.Schemas["DataPoint"]["properties"].(map[string]any) {
		if text, _ := member.(map[string]any)["description"].(string); name != "dataSource" && name != "name" &&
			text != "" {
			d.types = append(d.types, kebab(name))
		}
	}
	return d, d.compile(doc.Schemas)
})

func kebab(s string) string {
	return strings.ToLower(regexp.MustCompile(`[A-Z]`).ReplaceAllString(s, "-$0"))
}

// collect adds the methods of a resource and of those below.
func (d *discovery) collect(raw json.RawMessage) error {
	var r struct {
		Methods   map[string]method          `json:"methods"`
		Resources map[string]json.RawMessage `json:"resources"`
	}
	if err := json.Unmarshal(raw, &r); err != nil {
		return err
	}
	for _, m := range r.Methods {
		pattern := regexp.MustCompile(`\\\{[^}]*\\\}`).ReplaceAllString(regexp.QuoteMeta("/"+m.FlatPath), `([^/:]+)`)
		m.flat = regexp.MustCompile("^" + pattern + "$")
		d.methods = append(d.methods, m)
	}
	for _, sub := range r.Resources {
		if err := d.collect(sub); err != nil {
			return err
		}
	}
	return nil
}

// compile converts the schemas to JSON Schema.
func (d *discovery) compile(schemas map[string]map[string]any) error {
	defs := map[string]any{}
	for name, s := range schemas {
		defs[name] = convert(s)
	}
	raw, err := json.Marshal(map[string]any{"$defs": defs})
	if err != nil {
		return err
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		return err
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("discovery.json", doc); err != nil {
		return err
	}
	for name := range schemas {
		if d.schemas[name], err = c.Compile("discovery.json#/$defs/" + name); err != nil {
			return err
		}
	}
	return nil
}

// convert turns a schema of a discovery document into JSON Schema, by the JSON encoding
// of proto3. Unknown members are errors.
func convert(s map[string]any) map[string]any {
	if ref, ok := s["$ref"].(string); ok {
		return map[string]any{"$ref": "#/$defs/" + ref}
	}
	out := map[string]any{}
	format, _ := s["format"].(string)
	switch s["type"] {
	case "object":
		out["type"] = "object"
		properties := map[string]any{}
		if members, ok := s["properties"].(map[string]any); ok {
			for name, member := range members {
				properties[name] = convert(member.(map[string]any))
			}
		}
		out["properties"] = properties
		if s["additionalProperties"] == nil {
			out["additionalProperties"] = false
		}
	case "array":
		out["type"], out["items"] = "array", convert(s["items"].(map[string]any))
	case "integer":
		out["type"], out["minimum"], out["maximum"] = "integer", -1<<31, 1<<31-1
	case "number":
		out["anyOf"] = []any{map[string]any{"type": "number"},
			map[string]any{"enum": []any{"NaN", "Infinity", "-Infinity"}}}
	case "string":
		out["type"] = "string"
		patterns := map[string]string{"int64": `^-?[0-9]{1,19}$`, "google-duration": `^-?[0-9]+(\.[0-9]{1,9})?s$`,
			"google-datetime": `^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?Z$`}
		if p := patterns[format]; p != "" {
			out["pattern"] = p
		}
		if s["enum"] != nil {
			out["enum"] = s["enum"]
		}
	case "any", nil:
	default:
		out[s["type"].(string)] = true
		out["type"] = s["type"]
	}
	return out
}

// find returns the method of a request.
func (d *discovery) find(r *http.Request) *method {
	for i := range d.methods {
		if m := &d.methods[i]; m.HTTPMethod == r.Method && m.flat.MatchString(r.URL.Path) {
			return m
		}
	}
	return nil
}

// check reports what is wrong with an exchange. Requests that the cloud refuses only need
// an error of the documented form.
func (d *discovery) check(r *http.Request, sent []byte, code int, answer []byte) error {
	m := d.find(r)
	if m == nil {
		if code == http.StatusNotFound {
			return nil
		}
		return fmt.Errorf("there is no such method, but the answer is %d", code)
	}
	if code != http.StatusOK {
		return checkError(code, answer)
	}
	if err := m.checkParameters(d, r.URL); err != nil {
		return err
	}
	if ref, ok := m.Request["$ref"].(string); ok {
		if err := d.validate(ref, sent); err != nil {
			return fmt.Errorf("request: %w", err)
		}
	} else if len(sent) > 0 {
		return fmt.Errorf("the method has no request body")
	}
	d.mu.Lock()
	d.seen[m.ID]++
	d.mu.Unlock()
	if r.URL.Query().Get("alt") == "media" {
		return nil
	}
	return d.validate(m.Response["$ref"].(string), answer)
}

func (m *method) checkParameters(d *discovery, u *url.URL) error {
	for name := range u.Query() {
		p, ok := m.Parameters[name]
		_, standard := d.standard[name]
		if !standard && (!ok || p.Location != "query") {
			return fmt.Errorf("there is no parameter %q", name)
		}
	}
	for name, p := range m.Parameters {
		if p.Location != "path" || p.Pattern == "" {
			continue
		}
		path := strings.TrimPrefix(u.Path, "/v4/")
		suffix := regexp.MustCompile(`^v4/\{\+` + name + `\}(.*)$`).FindStringSubmatch(m.Path)
		if suffix == nil || !regexp.MustCompile(p.Pattern).MatchString(strings.TrimSuffix(path, suffix[1])) {
			return fmt.Errorf("the path does not match the pattern of %q", name)
		}
	}
	return nil
}

func (d *discovery) validate(name string, body []byte) error {
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		return err
	}
	if err := d.schemas[name].Validate(v); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// checkError checks that a body is a google.rpc.Status with the code of the answer.
func checkError(code int, body []byte) error {
	var doc struct {
		Error struct {
			Code    int              `json:"code"`
			Message string           `json:"message"`
			Status  string           `json:"status"`
			Details []map[string]any `json:"details"`
		} `json:"error"`
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&doc); err != nil {
		return err
	}
	e := doc.Error
	if e.Code != code || e.Message == "" || !regexp.MustCompile(`^[A-Z_]+$`).MatchString(e.Status) {
		return fmt.Errorf("the error of an answer %d has code %d, status %q", code, e.Code, e.Status)
	}
	for _, detail := range e.Details {
		if typ, _ := detail["@type"].(string); !strings.HasPrefix(typ, "type.googleapis.com/google.rpc.") {
			return fmt.Errorf("a detail has the type %q", typ)
		}
	}
	return nil
}

// mustDiscovery returns the discovery document or skips the test.
func mustDiscovery(t *testing.T) *discovery {
	t.Helper()
	d, err := loadDiscovery()
	if err != nil {
		t.Fatal(err)
	}
	if d == nil {
		t.Skip("PULSEGATE_FIXTURES is not set; it names the directory with " + discoveryFile)
	}
	return d
}

// TestDiscoveryCheckRefuses checks that the check itself can fail.
func TestDiscoveryCheckRefuses(t *testing.T) {
	d := mustDiscovery(t)
	for name, bad := range map[string]string{
		"int64 as a number":   `{"dataPoints":[{"steps":{"count":5}}]}`,
		"unknown member":      `{"dataPoints":[{"paces":{}}]}`,
		"unknown enum value":  `{"dataPoints":[{"dataSource":{"platform":"OURA"}}]}`,
		"duration with space": `{"dataPoints":[{"weight":{"sampleTime":{"utcOffset":"3600 s"}}}]}`,
		"local time": `{"dataPoints":[{"weight":{"sampleTime":` +
			`{"physicalTime":"2026-01-01T00:00:00+01:00"}}}]}`,
	} {
		if err := d.validate("ListDataPointsResponse", []byte(bad)); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
	if err := d.validate("ListDataPointsResponse",
		[]byte(`{"dataPoints":[{"weight":{"weightGrams":"NaN"}}]}`)); err != nil {
		t.Errorf("NaN: %v", err)
	}
	slices.Sort(d.types)
}

// TestEveryMethod calls each method of the discovery document that the cloud implements,
// which do checks against the document. The others must be answered 501.
func TestEveryMethod(t *testing.T) {
	d := mustDiscovery(t)
	h := newHooked(t, 3)
	account := h.Accounts()[0]
	token := h.access(account)
	h.subscribe("MANUAL", "steps")
	name := h.Truth(account, "sleep")[0].Key
	sub := map[string]any{"user": "users/" + account, "dataTypes": []string{"steps"}}
	for _, path := range []string{"identity", "profile", "settings", "irnProfile", "pairedDevices", "pairedDevices/1",
		"dataTypes/steps/dataPoints", "dataTypes/steps/dataPoints:reconcile"} {
		h.do(http.MethodGet, "/v4/users/me/"+path, token, nil)
	}
	h.do(http.MethodGet, "/v4/"+name, token, nil)
	h.do(http.MethodPost, points("steps")+":dailyRollUp", token, dailyRange(h.Now().AddDate(0, 0, -3), h.Now()))
	h.do(http.MethodPost, points("steps")+":rollUp", token, map[string]any{"windowSize": "3600s",
		"range": map[string]any{"startTime": "2026-03-10T00:00:00Z", "endTime": "2026-03-11T00:00:00Z"}})
	h.admin(http.MethodGet, "", nil)
	h.admin(http.MethodPost, "/sub-1/subscriptions?subscriptionId=first", sub)
	h.admin(http.MethodGet, "/sub-1/subscriptions", nil)
	h.admin(http.MethodPatch, "/sub-1/subscriptions/first?updateMask=dataTypes", sub)
	h.admin(http.MethodPatch, "/sub-1?updateMask=subscriberConfigs", map[string]any{
		"subscriberConfigs": []any{map[string]any{"dataTypes": []string{"sleep"},
			"subscriptionCreatePolicy": "AUTOMATIC"}}})
	h.admin(http.MethodDelete, "/sub-1/subscriptions/first", nil)
	h.admin(http.MethodDelete, "/sub-1", nil)
	for _, m := range d.methods {
		target := regexp.MustCompile(`\{[^}]*\}`).ReplaceAllString("/"+m.FlatPath, "me")
		d.mu.Lock()
		seen := d.seen[m.ID]
		d.mu.Unlock()
		if seen > 0 {
			continue
		}
		target = strings.Replace(target, "dataTypes/me", "dataTypes/exercise", 1)
		if a := h.do(m.HTTPMethod, target, token, nil); a.code != http.StatusNotImplemented {
			t.Errorf("%s was not called with success and is answered %d", m.ID, a.code)
		}
	}
}
