package main

import (
	"archive/zip"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
)

const (
	xmlHead = `<?xml version="1.0" encoding="UTF-8"?>` + "\n"
	docHead = `<HealthData locale="en_DE"><ExportDate value="2026-10-05 09:00:00 +0200"/><Me HKCharacteristicTypeIdentifierDateOfBirth="1931-07-13"/>`
	day     = `sourceName="Zanaria's Watch" sourceVersion="11.0" creationDate="2026-09-01 08:00:05 +0200" startDate="2026-09-01 08:00:00 +0200" endDate="2026-09-01 08:00:00 +0200"`
	docTail = `</HealthData>`
)

// record returns a Record element of export.xml.
func record(typ, unit, value string) string {
	return `<Record type="` + typ + `" unit="` + unit + `" ` + day + ` value="` + value + `"/>`
}

// good holds the payloads that are ingested before the attacks.
var good = map[string][]byte{
	"export.xml": []byte(xmlHead + docHead + strings.NewReplacer("2026-09-01", "2026-10-01").Replace(
		record("HKQuantityTypeIdentifierHeartRate", "count/min", "62")+
			strings.ReplaceAll(record("HKQuantityTypeIdentifierHeartRate", "count/min", "64"), " 08:00:00",
				" 08:05:00")+
			record("HKQuantityTypeIdentifierOxygenSaturation", "%", "0.97")+
			record("HKQuantityTypeIdentifierStepCount", "count", "812")+
			record("HKQuantityTypeIdentifierBodyMass", "kg", "61.73519")) + docTail),
	"sleep.json": []byte(`{"data":[{"id":"5f0a1c1e-0009","average_breath":13.5,"average_heart_rate":55.25,"average_hrv":48,"awake_time":1800,"bedtime_start":"2026-10-01T23:00:00+02:00","bedtime_end":"2026-10-02T07:00:00+02:00","day":"2026-10-02","deep_sleep_duration":5400,"light_sleep_duration":14400,"rem_sleep_duration":7200,"total_sleep_duration":27000,"time_in_bed":28800,"latency":600,"efficiency":94,"low_battery_alert":false,"lowest_heart_rate":49,"period":0,"type":"long_sleep","sleep_phase_5_min":"4222111333"}],"next_token":null}`),
}

// many returns a reader of n copies of s.
func many(s string, n int) io.Reader {
	unit := strings.Repeat(s, max(1, (64<<10)/len(s)))
	whole := n * len(s)
	return io.LimitReader(&repeat{unit: unit}, int64(whole))
}

// repeat is an endless reader of copies of unit.
type repeat struct {
	unit string
	at   int
}

func (r *repeat) Read(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		c := copy(p[n:], r.unit[r.at:])
		n, r.at = n+c, (r.at+c)%len(r.unit)
	}
	return n, nil
}

// repeated returns a body of head, n copies of s, and tail.
func repeated(head, s string, n int, tail string) func() io.Reader {
	return func() io.Reader {
		return io.MultiReader(strings.NewReader(head), many(s, n), strings.NewReader(tail))
	}
}

// member is a file in an archive.
type member struct {
	name string
	body io.Reader
}

func zipped(members ...member) ([]byte, error) {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for _, m := range members {
		f, err := z.Create(m.name)
		if err != nil {
			return nil, err
		}
		if _, err := io.Copy(f, m.body); err != nil {
			return nil, err
		}
	}
	err := z.Close()
	return b.Bytes(), err
}

func gzipped(r io.Reader) ([]byte, error) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, err := io.Copy(z, r)
	err = errors.Join(err, z.Close())
	return b.Bytes(), err
}

func zstded(r io.Reader) ([]byte, error) {
	var b bytes.Buffer
	z, err := zstd.NewWriter(&b)
	if err != nil {
		return nil, err
	}
	_, err = io.Copy(z, r)
	err = errors.Join(err, z.Close())
	return b.Bytes(), err
}

