package main

import (
	"bytes"
	"testing"
	"time"

	"pulsegate/adapters/apple/applegen"
)

func TestRunPassesFlagsToGenerator(t *testing.T) {
	var got, want bytes.Buffer
	if err := run([]string{"-days", "2", "-seed", "9", "-start", "2026-01-05T00:00:00-07:00", "-format",
		"export.zip"}, &got); err != nil {
		t.Fatal(err)
	}
	start := time.Date(2026, 1, 5, 0, 0, 0, 0, time.FixedZone("", -7*3600))
	if err := applegen.GenerateZip(&want, applegen.Options{Days: 2, Seed: 9, Start: start}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want.Bytes()) {
		t.Error("the flags do not reach the generator")
	}
	if err := run([]string{"-format", "pdf"}, &got); err == nil {
		t.Error("run accepts an unknown format")
	}
}
