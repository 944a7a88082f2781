package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"pulsegate/adapters/apple"
	"pulsegate/adapters/apple/applegen"
	"pulsegate/conformance/blackbox"
	"pulsegate/fhir/store/floor"
)

// notifications measures the time from the answer of a create to the arrival of the
// notification, at 200 and at 1,000 creates per second.
func (b *bench) notifications() error {
	for _, perSecond := range []int{200, 1000} {
		if err := b.notified(perSecond); err != nil {
			return err
		}
	}
	return nil
}

// notified measures 1,000 notifications at a rate of creates, of which at most 64 are under
// way at a time.
func (b *bench) notified(perSecond int) error {
	const n = 1000
	arrived := make(chan arrival, n*2)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	hook := &httptest.Server{Listener: l,
		Config: &http.Server{ReadHeaderTimeout: 5 * time.Second,
			Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, err := io.ReadAll(io.LimitReader(r.Body, 8<<20))
				if err == nil {
					arrived <- arrival{time.Now(), body}
				}
				w.WriteHeader(http.StatusOK)
			})}}
	hook.Start()
	defer hook.Close()
	id, err := b.subscribe(hook.URL)
	if err != nil {
		return err
	}
	sent, err := b.createAt(n, perSecond)
	if err != nil {
		return err
	}
	var lat []time.Duration
	limit := time.After(20 * time.Second)
	for len(lat) < n {
		select {
		case a := <-arrived:
			for _, id := range a.ids() {
				if at, ok := sent[id]; ok {
					lat = append(lat, max(0, a.at.Sub(at)))
					delete(sent, id)
				}
			}
		case <-limit:
			return fmt.Errorf("%d of %d notifications arrived in time", len(lat), n)
		}
	}
	sort.Slice(lat, func(i, j int) bool { return lat[i] < lat[j] })
	name := "notification, commit to POST"
	if perSecond != 200 {
		name += fmt.Sprintf(" at %d/s", perSecond)
	}
	b.add(name, ms(lat, .99), "ms p99",
		fmt.Sprintf("p50 %.2f ms, at %d creates/s, full resource", ms(lat, .5), perSecond))
	// Later steps must not trigger notifications.
	_, _, err = b.call("DELETE", "Subscription/"+id, nil, 204)
	return err
}

// createAt creates n Observations at a rate and returns the times of the answers by
// reference.
func (b *bench) createAt(n, perSecond int) (map[string]time.Time, error) {
	var mu sync.Mutex
	sent := map[string]time.Time{}
	var g errgroup.Group
	g.SetLimit(64)
	tick := time.NewTicker(time.Second / time.Duration(perSecond))
	defer tick.Stop()
	for i := range n {
		<-tick.C
		g.Go(func() error {
			_, loc, err := b.call("POST", "Observation", b.observation(100_000_000+perSecond*10_000+i), 201)
			if err != nil {
				return err
			}
			url := unversioned(loc)
			mu.Lock()
			defer mu.Unlock()
			sent[url[strings.LastIndex(url, "Observation/"):]] = time.Now()
			return nil
		})
	}
	return sent, g.Wait()
}

// arrival is a received notification.
type arrival struct {
	at   time.Time
	body []byte
}

// ids returns the references of the Observations in a notification.
func (a arrival) ids() []string {
	var m struct {
		Entry []struct {
			Resource struct{ ResourceType, ID string }
		}
	}
	if json.Unmarshal(a.body, &m) != nil {
		return nil
	}
	var out []string
	for _, e := range m.Entry {
		if e.Resource.ResourceType == "Observation" {
			out = append(out, "Observation/"+e.Resource.ID)
		}
	}
	return out
}

