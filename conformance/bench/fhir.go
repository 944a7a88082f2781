package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"time"
)

// send sends one request on the connection of its worker.
type send func(method, path string, body []byte, want int) (location string, err error)

// measure runs a load and adds its rate to the figures.
func (b *bench) measure(name string, n int, f func(do send, i int) error) (rate float64, err error) {
	var lat []time.Duration
	cost, err := b.cost(n, func() (err error) {
		rate, lat, err = b.load(n, f)
		return err
	})
	if err == nil {
		b.add(name, rate, "1/s", fmt.Sprintf("p50 %.2f ms, p99 %.2f ms, %d connections%s", ms(lat, .5),
			ms(lat, .99), b.opt.workers, cost))
	}
	return rate, err
}

// cost runs f, which makes n calls, and returns a note of the server's processor
// time per call. The note is empty for -target.
func (b *bench) cost(n int, f func() error) (string, error) {
	if b.srv == nil {
		return "", f()
	}
	before, err := b.srv.CPU()
	if err != nil {
		return "", err
	}
	if err := f(); err != nil {
		return "", err
	}
	after, err := b.srv.CPU()
	return fmt.Sprintf(", server %d us CPU per request", (after-before).Microseconds()/int64(n)), err
}

// load calls f n times on -c connections. It returns the calls per second and the
// sorted latencies.
func (b *bench) load(n int, f func(do send, i int) error) (float64, []time.Duration, error) {
	lat := make([]time.Duration, n)
	var next atomic.Int64
	var wg sync.WaitGroup
	errs := make(chan error, b.opt.workers)
	begin := time.Now()
	for range b.opt.workers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			do, end, err := b.line()
			if err != nil {
				errs <- err
				return
			}
			for err == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					break
				}
				at := time.Now()
				err = f(do, i)
				lat[i] = time.Since(at)
			}
			if cerr := end(); err == nil {
				err = cerr
			}
			if err != nil {
				errs <- err
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

// ms returns the quantile q of sorted latencies in milliseconds.
func ms(lat []time.Duration, q float64) float64 {
	return float64(lat[min(len(lat)-1, int(q*float64(len(lat))))].Microseconds()) / 1000
}

// observation returns the i-th heart rate of the patient.
func (b *bench) observation(i int) []byte {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(i) * 5 * time.Second).Format(time.RFC3339)
	return []byte(fmt.Sprintf(`{"resourceType":"Observation","status":"final","category":[{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/observation-category","code":"vital-signs","display":"Vital Signs"}]}],"code":{"coding":[{"system":"http://loinc.org","code":"8867-4","display":"Heart rate"}]},"subject":{"reference":"Patient/%s"},"effectiveDateTime":"%s","valueQuantity":{"value":%d,"unit":"beats/minute","system":"http://unitsofmeasure.org","code":"/min"}}`, b.patient, at, 55+i%60))
}

// call sends one request, reads the whole answer, and returns its size and Location.
func (b *bench) call(method, path string, body []byte, want int, header ...string) (int64, string, error) {
	resp, err := b.client.Do(method, path, body, header...)
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

// fhir runs the measurements that every R4 server supports.
func (b *bench) fhir() error {
	return b.run([]step{{"create", b.create}, {"transactions", b.transactions}, {"read", b.read},
		{"search", b.search}, {"export", b.export}})
}

func (b *bench) create() error {
	b.ids = make([]string, b.opt.requests)
	rate, err := b.measure("create", b.opt.requests, func(do send, i int) error {
		loc, err := do("POST", "Observation", b.observation(i), 201)
		if err == nil {
			b.ids[i], err = b.created(loc)
		}
		return err
	})
	if err != nil {
		return err
	}
	return b.validationFloor(rate)
}

func (b *bench) read() error {
	n := b.opt.requests * 8
	rate, err := b.measure("read", n, func(do send, i int) error {
		_, err := do("GET", b.ids[i%len(b.ids)], nil, 200)
		return err
	})
	if err != nil {
		return err
	}
	return b.socketFloor("read", rate, n, b.ids[0])
}

// randomSearch returns a typical search of wearable data: 100 heart rates from a
// random time onward.
func (b *bench) randomSearch() string {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0,
		time.UTC).Add(time.Duration(rand.IntN(max(1, b.opt.seedObs-200))) * 5 * time.Second)
	return "Observation?patient=" + b.patient + "&code=http://loinc.org%7C8867-4&date=ge" +
		at.Format("2006-01-02T15:04:05Z") + "&_sort=date&_count=100"
}

