package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"pulsegate/conformance/blackbox"
	"pulsegate/fhir/access"
	"pulsegate/fhir/r4"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
)

// socketFloor measures a bare net/http server that answers the bytes of path from
// memory, with the same client and connections, and compares rate with it. The
// figure is the cost of HTTP alone on this machine.
func (b *bench) socketFloor(name string, rate float64, n int, path string) error {
	resp, err := b.client.Do("GET", path, nil, "Accept-Encoding", "identity")
	if err != nil {
		return err
	}
	body, err := readAll(resp)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	srv := &http.Server{ReadHeaderTimeout: 5 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/fhir+json; charset=utf-8")
			w.Header().Set("Content-Length", fmt.Sprint(len(body)))
			if _, err := w.Write(body); err != nil {
				return // the client reports it
			}
		})}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	floor := *b
	floor.client = &blackbox.Client{Base: "http://" + l.Addr().String(), Static: "-", HTTP: b.client.HTTP}
	most, lat, err := floor.load(n, func(do send, _ int) error {
		_, err := do("GET", "x", nil, 200)
		return err
	})
	if cerr := srv.Close(); err == nil {
		err = cerr
	}
	<-done
	if err != nil {
		return err
	}
	b.floor("floor: bare net/http, bytes of "+name, most, rate, "1/s",
		fmt.Sprintf("p50 %.2f ms, %d bytes per answer", ms(lat, .5), len(body)))
	return nil
}

func readAll(resp *http.Response) ([]byte, error) {
	b, err := io.ReadAll(resp.Body)
	if cerr := resp.Body.Close(); err == nil {
		err = cerr
	}
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d", resp.StatusCode)
	}
	return b, err
}

// floor adds a floor and the share of it that a measurement reached.
func (b *bench) floor(name string, value, reached float64, unit, note string) {
	b.add(name, value, unit, fmt.Sprintf("reached %.2f of it; %s", reached/value, note))
	b.figures[len(b.figures)-1].Reached = reached / value
}

// validationFloor measures the validation of the created bodies on all cores. No
// create can be faster.
func (b *bench) validationFloor(rate float64) error {
	validator, err := r4.New(r4.Limits{})
	if err != nil {
		return err
	}
	n := b.opt.requests
	var wg sync.WaitGroup
	var next atomic.Int64
	errs := make([]error, runtime.NumCPU())
	begin := time.Now()
	for w := range errs {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := int(next.Add(1)); i <= n && errs[w] == nil; i = int(next.Add(1)) {
				_, errs[w] = validator.Create("Observation", b.observation(i), "o1")
			}
		}()
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	b.floor("floor: validation of the same bodies alone", float64(n)/time.Since(begin).Seconds(), rate, "1/s",
		"all cores, no HTTP, no store")
	return nil
}

// exportFloor scans the store directly to a loopback socket: the same bytes without
// HTTP, audit, consent and scopes.
func (b *bench) exportFloor() error {
	if b.exportBytes == 0 {
		return errors.New("run the step export first")
	}
	if err := b.srv.Stop(); err != nil {
		return err
	}
	var sent int64
	took := time.Hour
	for range 2 { // the second scan finds the files cached, as the export did
		n, t, err := scanToSocket(filepath.Join(b.dir, "data", "store"))
		if err != nil {
			return err
		}
		sent, took = n, min(took, t)
	}
	b.floor("floor: store scanned to a loopback socket", float64(sent)/1e6/took.Seconds(), b.exportRate, "MB/s",
		fmt.Sprintf("%.0f MB", float64(sent)/1e6))
	u, err := url.Parse(b.srv.Base)
	if err != nil {
		return err
	}
	b.srv, err = blackbox.StartAt(b.opt.bin, filepath.Join(b.dir, "data"), u.Host)
	return err
}

// scanToSocket returns the number of bytes sent and the time taken.
func scanToSocket(dir string) (sent int64, took time.Duration, err error) {
	st, err := pebblestore.Open(dir, pebblestore.Options{CacheBytes: 64 << 20})
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	read := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			read <- err
			return
		}
		buf := make([]byte, 1<<20)
		for err == nil {
			var n int
			n, err = c.Read(buf)
			sent += int64(n)
		}
		if err == io.EOF {
			err = nil
		}
		read <- errors.Join(err, c.Close())
	}()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return 0, 0, err
	}
	begin := time.Now()
	w := bufio.NewWriterSize(c, 256<<10)
	var werr error
	err = st.Scan(context.Background(), store.ScanRange{Types: []string{"Observation"}, At: st.LastSeq(),
		Filter: access.All().Filter(access.Read)}, func(f *store.Found) bool {
		if _, werr = w.Write(f.Resource.JSON); werr == nil {
			werr = w.WriteByte('\n')
		}
		return werr == nil
	})
	err = errors.Join(err, werr, w.Flush(), c.Close(), <-read)
	return sent, time.Since(begin), err
}