// payload returns the request that ingests a body.
func (w *world) payload(name, vendor, format, file string, body func() io.Reader, want ...int) attack {
	return attack{name: name, path: "/ingest/" + vendor + "/" + format + "?patient=" + w.patient + "&name=" + file,
		body:   body,
		header: []string{"Content-Type", "application/octet-stream"}, want: want}
}

func (w *world) payloads() error {
	for _, part := range []func() error{w.xmlPayloads, w.zipPayloads, w.jsonPayloads, w.codedPayloads, w.oddValues} {
		if err := part(); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) xmlPayloads() error {
	apple := func(name string, body func() io.Reader, want ...int) {
		w.try(w.payload("export.xml: "+name, "apple", "auto", "export.xml", body, want...))
	}
	whole := xmlHead + docHead + record("HKQuantityTypeIdentifierHeartRate", "count/min", "70") + docTail
	for _, cut := range []int{1, len(xmlHead) - 5, len(xmlHead) + 5, len(xmlHead) + len(docHead) - 20,
		len(whole) - 60, len(whole) - 4} {
		apple(fmt.Sprintf("cut after %d of %d bytes", cut, len(whole)), text(whole[:cut]), 400)
	}
	apple("an entity declared (billion laughs)",
		text(xmlHead+`<!DOCTYPE HealthData [<!ENTITY a "Zanaria"><!ENTITY b "&a;&a;&a;&a;&a;&a;">]>`+docHead+
			record("HKQuantityTypeIdentifierHeartRate", "count/min", "&b;")+docTail), 400)
	apple("an entity of a file", text(xmlHead+`<!DOCTYPE HealthData [<!ENTITY a SYSTEM "file:///etc/passwd">]>`+
		docHead+docTail), 400)
	trap, err := listen("127.0.0.1:0")
	if err != nil {
		return err
	}
	defer trap.close()
	apple("an external DTD", text(xmlHead+`<!DOCTYPE HealthData SYSTEM "http://`+trap.addr+`/zanaria.dtd">`+
		docHead+docTail), 400)
	apple("a parameter entity of a URL",
		text(xmlHead+`<!DOCTYPE HealthData [<!ENTITY % p SYSTEM "http://`+trap.addr+`/"> %p;]>`+docHead+docTail), 400)
	w.note("export.xml: those URLs", "never connected", trap.untouched())
	apple("a million open elements", repeated(xmlHead+docHead, "<a>", 1_000_000, ""), 400)
	apple("an attribute of 64 MiB", repeated(xmlHead+docHead+`<Record type="`, canary+"!", 8<<20, `"/>`+docTail), 400,
		413)
	apple("an element name of 64 MiB", repeated(xmlHead+docHead+`<`, "Zanaria_", 8<<20, `/>`+docTail), 400, 413)
	apple("text of 64 MiB between elements", repeated(xmlHead+docHead, "Zanaria ", 8<<20, docTail), 200, 400, 413)
	apple("a comment without an end", repeated(xmlHead+docHead+"<!--", "Zanaria ", 8<<20, ""), 400, 413)
	apple("a million attributes", repeated(xmlHead+docHead+"<Record ", `z="1" `, 1_000_000, "/>"+docTail), 400, 413)
	apple("the malformed DTD of Apple: accepted",
		text(xmlHead+"<!DOCTYPE HealthData [\n<!ELEMENT HealthData (ExportDate,Me,(Record|Correlation)*)>\n<!ATTLIST HealthData\n  locale CDATA #REQUIRED\n<!ELEMENT Record EMPTY>\n]>"+
			strings.ReplaceAll(whole[len(xmlHead):], "2026-09-01", "2026-09-02")), 200)
	apple("invalid UTF-8", text(strings.ReplaceAll(whole, "Watch", "\xff\xfe\xc0\xaf")), 200, 400)
	apple("NUL bytes", text(strings.Repeat("\x00", 1<<20)), 400, 415)
	apple("an empty file", text(""), 400, 415)
	return nil
}

func (w *world) zipPayloads() error {
	xml := xmlHead + docHead + strings.ReplaceAll(record("HKQuantityTypeIdentifierHeartRate", "count/min", "71"),
		"2026-09-01", "2026-09-03") + docTail
	part := func(name, body string) member { return member{name, strings.NewReader(body)} }
	whole, err := zipped(part("apple_health_export/export.xml", xml),
		part("apple_health_export/electrocardiograms/zanaria.csv", "Name,Zanaria\n"))
	if err != nil {
		return err
	}
	send := func(name string, b []byte, want ...int) {
		w.try(w.payload("export.zip: "+name, "apple", "auto", "export.zip",
			func() io.Reader { return bytes.NewReader(b) }, want...))
	}
	for _, cut := range []int{4, 40, len(whole) / 2, len(whole) - 22, len(whole) - 1} {
		send(fmt.Sprintf("cut after %d of %d bytes", cut, len(whole)), whole[:cut], 400)
	}
	damaged := bytes.Clone(whole)
	for i := 60; i < 120; i++ {
		damaged[i] ^= 0x5a
	}
	send("damaged in the middle", damaged, 400)
	climb := "../../../../../../../../" + strings.TrimPrefix(w.path("zanaria-slip"), "/")
	for _, name := range []string{climb, w.path("zanaria-slip"), `..\..\zanaria-slip`,
		"apple_health_export/../../zanaria-slip"} {
		b, err := zipped(part(name+".xml", xml), part(name+"/electrocardiograms/zanaria.csv", "Name,Zanaria\n"))
		if err != nil {
			return err
		}
		label := map[bool]string{true: "names with ..", false: "absolute names"}[strings.Contains(name, "..")]
		send(label, b, 200, 400)
	}
	w.note("export.zip: those names", "nothing written", w.noSlip())
	for _, m := range []struct {
		name   string
		costly bool
		body   func() io.Reader
	}{
		{"a bomb of 512 MiB of small elements", true, repeated(xmlHead+docHead, "<Zanaria/>\n", 512<<20/11, docTail)},
		{"a bomb of 512 MiB in one attribute", false, repeated(xmlHead+docHead+`<Record type="`, "a", 512<<20, "")},
	} {
		b, err := zipped(member{"apple_health_export/export.xml", m.body()})
		if err != nil {
			return err
		}
		send(m.name, b, 400, 413)
		if m.costly {
			w.costly(b)
		}
	}
	var members []member
	for i := range 210_000 {
		members = append(members, part(fmt.Sprintf("%d", i), ""))
	}
	b, err := zipped(members...)
	if err != nil {
		return err
	}
	send("210,000 entries", b, 400, 413)
	nested := whole
	for range 20 {
		if nested, err = zipped(member{"apple_health_export/export.zip", bytes.NewReader(nested)}); err != nil {
			return err
		}
	}
	send("20 nested archives", nested, 400)
	return nil
}

// costly is the control of the bound on processor time: it sends an archive that costs the
// server some, and fails unless that exceeds a bound of almost nothing.
func (w *world) costly(archive []byte) {
	h := w.payload("control", "apple", "auto", "export.zip", func() io.Reader { return bytes.NewReader(archive) })
	var sent error
	err := w.costs(h.name, 20*time.Millisecond, func() { _, _, sent = w.exchange(h) })
	if !errors.Is(err, errCostly) {
		err = errors.Join(sent, errors.New("the processor time of a bomb of 512 MiB was not noticed"))
	} else {
		err = nil
	}
	w.note("export.zip: a bound of 20 ms of processor time", "exceeded by a bomb: the bound is measured", err)
}

// noSlip checks that no file was written under a name from an archive.
func (w *world) noSlip() error {
	return filepath.WalkDir(w.dir, func(p string, _ os.DirEntry, err error) error {
		if errors.Is(err, os.ErrNotExist) {
			return nil // the store has deleted the file
		}
		if err == nil && strings.Contains(filepath.Base(p), "zanaria") {
			err = fmt.Errorf("written: %s", filepath.Base(p))
		}
		return err
	})
}

func (w *world) jsonPayloads() error {
	for _, v := range []struct{ vendor, file, head, tail string }{
		{"oura", "heartrate.json", `{"data":[{"bpm":`, `}]}`},
		{"fitbit", "list_heart-rate.json", `{"dataPoints":[{"heartRate":`, `}]}`},
		{"apple", "hae.json", `{"data":{"metrics":[{"name":"heart_rate","units":"count/min","data":[{"qty":`, `}]}]}}`},
	} {
		send := func(name string, body func() io.Reader, want ...int) {
			w.try(w.payload(v.vendor+" JSON: "+name, v.vendor, "auto", v.file, body, want...))
		}
		send("a million deep", repeated(v.head, `{"a":[`, 500_000, ""), 400, 413)
		send("a string of 100 MB", repeated(v.head+`"`, "Zanaria!!!", 10_000_000, `"`+v.tail), 400, 413)
		send("a number of a million digits", repeated(v.head, "9", 1_000_000, v.tail), 200, 400, 413)
		send("cut", text(v.head), 400)
		send("wrong types", text(v.head+`{"Zanaria":[true,null,"61.73519"]}`+v.tail), 200, 400)
		send("an array where an object belongs", text(`[[["Zanaria"]]]`), 200, 400, 415)
		send("empty file", text(""), 400, 415)
	}
	send := func(name string, body string, want ...int) {
		w.try(w.payload("oura JSON: "+name, "oura", "auto", "heartrate.json", text(body), want...))
	}
	send("duplicate keys", `{"data":[{"timestamp":"2026-09-04T08:00:00+00:00","bpm":66,"bpm":61,"source":"awake"}],"next_token":null}`, 200, 400)
	send("invalid UTF-8", "{\"data\":[{\"timestamp\":\"2026-09-04T08:00:00+00:00\",\"bpm\":66,\"source\":\"\xff\xfe\"}]}", 200, 400)
	send("a payload of another vendor (Apple XML)", string(good["export.xml"]), 400, 415)
	w.try(w.payload("an unknown vendor", canary, "auto", "a.json", text("{}"), 400, 404))
	w.try(w.payload("an unknown format", "oura", canary, "a.json", text("{}"), 400, 404, 415))
	w.try(w.payload("a payload of another vendor (Oura as Fitbit)", "fitbit", "auto", "heartrate.json",
		text(string(good["sleep.json"])), 400, 415))
	w.try(w.payload("neither XML, zip nor JSON", "apple", "auto", "Zanaria.bin", text("Zanaria 61.73519"), 400, 415))
	w.try(attack{name: "a malformed patient id", path: "/ingest/oura/auto?patient=../" + canary, body: text("{}"),
		want: []int{400}})
	w.try(attack{name: "an unknown patient", path: "/ingest/oura/auto?patient=zanaria", body: text("{}"),
		want: []int{403, 404}})
	return nil
}

func (w *world) codedPayloads() error {
	// The payload is well-formed, so that only a limit can stop it.
	bomb := repeated(`{"data":[`, " ", 300<<20, `],"next_token":null}`)
	gz, err := gzipped(bomb())
	if err != nil {
		return err
	}
	zs, err := zstded(bomb())
	if err != nil {
		return err
	}
	coded := func(name, encoding string, b []byte, want ...int) {
		h := w.payload("POST /ingest: "+name, "oura", "auto", "heartrate.json",
			func() io.Reader { return bytes.NewReader(b) }, want...)
		h.header = append(h.header, "Content-Encoding", encoding)
		w.try(h)
	}
	coded("gzip bomb, 300 MiB from "+kib(gz), "gzip", gz, 413)
	coded("zstd bomb, 300 MiB from "+kib(zs), "zstd", zs, 413)
	coded("invalid gzip", "gzip", []byte(canary), 400)
	coded("invalid zstd", "zstd", []byte(canary), 400)
	coded("gzip cut in the middle", "gzip", gz[:len(gz)/2], 400, 413)
	coded("an unknown Content-Encoding", "zanaria", []byte("{}"), 415)
	h := attack{name: "FHIR body: gzip bomb", path: "Observation",
		body: func() io.Reader { return bytes.NewReader(gz) }, header: []string{"Content-Encoding", "gzip"},
		want: []int{413}}
	w.try(h)
	h = attack{name: "FHIR body: zstd (not offered)", path: "Observation",
		body: func() io.Reader { return bytes.NewReader(zs) }, header: []string{"Content-Encoding", "zstd"},
		want: []int{413, 415}}
	w.try(h)
	return nil
}

// kib formats the size of b.
func kib(b []byte) string { return fmt.Sprintf("%d KiB", len(b)>>10) }

// oddValues sends well-formed payloads with nonsensical content. The server must accept
// them and put that content into quarantine.
func (w *world) oddValues() error {
	const hr = "HKQuantityTypeIdentifierHeartRate"
	for _, c := range []struct{ name, file, body string }{
		{"heart rate in kg", "export.xml", record(hr, "kg", "61.73519")},
		{"an unknown unit", "export.xml", record(hr, canary, "61.73519")},
		{"a value that is not a number", "export.xml", record(hr, "count/min", canary)},
		{"a value of NaN", "export.xml", record(hr, "count/min", "NaN")},
		{"a value of 1e999", "export.xml", record(hr, "count/min", "1e999")},
		{"a negative heart rate", "export.xml", record(hr, "count/min", "-61.73519")},
		{"the year 0001", "export.xml", strings.ReplaceAll(record(hr, "count/min", "61"), "2026-09-01", "0001-01-01")},
		{"the year 9999", "export.xml", strings.ReplaceAll(record(hr, "count/min", "61"), "2026-09-01", "9999-12-31")},
		{"an invalid date", "export.xml",
			strings.ReplaceAll(record(hr, "count/min", "61"), "2026-09-01", "2026-02-31")},
		{"an end before the start", "export.xml",
			strings.Replace(record("HKQuantityTypeIdentifierStepCount", "count", "61"), `endDate="2026`,
				`endDate="1999`, 1)},
		{"an unknown type", "export.xml", record("HKQuantityTypeIdentifierZanaria", "count", "61.73519")},
	} {
		before, err := w.quarantined()
		if err != nil {
			return err
		}
		answer, err := w.attempt(w.payload(c.name, "apple", "auto", c.file, text(xmlHead+docHead+c.body+docTail), 200))
		if err == nil {
			var reason string
			if reason, err = w.newlyQuarantined(before); err == nil {
				answer += ", in quarantine as " + reason
			}
		}
		w.note(c.name, answer, err)
	}
	return nil
}

// quarantined returns the reasons of the items in quarantine, by id.
func (w *world) quarantined() (map[string]string, error) {
	var q struct {
		Items []struct{ ID, Reason, Metric string }
	}
	err := w.srv.Run(&q, "quarantine", "list", "--patient", w.patient)
	out := map[string]string{}
	for _, it := range q.Items {
		out[it.ID] = it.Reason
	}
	return out, err
}

// newlyQuarantined returns the reason of an item that is not in before.
func (w *world) newlyQuarantined(before map[string]string) (string, error) {
	now, err := w.quarantined()
	if err != nil {
		return "", err
	}
	for id, reason := range now {
		if _, ok := before[id]; !ok {
			return reason, nil
		}
	}
	return "", errors.New("accepted, but not in quarantine")
}
