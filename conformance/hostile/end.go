package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// unharmed checks the state of the server after all attacks.
func (w *world) unharmed() error {
	var metrics string
	for _, url := range w.srv.Metrics() {
		b, err := get(url, http.StatusOK)
		if err != nil {
			return err
		}
		metrics += b
	}
	w.note("canaries in /metrics", "none", w.secret("/metrics", metrics))
	_, err := get(w.srv.Base+"/metrics", http.StatusNotFound)
	w.note("/metrics on the public listener", "404", err)
	w.note("canaries in the log", "none", w.secret("the log", w.srv.Log()))
	w.note("errors in the log", "none: invalid input is not an error of the server", noErrors(w.srv.Log()))
	var verified struct{ OK bool }
	err = w.srv.Run(&verified, "audit", "verify")
	if err == nil && !verified.OK {
		err = errors.New("not ok")
	}
	w.note("audit verify", "ok", err)
	w.note("store check", "no problems", w.srv.RunAll("store", "check"))
	if err := w.restart(); err != nil {
		return err
	}
	w.note("kill -9 and restart", "everything accepted before is present", nil)
	return nil
}

// get returns the body of a URL that must answer with status.
func get(url string, status int) (string, error) {
	resp, err := http.Get(url)
	if err != nil {
		return "", err
	}
	b, err := io.ReadAll(resp.Body)
	err = errors.Join(err, resp.Body.Close())
	if err == nil && resp.StatusCode != status {
		err = fmt.Errorf("%s: status %d, want %d", url, resp.StatusCode, status)
	}
	return string(b), err
}

// noErrors returns the first log line of level ERROR as an error.
func noErrors(log string) error {
	if i := strings.Index(log, "level=ERROR"); i >= 0 {
		line, _, _ := strings.Cut(log[i:], "\n")
		return errors.New(line)
	}
	return nil
}
