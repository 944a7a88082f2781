package consent

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
)

// counted is a Consent that decides something: active, or withdrawn.
type counted struct {
	compiled
	is standing
}

// book holds the consents of one patient, compiled. It does not change once
// made.
type book struct {
	ids []string // of the Consents it is made with, sorted
	// all are the active Consents except those for apps, in the order of their
	// ids.
	all []*compiled
	// rules hold each distinct rule of all once: a clinic that records the same
	// consent at every visit costs no more than one that records it once.
	// general applies to every recipient; named holds the rules whose root
	// names recipients, by each of these.
	rules   []*compiled
	general []*compiled
	named   map[string][]*compiled
	// apps are the active ones for nothing but what people allowed apps, by
	// "authorization/<id>". There may be many, and no question is about more
	// than one authorization.
	apps map[string][]*compiled
	// withdrawn holds each distinct rule once, with its latest withdrawal.
	withdrawn []*compiled
	// firstWithdrawal is the time at which the patient first withdrew a
	// Consent, in Unix milliseconds, or math.MaxInt64. Consents that clients
	// recorded later permit nothing.
	firstWithdrawal int64
}

// fingerprint is equal for two Consents only if they decide alike.
func (c *compiled) fingerprint(late bool) string { return fmt.Sprintf("%t %#v", late, c.root) }

// newBook compiles what items decide from now on: a period that has ended does
// not begin again.
func newBook(items map[string]counted, now int64) *book {
	b := &book{named: map[string][]*compiled{}, apps: map[string][]*compiled{}, firstWithdrawal: math.MaxInt64}
	ids := make([]string, 0, len(items))
	for id, x := range items {
		ids = append(ids, id)
		if x.is == withdrawn {
			b.firstWithdrawal = min(b.firstWithdrawal, x.recorded)
		}
	}
	slices.Sort(ids)
	b.ids = ids
	seen := map[string]*compiled{}
	for _, id := range ids {
		x := items[id]
		c := &x.compiled
		switch {
		case x.is == withdrawn:
			key := "withdrawn " + c.fingerprint(false)
			if same := seen[key]; same != nil {
				same.recorded = max(same.recorded, c.recorded)
				continue
			}
			seen[key] = c
			b.withdrawn = append(b.withdrawn, c)
		case c.root.to <= now:
		case c.root.forApps():
			for _, r := range c.root.recipients {
				b.apps[r] = append(b.apps[r], c)
			}
		default:
			b.all = append(b.all, c)
			if key := c.fingerprint(b.late(c)); seen[key] == nil {
				seen[key] = c
				b.add(c)
			}
		}
	}
	return b
}

func (b *book) add(c *compiled) {
	b.rules = append(b.rules, c)
	if len(c.root.recipients) == 0 || slices.Contains(c.root.recipients, AnyRecipient) {
		b.general = append(b.general, c)
		return
	}
	names := slices.Clone(c.root.recipients)
	slices.Sort(names)
	for _, r := range slices.Compact(names) {
		b.named[r] = append(b.named[r], c)
	}
}

// late reports whether a client recorded c after the patient had withdrawn a
// Consent. The check of a write refuses that (Engine.Check); here it holds
// also where the withdrawal came between that check and the commit.
func (b *book) late(c *compiled) bool { return c.author != "" && c.recorded >= b.firstWithdrawal }

// about calls fn for every rule that may answer q.
func (b *book) about(q *ask, fn func(*compiled)) {
	lists := [4][]*compiled{b.general, nil, nil, nil}
	switch {
	case q.collect:
		lists[0] = b.rules // a permit for whomever
	default:
		if q.recipient != "" {
			lists[1] = b.named[q.recipient]
		}
		if q.authorized != "" {
			lists[2], lists[3] = b.named[q.authorized], b.apps[q.authorized]
		}
	}
	for _, list := range lists {
		for _, c := range list {
			fn(c)
		}
	}
}

func (b *book) decide(q *ask) (answer, fhir.Ref) {
	out, ref := none, fhir.Ref{}
	b.about(q, func(c *compiled) {
		a := c.root.decide(q, false)
		if a == permit && (b.late(c) || b.overtaken(q, c)) {
			return
		}
		if a > out {
			out, ref = a, c.ref
		}
	})
	return out, ref
}

// overtaken reports whether what the person allowed an app was taken back
// since, by the withdrawal of another Consent that had covered the same.
func (b *book) overtaken(q *ask, c *compiled) bool {
	if c.agreed == math.MaxInt64 {
		return false
	}
	return slices.ContainsFunc(b.withdrawn,
		func(w *compiled) bool { return w.recorded >= c.agreed && w.root.decide(q, false) == permit })
}

// permits implements the rules of the package comment.
func (b *book) permits(recipient, authorized string, f *access.Facts, now time.Time) bool {
	if strings.HasPrefix(recipient, authorizedBy) {
		recipient = "" // no client has such an id
	}
	q := ask{now: now.UnixMilli(), recipient: recipient, authorized: authorized, typ: f.Type, vendor: f.Vendor,
		uncoded: f.Type == "Device" || f.Type == "Provenance", categories: f.Categories}
	switch a, _ := b.decide(&q); a {
	case permit:
		return true
	case deny:
		return false
	}
	return f.Vendor == "" && f.Author != "" && f.Author == recipient && len(b.withdrawn) == 0
}

// opens lists the Consents that permit a client something at an instant,
// whatever denials take away again.
func (b *book) opens(recipient string, now int64) (out []fhir.Ref) {
	q := ask{now: now, recipient: recipient}
	for _, c := range b.all {
		if c.root.opens(&q, false) && !b.late(c) {
			out = append(out, c.ref)
		}
	}
	slices.SortFunc(out, func(a, b fhir.Ref) int { return cmp.Compare(a.ID, b.ID) })
	return out
}
