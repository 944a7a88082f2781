package pebblestore

import (
	"pulsegate/fhir/store/pebblestore/internal/find"
)

// Tight makes the bounds of searches as small as possible.
func Tight(o Options) Options {
	o.bounds = limits{Bounds: find.Bounds{DayBatch: 2, Probe: 3, Few: 2, Others: 1}, run: 300, guards: 4}
	return o
}
