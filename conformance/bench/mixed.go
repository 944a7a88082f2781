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

// What the mixed measurement asks for, a second, quiet and under load alike.
const (
	mixedSeconds = 8
	mixedSearch  = 40
	mixedCreate  = 40
)

// mixed measures the latencies of paced searches and creates alone, and again
// while payloads are ingested, a whole export is downloaded and each create is
// notified.
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
	for name, f := range map[string]func(<-chan struct{}) error{"ingest": func(end <-chan struct{}) error { return b.ingestUntil(files, end) }, "export": b.exportUntil} {
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
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) {
		if _, err := io.Copy(io.Discard, q.Body); err != nil {
			return // the server sends it again
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
		q, l := ms(quiet[i], .99), ms(loaded[i], .99)
		note := fmt.Sprintf("p50 %.2f ms quiet, %.2f ms mixed; %d/s paced", ms(quiet[i], .5), ms(loaded[i], .5),
			mixedSearch)
		b.add(name+", quiet", q, "ms p99", note)
		b.add(name+", mixed load", l, "ms p99", b.opt.mix+" and notifications at the same time")
		b.add(name+", mixed to quiet", l/q, "times", "of the p99")
	}
	_, _, err = b.call("DELETE", "Subscription/"+id, nil, 204)
	return err
}

// pace are the sorted latencies of searches and of creates.
type pace [2][]time.Duration

// pacers share the requests of one kind, so that a slow answer does not keep
// all others waiting.
const pacers = 4

// paced sends searches and creates by the clock. A latency counts from the
// tick: what waits for the one before it has waited.
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

// pacer sends every pacers-th request of a kind: 0 searches, 1 creates.
func (b *bench) pacer(kind, first int, begin time.Time) ([]time.Duration, error) {
	do, end, err := b.line()
	if err != nil {
		return nil, err
	}
	perSecond := [2]int{mixedSearch, mixedCreate}[kind]
	var out []time.Duration
	for k := first; k < perSecond*mixedSeconds && err == nil; k += pacers {
		at := begin.Add(time.Duration(k) * time.Second / time.Duration(perSecond))
		time.Sleep(time.Until(at))
		if kind == 0 {
			_, err = do("GET", b.wanted(), nil, 200)
		} else {
			_, err = do("POST", "Observation", b.observation(200_000_000+k), 201)
		}
		out = append(out, time.Since(at))
	}
	return out, errors.Join(err, end())
}

// payloads writes what ingestUntil sends, before anything is measured.
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

// ingestUntil ingests payloads, one after the other, and when they are all
// there once more: the load does not end before the measurement.
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

// exportUntil downloads a whole export, again and again.
func (b *bench) exportUntil(end <-chan struct{}) error {
	files, err := b.exported()
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
