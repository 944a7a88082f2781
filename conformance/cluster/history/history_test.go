package history_test

import (
	"strings"
	"testing"

	"pulsegate/conformance/cluster/history"
)

// event is the call or the answer of one operation.
type event struct {
	client int
	in     *history.Input  // of a call
	out    *history.Output // of an answer
}

func call(client int, kind history.Kind, in history.Input) event {
	in.Kind, in.Key = kind, "object"
	return event{client, &in, nil}
}

func answer(client int, s history.Status, version uint64, value string) event {
	return event{client, nil, &history.Output{Status: s, Version: version, Value: value}}
}

func TestCheck(t *testing.T) {
	const read, update, put, create = history.Read, history.Update, history.Put, history.Create
	const swap, set, disclose = history.Swap, history.Set, history.Disclose
	const done, refused, unknown = history.Done, history.Refused, history.Unknown
	type in = history.Input
	none := in{}
	permit := func(client int, version uint64) []event {
		return []event{call(client, put, in{New: "permit"}), answer(client, done, version, "")}
	}
	withdraw := []event{call(1, put, in{New: "deny"}), answer(1, done, 2, "")}
	for name, c := range map[string]struct {
		events []event
		legal  bool
	}{
		"one after the other": {[]event{
			call(1, update, in{New: "a"}), answer(1, done, 1, ""),
			call(2, read, none), answer(2, done, 1, "a"),
			call(2, update, in{Version: 1, New: "b"}), answer(2, done, 2, ""),
			call(1, update, in{Version: 1, New: "c"}), answer(1, refused, 0, ""),
		}, true},
		"stale read": {[]event{
			call(1, update, in{New: "a"}), answer(1, done, 1, ""),
			call(2, read, none), answer(2, done, 0, ""),
		}, false},
		"concurrent read": {[]event{
			call(1, update, in{New: "a"}), call(2, read, none), answer(2, done, 0, ""), answer(1, done, 1, ""),
		}, true},
		"two updates of one version": {[]event{
			call(1, update, in{New: "a"}), call(2, update, in{New: "b"}), answer(1, done, 1, ""),
			answer(2, done, 1, ""),
		}, false},
		"stale refusal": {[]event{
			call(1, update, in{New: "a"}), answer(1, done, 1, ""),
			call(2, update, in{Version: 1, New: "b"}), answer(2, refused, 0, ""),
			call(1, read, none), answer(1, done, 1, "a"),
		}, false},
		"unknown that took effect": {[]event{
			call(1, update, in{New: "a"}),
			call(2, read, none), answer(2, done, 0, ""), call(2, read, none), answer(2, done, 1, "a"),
		}, true},
		"unknown that did not": {[]event{
			call(1, update, in{New: "a"}), answer(1, unknown, 0, ""),
			call(2, update, in{New: "b"}), answer(2, done, 1, ""), call(2, read, none), answer(2, done, 1, "b"),
		}, true},
		"unknown that took effect twice": {[]event{
			call(1, put, in{New: "a"}),
			call(2, read, none), answer(2, done, 2, "a"),
		}, false},
		"unknown taken for failed": {[]event{
			call(1, update, in{New: "a"}), answer(1, refused, 0, ""),
			call(2, read, none), answer(2, done, 1, "a"),
		}, false},
		"created once": {[]event{
			call(1, create, in{New: "a"}), call(2, create, in{New: "b"}),
			answer(1, done, 0, "b"), answer(2, done, 0, "b"),
		}, true},
		"created twice": {[]event{
			call(1, create, in{New: "a"}), call(2, create, in{New: "b"}),
			answer(1, done, 0, "a"), answer(2, done, 0, "b"),
		}, false},
		"one of two swaps": {[]event{
			call(1, set, in{New: "live"}), answer(1, done, 0, ""),
			call(1, swap, in{Old: "live", New: "a"}), call(2, swap, in{Old: "live", New: "b"}),
			answer(1, refused, 0, ""), answer(2, done, 0, ""),
		}, true},
		"two swaps": {[]event{
			call(1, set, in{New: "live"}), answer(1, done, 0, ""),
			call(1, swap, in{Old: "live", New: "a"}), call(2, swap, in{Old: "live", New: "b"}),
			answer(1, done, 0, ""), answer(2, done, 0, ""),
		}, false},
		"disclosed during the withdrawal": {append(permit(1, 1),
			call(2, disclose, none), withdraw[0], withdraw[1], answer(2, done, 0, "")), true},
		"disclosed after the withdrawal": {append(append(permit(1, 1), withdraw...),
			call(2, disclose, none), answer(2, done, 0, "")), false},
		"refused before the withdrawal": {append(permit(1, 1),
			call(2, disclose, none), answer(2, refused, 0, ""), withdraw[0]), false},
	} {
		t.Run(name, func(t *testing.T) { replay(t, c.events, c.legal) })
	}
}

