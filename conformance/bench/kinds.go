package main

import (
	"bytes"
	"fmt"
	"slices"
	"time"
)

// kinds measures one search of each kind that an index answers, on one connection, among
// -patients Patients and as many Encounters.
func (b *bench) kinds() error {
	if err := b.people(); err != nil {
		return err
	}
	// Each search finds few of the resources, from another place each time.
	searches := []struct {
		name string
		path func(i int) string
	}{
		{"Patients by the start of a name",
			func(i int) string { return "Patient?name=" + surname(i)[:5] + "&_count=10" }},
		{"Patient by identifier", func(i int) string { return fmt.Sprintf("Patient?identifier=urn:bench%%7C%d", i) }},
		{"Patients by a range of dates", func(i int) string {
			at := born(i)
			return "Patient?birthdate=ge" + at.Format(time.DateOnly) + "&birthdate=lt" +
				at.AddDate(0, 0, 2).Format(time.DateOnly) + "&_count=10"
		}},
		{"Patients by two clauses", func(i int) string {
			return "Patient?gender=" + gender(i) + "&name=" + surname(i) + "&_count=10"
		}},
		{"50 newest Patients by date of birth", func(int) string { return "Patient?_sort=-birthdate&_count=50" }},
		{"a hundredth of the Patients, by date of birth", func(i int) string {
			return "Patient?name=" + surname(i)[:2] + "&_sort=birthdate&_count=50"
		}},
		{"Encounters by a range of quantities", func(i int) string {
			return fmt.Sprintf("Encounter?length=ge%d||min&length=lt%d||min&_count=10", i%5000, i%5000+1)
		}},
		{"Encounters of a hundredth of the Patients", func(i int) string {
			return "Encounter?patient.name=" + surname(i)[:2] + "&_count=10"
		}},
	}
	for _, s := range searches {
		if err := b.kind(s.name, s.path); err != nil {
			return err
		}
	}
	begin := time.Now()
	_, page, err := b.client.JSON("GET", "Observation?code=http://loinc.org%7C8867-4&_summary=count", nil)
	if err != nil {
		return err
	}
	n, _ := page["total"].(float64)
	b.add("count of Observations by code", n/time.Since(begin).Seconds(), "resources/s",
		fmt.Sprintf("%.0f of them in %v", n, time.Since(begin).Round(time.Millisecond)))
	return nil
}

// kind measures one kind of search.
func (b *bench) kind(name string, path func(i int) string) error {
	do, end, err := b.line()
	if err != nil {
		return err
	}
	var lat []time.Duration
	for i := range min(500, b.opt.requests) {
		at := time.Now()
		if _, err := do("GET", path(i*7919%b.opt.patients), nil, 200); err != nil {
			if i == 0 && b.srv == nil { // another server may not offer it
				b.add(name, 0, "ms p50", "not offered")
				return end()
			}
			return fmt.Errorf("%s: %w", name, err)
		}
		lat = append(lat, time.Since(at))
	}
	slices.Sort(lat)
	b.add(name, ms(lat, .5), "ms p50", fmt.Sprintf("p99 %.2f ms, among %d", ms(lat, .99), b.opt.patients))
	return end()
}

// people creates the Patients and their Encounters in bundles.
func (b *bench) people() error {
	const size = 200
	bundles := (b.opt.patients + size/2 - 1) / (size / 2)
	rate, lat, err := b.load(bundles, func(do send, i int) error {
		_, err := do("POST", "", b.peopleBundle(i*size/2, size/2), 200)
		return err
	})
	if err != nil {
		return err
	}
	b.add("Patients and Encounters, all indexed", rate*size, "resources/s",
		fmt.Sprintf("%d transactions of %d, p50 %.1f ms", bundles, size, ms(lat, .5)))
	return nil
}

func (b *bench) peopleBundle(from, n int) []byte {
	var buf bytes.Buffer
	buf.WriteString(`{"resourceType":"Bundle","type":"transaction","entry":[`)
	for i := from; i < from+n; i++ {
		if i > from {
			buf.WriteByte(',')
		}
		fmt.Fprintf(&buf, `{"fullUrl":"urn:uuid:00000000-0000-4000-8000-%012d","resource":{"resourceType":"Patient","identifier":[{"system":"urn:bench","value":"%d"}],"name":[{"family":"%s","given":["Given%d"]}],"gender":"%s","birthDate":"%s"},"request":{"method":"POST","url":"Patient"}}`,
			i, i, surname(i), i%97, gender(i), born(i).Format(time.DateOnly))
		fmt.Fprintf(&buf, `,{"resource":{"resourceType":"Encounter","status":"finished","class":{"code":"AMB"},"subject":{"reference":"urn:uuid:00000000-0000-4000-8000-%012d"},"length":{"value":%d,"unit":"min","system":"http://unitsofmeasure.org","code":"min"}},"request":{"method":"POST","url":"Encounter"}}`,
			i, i%5000)
	}
	buf.WriteString(`]}`)
	return buf.Bytes()
}

// surname returns a name whose first two letters are those of a hundredth of all.
func surname(i int) string {
	const letters = "bcdfghklmn"
	h := uint32(i) * 2654435761
	name := make([]byte, 7)
	for j := range name {
		name[j] = letters[h>>(4*j)%10]
	}
	return string(name)
}

func gender(i int) string { return []string{"female", "male", "other", "unknown"}[i%4] }

// born returns a day between 1930 and 2020.
func born(i int) time.Time {
	return time.Date(1930, 1, 1, 0, 0, 0, 0, time.UTC).AddDate(0, 0, int(uint32(i)*40503%32800))
}
