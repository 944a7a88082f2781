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

// counted is a compiled Consent that is active or withdrawn.
type counted struct {
	compiled
	effect effect
}

// ruleSet holds the compiled Consents of one patient. It is immutable.
type ruleSet struct {
	ids []string // ids of all Consents in the set, sorted
	// all holds the active Consents except those for apps, sorted by id.
	all []*compiled
	// rules holds the distinct rules of all, so that a clinic that records the same
	// consent at every visit does not slow down decisions. Of these, general holds
	// the rules for every recipient, and named the others by recipient.
	rules   []*compiled
	general []*compiled
	named   map[string][]*compiled
	// apps holds the active Consents for apps by "authorization/<id>". There may be
	// many, but a request is about one authorization.
	apps map[string][]*compiled
	// withdrawn holds the distinct rules of withdrawn Consents, each with the time
	// of its latest withdrawal.
	withdrawn []*compiled
	// firstWithdrawal is the time of the patient's first withdrawal in Unix
	// milliseconds, or math.MaxInt64. Consents that clients recorded later permit
	// nothing.
	firstWithdrawal int64
}

// fingerprint returns equal strings only for Consents with the same decisions.
func (c *compiled) fingerprint(afterWithdrawal bool) string {
	return fmt.Sprintf("%t %#v", afterWithdrawal, c.root)
}

// newRuleSet builds a set for decisions from now on. It omits Consents that have
// expired.
func newRuleSet(items map[string]counted, now int64) *ruleSet {
	set := &ruleSet{named: map[string][]*compiled{}, apps: map[string][]*compiled{}, firstWithdrawal: math.MaxInt64}
	ids := make([]string, 0, len(items))
	for id, item := range items {
		ids = append(ids, id)
		if item.effect == withdrawn {
			set.firstWithdrawal = min(set.firstWithdrawal, item.recordedAt)
		}
	}
	slices.Sort(ids)
	set.ids = ids
	seen := map[string]*compiled{}
	for _, id := range ids {
		item := items[id]
		c := &item.compiled
		switch {
		case item.effect == withdrawn:
			key := "withdrawn " + c.fingerprint(false)
			if same := seen[key]; same != nil {
				same.recordedAt = max(same.recordedAt, c.recordedAt)
				continue
			}
			seen[key] = c
			set.withdrawn = append(set.withdrawn, c)
		case c.root.to <= now:
		case c.root.onlyForApps():
			for _, r := range c.root.recipients {
				set.apps[r] = append(set.apps[r], c)
			}
		default:
			set.all = append(set.all, c)
			if key := c.fingerprint(set.afterWithdrawal(c)); seen[key] == nil {
				seen[key] = c
				set.add(c)
			}
		}
	}
	return set
}

func (set *ruleSet) add(c *compiled) {
	set.rules = append(set.rules, c)
	if len(c.root.recipients) == 0 || slices.Contains(c.root.recipients, AnyRecipient) {
		set.general = append(set.general, c)
		return
	}
	names := slices.Clone(c.root.recipients)
	slices.Sort(names)
	for _, r := range slices.Compact(names) {
		set.named[r] = append(set.named[r], c)
	}
}

// afterWithdrawal reports whether a client recorded c after the patient had
// withdrawn a Consent. Engine.Check rejects such a write, but a withdrawal may
// happen between the check and the commit.
func (set *ruleSet) afterWithdrawal(c *compiled) bool {
	return c.author != "" && c.recordedAt >= set.firstWithdrawal
}

// each calls fn for every rule that may apply to req.
func (set *ruleSet) each(req *request, fn func(*compiled)) {
	lists := [4][]*compiled{set.general, nil, nil, nil}
	switch {
	case req.collect:
		lists[0] = set.rules // a permit for any recipient
	default:
		if req.recipient != "" {
			lists[1] = set.named[req.recipient]
		}
		if req.authorization != "" {
			lists[2], lists[3] = set.named[req.authorization], set.apps[req.authorization]
		}
	}
	for _, list := range lists {
		for _, c := range list {
			fn(c)
		}
	}
}

// decide returns the decision for req and the Consent that made it.
func (set *ruleSet) decide(req *request) (answer, fhir.Ref) {
	out, ref := none, fhir.Ref{}
	set.each(req, func(c *compiled) {
		a := c.root.decide(req, false)
		if a == permit && (set.afterWithdrawal(c) || set.superseded(req, c)) {
			return
		}
		if a > out {
			out, ref = a, c.ref
		}
	})
	return out, ref
}

// superseded reports whether, after an app was authorized, another Consent that
// had covered the same data was withdrawn.
func (set *ruleSet) superseded(req *request, c *compiled) bool {
	if c.authorizedAt == math.MaxInt64 {
		return false
	}
	return slices.ContainsFunc(set.withdrawn,
		func(w *compiled) bool { return w.recordedAt >= c.authorizedAt && w.root.decide(req, false) == permit })
}

// permits implements the rules in the package comment.
func (set *ruleSet) permits(recipient, authorization string, f *access.Facts, now time.Time) bool {
	if strings.HasPrefix(recipient, authorizedBy) {
		recipient = "" // not a valid client id
	}
	req := request{now: now.UnixMilli(), recipient: recipient, authorization: authorization, typ: f.Type,
		vendor:            f.Vendor,
		withoutCategories: f.Type == "Device" || f.Type == "Provenance", categories: f.Categories}
	switch a, _ := set.decide(&req); a {
	case permit:
		return true
	case deny:
		return false
	}
	return f.Vendor == "" && f.Author != "" && f.Author == recipient && len(set.withdrawn) == 0
}

// permitting lists the Consents that permit a client to see any data at an
// instant, regardless of denials.
func (set *ruleSet) permitting(recipient string, now int64) (out []fhir.Ref) {
	req := request{now: now, recipient: recipient}
	for _, c := range set.all {
		if c.root.permitsAny(&req, false) && !set.afterWithdrawal(c) {
			out = append(out, c.ref)
		}
	}
	slices.SortFunc(out, func(a, b fhir.Ref) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// recipients returns the names of all recipients, sorted, without AnyRecipient.
func (set *ruleSet) recipients() []string {
	var out []string
	var add func(r *rule)
	add = func(r *rule) {
		out = append(out, r.recipients...)
		for i := range r.nested {
			add(&r.nested[i])
		}
	}
	for _, c := range set.rules {
		add(&c.root)
	}
	for _, list := range set.apps {
		for _, c := range list {
			add(&c.root)
		}
	}
	slices.Sort(out)
	return slices.DeleteFunc(slices.Compact(out), func(s string) bool { return s == AnyRecipient })
}
