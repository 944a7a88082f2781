// Command cmd writes a payload of package applegen to standard output:
//
//	go run ./adapters/apple/applegen/cmd -bytes 1000000000 > export.xml
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"pulsegate/adapters/apple/applegen"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string, w io.Writer) error {
	f := flag.NewFlagSet("applegen", flag.ContinueOnError)
	size := f.Int64("bytes", 0, "size of the export.xml in bytes, met within a few percent")
	days := f.Int("days", 30, "days of data if -bytes is not set")
	seed := f.Uint64("seed", 1, "seed of the random data")
	format := f.String("format", "export.xml", "export.xml, export.zip or health-auto-export")
	first := f.String("start", "2021-01-01T00:00:00+01:00", "first day; all dates have its offset")
	if err := f.Parse(args); err != nil {
		return err
	}
	start, err := time.Parse(time.RFC3339, *first)
	if err != nil {
		return err
	}
	o := applegen.Options{Seed: *seed, Days: *days, Bytes: *size, Start: start}
	switch *format {
	case "export.xml":
		return applegen.Generate(w, o)
	case "export.zip":
		return applegen.GenerateZip(w, o)
	case "health-auto-export":
		return applegen.GenerateHAE(w, o)
	}
	return fmt.Errorf("unknown format %q; use export.xml, export.zip or health-auto-export", *format)
}
