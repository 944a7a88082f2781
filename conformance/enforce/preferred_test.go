package enforce

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/interaction"
	"pulsegate/mapping/preferred"
)

// These checks are about the preferred source of the steps of a day: of what $stats
// answers with preferred=true, and of the derived Observations.

const (
	stepsCode   = "55423-8"
	derivedCode = "41950-7"
)

// deviceKinds is the type of each Device. A worn device precedes a vendor's account, and
// that a phone.
var deviceKinds = map[string]string{"v0": "Watch", "v1": "Phone", "v2": "Unnamed"} // read only

// counted is the steps of one source in a day.
type counted struct {
	vendor, device string
	rank, n, sum   int
}

// preferredOf returns the preferred source among measurements of one patient, or nil.
// All are on one day and in one hour.
func preferredOf(match []*version) *counted {
	all := map[string]*counted{}
	for _, v := range match {
		if v.code != stepsCode || v.vendor == "" || !v.measured {
			continue
		}
		c := &counted{vendor: v.vendor, rank: 1}
		for _, d := range v.refs["device"] {
			c.device, c.rank = d, map[string]int{"Device/v0": 0, "Device/v1": 2, "Device/v2": 1}[d]
		}
		k := c.vendor + " " + c.device
		if all[k] == nil {
			all[k] = c
		}
		all[k].n++
		all[k].sum += v.value
	}
	var best *counted
	for _, c := range all {
		if best == nil || cmp.Or(c.rank-best.rank, best.n-c.n, cmp.Compare(c.vendor, best.vendor),
			cmp.Compare(c.device, best.device)) < 0 {
			best = c
		}
	}
	return best
}

// unfilteredView is a fault: it chooses among everything that is stored.
type unfilteredView struct{ interaction.Preferred }

// Values implements interaction.Preferred.
func (u unfilteredView) Values(ctx context.Context, q *interaction.PreferredQuery,
	fn func(*interaction.Numbers) bool) error {
	free := *q
	free.Filter = all(access.Search)
	return u.Preferred.Values(ctx, &free, fn)
}

// startDerived starts the derivation of preferred values. They are derived only when the
// test says so.
func startDerived(f fault, at *site) {
	policy := preferred.Builtin()
	at.preferred = must(preferred.New(context.Background(), preferred.Options{Store: at.store, Audit: at.rec,
		Clock: time.Now, Policy: policy, Delay: time.Hour, Roles: at.roles}))
	at.view = &preferred.View{Store: at.store, Policy: policy}
	if f == prefersHidden {
		at.view = unfilteredView{at.view}
	}
}

// derive derives the preferred values at the site that has the role.
func (w *world) derive(ctx context.Context) error {
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(200 * time.Microsecond) {
		// Until the site has taken the role, it refuses.
		err := errors.Join(w.db.Sync(ctx), w.sites[w.holder].preferred.Sync(ctx))
		if fhir.KindOf(err) != fhir.Unavailable || time.Now().After(end) {
			return err
		}
	}
}

// isDerived reports whether a resource is a derived Observation.
func isDerived(body []byte) bool {
	return bytes.Contains(body, []byte(`"system":"`+fhir.Canonical+`/CodeSystem/measures","code":"preferred"`))
}

// steps returns those of the current Observations in refs that are steps of a patient.
func (r *run) steps(refs []string, patient string) (out []*version) {
	for _, ref := range refs {
		if v := r.d.current(ref); v.code == stepsCode && v.patient == patient {
			out = append(out, v)
		}
	}
	return out
}

