package server

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pulsegate/cmd/internal/config"
)

// TestLogLinesAreBufferedBriefly checks that lines are written after logDelay, and
// immediately when the buffer is full or a line is an error.
func TestLogLinesAreBufferedBriefly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		log, lines, err := logger(&config.Config{LogLevel: "info", LogFormat: "text"}, &out)
		if err != nil {
			t.Fatal(err)
		}
		log.Info("first")
		if out.Len() != 0 {
			t.Fatalf("written immediately: %s", out.String())
		}
		time.Sleep(logDelay + time.Millisecond)
		synctest.Wait()
		if !strings.Contains(out.String(), "msg=first") {
			t.Fatal("not written after the delay")
		}
		log.Info("second")
		log.With("k", "v").Error("third")
		if s := out.String(); !strings.Contains(s, "msg=second") || !strings.Contains(s, "msg=third k=v") {
			t.Fatalf("an error is delayed, or out of order: %s", s)
		}
		log.Info(strings.Repeat("x", logBuffer))
		if out.Len() < logBuffer {
			t.Fatal("a full buffer was not written")
		}
		log.Info("last")
		if err := lines.Flush(); err != nil || !strings.Contains(out.String(), "msg=last") {
			t.Fatal("Flush did not write the last line")
		}
		time.Sleep(time.Second)
	})
}
