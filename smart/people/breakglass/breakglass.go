// Package breakglass lets a practitioner see one patient's data without that
// patient's consent, in an emergency.
//
// It owns: the record of each opening, its end after four hours, its review,
// and the consents that hold meanwhile. It does not own: who may open it
// (smart/people/role, step-up), the pages, or any other consent (fhir/consent).
//
// Opening leaves an AuditEvent (DCM 110127) in its own commit, counts in
// pulsegate.breakglass.opened and writes a log line at level WARN; neither
// names the patient or the reason. Each opening waits for review by somebody
// else until it is decided, and the patient is told of it.
//
// # State
//
//	glass/<id>                  Opening, JSON; never dropped
//	glass-open/<user>/<patient> id, while it is open
//	glass-patient/<patient>/<id> when it began, Unix seconds, for the patient
//	glass-told/<patient>/<id>   when the patient acknowledged it, Unix seconds
package breakglass

import (
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
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
	// Life is how long an opening holds.
	Life = 4 * time.Hour

	room     = "glass/"
	roomOpen = "glass-open/"
	// roomPatient and roomTold are not below room, which List reads whole.
	roomPatient = "glass-patient/"
	roomTold    = "glass-told/"
	minReason   = 10
	maxReason   = 1000
)

// Opening is one broken glass.
type Opening struct {
	ID      string    `json:"id"`
	User    string    `json:"user"`
	Patient string    `json:"patient"`
	Reason  string    `json:"reason"` // may be about the patient: for the review only
	Start   time.Time `json:"start"`
	End     time.Time `json:"end"` // planned, or when it was ended

	Reviewer  string    `json:"reviewer,omitempty"`
	Reviewed  time.Time `json:"reviewed,omitzero"`
	Justified bool      `json:"justified,omitempty"`
	Note      string    `json:"note,omitempty"`

	stored []byte
}

// Waiting reports whether nobody has reviewed it yet.
func (o *Opening) Waiting() bool { return o.Reviewer == "" }

// Glass is the service.
type Glass struct {
	store  store.State
	audit  audit.Trail
	clock  func() time.Time
	log    *slog.Logger
	opened metric.Int64Counter
	// changes counts what this process opened and ended.
	changes atomic.Uint64
}

// New returns the service.
func New(s store.State, a audit.Trail, clock func() time.Time, log *slog.Logger) (*Glass, error) {
	n, err := otel.Meter("pulsegate/smart/people/breakglass").Int64Counter("pulsegate.breakglass.opened",
		metric.WithUnit("{override}"),
		metric.WithDescription("Emergency overrides of consent"))
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Glass{store: s, audit: a, clock: clock, log: log, opened: n}, fhir.Wrap("breakglass.New", err)
}

func (g *Glass) commit(ctx context.Context, by audit.Caller, what string, o *Opening, state ...store.StateWrite) error {
	defer g.changes.Add(1)
	_, err := audit.Commit(ctx, g.store, g.audit, &store.Batch{State: state}, o.event(by, what))
	if err != nil && fhir.KindOf(err) == fhir.Conflict {
		return fhir.Errorf(fhir.Conflict, "breakglass.commit", "somebody else was first; look again")
	}
	return fhir.Wrap("breakglass.commit", err)
}

func (o *Opening) event(by audit.Caller, interaction string) audit.Event {
	return audit.Event{Type: audit.Security, Interaction: interaction, Caller: by, Patient: o.Patient,
		Extra: [][2]string{{"break-glass", o.ID}}}
}

