package push

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/store"
)

// match records the Patient at the target, or why there is none yet.
type match struct {
	// Remote is the id at the target.
	Remote string `json:"id,omitempty"`
	// Waits says why the patient waits: none or several Patients at the target have
	// the identifier, the stored Patient has no identifier of the system, or the
	// recipient may not see it.
	Waits string    `json:"waits,omitempty"`
	At    time.Time `json:"at"`
}

// The values of match.Waits.
const (
	waitsNone    = "no-match"
	waitsSeveral = "several-matches"
	waitsNoID    = "no-identifier"
	waitsHidden  = "not-visible"
)

// maxMatches bounds the Patients that are read from an answer.
const maxMatches = 2

// subject sets the patient of src at the target. It returns false if the form cannot
// represent src, in which case the target is not asked.
func (s *sender) subject(ctx context.Context, t *Target, grant *access.Grant, patient string,
	src *Source) (bool, *failure) {
	if t.PatientSystem == "" {
		src.Subject = "Patient/" + patient
		return true, nil
	}
	key := rowPrefix("patient", s.name) + patient
	v, err := s.follower.opts.Store.Get(ctx, key)
	if err != nil {
		return false, internal(err)
	}
	var m match
	if v != nil {
		if err := json.Unmarshal(v, &m); err != nil {
			return false, internal(err)
		}
	}
	if m.Remote == "" {
		// Ask about the patient only if there is something to send.
		src.Subject = "Patient/unknown"
		if _, _, ok, err := s.form.Create(ctx, src); err != nil {
			return false, internal(err)
		} else if !ok {
			s.count(func(st *Stat) { st.Unsuited++ })
			return false, nil
		}
		next, f := s.find(ctx, t, grant, patient, src.Facts)
		if f != nil {
			return false, f
		}
		next.At = s.follower.opts.Clock().UTC()
		b, err := json.Marshal(next)
		if err == nil {
			_, err = s.follower.opts.Store.Commit(ctx, &store.Batch{State: []store.StateWrite{{Key: key, Value: b}}})
		}
		if err != nil {
			return false, internal(err)
		}
		if m = next; m.Remote == "" {
			return false, &failure{class: m.Waits, match: true}
		}
	}
	src.Subject = "Patient/" + m.Remote
	return true, nil
}

// find asks the target for the Patient with the identifier of ours. facts are those
// of the Observation that is to be sent.
func (s *sender) find(ctx context.Context, t *Target, grant *access.Grant, patient string,
	facts *access.Facts) (match, *failure) {
	ref := fhir.Ref{Type: "Patient", ID: patient}
	res, pf, err := s.follower.opts.Store.Read(ctx, ref, 0)
	if err != nil && fhir.KindOf(err) != fhir.NotFound {
		return match{}, internal(err)
	}
	may := func(g *access.Grant) bool {
		return g != nil && g.May(access.Read, "Patient") && g.Filter(access.Read).Allow(pf) && visible(g, facts)
	}
	if err != nil || res.Deleted || pf == nil || !may(grant) {
		return match{Waits: waitsHidden}, nil
	}
	var p struct {
		Identifier []struct{ System, Value string }
	}
	if err := json.Unmarshal(res.JSON, &p); err != nil {
		return match{}, internal(err)
	}
	value := ""
	for _, id := range p.Identifier {
		if id.System == t.PatientSystem && id.Value != "" {
			if value != "" && value != id.Value {
				return match{Waits: waitsSeveral}, nil
			}
			value = id.Value
		}
	}
	if value == "" {
		return match{Waits: waitsNoID}, nil
	}
	if err := s.audit(ctx, t, patient, "search", []*message{}, ref, res.Version); err != nil {
		return match{}, internal(err)
	}
	a, f := s.request(ctx, t, &call{method: http.MethodGet,
		path:  "/Patient?identifier=" + url.QueryEscape(t.PatientSystem+"|"+value),
		still: func(g *access.Grant) bool { return may(g) }})
	if f != nil && f.class == withheld {
		return match{Waits: waitsHidden}, nil
	}
	if f != nil {
		return match{}, f
	}
	if a.status == http.StatusNotFound || a.status == http.StatusGone {
		return match{}, &failure{class: a.class(), broken: true}
	}
	ids, ok := a.matches("Patient")
	switch {
	case !a.ok() || !ok:
		return match{}, &failure{class: a.class(), wait: a.retryAfter}
	case len(ids) == 0:
		return match{Waits: waitsNone}, nil
	case len(ids) > 1:
		return match{Waits: waitsSeveral}, nil
	}
	return match{Remote: ids[0]}, nil
}
