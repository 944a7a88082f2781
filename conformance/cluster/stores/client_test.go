package stores

import (
	crand "crypto/rand"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"pulsegate/conformance/cluster/history"
	"pulsegate/fhir"
	"pulsegate/fhir/search"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
)

// objects is the number of objects of each sort. It is small, so that clients meet.
const objects = 2

// client does operations at one process after the other.
type client struct {
	world    *world
	number   int
	random   *rand.Rand
	recorder *history.Recorder
	// next numbers the batches of all clients.
	next *atomic.Uint64
	// outcomes holds the outcome of each batch, by number.
	outcomes map[uint64]outcome
	// versions are the versions of resources that this client saw last.
	versions map[string]uint64
	// disclosures holds the disclosures that were done.
	disclosures []disclosure
	// samples holds the samples that were written.
	samples []measured
	rules   rules
	// at, if not nil, is the process of all operations.
	at *process
	// between, if not nil, is called once between the reads and the commit of the next
	// operation.
	between func()
}

// disclosure is a disclosure under the consent of a patient.
type disclosure struct {
	patient string
	seq     store.Seq
}

// rules are ways in which clients break the contract of a store. The zero value keeps
// it.
type rules struct {
	noSync        bool // reads without Sync
	unknownFailed bool // takes an unknown outcome for a refusal
	otherID       bool // sends a batch again under another ID
	noGuards      bool // commits without guards
	blind         bool // claims to have probed the latest state
}

// outcome is the outcome of a batch: unknown, done or refused.
type outcome struct {
	status history.Status
	seq    store.Seq
}

// anywhere returns a process that is up.
func (c *client) anywhere() *life {
	if c.at != nil {
		return c.at.life.Load()
	}
	for {
		if l := c.world.processes[c.random.IntN(len(c.world.processes))].life.Load(); l != nil {
			return l
		}
		time.Sleep(time.Millisecond)
	}
}

// sync brings the process up to date.
func (c *client) sync(l *life) error {
	if c.rules.noSync {
		return nil
	}
	return l.store.Sync(l.ctx)
}

// commit commits a batch that also has a numbered resource and a numbered leaf. If the
// outcome is unknown, it may send the same batch to other processes.
func (c *client) commit(l *life, b *store.Batch) (history.Status, store.Result) {
	number := c.next.Add(1)
	crand.Read(b.ID[:])
	id := fmt.Sprintf("b%d", number)
	b.Writes = append(b.Writes, store.Write{Expect: store.Fresh, Resource: fhir.Resource{Type: "Device", ID: id,
		JSON: fmt.Appendf(nil, `%s},"lotNumber":"%s"}`, fhir.Prefix("Device", id), id)}})
	b.Leaves = []store.Leaf{store.Leaf(id)}
	if c.between != nil {
		between := c.between
		c.between = nil
		between()
	}
	if c.rules.noGuards {
		b.Guards = nil
	}
	r, err := l.commit(b)
	s := status(err)
	for attempt := 0; s == history.Unknown && attempt < 2 && !c.rules.unknownFailed; attempt++ {
		if c.rules.otherID {
			b.ID[0]++
		}
		r, err = c.anywhere().commit(b)
		if s = status(err); s == history.Refused {
			// The first attempt may still take effect.
			s = history.Unknown
			break
		}
	}
	if c.rules.unknownFailed && s == history.Unknown {
		s = history.Refused
	}
	c.outcomes[number] = outcome{s, r.Seq}
	return s, r
}

// patience is the time for which a client waits for a commit.
const patience = 5 * time.Second

// errImpatient is the error of a commit for which the client did not wait. A store
// answers only when it knows the outcome.
var errImpatient = errors.New("the store does not answer")

// commit sends a batch. It may return before the store does.
func (l *life) commit(b *store.Batch) (r store.Result, err error) {
	sent := *b
	answer := make(chan struct{})
	var result store.Result
	var failed error
	go func() {
		defer close(answer)
		result, failed = l.store.Commit(l.ctx, &sent)
	}()
	select {
	case <-answer:
		return result, failed
	case <-time.After(patience):
		return store.Result{}, errImpatient
	}
}

