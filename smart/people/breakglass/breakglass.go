// Package breakglass lets a practitioner see one patient's data without that
// patient's consent in an emergency.
//
// It owns: the record of each override, its end after four hours, its review,
// and the consents that it adds meanwhile. It does not own: the right to start
// one (smart/people/role, step-up), the pages, or any other consent
// (fhir/consent).
//
// The commit that starts an override contains an AuditEvent (DCM 110127). It
// also increments pulsegate.breakglass.opened and logs at level WARN; neither
// names the patient or the reason. Every override has to be reviewed by another
// person, and the patient is notified.
//
// # State
//
//	glass/<id>                   Override, JSON; never deleted
//	glass-open/<user>/<patient>  id, while it is active
//	glass-patient/<patient>/<id> start in Unix seconds, to list the overrides of a patient
//	glass-told/<patient>/<id>    time of the patient's acknowledgment in Unix seconds
package breakglass

import (
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/store"
)

const (
	// Life is the duration of an override.
	Life = 4 * time.Hour

	keyPrefix  = "glass/"
	prefixOpen = "glass-open/"
	// prefixPatient and prefixTold do not begin with keyPrefix, because List
	// reads everything below that.
	prefixPatient = "glass-patient/"
	prefixTold    = "glass-told/"
	minReason     = 10
	maxReason     = 1000
)

// Override is one emergency access of a user to a patient's data.
type Override struct {
	ID      string    `json:"id"`
	User    string    `json:"user"`
	Patient string    `json:"patient"`
	Reason  string    `json:"reason"` // may contain patient data; shown only to reviewers
	Start   time.Time `json:"start"`
	End     time.Time `json:"end"` // planned end, or the time when it was ended

	Reviewer  string    `json:"reviewer,omitempty"`
	Reviewed  time.Time `json:"reviewed,omitzero"`
	Justified bool      `json:"justified,omitempty"`
	Note      string    `json:"note,omitempty"`

	stored []byte
}

// Pending reports whether the override has not been reviewed.
func (override *Override) Pending() bool { return override.Reviewer == "" }

// Service manages overrides. It is safe for concurrent use.
type Service struct {
	store  Store
	audit  audit.Trail
	clock  func() time.Time
	log    *slog.Logger
	opened metric.Int64Counter
}

// Store is the part of store.Store that a Service needs.
type Store interface {
	store.State
	LastSeq() store.Seq
}

// New returns a Service. log may be nil.
func New(s Store, a audit.Trail, clock func() time.Time, log *slog.Logger) (*Service, error) {
	n, err := otel.Meter("pulsegate/smart/people/breakglass").Int64Counter("pulsegate.breakglass.opened",
		metric.WithUnit("{override}"),
		metric.WithDescription("Emergency overrides of consent"))
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Service{store: s, audit: a, clock: clock, log: log, opened: n}, fhir.Wrap("breakglass.New", err)
}

func (s *Service) commit(ctx context.Context, by audit.Caller, what string, override *Override,
	state ...store.StateWrite) error {
	_, err := audit.Commit(ctx, s.store, s.audit, &store.Batch{State: state}, override.event(by, what))
	if err != nil && fhir.KindOf(err) == fhir.Conflict {
		return fhir.Errorf(fhir.Conflict, "breakglass.commit",
			"the emergency access was changed in the meantime; reload the page and try again")
	}
	return fhir.Wrap("breakglass.commit", err)
}

// event returns the AuditEvent of an interaction with the override.
func (override *Override) event(by audit.Caller, interaction string) audit.Event {
	return audit.Event{Type: audit.Security, Interaction: interaction, Caller: by, Patient: override.Patient,
		Extra: [][2]string{{"break-glass", override.ID}}}
}

func (override *Override) write() (store.StateWrite, error) {
	b, err := json.Marshal(override)
	w := store.StateWrite{Key: keyPrefix + override.ID, Value: b, Expect: store.StateAbsent}
	if override.stored != nil {
		w.Expect, w.Old = store.StateEquals, override.stored
	}
	return w, fhir.Wrap("breakglass.write", err)
}

