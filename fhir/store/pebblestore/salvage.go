package pebblestore

import (
	"context"
	"log/slog"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"pulsegate/fhir"
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/rows"
	"pulsegate/fhir/store/pebblestore/internal/salvage"
)

// SalvageReport says what a salvage copied and what it could not copy.
type SalvageReport = salvage.Report

// Salvage copies everything that can be read in the store in directory from to a
// new store in directory to. The old store must not be open. A resource whose
// newest version cannot be read is left out whole: an older version could be a
// consent that was withdrawn since.
func Salvage(ctx context.Context, from, to string, opts Options) (_ *SalvageReport, err error) {
	const op = "pebblestore.Salvage"
	if opts.FS == nil {
		opts.FS = vfs.Default
	}
	if names, lerr := opts.FS.List(to); lerr == nil && len(names) > 0 {
		return nil, fhir.Errorf(fhir.Conflict, op, "%s already exists; name a directory that does not", to)
	}
	if names, lerr := opts.FS.List(from); lerr != nil || len(names) == 0 {
		return nil, fhir.Errorf(fhir.NotFound, op, "there is no store in %s", from)
	}
	out, err := salvageInto(ctx, from, to, opts)
	if err != nil {
		return nil, fault.Wrap(op, err)
	}
	d, err := Open(to, opts)
	if err != nil {
		return nil, err
	}
	defer fault.Close(d, &err)
	if err := d.pdb.Flush(); err != nil {
		return nil, fault.Wrap(op, err)
	}
	return out, d.Check(ctx, func(p string) { out.Problems = append(out.Problems, p) })
}

func salvageInto(ctx context.Context, from, to string, opts Options) (_ *SalvageReport, err error) {
	quiet := &DB{opts: opts, meters: nil}
	if quiet.opts.Logger == nil {
		quiet.opts.Logger = slog.New(slog.DiscardHandler)
	}
	po := &pebble.Options{FS: opts.FS, ReadOnly: true, Merger: rows.Merger, Logger: &pebbleLog{db: quiet},
		EventListener: quiet.events()}
	src, err := pebble.Open(from, po)
	if err != nil {
		return nil, fault.Refusal("the store cannot be opened: " + fault.Describe(err))
	}
	defer fault.Close(src, &err)
	po = &pebble.Options{FS: opts.FS, FormatMajorVersion: pebble.FormatNewest, MemTableSize: 16 << 20,
		Merger: rows.Merger, Logger: &pebbleLog{db: quiet}, EventListener: quiet.events()}
	dst, err := pebble.Open(to, po)
	if err != nil {
		return nil, err
	}
	defer fault.Close(dst, &err)
	return salvage.Copy(ctx, src, dst, string(version(RowSchema)))
}
