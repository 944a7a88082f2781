package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
)

// atOnce is the number of equal bodies that are sent concurrently.
const atOnce = 4

// memory sends bodies that are small when compressed or costly to parse, several of
// them concurrently, and then checks the peak memory of the server. Refusals and 503
// with Retry-After are correct answers.
func (w *world) memory() error {
	extension := `{"url":"u:x","valueCode":"x"},`
	observation := func(n int) func() io.Reader {
		return repeated(`{"resourceType":"Observation","status":"final","code":{"text":"x"},"contained":[{"resourceType":"Patient","id":"a"}],"subject":{"reference":"#a"},"extension":[`,
			extension, n, extension[:len(extension)-1]+`]}`)
	}
	group := repeated(`{"resourceType":"Group","type":"person","actual":true,"member":[`,
		`{"entity":{"display":"x"}},`, 380_000, `{"entity":{"display":"x"}}]}`)
	entry := `{"request":{"method":"POST","url":"Observation"},"resource":{"resourceType":"Observation","status":"final","code":{"text":"x"},"extension":[` + strings.Repeat(extension, 300) + extension[:len(extension)-1] + `]}},`
	for _, c := range []struct {
		name, path string
		body       func() io.Reader
		compressed bool
	}{
		{"small extensions, 10 MiB out of 25 KB of gzip", "Observation", observation(340_000), true},
		{"small extensions, 10 MiB", "Observation", observation(340_000), false},
		{"the maximum number of extensions", "Observation", observation(16_000), true},
		{"a Group of 380,000 members", "Group", group, true},
		{"a transaction of 1,000 resources of 300 extensions", "",
			repeated(`{"resourceType":"Bundle","type":"transaction","entry":[`, entry, 999,
				entry[:len(entry)-1]+"]}"), true},
		{"a batch of 1,000 resources of 300 extensions", "",
			repeated(`{"resourceType":"Bundle","type":"batch","entry":[`, entry, 999, entry[:len(entry)-1]+"]}"),
			false},
	} {
		h := attack{name: fmt.Sprintf("%s, %d concurrently", c.name, atOnce), path: c.path, body: c.body,
			want: []int{200, 201, 400, 413, 422, 503}}
		if c.compressed {
			compressed, err := gzipped(c.body())
			if err != nil {
				return err
			}
			h.body, h.header = func() io.Reader { return bytes.NewReader(compressed) },
				[]string{"Content-Encoding", "gzip"}
		}
		var answer string
		var failed error
		err := w.costs(h.name, atOnce*maxCPU, func() { answer, failed = w.together(h) })
		w.note(h.name, answer, errors.Join(err, failed, w.withinPeak()))
	}
	return nil
}

// together sends h atOnce times concurrently.
func (w *world) together(h attack) (string, error) {
	answers, errs := make([]string, atOnce), make([]error, atOnce)
	var wg sync.WaitGroup
	for i := range atOnce {
		wg.Go(func() {
			status, body, err := w.exchange(h)
			if err == nil {
				answers[i], err = w.checkAnswer(h, status, body)
			}
			var refused *http.MaxBytesError
			if err != nil && (errors.As(err, &refused) || strings.Contains(err.Error(), "connection reset") ||
				strings.Contains(err.Error(), "broken pipe")) {
				err = nil // refused before the body was sent
			}
			errs[i] = err
		})
	}
	wg.Wait()
	return answers[0], errors.Join(errs...)
}

// withinPeak checks the peak memory of the server against maxRSS.
func (w *world) withinPeak() error {
	peak, err := w.srv.PeakRSS()
	if err != nil {
		return err
	}
	w.peak = max(w.peak, peak)
	if peak > maxRSS {
		return fmt.Errorf("the peak memory of the server is %d MiB, the limit %d MiB", peak>>20, maxRSS>>20)
	}
	return nil
}