func text(s string, least int) (string, error) {
	s = strings.Join(strings.Fields(s), " ")
	if n := utf8.RuneCountInString(s); n < least || len(s) > maxReason || !utf8.ValidString(s) {
		return "", fhir.Errorf(fhir.Invalid, "breakglass.text", "reason: %d to %d characters", least, maxReason)
	}
	return s, nil
}

// Open starts an override. It fails with Conflict if one of the same user and
// patient is active.
func (s *Service) Open(ctx context.Context, by audit.Caller, user, patient, reason string) (Override, error) {
	reason, err := text(reason, minReason)
	if err != nil {
		return Override{}, err
	}
	now := s.clock().UTC().Truncate(time.Second)
	override := Override{ID: fhir.RandomID(), User: user, Patient: patient, Reason: reason, Start: now,
		End: now.Add(Life)}
	if !fhir.ValidID(user) || !fhir.ValidID(patient) {
		return Override{}, fhir.Errorf(fhir.Invalid, "breakglass.Open", "patient: an id is required")
	}
	w, err := override.write()
	if err != nil {
		return Override{}, err
	}
	key := prefixOpen + user + "/" + patient
	open := store.StateWrite{Key: key, Value: []byte(override.ID), Expect: store.StateAbsent, Expires: override.End}
	old, err := s.store.Get(ctx, key)
	if err != nil {
		return Override{}, fhir.Wrap("breakglass.Open", err)
	}
	if old != nil {
		before, err := s.get(ctx, string(old))
		if err != nil {
			return Override{}, err
		}
		if now.Before(before.End) {
			return Override{}, fhir.Errorf(fhir.Conflict, "breakglass.Open",
				"emergency access to this patient is already open")
		}
		open.Expect, open.Old = store.StateEquals, old
	}
	if err := s.commit(ctx, by, "emergency-start", &override, w, open, override.index()); err != nil {
		return Override{}, err
	}
	s.opened.Add(ctx, 1)
	s.log.WarnContext(ctx, "break-glass opened: consent is overridden for one patient", "override", override.ID,
		"request_id",
		by.RequestID)
	return override, nil
}

func (s *Service) get(ctx context.Context, id string) (Override, error) {
	const op = "breakglass.get"
	if !fhir.ValidID(id) {
		return Override{}, fhir.Errorf(fhir.NotFound, op, "no such emergency access")
	}
	b, err := s.store.Get(ctx, keyPrefix+id)
	if err != nil {
		return Override{}, fhir.Wrap(op, err)
	}
	if b == nil {
		return Override{}, fhir.Errorf(fhir.NotFound, op, "no such emergency access")
	}
	override := Override{stored: b}
	return override, fhir.Wrap(op, json.Unmarshal(b, &override))
}

// Close ends an override early. Only its own user can do so.
func (s *Service) Close(ctx context.Context, by audit.Caller, user, id string) error {
	override, err := s.get(ctx, id)
	if err != nil {
		return err
	}
	now := s.clock().UTC().Truncate(time.Second)
	if override.User != user {
		return fhir.Errorf(fhir.NotFound, "breakglass.Close", "no such emergency access")
	}
	if !now.Before(override.End) {
		return nil
	}
	override.End = now
	w, err := override.write()
	if err != nil {
		return err
	}
	return s.commit(ctx, by, "emergency-stop", &override, w,
		store.StateWrite{Key: prefixOpen + user + "/" + override.Patient, Expect: store.StateEquals,
			Old: []byte(override.ID)})
}

// EndAll adds the end of a user's overrides to a batch that ends all access of
// the user, each with its AuditEvent. by describes who ends them.
func (s *Service) EndAll(ctx context.Context, b *store.Batch, user string, by audit.Caller) error {
	open, err := s.Active(ctx, user)
	if err != nil {
		return err
	}
	now := s.clock().UTC().Truncate(time.Second)
	for i := range open {
		override := &open[i]
		override.End = now
		w, err := override.write()
		if err != nil {
			return err
		}
		if err := audit.Append(s.audit, b, override.event(by, "emergency-stop")); err != nil {
			return err
		}
		b.State = append(b.State, w, store.StateWrite{Key: prefixOpen + user + "/" + override.Patient,
			Expect: store.StateEquals, Old: []byte(override.ID)})
	}
	return nil
}

