package pebblestore

// Tight bounds what searches hold in memory to next to nothing.
func Tight(o Options) Options {
	o.bounds = allBounds{bounds: bounds{dayBatch: 2, probe: 3, few: 2, others: 1}, run: 300}
	return o
}