func (b *bench) search() error {
	search := func(do send, _ int) error {
		_, err := do("GET", b.randomSearch(), nil, 200)
		return err
	}
	rate, err := b.measure("search patient+code+date, 100 of many", b.opt.requests/2, search)
	if err != nil {
		return err
	}
	quiet := *b
	quiet.opt.workers = 1
	_, err = quiet.measure("the same, one connection", min(2000, b.opt.requests), search)
	b.figures = quiet.figures
	if err != nil {
		return err
	}
	return b.socketFloor("search", rate, b.opt.requests/2, b.randomSearch())
}

// created returns the absolute URL, without the version, of the resource that a
// Location header names. Servers send absolute and relative URLs.
func (b *bench) created(location string) (string, error) {
	base, err := url.Parse(b.client.FHIRBase() + "/")
	if err != nil {
		return "", err
	}
	u, err := base.Parse(location)
	if err != nil || location == "" {
		return "", fmt.Errorf("create: the answer has no valid Location")
	}
	return unversioned(u.String()), nil
}

// unversioned removes the version from the URL of a resource.
func unversioned(location string) string {
	if i := bytes.Index([]byte(location), []byte("/_history")); i > 0 {
		return location[:i]
	}
	return location
}

// transactions fills the store with -observations Observations in bundles of 100.
func (b *bench) transactions() error {
	const size = 100
	bundles := max(1, (b.opt.seedObs-b.opt.requests)/size)
	rate, lat, err := b.load(bundles, func(do send, i int) error {
		_, err := do("POST", "", b.bundle("transaction", b.opt.requests+i*size, size), 200)
		return err
	})
	if err != nil {
		return err
	}
	b.add("transaction bundles", rate*size, "resources/s",
		fmt.Sprintf("%d bundles of %d, p50 %.1f ms", bundles, size, ms(lat, .5)))
	return nil
}

// batches sends batches of 1,000 creates, one at a time, whose entries the server may
// perform together.
func (b *bench) batches() error {
	const size, rounds = 1000, 5
	count := func() (int, error) {
		_, page, err := b.client.JSON("GET", "Observation?_summary=count&patient="+b.patient, nil)
		total, _ := page["total"].(float64)
		return int(total), err
	}
	before, err := count()
	if err != nil {
		return err
	}
	do, end, err := b.line()
	if err != nil {
		return err
	}
	var lat []time.Duration
	for i := range rounds {
		at := time.Now()
		if _, err := do("POST", "", b.bundle("batch", b.opt.seedObs+i*size, size), 200); err != nil {
			return errors.Join(err, end())
		}
		lat = append(lat, time.Since(at))
	}
	slices.Sort(lat)
	b.add("batch of creates", float64(size)/lat[rounds/2].Seconds(), "resources/s",
		fmt.Sprintf("%d batches of %d, one at a time, p50 %.1f ms", rounds, size, ms(lat, .5)))
	after, err := count()
	if err == nil && after-before != rounds*size { // the status of a batch says nothing of its entries
		err = fmt.Errorf("%d of %d creates in batches succeeded", after-before, rounds*size)
	}
	return errors.Join(err, end())
}

// bundle returns a Bundle that creates n Observations from a number on.
func (b *bench) bundle(typ string, from, n int) []byte {
	var buf bytes.Buffer
	buf.WriteString(`{"resourceType":"Bundle","type":"` + typ + `","entry":[`)
	for k := range n {
		if k > 0 {
			buf.WriteByte(',')
		}
		buf.WriteString(`{"resource":`)
		buf.Write(b.observation(from + k))
		buf.WriteString(`,"request":{"method":"POST","url":"Observation"}}`)
	}
	buf.WriteString(`]}`)
	return buf.Bytes()
}

