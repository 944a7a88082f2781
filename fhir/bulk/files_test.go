package bulk

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"pulsegate/fhir"
	"pulsegate/fhir/audit"
)

// text returns the bytes of a file.
func (w *world) text(c audit.Caller, id, name string) string {
	w.t.Helper()
	f, err := w.exporter.Open(w.t.Context(), c, id, name)
	if err != nil {
		w.t.Fatal(err)
	}
	var out bytes.Buffer
	if err := f.WriteTo(w.t.Context(), &out); err != nil {
		w.t.Fatal(err)
	}
	return out.String()
}

// resize restarts the exporter with files of a size.
func (w *world) resize(n int64) {
	w.exporter.Close()
	w.opts.FileBytes = n
	w.start()
}

func nameOf(f fileItem) string { return f.URL[strings.LastIndexByte(f.URL, '/')+1:] }

// TestSeveralFiles checks that files are bounded by size, that their counts and sizes are
// right, and that together they are what one file is.
func TestSeveralFiles(t *testing.T) {
	w := newWorld(t)
	w.seed()
	w.provenance("v1", "2026-01-01T00:00:00Z", "Patient/p1", "Patient/p3")
	c := w.caller("ehr")
	for _, r := range []Request{{Level: System}, {Level: Patients}, {Level: Group, GroupID: "g1"},
		{Level: Patients, Params: url.Values{"organizeOutputBy": {"Patient"}}},
		{Level: Group, GroupID: "g1", Params: url.Values{"organizeOutputBy": {"Patient"}}}} {
		w.resize(0)
		whole := map[string]string{}
		id := w.kick(c, r)
		for _, f := range w.manifest(c, id).Output {
			whole[f.Type] = w.text(c, id, nameOf(f))
		}
		for _, bound := range []int64{1, 600, 1000, 3000} {
			w.resize(bound)
			id := w.kick(c, r)
			parts, names := map[string]string{}, map[string]bool{}
			for _, f := range w.manifest(c, id).Output {
				text := w.text(c, id, nameOf(f))
				lines := strings.Count(text, "\n")
				if f.Count != lines || f.FileSize != int64(len(text)) || names[f.URL] {
					t.Errorf("%s: count %d, size %d; %d lines, %d bytes", nameOf(f), f.Count, f.FileSize, lines,
						len(text))
				}
				if limit := 1 + strings.Count(text, `"name":"header"`); int64(len(text)) > bound && lines > limit {
					t.Errorf("%s has %d bytes in %d lines, bound %d", nameOf(f), len(text), lines, bound)
				}
				if r.Params != nil && !strings.HasPrefix(text, `{"resourceType":"Parameters"`) {
					t.Errorf("%s begins without a header", nameOf(f))
				}
				names[f.URL] = true
				parts[f.Type] += text
			}
			for typ := range whole {
				if resources(parts[typ]) != resources(whole[typ]) {
					t.Errorf("%v %s in files of %d bytes:\n%s\nwant\n%s", r.Level, typ, bound, parts[typ], whole[typ])
				}
			}
			if bound == 1 && r.Params == nil && len(names) < 6 {
				t.Errorf("%d files", len(names))
			}
			if err := w.exporter.Delete(t.Context(), c, id); err != nil {
				t.Fatal(err)
			}
			n := 0
			if err := w.st.List(t.Context(), filePrefix, func(k string, _ []byte) bool {
				if strings.Contains(k, id) {
					n++
				}
				return true
			}); err != nil || n > 0 {
				t.Errorf("%d files are left after the deletion: %v", n, err)
			}
		}
	}
}

// resources returns the lines that are not headers.
func resources(text string) string {
	var out []string
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, `{"resourceType":"Parameters"`) {
			out = append(out, line)
		}
	}
	return strings.Join(out, "")
}