func (o *Opening) write() (store.StateWrite, error) {
	b, err := json.Marshal(o)
	w := store.StateWrite{Key: room + o.ID, Value: b, Expect: store.StateAbsent}
	if o.stored != nil {
		w.Expect, w.Old = store.StateEquals, o.stored
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

// Open breaks the glass. An open one of the same user and patient stays as it
// is: Conflict.
func (g *Glass) Open(ctx context.Context, by audit.Caller, user, patient, reason string) (Opening, error) {
	reason, err := text(reason, minReason)
	if err != nil {
		return Opening{}, err
	}
	now := g.clock().UTC().Truncate(time.Second)
	o := Opening{ID: fhir.RandomID(), User: user, Patient: patient, Reason: reason, Start: now,
		End: now.Add(Life)}
	if !fhir.ValidID(user) || !fhir.ValidID(patient) {
		return Opening{}, fhir.Errorf(fhir.Invalid, "breakglass.Open", "patient: an id is needed")
	}
	w, err := o.write()
	if err != nil {
		return Opening{}, err
	}
	key := roomOpen + user + "/" + patient
	open := store.StateWrite{Key: key, Value: []byte(o.ID), Expect: store.StateAbsent, Expires: o.End}
	old, err := g.store.Get(ctx, key)
	if err != nil {
		return Opening{}, fhir.Wrap("breakglass.Open", err)
	}
	if old != nil {
		before, err := g.get(ctx, string(old))
		if err != nil {
			return Opening{}, err
		}
		if now.Before(before.End) {
			return Opening{}, fhir.Errorf(fhir.Conflict, "breakglass.Open", "it is open already")
		}
		open.Expect, open.Old = store.StateEquals, old
	}
	if err := g.commit(ctx, by, "emergency-start", &o, w, open, o.about()); err != nil {
		return Opening{}, err
	}
	g.opened.Add(ctx, 1)
	g.log.WarnContext(ctx, "break-glass opened: consent is overridden for one patient", "opening", o.ID, "request",
		by.RequestID)
	return o, nil
}

func (g *Glass) get(ctx context.Context, id string) (Opening, error) {
	const op = "breakglass.get"
	if !fhir.ValidID(id) {
		return Opening{}, fhir.Errorf(fhir.NotFound, op, "no such opening")
	}
	b, err := g.store.Get(ctx, room+id)
	if err != nil {
		return Opening{}, fhir.Wrap(op, err)
	}
	if b == nil {
		return Opening{}, fhir.Errorf(fhir.NotFound, op, "no such opening")
	}
	o := Opening{stored: b}
	return o, fhir.Wrap(op, json.Unmarshal(b, &o))
}

// Close ends an opening early; only its own user does.
func (g *Glass) Close(ctx context.Context, by audit.Caller, user, id string) error {
	o, err := g.get(ctx, id)
	if err != nil {
		return err
	}
	now := g.clock().UTC().Truncate(time.Second)
	if o.User != user {
		return fhir.Errorf(fhir.NotFound, "breakglass.Close", "no such opening")
	}
	if !now.Before(o.End) {
		return nil
	}
	o.End = now
	w, err := o.write()
	if err != nil {
		return err
	}
	return g.commit(ctx, by, "emergency-stop", &o, w,
		store.StateWrite{Key: roomOpen + user + "/" + o.Patient, Expect: store.StateEquals, Old: []byte(o.ID)})
}

// EndAll adds the end of a user's openings to the batch of what ends all that
// the user may do, each with its AuditEvent, which by says who it is of. In
// this process they count until their next reading, a second at most; the
// caller ends the user's tokens and sessions in the same commit.
func (g *Glass) EndAll(ctx context.Context, b *store.Batch, user string, by audit.Caller) error {
	open, err := g.Mine(ctx, user)
	if err != nil {
		return err
	}
	now := g.clock().UTC().Truncate(time.Second)
	for i := range open {
		o := &open[i]
		o.End = now
		w, err := o.write()
		if err != nil {
			return err
		}
		if err := audit.Append(g.audit, b, o.event(by, "emergency-stop")); err != nil {
			return err
		}
		b.State = append(b.State, w, store.StateWrite{Key: roomOpen + user + "/" + o.Patient,
			Expect: store.StateEquals, Old: []byte(o.ID)})
	}
	return nil
}

// Review decides on an opening. Nobody reviews their own, and none twice.
func (g *Glass) Review(ctx context.Context, by audit.Caller, reviewer, id string, justified bool, note string) error {
	const op = "breakglass.Review"
	o, err := g.get(ctx, id)
	if err != nil {
		return err
	}
	if note, err = text(note, 0); err != nil {
		return err
	}
	switch {
	case o.User == reviewer:
		return fhir.Errorf(fhir.Forbidden, op, "nobody reviews their own")
	case !o.Waiting():
		return fhir.Errorf(fhir.Conflict, op, "it was reviewed already")
	case !justified && note == "":
		return fhir.Errorf(fhir.Invalid, op, "note: say why it was not justified")
	}
	o.Reviewer, o.Reviewed, o.Justified, o.Note = reviewer, g.clock().UTC().Truncate(time.Second), justified, note
	w, err := o.write()
	if err != nil {
		return err
	}
	return g.commit(ctx, by, "configuration", &o, w)
}

// List returns every opening, those that wait for review first, then the
// newest.
func (g *Glass) List(ctx context.Context) ([]Opening, error) {
	var out []Opening
	var bad error
	err := g.store.List(ctx, room, func(_ string, v []byte) bool {
		var o Opening
		if bad = json.Unmarshal(v, &o); bad == nil {
			out = append(out, o)
		}
		return bad == nil
	})
	if err == nil {
		err = bad
	}
	slices.SortStableFunc(out, func(a, b Opening) int {
		if a.Waiting() != b.Waiting() {
			if a.Waiting() {
				return -1
			}
			return 1
		}
		return b.Start.Compare(a.Start)
	})
	return out, fhir.Wrap("breakglass.List", err)
}

// Mine returns the user's openings that hold now.
func (g *Glass) Mine(ctx context.Context, user string) ([]Opening, error) {
	var ids []string
	prefix := roomOpen + user + "/"
	if err := g.store.List(ctx, prefix, func(_ string,
		v []byte) bool {
		ids = append(ids, string(v))
		return true
	}); err != nil {
		return nil, fhir.Wrap("breakglass.Mine", err)
	}
	var out []Opening
	for _, id := range ids {
		o, err := g.get(ctx, id)
		if err != nil {
			return nil, err
		}
		if g.clock().Before(o.End) {
			out = append(out, o)
		}
	}
	return out, nil
}

// For returns base with the user's own openings on top: what a token of that
// user may see. It may be kept as long as the token; an opening and its end
// count at once in this process, and within a second in others.
func (g *Glass) For(base access.Consents, user string) access.Consents {
	return &over{glass: g, base: base, user: user}
}

type over struct {
	glass *Glass
	base  access.Consents
	user  string

	mu     sync.Mutex
	read   time.Time
	change uint64
	open   []Opening
}

const reread = time.Second

// Permits implements access.Consents. When the openings cannot be read there
// is none.
func (o *over) Permits(recipient string, f *access.Facts) bool {
	if o.base != nil && o.base.Permits(recipient, f) {
		return true
	}
	if f.Patient == "" {
		return false
	}
	now := o.glass.clock()
	return slices.ContainsFunc(o.now(now), func(x Opening) bool { return x.Patient == f.Patient && now.Before(x.End) })
}

func (o *over) now(now time.Time) []Opening {
	o.mu.Lock()
	defer o.mu.Unlock()
	change := o.glass.changes.Load()
	if age := now.Sub(o.read); o.read.IsZero() || change != o.change || age >= reread || age < 0 {
		open, err := o.glass.Mine(context.Background(), o.user)
		if err != nil {
			o.glass.log.Error("break-glass cannot be read", "error", err)
			open = nil
		}
		o.open, o.read, o.change = open, now, change
	}
	return o.open
}
