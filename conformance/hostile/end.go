package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// unharmed holds everything together once more.
func (w *world) unharmed() error {
	b, err := get(w.srv.Metrics, http.StatusOK)
	if err != nil {
		return err
	}
	w.note("canaries in /metrics", "none", w.secret("/metrics", b))
	_, err = get(w.srv.Base+"/metrics", http.StatusNotFound)
	w.note("/metrics on the public listener", "404", err)
	w.note("canaries in the log", "none", w.secret("the log", w.srv.Log()))
	w.note("errors in the log", "none: bad input is no error of ours", noErrors(w.srv.Log()))
	var verified struct{ OK bool }
	err = w.srv.Run(&verified, "audit", "verify")
	if err == nil && !verified.OK {
		err = errors.New("not ok")
	}
	w.note("audit verify", "ok", err)
	w.note("store check", "no problems", w.srv.Run(nil, "store", "check"))
	if err := w.restart(); err != nil {
		return err
	}
	w.note("kill -9 and restart", "what was accepted before is there", nil)
	return nil
}

// get reads an address that must answer with a status.
func get(url string, status int) (string, error) {
	resp, err := http.Get(url)
	if err != nil {
		return "", err
	}
	b, err := io.ReadAll(resp.Body)
	err = errors.Join(err, resp.Body.Close())
	if err == nil && resp.StatusCode != status {
		err = fmt.Errorf("%s: %d, wanted %d", url, resp.StatusCode, status)
	}
	return string(b), err
}

// noErrors finds the first line of level ERROR.
func noErrors(log string) error {
	if i := strings.Index(log, "level=ERROR"); i >= 0 {
		line, _, _ := strings.Cut(log[i:], "\n")
		return errors.New(line)
	}
	return nil
}
