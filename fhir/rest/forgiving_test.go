package rest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
)

const whole = `{"resourceType":"Patient","id":"v1","text":{"status":"generated","div":"<div xmlns=\"http://www.w3.org/1999/xhtml\">Ada</div>"},"name":[{"family":"O'Neill","given":["Ada"]}],"gender":"female","photo":[{"url":"http://x.test/p"}]}`

// TestViews tests _summary, _elements and _pretty on reads, versions and histories.
func TestViews(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.put("Patient/v1", whole, 201)
		for _, path := range []string{"/Patient/v1", "/Patient/v1/_history/1"} {
			for query, c := range map[string]struct{ has, lacks string }{
				"_summary=true":             {`"family"`, `"photo"`},
				"_summary=text":             {`"div"`, `"family"`},
				"_summary=data":             {`"photo"`, `"div"`},
				"_elements=gender":          {`"gender"`, `"family"`},
				"_elements=Patient.gender,": {`"gender"`, `"family"`},
				"_elements=name&_pretty=1":  {`"family"`, `"gender"`},
			} {
				a := w.want(200, "all", "GET", path+"?"+strings.TrimSuffix(query, ","), "")
				if !bytes.Contains(a.body, []byte(c.has)) || bytes.Contains(a.body, []byte(c.lacks)) ||
					!bytes.Contains(a.body, []byte("SUBSETTED")) {
					t.Errorf("%s?%s: %s", path, query, a.body)
				}
				if a.header.Get("ETag") != `W/"1"` {
					t.Errorf("%s?%s: ETag %q", path, query, a.header.Get("ETag"))
				}
			}
			for _, query := range []string{"", "?_summary=false", "?_summary=", "?_elements=", "?_format=json",
				"?unknown=1"} {
				if a := w.want(200, "all", "GET", path+query, ""); bytes.Contains(a.body, []byte("SUBSETTED")) ||
					!bytes.Contains(a.body, []byte(`"photo"`)) {
					t.Errorf("%s%s: %s", path, query, a.body)
				}
			}
			w.want(400, "all", "GET", path+"?_summary=canary", "")
			w.want(400, "all", "GET", path+"?_summary=count", "")
			w.want(304, "all", "GET", path+"?_summary=true", "", "If-None-Match", `W/"1"`)
			a := w.want(200, "all", "GET", path+"?_pretty=true", "")
			var flat bytes.Buffer
			if json.Compact(&flat, a.body) != nil || bytes.Count(a.body, []byte("\n")) < 10 {
				t.Errorf("%s?_pretty=true: %s", path, a.body)
			}
			if b := w.want(200, "all", "GET", path+"?_pretty=false", ""); !bytes.Equal(b.body, flat.Bytes()) {
				t.Errorf("pretty or not are two resources: %s %s", flat.Bytes(), b.body)
			}
		}
		if a := w.want(200, "all", "GET", "/Patient/v1/_history?_elements=gender", ""); !bytes.Contains(a.body,
			[]byte("SUBSETTED")) || bytes.Contains(a.body, []byte("family")) {
			t.Errorf("history: %s", a.body)
		}
		w.put("Patient/v1", strings.Replace(whole, "female", "other", 1), 200)
		a := w.want(200, "all", "GET", "/Patient/v1/_history?_elements=gender&_count=1", "")
		if a = w.want(200, "all", "GET", a.link("next"), ""); !bytes.Contains(a.body, []byte("SUBSETTED")) ||
			!bytes.Contains(a.body, []byte("female")) {
			t.Errorf("second page of the history: %s", a.body)
		}
		w.put("Patient/v1", whole, 200)
		a = w.want(200, "all", "POST", "/",
			`{"resourceType":"Bundle","type":"batch","entry":[{"request":{"method":"GET","url":"Patient/v1?_elements=gender"}},{"request":{"method":"GET","url":"Patient/v1/_history/1?_summary=text"}},{"request":{"method":"GET","url":"Patient/v1?_summary=canary"}}]}`)
		if bytes.Count(a.body, []byte("SUBSETTED")) != 2 || bytes.Contains(a.body, []byte("family")) ||
			!bytes.Contains(a.body, []byte(`"status":"400"`)) {
			t.Errorf("batch: %s", a.body)
		}
		if a := w.want(200, "all", "GET", "/Patient?gender=FEMALE&_pretty=true", ""); len(a.ids()) != 1 ||
			bytes.Count(a.body, []byte("\n")) < 10 {
			t.Errorf("search: %s", a.body)
		}
	})
}

