package main

import (
	"errors"
	"io"
	"net/http"
	"strings"
)

// unharmed holds everything together once more.
func (w *world) unharmed() error {
	resp, err := http.Get(w.srv.Base + "/metrics")
	if err != nil {
		return err
	}
	b, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return err
	}
	w.note("canaries in /metrics", "none", w.secret("/metrics", string(b)))
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

// noErrors finds the first line of level ERROR.
func noErrors(log string) error {
	if i := strings.Index(log, "level=ERROR"); i >= 0 {
		line, _, _ := strings.Cut(log[i:], "\n")
		return errors.New(line)
	}
	return nil
}
