package main

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"sort"
	"sync"
	"sync/atomic"
	"time"
)

// load runs n calls of f on the bench's connections and returns the calls per
// second and the sorted latencies.
func (b *bench) load(n int, f func(i int) error) (float64, []time.Duration, error) {
	lat := make([]time.Duration, n)
	var next atomic.Int64
	var wg sync.WaitGroup
	errs := make(chan error, b.opt.workers)
	begin := time.Now()
	for range b.opt.workers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				at := time.Now()
				if err := f(i); err != nil {
					errs <- err
					return
				}
				lat[i] = time.Since(at)
			}
		}()
	}
	wg.Wait()
	took := time.Since(begin)
	select {
	case err := <-errs:
		return 0, nil, err
	default:
	}
	sort.Slice(lat, func(i, j int) bool { return lat[i] < lat[j] })
	return float64(n) / took.Seconds(), lat, nil
}

func ms(lat []time.Duration, q float64) float64 {
	return float64(lat[min(len(lat)-1, int(q*float64(len(lat))))].Microseconds()) / 1000
}

func (b *bench) observation(i int) []byte {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(i) * 5 * time.Second).Format(time.RFC3339)
	return []byte(fmt.Sprintf(`{"resourceType":"Observation","status":"final","category":[{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/observation-category","code":"vital-signs","display":"Vital Signs"}]}],"code":{"coding":[{"system":"http://loinc.org","code":"8867-4","display":"Heart rate"}]},"subject":{"reference":"Patient/%s"},"effectiveDateTime":"%s","valueQuantity":{"value":%d,"unit":"beats/minute","system":"http://unitsofmeasure.org","code":"/min"}}`, b.patient, at, 55+i%60))
}

// call does one request, reads it whole and returns the size of the answer.
func (b *bench) call(method, path string, body []byte, want int, header ...string) (int64, string, error) {
	resp, err := b.c.Do(method, path, body, header...)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	n, err := io.Copy(io.Discard, resp.Body)
	if err == nil && resp.StatusCode != want {
		err = fmt.Errorf("%s %s: %d", method, path, resp.StatusCode)
	}
	return n, resp.Header.Get("Location"), err
}

// fhir measures what every R4 server offers.
func (b *bench) fhir() error {
	ids := make([]string, b.opt.n)
	rate, lat, err := b.load(b.opt.n, func(i int) error {
		_, loc, err := b.call("POST", "Observation", b.observation(i), 201)
		ids[i] = loc
		return err
	})
	if err != nil {
		return err
	}
	b.add("create", rate, "1/s", fmt.Sprintf("p50 %.2f ms, p99 %.2f ms, %d connections", ms(lat, .5), ms(lat, .99), b.opt.workers))
	if err := b.transactions(); err != nil {
		return err
	}
	if rate, lat, err = b.load(b.opt.n, func(i int) error {
		_, _, err := b.call("GET", unversioned(ids[i]), nil, 200)
		return err
	}); err != nil {
		return err
	}
	b.add("read", rate, "1/s", fmt.Sprintf("p50 %.2f ms, p99 %.2f ms", ms(lat, .5), ms(lat, .99)))
	search := func(i int) error {
		at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(rand.IntN(max(1, b.opt.seedObs-200))) * 5 * time.Second)
		_, _, err := b.call("GET", "Observation?patient="+b.patient+"&code=http://loinc.org%7C8867-4&date=ge"+at.Format("2006-01-02T15:04:05Z")+"&_sort=date&_count=100", nil, 200)
		return err
	}
	if rate, lat, err = b.load(b.opt.n/2, search); err != nil {
		return err
	}
	b.add("search patient+code+date, 100 of many", rate, "1/s", fmt.Sprintf("p50 %.2f ms, p99 %.2f ms, %d connections", ms(lat, .5), ms(lat, .99), b.opt.workers))
	quiet := *b
	quiet.opt.workers = 1
	if rate, lat, err = quiet.load(min(1000, b.opt.n), search); err != nil {
		return err
	}
	b.add("the same, one connection", rate, "1/s", fmt.Sprintf("p50 %.2f ms, p99 %.2f ms", ms(lat, .5), ms(lat, .99)))
	return b.export()
}

func unversioned(location string) string {
	if i := bytes.Index([]byte(location), []byte("/_history")); i > 0 {
		return location[:i]
	}
	return location
}

// transactions fill the store up to the wanted size in bundles of 100.
func (b *bench) transactions() error {
	const size = 100
	bundles := max(1, (b.opt.seedObs-b.opt.n)/size)
	rate, lat, err := b.load(bundles, func(i int) error {
		var buf bytes.Buffer
		buf.WriteString(`{"resourceType":"Bundle","type":"transaction","entry":[`)
		for k := range size {
			if k > 0 {
				buf.WriteByte(',')
			}
			buf.WriteString(`{"resource":`)
			buf.Write(b.observation(b.opt.n + i*size + k))
			buf.WriteString(`,"request":{"method":"POST","url":"Observation"}}`)
		}
		buf.WriteString(`]}`)
		_, _, err := b.call("POST", "", buf.Bytes(), 200)
		return err
	})
	if err != nil {
		return err
	}
	b.add("transaction bundles", rate*size, "resources/s", fmt.Sprintf("%d bundles of %d, p50 %.1f ms", bundles, size, ms(lat, .5)))
	return nil
}

func (b *bench) export() error {
	resp, err := b.c.Do("GET", "Patient/$export?_type=Observation", nil, "Prefer", "respond-async")
	if err != nil {
		return err
	}
	if _, err = io.Copy(io.Discard, resp.Body); err == nil {
		err = resp.Body.Close()
	}
	if err != nil {
		return err
	}
	if resp.StatusCode != 202 {
		return fmt.Errorf("$export: %d", resp.StatusCode)
	}
	var files []string
	for range 1200 {
		code, m, err := b.c.JSON("GET", resp.Header.Get("Content-Location"), nil, "Accept", "application/json")
		if err != nil {
			return err
		}
		if code == 200 {
			out, _ := m["output"].([]any)
			for _, o := range out {
				f, _ := o.(map[string]any)
				u, _ := f["url"].(string)
				files = append(files, u)
			}
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	var total, lines int64
	begin := time.Now()
	for _, u := range files {
		n, l, err := b.drain(u)
		if err != nil {
			return err
		}
		total, lines = total+n, lines+l
	}
	s := time.Since(begin).Seconds()
	b.add("export download", float64(total)/1e6/s, "MB/s", fmt.Sprintf("%.0f resources/s, %d resources, %.0f MB", float64(lines)/s, lines, float64(total)/1e6))
	return nil
}

func (b *bench) drain(u string) (int64, int64, error) {
	resp, err := b.c.Do("GET", u, nil, "Accept", "application/fhir+ndjson", "Accept-Encoding", "identity")
	if err != nil {
		return 0, 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != 200 {
		return 0, 0, fmt.Errorf("export file: %d", resp.StatusCode)
	}
	buf := make([]byte, 1<<20)
	var n, lines int64
	for {
		k, err := resp.Body.Read(buf)
		n += int64(k)
		lines += int64(bytes.Count(buf[:k], []byte{'\n'}))
		if err == io.EOF {
			return n, lines, nil
		}
		if err != nil {
			return n, lines, err
		}
	}
}