// TestHistoryCount tests _count=0, empty parameters and an unescaped plus.
func TestHistoryCount(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.put("Patient/v1", whole, 201)
		w.put("Patient/v1", strings.Replace(whole, "female", "other", 1), 200)
		if a := w.want(200, "all", "GET", "/Patient/v1/_history?_count=0", ""); len(a.ids()) != 0 ||
			a.json["total"] != 2.0 || a.link("next") != "" {
			t.Errorf("_count=0: %s", a.body)
		}
		for _, query := range []string{"_count=", "_since=", "_since=&_count=", "_since=2020-01-01T00:00:00+01:00",
			"_since=2020-01-01T00:00:00%2B01:00", "_since=2020-01-01T00:00:00.123456Z"} {
			if a := w.want(200, "all", "GET", "/Patient/v1/_history?"+query, ""); len(a.ids()) != 2 {
				t.Errorf("%s: %s", query, a.body)
			}
		}
		w.want(404, "all", "GET", "/Patient/none/_history?_count=0", "")
		w.want(400, "all", "GET", "/Patient/v1/_history?_count=-1", "")
		w.want(400, "all", "GET", "/Patient/v1/_history?_since=canary", "")
	})
}

// TestEmptyParametersOfOperations tests that operations ignore empty parameters.
func TestEmptyParametersOfOperations(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.want(200, "all", "GET", "/Observation/$lastn?patient=p1&category=vital-signs&max=&code=&unknown=", "")
		w.want(200, "all", "POST", "/Patient/_search?_count=&family=", "gender=&_id=p1", "Content-Type",
			"application/x-www-form-urlencoded")
	})
}

// TestUnknownParameters tests that an unknown parameter is an error that names it or,
// under lenient handling, a warning in the Bundle.
func TestUnknownParameters(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.put("Patient/v1", whole, 201)
		for _, query := range []string{"patinet=v1", "_text=x", "_content=x", "_contained=true",
			"organization.nmae=x", "_containedType=contained"} {
			name, _, _ := strings.Cut(query, "=")
			name, _, _ = strings.Cut(name, ":")
			name, _, _ = strings.Cut(name, ".")
			for _, prefer := range []string{"", "handling=strict"} {
				a := w.want(400, "all", "GET", "/Patient?"+query, "", "Prefer", prefer)
				if !strings.Contains(fmt.Sprint(a.json["issue"]), name) {
					t.Errorf("%s: %s", query, a.body)
				}
			}
			a := w.want(200, "all", "GET", "/Patient?gender=female&"+query, "", "Prefer", "handling=lenient")
			entries, _ := a.json["entry"].([]any)
			if len(entries) != 2 || a.json["total"] != 1.0 {
				t.Fatalf("%s: %s", query, a.body)
			}
			last := fmt.Sprint(entries[1])
			if !strings.Contains(last, "mode:outcome") || !strings.Contains(last, "severity:warning") ||
				!strings.Contains(last, name) {
				t.Errorf("%s: %s", query, last)
			}
			if self := a.link("self"); strings.Contains(self, name) {
				t.Errorf("%s: self link %s", query, self)
			}
		}
		if a := w.want(400, "all", "GET", "/Patient?"+url.QueryEscape("Ada Canary")+"=1",
			""); bytes.Contains(a.body, []byte("Canary")) {
			t.Errorf("what is no name is repeated: %s", a.body)
		}
	})
}

// TestByteOrderMark tests that a body may begin with a byte order mark.
func TestByteOrderMark(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.put("Patient/v1", "\ufeff"+whole, 201)
		a := w.want(200, "all", "POST", "/",
			"\ufeff"+`{"resourceType":"Bundle","type":"batch","entry":[{"request":{"method":"GET","url":"Patient/v1"}}]}`)
		if !bytes.Contains(a.body, []byte("200 OK")) {
			t.Errorf("batch: %s", a.body)
		}
		w.want(200, "all", "POST", "/Observation/$lastn",
			"\ufeff"+`{"resourceType":"Parameters","parameter":[{"name":"patient","valueString":"Patient/v1"},{"name":"category","valueString":"vital-signs"}]}`)
	})
}

// TestIssuesOfABody tests that all issues are reported together with their locations.
func TestIssuesOfABody(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		a := w.want(400, "all", "POST", "/Patient",
			"{\n \"resourceType\": \"Patient\",\n \"gender\": \"robot\",\n \"telecom\": [{\"value\": \"1\"}]\n}")
		issues, _ := a.json["issue"].([]any)
		if len(issues) != 2 || !strings.Contains(fmt.Sprint(issues), "line 3, column 2") ||
			!strings.Contains(fmt.Sprint(issues), "line 4, column 14") {
			t.Errorf("%s", a.body)
		}
	})
}

func TestMetadataMode(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		for _, mode := range []string{"", "?mode=full", "?mode=normative", "?mode="} {
			if a := w.want(200, "", "GET", "/metadata"+mode, ""); a.json["resourceType"] != "CapabilityStatement" {
				t.Errorf("%s: %s", mode, a.body)
			}
		}
		if a := w.want(404, "", "GET", "/metadata?mode=terminology", ""); a.json["resourceType"] != "OperationOutcome" {
			t.Errorf("%s", a.body)
		}
		w.want(400, "", "GET", "/metadata?mode=canary", "")
	})
}
