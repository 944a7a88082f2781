package server

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pulsegate/cmd/internal/config"
)

func TestLogLinesWaitButNotForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		log, lines, err := logger(&config.Config{LogLevel: "info", LogFormat: "text"}, &out)
		if err != nil {
			t.Fatal(err)
		}
		log.Info("first")
		if out.Len() != 0 {
			t.Fatalf("written at once: %s", out.String())
		}
		time.Sleep(logDelay + time.Millisecond)
		synctest.Wait()
		if !strings.Contains(out.String(), "msg=first") {
			t.Fatal("not written after the delay")
		}
		log.Info("second")
		log.With("k", "v").Error("third")
		if s := out.String(); !strings.Contains(s, "msg=second") || !strings.Contains(s, "msg=third k=v") {
			t.Fatalf("an error waits, or overtakes: %s", s)
		}
		log.Info(strings.Repeat("x", logBuffer))
		if out.Len() < logBuffer {
			t.Fatal("a full buffer waits")
		}
		log.Info("last")
		if err := lines.Flush(); err != nil || !strings.Contains(out.String(), "msg=last") {
			t.Fatal("the end is lost")
		}
		time.Sleep(time.Second)
	})
}
