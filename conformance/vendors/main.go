// Command vendors ingests every payload below a directory and compares what became of
// it with an independent count.
//
// It delivers each file to a temporary store, by the pipeline that a server has, for a new
// patient with a consent that permits everything. A row of the report is a file, and
// ends in one of these states:
//
//	decoded     the payload was read to its end
//	refused     the decoder says why it reads nothing, and the counter finds no items
//	no payload  the file is on the list in files.go, with a reason
//	FAILED      anything else
//
// The column "items" counts the items of the payload with the standard library alone.
// The column "expected" adds what an item becomes by the rules in the column "notes",
// such as the parts of a night. The column "read" is what the pipeline has counted.
// Two things have other columns: "parts" counts parts of items that decoders count as
// dropped (partsOfItems), and "nights" the nights that ingest derives from segments.
// If "read" and "expected" differ, the file has failed.
//
// The exit status is 1 if a file has failed, and 2 if the program could not run. Nothing
// of a payload but its type is printed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
	_ "time/tzdata" // the report must not depend on the machine's zones
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	ok, err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "vendors:", err)
		os.Exit(2)
	case !ok:
		os.Exit(1)
	}
}

// run prints the report that the arguments ask for to w. It reports whether no file has
// failed.
func run(ctx context.Context, args []string, w io.Writer) (ok bool, err error) {
	flags := flag.NewFlagSet("vendors", flag.ContinueOnError)
	dir := flags.String("dir", os.Getenv("PULSEGATE_FIXTURES"), "the directory with the payloads")
	asJSON := flags.Bool("json", false, "print one JSON object")
	zone := flags.String("zone", "Europe/Berlin", "the time zone of the patients, or an empty string for none")
	if err := flags.Parse(args); err != nil {
		return false, err
	}
	if *dir == "" {
		return false, errors.New("no directory: set PULSEGATE_FIXTURES or -dir")
	}
	var loc *time.Location
	if *zone != "" {
		if loc, err = time.LoadLocation(*zone); err != nil {
			return false, fmt.Errorf("-zone: %w", err)
		}
	}
	r, err := survey(ctx, *dir, loc, time.Now)
	if err != nil {
		return false, err
	}
	if *asJSON {
		err = r.writeJSON(w)
	} else {
		err = r.writeTable(w)
	}
	return r.Failed == 0, err
}