// status returns the outcome of a commit with an error.
func status(err error) history.Status {
	if err == nil {
		return history.Done
	}
	switch fhir.KindOf(err) {
	case fhir.Conflict, fhir.PreconditionFailed, fhir.NotFound, fhir.Gone:
		return history.Refused
	}
	return history.Unknown
}

// step does one operation.
func (c *client) step() {
	n := strconv.Itoa(c.random.IntN(objects))
	value := fmt.Sprintf("v%d", c.next.Load()*100+uint64(c.number))
	switch c.random.IntN(12) {
	case 0, 1:
		c.read("resource" + n)
	case 2, 3:
		c.update("resource"+n, value)
	case 4, 5:
		c.create("criteria" + n)
	case 6:
		c.readToken("token" + n)
	case 7:
		c.swap("token"+n, value)
	case 8:
		c.revoke("token" + n)
	case 9:
		c.decide("consent"+n, [...]string{history.Permit, "deny"}[c.random.IntN(2)])
	case 10:
		c.disclose("consent" + n)
	case 11:
		c.measure(c.random.IntN(objects), c.random.Int64N(40), 1+c.random.IntN(5))
	}
}

func (c *client) read(key string) {
	l := c.anywhere()
	o := c.recorder.Begin(c.number, history.Input{Kind: history.Read, Key: key})
	if c.sync(l) != nil {
		return
	}
	r, _, err := l.store.Read(l.ctx, fhir.Ref{Type: "Device", ID: key}, 0)
	if err != nil && fhir.KindOf(err) != fhir.NotFound {
		return
	}
	c.versions[key] = r.Version
	o.End(history.Output{Status: history.Done, Version: r.Version, Value: deviceValue(r)})
}

// update replaces the version that this client saw last.
func (c *client) update(key, value string) {
	l := c.anywhere()
	version := c.versions[key]
	w := store.Write{Resource: device(key, value, key), Expect: store.Version, IfVersion: version}
	if version == 0 {
		w.Expect = store.Absent
	}
	o := c.recorder.Begin(c.number, history.Input{Kind: history.Update, Key: key, Version: version, New: value})
	s, _ := c.commit(l, &store.Batch{Writes: []store.Write{w}})
	if s == history.Done {
		c.versions[key] = version + 1
	}
	o.End(history.Output{Status: s, Version: version + 1})
}

// create creates a Device if none has the identifier.
func (c *client) create(key string) {
	l := c.anywhere()
	id := fmt.Sprintf("d%d", c.next.Add(1))
	o := c.recorder.Begin(c.number, history.Input{Kind: history.Create, Key: key, New: fmt.Sprint([]string{id})})
	query, err := search.Parse("Device", [][2]string{{"identifier", "urn:test|" + key}}, search.ParseOptions{})
	if err != nil {
		c.world.t.Error(err)
		return
	}
	for range 20 {
		if c.sync(l) != nil {
			return
		}
		seen := l.store.LastSeq()
		var found []string
		err := l.store.Find(l.ctx, store.Find{Query: query, Filter: all, At: seen}, func(x *store.Found) bool {
			found = append(found, x.Resource.ID)
			return true
		})
		if err != nil {
			return
		}
		if len(found) > 0 {
			// Two matches are two values, which no history has.
			o.End(history.Output{Status: history.Done, Value: fmt.Sprint(found)})
			return
		}
		s, _ := c.commit(l, &store.Batch{Writes: []store.Write{{Resource: device(id, "", key), Expect: store.Fresh}},
			Guards: []string{"Device?" + key}, Touches: []string{"Device?" + key}, Seen: seen})
		if s == history.Refused {
			continue
		}
		o.End(history.Output{Status: s, Value: fmt.Sprint([]string{id})})
		return
	}
}

func (c *client) readToken(key string) {
	l := c.anywhere()
	o := c.recorder.Begin(c.number, history.Input{Kind: history.Read, Key: key})
	if c.sync(l) != nil {
		return
	}
	v, err := l.store.Get(l.ctx, "test/"+key)
	if err != nil {
		return
	}
	o.End(history.Output{Status: history.Done, Value: string(v)})
}