// export measures the download of all Observations, uncompressed and compressed.
// MB always counts the NDJSON before compression.
func (b *bench) export() error {
	begun := time.Now()
	files, err := b.exportFiles()
	if errors.Is(err, errNoExport) && b.srv == nil {
		fmt.Printf("%-46s %12s\n", "export download", "not offered")
		return nil
	}
	if err != nil {
		return err
	}
	for _, coding := range []string{"identity", "zstd", "gzip"} {
		var bytes, lines int64
		begin := time.Now()
		for _, u := range files {
			n, l, err := b.drain(u, coding, nil)
			if err != nil {
				return err
			}
			bytes, lines = bytes+n, lines+l
		}
		s := time.Since(begin).Seconds()
		if coding == "identity" {
			b.exportBytes, b.exportRate = bytes, float64(bytes)/1e6/s
			whole := time.Since(begun).Seconds()
			b.add("export, kick-off to last byte", whole, "s",
				fmt.Sprintf("%.0f MB/s overall, including preparation and polling every %v",
					float64(bytes)/1e6/whole, exportPoll))
			b.add("export download", b.exportRate, "MB/s",
				fmt.Sprintf("%.0f resources/s, %d resources, %.0f MB", float64(lines)/s, lines, float64(bytes)/1e6))
			continue
		}
		b.add("export download, "+coding, float64(b.exportBytes)/1e6/s, "MB/s",
			fmt.Sprintf("%.0f MB on the wire", float64(bytes)/1e6))
	}
	if b.srv == nil {
		return nil
	}
	rss, err := b.srv.RSS()
	if err == nil {
		b.add("memory after export", float64(rss)/1e6, "MB", "")
	}
	return err
}

// The measurement polls the status of an export every exportPoll, and gives up after
// exportPolls attempts.
const (
	exportPoll  = 50 * time.Millisecond
	exportPolls = 2400
)

var errNoExport = errors.New("the server does not offer Patient/$export to this token")

// exportFiles runs an export of all Observations and returns the URLs of its files.
func (b *bench) exportFiles() ([]string, error) {
	resp, err := b.client.Do("GET", "Patient/$export?_type=Observation", nil, "Prefer", "respond-async")
	if err != nil {
		return nil, err
	}
	if _, err = io.Copy(io.Discard, resp.Body); err == nil {
		err = resp.Body.Close()
	}
	if err != nil {
		return nil, err
	}
	switch resp.StatusCode {
	case http.StatusAccepted:
	case http.StatusBadRequest, http.StatusForbidden, http.StatusNotFound, http.StatusMethodNotAllowed,
		http.StatusNotImplemented:
		return nil, fmt.Errorf("%w: status %d", errNoExport, resp.StatusCode)
	default:
		return nil, fmt.Errorf("$export: status %d", resp.StatusCode)
	}
	for range exportPolls {
		code, m, err := b.client.JSON("GET", resp.Header.Get("Content-Location"), nil, "Accept", "application/json")
		if err != nil {
			return nil, err
		}
		if code != 200 {
			time.Sleep(exportPoll)
			continue
		}
		var files []string
		out, _ := m["output"].([]any)
		for _, entry := range out {
			f, _ := entry.(map[string]any)
			u, _ := f["url"].(string)
			files = append(files, u)
		}
		return files, nil
	}
	return nil, errors.New("the export did not complete")
}

// drain downloads one file until it is complete or end is closed. It returns the
// number of bytes and lines.
func (b *bench) drain(u, coding string, end <-chan struct{}) (int64, int64, error) {
	resp, err := b.client.Do("GET", u, nil, "Accept", "application/fhir+ndjson", "Accept-Encoding", coding)
	if err != nil {
		return 0, 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != 200 {
		return 0, 0, fmt.Errorf("export file: %d", resp.StatusCode)
	}
	if got := resp.Header.Get("Content-Encoding"); coding != "identity" && got != coding {
		return 0, 0, fmt.Errorf("export file: content coding %q", got)
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
		select {
		case <-end:
			return n, lines, nil
		default:
		}
	}
}

// operations measures $lastn and $stats over all heart rates of a patient.
func (b *bench) operations() error {
	const code = "http://loinc.org%7C8867-4"
	for _, op := range [][2]string{
		{"$lastn of one code", "Observation/$lastn?patient=" + b.patient + "&code=" + code},
		{"$stats of one code", "Observation/$stats?subject=Patient/" + b.patient + "&coding=" + code +
			"&statistic=count,average,minimum,maximum,std-dev,median"},
	} {
		one := *b
		one.opt.workers = 1
		if _, err := one.measure(op[0], 5, func(do send, _ int) error {
			_, err := do("GET", op[1], nil, 200)
			return err
		}); err != nil {
			return err
		}
		b.figures = one.figures
	}
	return nil
}