// TestOrganizedByPatient checks the blocks of patients: a header, the Patient, and what
// refers to it; a block continues in another file only if it is larger than one.
func TestOrganizedByPatient(t *testing.T) {
	w := newWorld(t)
	w.seed()
	c := w.caller("ehr")
	for bound, files := range map[int64]int{0: 1, 2500: 2, 700: 6} {
		w.resize(bound)
		id := w.kick(c, Request{Level: System, Params: url.Values{"organizeOutputBy": {"Patient"}}})
		m := w.manifest(c, id)
		if m.OrganizedBy != "Patient" || len(m.Output) != files && bound != 700 || bound == 700 && len(m.Output) < 6 {
			t.Errorf("bound %d: %+v", bound, m)
		}
		patient := ""
		for i, f := range m.Output {
			if f.Type != "" {
				t.Errorf("type %s", f.Type)
			}
			var last string
			for line := range strings.Lines(w.text(c, id, nameOf(f))) {
				var r struct {
					ResourceType, ID string
					Subject          struct{ Reference string }
					Parameter        []struct {
						Name           string
						ValueReference struct{ Reference string }
					}
				}
				if err := json.Unmarshal([]byte(line), &r); err != nil {
					t.Fatal(err)
				}
				switch r.ResourceType {
				case "Parameters":
					patient = strings.TrimPrefix(r.Parameter[0].ValueReference.Reference, "Patient/")
					if r.Parameter[0].Name != "header" {
						t.Error(line)
					}
				case "Patient":
					if r.ID != patient || last != "Parameters" {
						t.Errorf("Patient %s in the block of %s after %s", r.ID, patient, last)
					}
				default:
					if r.Subject.Reference != "Patient/"+patient {
						t.Errorf("%s in the block of %s", line, patient)
					}
				}
				last = r.ResourceType
			}
			if next := f.Continues; (next != "") != (bound == 700 && i+1 < len(m.Output) && i%2 == 0) && bound != 700 {
				t.Errorf("file %d continues in %q", i, next)
			} else if next != "" && (i+1 == len(m.Output) || next != m.Output[i+1].URL) {
				t.Errorf("file %d continues in %q", i, next)
			}
		}
	}
}

// TestManyPages checks organized files with more patients than are in memory at a time.
func TestManyPages(t *testing.T) {
	w := newWorld(t)
	for i := range pageSize + 5 {
		w.put("Patient", fmt.Sprintf("p%04d", i), "")
	}
	w.resize(20000)
	c := w.caller("ehr")
	id := w.kick(c, Request{Level: Patients, Params: url.Values{"organizeOutputBy": {"Patient"}}})
	text := ""
	for _, f := range w.manifest(c, id).Output {
		text += w.text(c, id, nameOf(f))
	}
	if n := strings.Count(resources(text), "\n"); n != pageSize+5 || strings.Count(text, "\n") != 2*n {
		t.Errorf("%d resources", n)
	}
}

// TestRanges checks that each range of a file has the bytes of the whole file.
func TestRanges(t *testing.T) {
	w := newWorld(t)
	for i := range 300 {
		w.put("Patient", fmt.Sprintf("p%03d", i), `,"name":[{"family":"`+strings.Repeat("x", 4000)+`"}]`)
	}
	c := w.caller("ehr")
	id := w.kick(c, Request{Level: System})
	w.manifest(c, id)
	whole := w.text(c, id, "Patient.ndjson")
	rapid.Check(t, func(rt *rapid.T) {
		from := rapid.Int64Range(0, int64(len(whole))-1).Draw(rt, "from")
		to := rapid.Int64Range(from+1, int64(len(whole))).Draw(rt, "to")
		f, err := w.exporter.Open(t.Context(), c, id, "Patient.ndjson")
		if err != nil {
			rt.Fatal(err)
		}
		f.SetRange(from, to)
		before := w.st.Log().Size()
		var out bytes.Buffer
		if err := f.WriteTo(t.Context(), &out); err != nil {
			rt.Fatal(err)
		}
		if out.String() != whole[from:to] {
			rt.Fatalf("range %d-%d has %d bytes", from, to, out.Len())
		}
		// Each patient in the range is recorded, and at most those of its blocks.
		sent := uint64(strings.Count(out.String(), `"id":"p`))
		if n := w.st.Log().Size() - before; n < sent || n > sent+2*(blockSize/4000+2) {
			rt.Fatalf("%d events for %d patients", n, sent)
		}
	})
}