// replay records events and checks whether their history is legal.
func replay(t *testing.T, events []event, legal bool) {
	t.Helper()
	var r history.Recorder
	open := map[int]*history.Operation{}
	for _, e := range events {
		if e.in != nil {
			open[e.client] = r.Begin(e.client, *e.in)
		} else {
			open[e.client].End(*e.out)
		}
	}
	err := r.Check()
	if (err == nil) != legal {
		t.Errorf("got error %v, want legal %t", err, legal)
	}
	if err != nil && !strings.Contains(err.Error(), "object is not linearizable") {
		t.Errorf("the error does not name the object: %v", err)
	}
}

// TestLostAndVoid tests that a lost operation takes effect before it was lost or not at all,
// and that a void one has none.
func TestLostAndVoid(t *testing.T) {
	check := func(end func(*history.Operation), reads ...string) error {
		var r history.Recorder
		end(r.Begin(1, history.Input{Kind: history.Upsert, Key: "object", New: "a"}))
		for _, value := range reads {
			version := uint64(len(value))
			r.Begin(2, history.Input{Kind: history.Read, Key: "object"}).End(history.Output{Status: history.Done,
				Version: version, Value: value})
		}
		return r.Check()
	}
	for name, c := range map[string]struct {
		end   func(*history.Operation)
		reads []string
		legal bool
	}{
		"lost with an effect":     {(*history.Operation).Lost, []string{"a", "a"}, true},
		"lost without an effect":  {(*history.Operation).Lost, []string{"", ""}, true},
		"lost with a late effect": {(*history.Operation).Lost, []string{"", "a"}, false},
		"void":                    {(*history.Operation).Void, []string{"", ""}, true},
		"void with an effect":     {(*history.Operation).Void, []string{"a"}, false},
	} {
		if err := check(c.end, c.reads...); (err == nil) != c.legal {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestCheckConditional has histories of conditional writes.
func TestCheckConditional(t *testing.T) {
	const read, ensure, upsert = history.Read, history.Ensure, history.Upsert
	const patch, remove = history.Patch, history.Remove
	const done, refused = history.Done, history.Refused
	type in = history.Input
	none := in{}
	for name, c := range map[string]struct {
		events []event
		legal  bool
	}{
		"conditional writes": {[]event{
			call(1, patch, in{New: "a"}), answer(1, refused, 0, ""), call(1, remove, none), answer(1, done, 0, ""),
			call(1, upsert, in{New: "a"}), answer(1, done, 1, ""), call(1, ensure, in{New: "b"}),
			answer(1, done, 1, "a"),
			call(1, patch, in{New: "c"}), answer(1, done, 2, ""), call(1, upsert, in{New: "d"}), answer(1, done, 3, ""),
			call(1, read, none), answer(1, done, 3, "d"), call(1, remove, none), answer(1, done, 0, ""),
			call(1, read, none), answer(1, done, 0, ""), call(1, ensure, in{New: "e"}), answer(1, done, 1, "e"),
		}, true},
		"two upserts create": {[]event{
			call(1, upsert, in{New: "a"}), call(2, upsert, in{New: "b"}), answer(1, done, 1, ""),
			answer(2, done, 1, ""),
		}, false},
		"an upsert is lost": {[]event{
			call(1, upsert, in{New: "a"}), answer(1, done, 1, ""), call(1, read, none), answer(1, done, 0, ""),
		}, false},
		"a patch of nothing": {[]event{
			call(1, upsert, in{New: "a"}), answer(1, done, 1, ""), call(1, remove, none), answer(1, done, 0, ""),
			call(2, patch, in{New: "b"}), answer(2, done, 2, ""),
		}, false},
		"a patch refused without need": {[]event{
			call(1, upsert, in{New: "a"}), answer(1, done, 1, ""), call(2, patch, in{New: "b"}),
			answer(2, refused, 0, ""),
		}, false},
		"a removal undone": {[]event{
			call(1, upsert, in{New: "a"}), answer(1, done, 1, ""), call(2, remove, none), answer(2, done, 0, ""),
			call(1, read, none), answer(1, done, 1, "a"),
		}, false},
		"ensured twice": {[]event{
			call(1, ensure, in{New: "a"}), call(2, ensure, in{New: "b"}), answer(1, done, 1, "a"),
			answer(2, done, 1, "b"),
		}, false},
	} {
		t.Run(name, func(t *testing.T) { replay(t, c.events, c.legal) })
	}
}