// subscribe creates a Subscription to the Observations of the patient, waits until it
// is active, and returns its id.
func (b *bench) subscribe(endpoint string) (string, error) {
	sub := fmt.Sprintf(`{"resourceType":"Subscription","status":"requested","reason":"bench","criteria":"https://pulsegate.dev/fhir/SubscriptionTopic/observation-recorded","_criteria":{"extension":[{"url":"http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-filter-criteria","valueString":"Observation?patient=Patient/%s"}]},"channel":{"type":"rest-hook","endpoint":"%s/hook","payload":"application/fhir+json","_payload":{"extension":[{"url":"http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-payload-content","valueCode":"full-resource"}]}}}`, b.patient, endpoint)
	status, out, err := b.client.JSON("POST", "Subscription", []byte(sub))
	if err != nil || status != 201 {
		return "", fmt.Errorf("create of the subscription: %d %v %w", status, out, err)
	}
	id, _ := out["id"].(string)
	for range 200 {
		if _, out, err = b.client.JSON("GET", "Subscription/"+id, nil); err != nil {
			return "", err
		}
		if out["status"] == "active" {
			return id, nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return "", fmt.Errorf("the subscription has status %v, want active", out["status"])
}

// ingest measures an export.xml from the file to durable commits.
func (b *bench) ingest() error {
	file := filepath.Join(b.dir, "export.xml")
	size, err := writeExport(file, b.opt.xmlMB)
	if err != nil {
		return err
	}
	before, err := b.stat()
	if err != nil {
		return err
	}
	var s struct{ Read, Created, Quarantined int }
	begin := time.Now()
	if err := b.srv.Run(&s, "ingest", "--patient", b.patient, "--vendor", "apple", file); err != nil {
		return err
	}
	took := time.Since(begin).Seconds()
	mb := float64(size) / 1e6
	b.add("export.xml ingest", mb/took, "MB/s",
		fmt.Sprintf("%.0f MB, %d read, %d created, %d quarantined", mb, s.Read, s.Created, s.Quarantined))
	b.add("export.xml ingest", float64(s.Created)/took, "Observations/s", "file to durable")
	rss, err := b.srv.RSS()
	if err != nil {
		return err
	}
	b.add("memory after ingest", float64(rss)/1e6, "MB", "")
	after, err := b.stat()
	if err != nil {
		return err
	}
	b.add("disk", growth(before.DiskBytes, after.DiskBytes, s.Created), "B/Observation",
		diskNote(before.DiskBytes, after.DiskBytes))
	return b.scanFloor(file, mb)
}

// writeExport writes an export.xml of about mb megabytes.
func writeExport(file string, mb int) (size int64, err error) {
	f, err := os.Create(file)
	if err != nil {
		return 0, err
	}
	err = applegen.Generate(f, applegen.Options{Seed: 7, Bytes: int64(mb) * 1e6,
		Start: time.Date(2021, 1, 1, 0, 0, 0, 0, time.UTC)})
	if err == nil {
		size, err = f.Seek(0, io.SeekCurrent)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return size, err
}

// scanFloor measures the XML scanner alone on the same file.
func (b *bench) scanFloor(file string, mb float64) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	begin := time.Now()
	n, err := apple.ScanOnly(f)
	if err != nil {
		return fmt.Errorf("bare scan: %w", err)
	}
	s := time.Since(begin).Seconds()
	b.add("floor: bare XML scan of the same file", mb/s, "MB/s", fmt.Sprintf("%d elements", n))
	return nil
}

// growth returns the bytes on disk per Observation created. It is negative if
// compaction removed more than the ingest added.
func growth(before, after uint64, created int) float64 {
	return (float64(after) - float64(before)) / float64(max(1, created))
}

// diskNote explains a growth.
func diskNote(before, after uint64) string {
	if after < before {
		return "negative: compaction of older data removed more than this ingest added; run the step on an empty store"
	}
	return "includes indexes, change log, audit, write-ahead log and data that compaction has not removed yet"
}

type storeStat struct{ DiskBytes uint64 }

func (b *bench) stat() (storeStat, error) {
	var s storeStat
	return s, b.srv.Run(&s, "store", "stat")
}

// floors measures raw Pebble batches with rows like those of the store.
func (b *bench) floors() error {
	dir := filepath.Join(b.dir, "floor")
	rate, err := floor.RawFloor(dir, 100_000, 9, 800)
	if err != nil {
		return err
	}
	b.add("floor: raw Pebble batches, same rows", rate, "documents/s", "500 per batch, synced")
	return nil
}

// restart measures start-up on the filled store.
func (b *bench) restart() error {
	if err := b.srv.Stop(); err != nil {
		return err
	}
	srv, err := blackbox.Start(b.opt.bin, filepath.Join(b.dir, "data"))
	if err != nil {
		return err
	}
	b.srv = srv
	b.add("start-up, filled store", float64(srv.Ready.Milliseconds()), "ms", "")
	resp, err := http.Get(srv.Base + "/readyz")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var buf bytes.Buffer
	_, err = io.Copy(&buf, resp.Body)
	return err
}