// preferredStats checks $stats with preferred=true: the answer is that of the preferred
// source among the visible Observations, as if there were no others.
func (r *run) preferredStats(tok *token, bearer, p string) error {
	best := preferredOf(r.steps(r.visible(tok, "s", r.of("Observation")), p))
	for _, code := range []string{stepsCode, derivedCode} {
		q := "/Observation/$stats?preferred=true&subject=Patient/" + p + "&system=" + url.QueryEscape(loinc) + "&code=" +
			code + "&statistic=count,sum"
		a := r.w.get(bearer, q)
		if !tok.may("s", "Observation") {
			if a.status != 403 {
				return fmt.Errorf("%s: %d, want 403", q, a.status)
			}
			continue
		}
		n, sum := 0, 0
		if best != nil {
			r.count("preferred source")
			if n, sum = best.n, best.sum; code == derivedCode {
				n = 1
			}
		}
		if c := preferredOf(r.steps(r.of("Observation"), p)); c != nil && (best == nil || c.vendor != best.vendor) {
			r.count("hidden source")
		}
		got, _, err := statistics(a.body)
		if err != nil || a.status != 200 || got["count"] != float64(n) || got["sum"] != float64(sum) {
			return fmt.Errorf("%s: %d %v, want %d and %d; %w", q, a.status, got, n, sum, err)
		}
	}
	return nil
}

// derive derives the preferred values of what is stored, checks them, and adds them to the
// model: about the patient and with the vendor and the Device of the preferred source. It
// returns the new versions.
func (r *run) derive() (out []*version, err error) {
	if err := r.w.derive(r.ctx()); err != nil {
		return nil, err
	}
	for _, p := range patients {
		best := preferredOf(r.steps(r.of("Observation"), p))
		refs, err := r.w.operator("Observation", "_tag=preferred&patient="+p)
		if err != nil {
			return nil, err
		}
		if best == nil && len(refs) == 0 {
			continue
		}
		if best == nil || len(refs) != 1 {
			return nil, fmt.Errorf("derived values of %s: %v, want those of %+v", p, refs, best)
		}
		v, err := r.derived(p, refs[0], best)
		if err != nil {
			return nil, err
		}
		if v != nil {
			r.count("derived value")
			out = append(out, v)
		}
	}
	return out, nil
}

// derived checks the derived Observation of a patient and adds it and its Provenance to the
// model. It returns nil if it has not changed.
func (r *run) derived(p, ref string, best *counted) (*version, error) {
	res, _, err := r.w.db.Read(r.ctx(), fhir.Ref{Type: "Observation", ID: strings.TrimPrefix(ref, "Observation/")}, 0)
	if err != nil {
		return nil, err
	}
	type reference struct{ Reference string }
	var o struct {
		Status        string
		ValueQuantity struct{ Value int }
		Device        reference
	}
	if err := json.Unmarshal(res.JSON, &o); err != nil {
		return nil, err
	}
	if o.ValueQuantity.Value != best.sum || o.Device.Reference != best.device {
		return nil, fmt.Errorf("%s of %s: %+v, want %+v", ref, p, o, *best)
	}
	if int(res.Version) == len(r.d.all[ref]) {
		return nil, nil
	}
	v := &version{typ: "Observation", id: res.ID, patient: p, vendor: best.vendor, cats: []string{"activity"},
		code: derivedCode, at: -10 * 60, value: best.sum, measured: true,
		tokens: map[string][]coded{"code": {{loinc, derivedCode}}, "status": {{"", o.Status}},
			"category": {categoryOf("activity")}},
		refs: map[string][]string{"subject": {"Patient/" + p}, "patient": {"Patient/" + p}}}
	if best.device != "" {
		v.refs["device"] = []string{best.device}
	}
	r.d.add(v)
	return v, r.adopt(p, best.vendor)
}

// adopt adds the Provenances that the server has written about a patient's data to the
// model.
func (r *run) adopt(p, vendor string) error {
	refs, err := r.w.operator("Provenance", "_count=1000")
	if err != nil {
		return err
	}
	for _, ref := range refs {
		if r.d.all[ref] != nil {
			continue
		}
		id := strings.TrimPrefix(ref, "Provenance/")
		res, _, err := r.w.db.Read(r.ctx(), fhir.Ref{Type: "Provenance", ID: id}, 0)
		if err != nil {
			return err
		}
		var body struct{ Target []struct{ Reference string } }
		if err := json.Unmarshal(res.JSON, &body); err != nil {
			return err
		}
		var targets []string
		for _, t := range body.Target {
			targets = append(targets, t.Reference)
		}
		if !slices.Contains(targets, "Patient/"+p) {
			continue
		}
		r.d.add(&version{typ: "Provenance", id: id, patient: p, vendor: vendor,
			refs: map[string][]string{"target": targets}})
	}
	return nil
}
