package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"
)

// slowMax bounds the time for which a slow client may hold a connection.
const slowMax = 45 * time.Second

// slowRun holds the slow clients, which run concurrently with the other attacks.
type slowRun struct {
	results []chan error
	names   []string
}

// slowBegin opens the slow connections. They go to the second server, because the first
// one is killed and restarted.
func (w *world) slowBegin() {
	tok, err := w.strictEHR.Token()
	if err != nil {
		tok = "-"
	}
	auth := "Host: a\r\nAuthorization: Bearer " + tok + "\r\nContent-Length: 1000000\r\n"
	for _, c := range []struct{ name, head string }{
		{"headers, one byte per second", "GET /fhir/Patient HTTP/1.1\r\nHost: a\r\nX-Zanaria: "},
		{"a FHIR body, one byte per second",
			"POST /fhir/Observation HTTP/1.1\r\nContent-Type: application/fhir+json\r\n" + auth + "\r\n{"},
		{"a body that the server refuses without reading it, one byte per second",
			"POST /ingest/oura/auto?patient=zanaria HTTP/1.1\r\nContent-Type: application/json\r\n" + auth + "\r\n{"},
		{"a payload, one byte per second",
			"POST /ingest/oura/auto?patient=strict&name=heartrate.json HTTP/1.1\r\nContent-Type: application/json\r\n" + auth + "\r\n{"},
		{"a token request, one byte per second",
			"POST /oauth/token HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 5000\r\n\r\ng"},
	} {
		done := make(chan error, 1)
		w.slow.names, w.slow.results = append(w.slow.names, c.name), append(w.slow.results, done)
		go func() { done <- dribble(strings.TrimPrefix(w.strict.Base, "http://"), c.head) }()
	}
}

// dribble sends one byte per second until the server answers or closes the connection.
func dribble(addr, head string) error {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := io.WriteString(c, head); err != nil {
		return err
	}
	begin := time.Now()
	buf := make([]byte, 1024)
	for time.Since(begin) < slowMax {
		if err := c.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			return err
		}
		if _, err := c.Read(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
			return nil // answered or closed
		}
		if _, err := c.Write([]byte("z")); err != nil {
			return nil
		}
	}
	return fmt.Errorf("the connection was held for %v", slowMax)
}

// slowEnd waits for the slow clients.
func (w *world) slowEnd() error {
	for i, name := range w.slow.names {
		w.note(name, fmt.Sprintf("answered or closed within %v", slowMax), <-w.slow.results[i])
	}
	return nil
}
