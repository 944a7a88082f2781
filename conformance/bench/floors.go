package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"pulsegate/conformance/blackbox"
)

// socketFloor measures a bare net/http server that answers the bytes of path
// from memory, with the same client and connections: what HTTP alone costs
// here. It says what part of it rate is.
func (b *bench) socketFloor(name string, rate float64, n int, path string) error {
	resp, err := b.c.Do("GET", path, nil, "Accept-Encoding", "identity")
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
	srv := &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/fhir+json; charset=utf-8")
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		if _, err := w.Write(body); err != nil {
			return // the client sees it
		}
	})}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	floor := *b
	floor.c = &blackbox.Client{Base: "http://" + l.Addr().String(), Static: "-", HTTP: b.c.HTTP}
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
	b.floor("floor: bare net/http, bytes of "+name, most, rate, "1/s", fmt.Sprintf("p50 %.2f ms, %d bytes an answer", ms(lat, .5), len(body)))
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

// floor adds a floor and what share of it was reached.
func (b *bench) floor(name string, value, reached float64, unit, note string) {
	b.add(name, value, unit, fmt.Sprintf("reached %.2f of it; %s", reached/value, note))
}