// swap rotates a token, as a refresh does.
func (c *client) swap(key, value string) {
	l := c.anywhere()
	if c.sync(l) != nil {
		return
	}
	old, err := l.store.Get(l.ctx, "test/"+key)
	if err != nil {
		return
	}
	o := c.recorder.Begin(c.number, history.Input{Kind: history.Swap, Key: key, Old: string(old), New: value})
	w := store.StateWrite{Key: "test/" + key, Value: []byte(value), Expect: store.StateEquals, Old: old}
	if old == nil {
		w.Expect = store.StateAbsent
	}
	s, _ := c.commit(l, &store.Batch{State: []store.StateWrite{w}})
	o.End(history.Output{Status: s})
}

// revoke removes a token, whatever it is.
func (c *client) revoke(key string) {
	l := c.anywhere()
	o := c.recorder.Begin(c.number, history.Input{Kind: history.Set, Key: key})
	s, _ := c.commit(l, &store.Batch{State: []store.StateWrite{{Key: "test/" + key}}})
	o.End(history.Output{Status: s})
}

// decide gives or withdraws a consent.
func (c *client) decide(key, value string) {
	l := c.anywhere()
	o := c.recorder.Begin(c.number, history.Input{Kind: history.Put, Key: key, New: value})
	s, r := c.commit(l, &store.Batch{Writes: []store.Write{{Resource: consent(key, value)}}})
	out := history.Output{Status: s}
	if s == history.Done {
		out.Version = r.Outcomes[0].Version
	}
	o.End(out)
}

// disclose discloses data under a consent, with an entry in the audit log that the
// commit ties to the consent.
func (c *client) disclose(key string) {
	l := c.anywhere()
	o := c.recorder.Begin(c.number, history.Input{Kind: history.Disclose, Key: key})
	for range 20 {
		if c.sync(l) != nil {
			return
		}
		seen := l.store.LastSeq()
		value, err := l.cache.value(l.ctx, key)
		if err != nil {
			return
		}
		if value != history.Permit {
			o.End(history.Output{Status: history.Refused})
			return
		}
		s, r := c.commit(l, &store.Batch{Guards: []string{store.ConsentGuard(key)}, Seen: seen})
		if s == history.Refused {
			continue
		}
		if s == history.Done {
			c.disclosures = append(c.disclosures, disclosure{key, r.Seq})
		}
		o.End(history.Output{Status: s})
		return
	}
}

// stream returns the template of the samples of a patient.
func stream(patient int) *series.Template {
	t := &series.Template{Patient: fmt.Sprintf("p%d", patient), Vendor: "oura", Values: 1,
		Slots: []series.Slot{series.SlotEffective, series.SlotValue},
		Parts: [][]byte{
			fmt.Appendf(nil, `},"status":"final","code":{"coding":[{"system":"http://loinc.org","code":"8867-4"}]},`+
				`"subject":{"reference":"Patient/p%d"},`, patient),
			[]byte(`,"valueQuantity":{"value":`), []byte(`}}`)}}
	copy(t.Identity[:], fmt.Sprintf("stream-%d", patient))
	return t
}

// measure writes samples that the store does not have yet. All clients draw from the
// same few samples of a stream, and the last one to write a sample finds it there.
func (c *client) measure(patient int, first int64, n int) {
	l := c.anywhere()
	cols := &series.Columns{}
	for i := range int64(n) {
		x := series.Sample{Start: 1767225600e6 + (first+i)*1e6, End: series.NoEnd}
		x.Values[0] = series.Decimal{Mant: 60 + first + i}
		cols.Append(&x, 1)
	}
	for range 20 {
		if c.sync(l) != nil {
			return
		}
		writes := []store.SeriesWrite{{Template: stream(patient), Columns: cols}}
		at, found, err := l.store.Probe(l.ctx, writes)
		if err != nil || slices.Contains(found[0], store.Other) {
			return
		}
		missing := &series.Columns{}
		for i, p := range found[0] {
			if x := cols.At(i); p == store.Missing {
				missing.Append(&x, 1)
			}
		}
		if missing.Len() == 0 {
			return
		}
		writes[0].Columns = missing
		if c.rules.blind {
			at = ^store.Seq(0)
		}
		s, r := c.commit(l, &store.Batch{Series: writes, Probed: at})
		if s == history.Refused {
			continue
		}
		if s == history.Done {
			c.samples = append(c.samples, measured{patient, r.Seq, missing})
		}
		return
	}
}

// measured are samples that were written.
type measured struct {
	patient int
	seq     store.Seq
	columns *series.Columns
}