// Review records the review of an override. Users cannot review their own
// overrides, and no override is reviewed twice.
func (s *Service) Review(ctx context.Context, by audit.Caller, reviewer, id string, justified bool, note string) error {
	const op = "breakglass.Review"
	override, err := s.get(ctx, id)
	if err != nil {
		return err
	}
	if note, err = text(note, 0); err != nil {
		return err
	}
	switch {
	case override.User == reviewer:
		return fhir.Errorf(fhir.Forbidden, op, "you cannot review your own emergency access")
	case !override.Pending():
		return fhir.Errorf(fhir.Conflict, op, "it has already been reviewed")
	case !justified && note == "":
		return fhir.Errorf(fhir.Invalid, op, "note: say why it was not justified")
	}
	override.Reviewer, override.Reviewed, override.Justified, override.Note = reviewer,
		s.clock().UTC().Truncate(time.Second), justified, note
	w, err := override.write()
	if err != nil {
		return err
	}
	return s.commit(ctx, by, "configuration", &override, w)
}

// List returns all overrides: those pending review first, then the most recent.
func (s *Service) List(ctx context.Context) ([]Override, error) {
	var out []Override
	var bad error
	err := s.store.List(ctx, keyPrefix, func(_ string, v []byte) bool {
		var override Override
		if bad = json.Unmarshal(v, &override); bad == nil {
			out = append(out, override)
		}
		return bad == nil
	})
	if err == nil {
		err = bad
	}
	slices.SortStableFunc(out, func(a, b Override) int {
		if a.Pending() != b.Pending() {
			if a.Pending() {
				return -1
			}
			return 1
		}
		return b.Start.Compare(a.Start)
	})
	return out, fhir.Wrap("breakglass.List", err)
}

// Active returns the active overrides of a user.
func (s *Service) Active(ctx context.Context, user string) ([]Override, error) {
	var ids []string
	prefix := prefixOpen + user + "/"
	if err := s.store.List(ctx, prefix, func(_ string,
		v []byte) bool {
		ids = append(ids, string(v))
		return true
	}); err != nil {
		return nil, fhir.Wrap("breakglass.Mine", err)
	}
	var out []Override
	for _, id := range ids {
		override, err := s.get(ctx, id)
		if err != nil {
			return nil, err
		}
		if s.clock().Before(override.End) {
			out = append(out, override)
		}
	}
	return out, nil
}

// Consents returns base extended by the overrides of a user, for a token of
// that user. The result may be kept as long as the token: an override counts from
// the commit that starts it to the commit that ends it, in every process that shows
// that commit.
func (s *Service) Consents(base access.Consents, user string) access.Consents {
	return &view{service: s, base: base, user: user}
}

type view struct {
	service *Service
	base    access.Consents
	user    string

	// mu guards the fields below.
	mu   sync.Mutex
	read bool
	at   store.Seq // the latest commit before open was read
	open []Override
}

// Permits implements access.Consents. If the overrides cannot be read, none
// counts.
func (view *view) Permits(recipient string, f *access.Facts) bool {
	if view.base != nil && view.base.Permits(recipient, f) {
		return true
	}
	if f.Patient == "" {
		return false
	}
	now := view.service.clock()
	return slices.ContainsFunc(view.current(),
		func(override Override) bool { return override.Patient == f.Patient && now.Before(override.End) })
}

// current returns the active overrides of the user as of the latest commit.
func (view *view) current() []Override {
	at := view.service.store.LastSeq() // before the overrides are read, so that they are at least this recent
	view.mu.Lock()
	defer view.mu.Unlock()
	if view.read && at <= view.at {
		return view.open
	}
	open, err := view.service.Active(context.Background(), view.user)
	if err != nil {
		view.service.log.Error("break-glass overrides cannot be read", "error", err)
		view.read = false
		return nil
	}
	view.open, view.read, view.at = open, true, at
	return open
}
