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

// atOnce is the number of bodies of a kind that arrive at the same time.
const atOnce = 4

// memory sends bodies that are small on the wire or costly to look at, several
// at once, and asks afterwards for the most memory that the server has ever
// held. Any answer is right: a refusal, or 503 with Retry-After.
func (w *world) memory() error {
	extension := `{"url":"u:x","valueCode":"x"},`
	observation := func(n int) func() io.Reader {
		return around(`{"resourceType":"Observation","status":"final","code":{"text":"x"},"contained":[{"resourceType":"Patient","id":"a"}],"subject":{"reference":"#a"},"extension":[`,
			extension, n, extension[:len(extension)-1]+`]}`)
	}
	group := around(`{"resourceType":"Group","type":"person","actual":true,"member":[`,
		`{"entity":{"display":"x"}},`, 380_000, `{"entity":{"display":"x"}}]}`)
	entry := `{"request":{"method":"POST","url":"Observation"},"resource":{"resourceType":"Observation","status":"final","code":{"text":"x"},"extension":[` + strings.Repeat(extension, 300) + extension[:len(extension)-1] + `]}},`
	for _, c := range []struct {
		name, path string
		body       func() io.Reader
		packed     bool
	}{
		{"small extensions, 10 MiB out of 25 KB of gzip", "Observation", observation(340_000), true},
		{"small extensions, 10 MiB", "Observation", observation(340_000), false},
		{"as many extensions as are allowed", "Observation", observation(16_000), true},
		{"a Group of 380,000 members", "Group", group, true},
		{"a transaction of 1,000 resources of 300 extensions", "",
			around(`{"resourceType":"Bundle","type":"transaction","entry":[`, entry, 999,
				entry[:len(entry)-1]+"]}"), true},
		{"a batch of 1,000 resources of 300 extensions", "",
			around(`{"resourceType":"Bundle","type":"batch","entry":[`, entry, 999, entry[:len(entry)-1]+"]}"), false},
	} {
		h := hit{name: fmt.Sprintf("%s, %d at once", c.name, atOnce), path: c.path, body: c.body,
			want: []int{200, 201, 400, 413, 422, 503}}
		if c.packed {
			packed, err := gzipped(c.body())
			if err != nil {
				return err
			}
			h.body, h.header = func() io.Reader { return bytes.NewReader(packed) }, []string{"Content-Encoding", "gzip"}
		}
		answer, err := w.together(h)
		w.note(h.name, answer, errors.Join(err, w.withinPeak()))
	}
	return nil
}

// together sends h several times at once.
func (w *world) together(h hit) (string, error) {
	answers, errs := make([]string, atOnce), make([]error, atOnce)
	var wg sync.WaitGroup
	for i := range atOnce {
		wg.Go(func() {
			status, body, err := w.send(h)
			if err == nil {
				answers[i], err = w.judge(h, status, body)
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

// withinPeak holds the most memory that the server ever held to maxRSS.
func (w *world) withinPeak() error {
	peak, err := w.srv.PeakRSS()
	if err != nil {
		return err
	}
	w.peak = max(w.peak, peak)
	if peak > maxRSS {
		return fmt.Errorf("the server held %d MiB at its peak, and may hold %d", peak>>20, maxRSS>>20)
	}
	return nil
}