func (w *world) withdraw(patients ...string) {
	w.t.Helper()
	w.consents.mu.Lock()
	for _, p := range patients {
		w.consents.withdrawn[p] = true
	}
	w.consents.mu.Unlock()
	w.put("Consent", "c-"+patients[0], `,"status":"inactive","patient":{"reference":"Patient/`+patients[0]+`"}`)
}

// TestRangeAfterWithdrawal checks that a file whose content has changed has no tag and no
// ranges, so that a client cannot join bytes of two contents, and what is withheld.
func TestRangeAfterWithdrawal(t *testing.T) {
	w := newWorld(t)
	w.seed()
	c := w.caller("ehr")
	id := w.kick(c, Request{Level: System, Params: url.Values{"_type": {"Observation"}}})
	w.manifest(c, id)
	open := func() *File {
		f, err := w.exporter.Open(t.Context(), c, id, "Observation.ndjson")
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	tag, size, ok := open().Tag()
	if again, _, _ := open().Tag(); !ok || tag == "" || again != tag ||
		size != int64(len(w.text(c, id, "Observation.ndjson"))) {
		t.Fatalf("tag %q %q, size %d", tag, again, size)
	}
	w.withdraw("p1")
	f := open()
	f.SetRange(size-10, size)
	var out bytes.Buffer
	if err := f.WriteTo(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	if _, _, ok := f.Range(); ok || strings.Contains(out.String(), "Patient/p1") ||
		strings.Count(out.String(), "\n") != 6 {
		t.Errorf("a range after the withdrawal: %v %s", ok, out.String())
	}
	if _, _, ok := f.Tag(); ok {
		t.Error("the changed file has a tag")
	}
	// The consent is given again: the tag is not.
	w.consents.mu.Lock()
	clear(w.consents.withdrawn)
	w.consents.mu.Unlock()
	if _, _, ok := open().Tag(); ok {
		t.Error("a tag came back")
	}
	if m := w.manifest(c, id); m.Output[0].Count != 0 {
		t.Errorf("a count of a changed file: %+v", m.Output)
	}
}

// withdrawing withdraws consents after the first write.
type withdrawing struct {
	bytes.Buffer
	do func()
}

func (d *withdrawing) Write(b []byte) (int, error) {
	n, err := d.Buffer.Write(b)
	if d.do != nil {
		d.do()
		d.do = nil
	}
	return n, err
}

// TestWithdrawalDuringRange checks that a range whose length was promised ends with an
// error, and that a whole file goes on without the data.
func TestWithdrawalDuringRange(t *testing.T) {
	for _, ranged := range []bool{true, false} {
		w := newWorld(t)
		for i := range 300 {
			w.put("Observation", fmt.Sprintf("o%03d", i),
				fmt.Sprintf(`,"status":"final","code":{"text":"%s"},"subject":{"reference":"Patient/p%03d"}`,
					strings.Repeat("x", 4000), i))
		}
		c := w.caller("ehr")
		id := w.kick(c, Request{Level: System})
		w.manifest(c, id)
		f, err := w.exporter.Open(t.Context(), c, id, "Observation.ndjson")
		if err != nil {
			t.Fatal(err)
		}
		if _, size, _ := f.Tag(); ranged {
			f.SetRange(10, size)
		}
		out := &withdrawing{}
		out.do = func() { w.withdraw("p299", "p150") }
		err = f.WriteTo(t.Context(), out)
		if ranged != errors.Is(err, errChanged) || !ranged && err != nil {
			t.Errorf("ranged %v: %v", ranged, err)
		}
		if text := out.String(); strings.Contains(text, `Patient/p299`) || strings.Contains(text, `Patient/p150`) {
			t.Errorf("ranged %v: data was sent after the withdrawal", ranged)
		}
		if f, err = w.exporter.Open(t.Context(), c, id, "Observation.ndjson"); err != nil {
			t.Fatal(err)
		}
		if _, _, ok := f.Tag(); ok {
			t.Errorf("ranged %v: the file keeps its tag", ranged)
		}
	}
}

// TestPartialManifests checks that the files of a running export are offered to clients
// that take them, in manifests of a bounded size, and to no others.
func TestPartialManifests(t *testing.T) {
	w := newWorld(t)
	w.seed()
	roles, all := w.cluster(1)
	p := all[0]
	p.opts.FileBytes, p.opts.ManifestFiles = 1, 4
	c := w.caller("ehr")
	p.open()
	var scans int
	stop := make(chan struct{})
	p.view.scan = func(ctx context.Context) {
		if scans++; scans == 7 {
			close(stop)
			<-ctx.Done()
		}
	}
	r := Request{Level: System, Params: url.Values{"_type": {"Observation"}}}
	r.Params.Set("allowPartialManifests", "true")
	id := p.kick(c, r)
	give(t, roles, p)
	<-stop
	s, err := p.exporter.Status(t.Context(), c, id, 0, Form3)
	if err != nil || s.Progress == "" || s.Manifest == nil {
		t.Fatalf("%+v %v", s, err)
	}
	var m manifest
	if err := json.Unmarshal(s.Manifest, &m); err != nil || len(m.Output) != 4 || len(m.Link) != 1 ||
		m.Link[0].URL != p.exporter.statusURL(id)+"?page=1" {
		t.Fatalf("%s %v", s.Manifest, err)
	}
	for _, f := range m.Output {
		if got := p.file(c, f); len(got) != 1 {
			t.Errorf("%v", got)
		}
	}
	p.exporter.Close()
	p.view.scan = nil
	p.open()
	give(t, roles, nil)
	give(t, roles, p)
	p.manifest(c, id)
	var ids []string
	for page := range 3 {
		s, err := p.exporter.Status(t.Context(), c, id, page, Form3)
		if err != nil {
			t.Fatal(err)
		}
		var next manifest
		if err := json.Unmarshal(s.Manifest, &next); err != nil || (len(next.Link) == 0) != (page == 2) {
			t.Fatalf("%s %v", s.Manifest, err)
		}
		for i, f := range next.Output {
			if page == 0 && f != m.Output[i] {
				t.Errorf("the first manifest has changed: %+v, %+v", f, m.Output[i])
			}
			ids = append(ids, p.file(c, f)...)
		}
	}
	slices.Sort(ids)
	if len(slices.Compact(ids)) != 9 {
		t.Errorf("%v", ids)
	}
	if _, err := p.exporter.Status(t.Context(), c, id, 3, Form3); fhir.KindOf(err) != fhir.NotFound {
		t.Errorf("a manifest beyond the last: %v", err)
	}
}

// TestManifestForms checks the shapes of Bulk Data 3.0 and of the ballot of 4.0.0.
func TestManifestForms(t *testing.T) {
	w := newWorld(t)
	w.seed()
	c := w.caller("ehr")
	id := w.kick(c, Request{Level: Patients, URL: base + "/Patient/$export", Lenient: true,
		Params: url.Values{"x": {"y"}}})
	w.manifest(c, id)
	for form, want := range map[Form][]string{
		Form3: {`"request":"` + base + `/Patient/$export"`, `"error":[{"type":"OperationOutcome"`},
		Form4: {`"manifestType":"http://hl7.org/fhir/uv/bulkdata/OperationDefinition/patient-export"`,
			`"outcome":[{"type":"OperationOutcome"`},
	} {
		s, err := w.exporter.Status(t.Context(), c, id, 0, form)
		if err != nil {
			t.Fatal(err)
		}
		for f, parts := range map[Form][]string{Form3: {`"request"`, `"error"`},
			Form4: {`"manifestType"`, `"outcome"`}} {
			for _, part := range parts {
				if strings.Contains(string(s.Manifest), part) != (f == form) {
					t.Errorf("%s in %s", part, s.Manifest)
				}
			}
		}
		for _, part := range want {
			if !strings.Contains(string(s.Manifest), part) {
				t.Errorf("no %s in %s", part, s.Manifest)
			}
		}
	}
}
