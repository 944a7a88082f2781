package pebblestore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/bits"
	"path"
	"runtime"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"go.opentelemetry.io/otel/metric"

	"pulsegate/fhir/store/pebblestore/internal/fault"
)

// damage counts the reads and compactions that met a damaged block, by file.
type damage struct {
	mu    sync.Mutex
	files map[string]uint64
	total uint64
}

// note counts a read and reports whether to log it: the first read of a file, and
// whenever its count has doubled.
func (d *damage) note(file string) (n uint64, log bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.files == nil {
		d.files = map[string]uint64{}
	}
	d.total++
	d.files[file]++
	n = d.files[file]
	return n, bits.OnesCount64(n) == 1
}

// events returns the listener for Pebble's events. It replaces the texts of errors,
// which may quote keys.
func (d *DB) events() *pebble.EventListener {
	l := &pebble.EventListener{
		BackgroundError: func(err error) {
			if errors.Is(err, pebble.ErrCancelledCompaction) {
				return
			}
			d.opts.Logger.Warn("the store's background work failed", "reason", fault.Describe(err))
		},
		DataCorruption: func(info pebble.DataCorruptionInfo) {
			d.foundDamage(path.Base(info.Path), tablesOf(info.Bounds.Start, info.Bounds.End.Key))
		},
	}
	l.EnsureDefaults(nil) // ignores all other events
	return l
}

func (d *DB) foundDamage(file, tables string) {
	if d.meters != nil { // nil while the store is being opened
		d.meters.damage.Add(context.Background(), 1)
	}
	if n, log := d.damage.note(file); log {
		d.opts.Logger.Error("a block of the store is damaged: reads of it fail, other reads succeed. Run `pulsegate store check`, then `pulsegate store salvage`",
			slog.String("file", file), slog.String("tables", tables), slog.Uint64("reads", n))
	}
}

// tablesOf names the tables between two keys.
func tablesOf(first, last []byte) string {
	if len(first) == 0 || len(last) == 0 {
		return "unknown"
	}
	if first[0] == last[0] {
		return tableName(first[0])
	}
	return tableName(first[0]) + " to " + tableName(last[0])
}

func tableName(b byte) string {
	if b >= 'A' && b <= 'Z' {
		return string(rune(b))
	}
	return "unknown"
}

func damageCounter(m metric.Meter) (metric.Int64Counter, error) {
	return m.Int64Counter("pulsegate.store.damage",
		metric.WithDescription("Reads that met a damaged block. If there are any, run `pulsegate store check`"))
}

// pebbleLog logs Pebble's messages without their arguments, which may quote keys.
// Fatalf means that the disk failed under Pebble: the calling goroutine ends and
// the store stops, but the process continues and reports it.
type pebbleLog struct{ db *DB }

func (l *pebbleLog) Infof(string, ...any) {}

func (l *pebbleLog) Errorf(format string, args ...any) {
	l.db.opts.Logger.Warn("the store's engine reports an error", "message", format, "reason", reasonIn(args))
}

func (l *pebbleLog) Fatalf(format string, args ...any) {
	l.db.fail(fault.Refusal(fmt.Sprintf("the engine stopped: %q, %s", format, reasonIn(args))))
	runtime.Goexit()
}

// reasonIn describes the first error among the arguments of a format.
func reasonIn(args []any) string {
	for _, a := range args {
		if err, ok := a.(error); ok {
			return fault.Describe(err)
		}
	}
	return "not given"
}
