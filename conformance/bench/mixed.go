package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"pulsegate/adapters/apple/applegen"
)

// The paced requests of the step mixed are the same without and with load.
const (
	mixedSeconds = 8  // duration of one measurement in seconds
	mixedSearch  = 40 // searches per second
	mixedCreate  = 40 // creates per second
)

// mixed measures the latencies of paced searches and creates, first without other
// load, and then while payloads are ingested, an export is downloaded, and each create
// triggers a notification.
func (b *bench) mixed() error {
	files, err := b.payloads()
	if err != nil {
		return err
	}
	quiet, err := b.paced()
	if err != nil {
		return err
	}
	end := make(chan struct{})
	var wg sync.WaitGroup
	errs := make(chan error, 2)
	loads := map[string]func(end <-chan struct{}) error{"export": b.exportUntil,
		"ingest": func(end <-chan struct{}) error { return b.ingestUntil(files, end) }}
	for name, f := range loads {
		if !slices.Contains(strings.Split(b.opt.mix, ","), name) {
			errs <- nil
			continue
		}
		wg.Add(1)
		go func() {
			defer wg.Done()
			errs <- f(end)
		}()
	}
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return // the server will send it again
		}
	}))
	defer hook.Close()
	id, err := b.subscribe(hook.URL)
	var loaded pace
	if err == nil {
		loaded, err = b.paced()
	}
	close(end)
	wg.Wait()
	err = errors.Join(err, <-errs, <-errs)
	if err != nil {
		return err
	}
	for i, name := range []string{"search", "create"} {
		quietP99, loadedP99 := ms(quiet[i], .99), ms(loaded[i], .99)
		note := fmt.Sprintf("p50 %.2f ms quiet, %.2f ms mixed; %d/s paced", ms(quiet[i], .5), ms(loaded[i], .5),
			mixedSearch)
		b.add(name+", quiet", quietP99, "ms p99", note)
		b.add(name+", mixed load", loadedP99, "ms p99", b.opt.mix+" and notifications at the same time")
		b.add(name+", mixed to quiet", loadedP99/quietP99, "times", "of the p99")
	}
	_, _, err = b.call("DELETE", "Subscription/"+id, nil, 204)
	return err
}

// pace holds the sorted latencies of searches and of creates.
type pace [2][]time.Duration

// pacers is the number of connections for requests of one type, so that a slow answer
// does not delay all others.
const pacers = 4

// paced sends searches and creates at a fixed rate. Latencies count from the scheduled
// time, so that the wait for an earlier request is included.
func (b *bench) paced() (pace, error) {
	var p pace
	var mu sync.Mutex
	var wg sync.WaitGroup
	var errs []error
	begin := time.Now()
	for w := range 2 * pacers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			lat, err := b.pacer(w%2, w/2, begin)
			mu.Lock()
			defer mu.Unlock()
			p[w%2], errs = append(p[w%2], lat...), append(errs, err)
		}()
	}
	wg.Wait()
	for i := range p {
		sort.Slice(p[i], func(x, y int) bool { return p[i][x] < p[i][y] })
	}
	return p, errors.Join(errs...)
}

// pacer sends every pacers-th request of a type: 0 for searches, 1 for creates.
func (b *bench) pacer(typ, first int, begin time.Time) ([]time.Duration, error) {
	do, end, err := b.line()
	if err != nil {
		return nil, err
	}
	perSecond := [2]int{mixedSearch, mixedCreate}[typ]
	var out []time.Duration
	for k := first; k < perSecond*mixedSeconds && err == nil; k += pacers {
		at := begin.Add(time.Duration(k) * time.Second / time.Duration(perSecond))
		time.Sleep(time.Until(at))
		if typ == 0 {
			_, err = do("GET", b.randomSearch(), nil, 200)
		} else {
			_, err = do("POST", "Observation", b.observation(200_000_000+k), 201)
		}
		out = append(out, time.Since(at))
	}
	return out, errors.Join(err, end())
}

// payloads writes the files that ingestUntil sends, before the measurement begins.
func (b *bench) payloads() ([]string, error) {
	files := make([]string, mixedPayloads)
	for n := range files {
		files[n] = filepath.Join(b.dir, fmt.Sprintf("mixed-%d.xml", n))
		f, err := os.Create(files[n])
		if err != nil {
			return nil, err
		}
		err = applegen.Generate(f, applegen.Options{Seed: uint64(100 + n), Bytes: 32 << 20,
			Start: time.Date(1990+4*n, 1, 1, 0, 0, 0, 0, time.UTC)})
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
	}
	return files, nil
}

const mixedPayloads = 6

// ingestUntil ingests the files one after the other, repeatedly, until end is closed.
func (b *bench) ingestUntil(files []string, end <-chan struct{}) error {
	for i := 0; ; i++ {
		if err := b.srv.Run(nil, "ingest", "--patient", b.patient, "--vendor", "apple",
			files[i%len(files)]); err != nil {
			return err
		}
		select {
		case <-end:
			return nil
		default:
		}
	}
}

// exportUntil downloads an export repeatedly until end is closed.
func (b *bench) exportUntil(end <-chan struct{}) error {
	files, err := b.exportFiles()
	for err == nil {
		for _, u := range files {
			if _, _, err = b.drain(u, "identity", end); err != nil {
				break
			}
		}
		select {
		case <-end:
			return err
		default:
		}
	}
	return err
}
