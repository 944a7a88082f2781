package pushkey

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/limit"
	"pulsegate/fhir/store"
)

const (
	prefixKey     = "push/key/"
	prefixPatient = "push/patient/"
	prefixUse     = "push/use/"
	prefixLatest  = "push/latest/"

	// maxKeys bounds the valid keys of a patient.
	maxKeys = 20
	// maxText bounds names of keys and automations in characters.
	maxText = 80
	// keepEnded is the time for which the record of an expired or revoked key is
	// kept, so that refused deliveries name it.
	keepEnded = 90 * 24 * time.Hour
	// useEvery is the shortest time between two records of a use.
	useEvery = time.Hour
	// keepUse is the time for which a use is kept.
	keepUse = 2 * 366 * 24 * time.Hour
)

// Key describes a push key without its secret.
type Key struct {
	ID      string    `json:"id"`
	Patient string    `json:"patient"`
	Vendor  string    `json:"vendor"`
	Name    string    `json:"name,omitempty"` // given by its maker
	Created time.Time `json:"created"`
	// Operator is set if the operator made the key, not the patient.
	Operator bool      `json:"operator,omitempty"`
	Expires  time.Time `json:"expires,omitzero"` // zero if the key does not expire
	Use      Use       `json:"use,omitzero"`
}

// Use describes the last use of a key. It is up to an hour old.
type Use struct {
	At time.Time `json:"at"`
	// The fields below are what the app says about itself, cut and without control
	// characters.
	Automation   string `json:"automation,omitempty"`
	AutomationID string `json:"automationId,omitempty"`
	Aggregation  string `json:"aggregation,omitempty"`
	Period       string `json:"period,omitempty"`
}

// Expired reports whether the key has expired at now.
func (k *Key) Expired(now time.Time) bool { return !k.Expires.IsZero() && !now.Before(k.Expires) }

// record is the stored form of a Key.
type record struct {
	Key
	Hash    [sha256.Size]byte `json:"hash"`
	Revoked time.Time         `json:"revoked,omitzero"`
}

// Options configures Keys. Secure, Audit, Store, Clock and Rand are required.
type Options struct {
	Store store.State
	Audit audit.Trail
	Clock func() time.Time
	Rand  io.Reader
	// Secure reports whether a request came over a connection on which keys may be
	// sent.
	Secure func(*http.Request) bool
	// Rate is the number of deliveries per second of one key, 2 if it is zero. Burst
	// is the number of deliveries that may come at once, 120 if it is zero.
	Rate, Burst int
	// Shared, if set, makes the limits those of all processes together.
	Shared limit.Shared
	Logger *slog.Logger
}

// Keys creates, lists, revokes and checks push keys. It is safe for concurrent use.
type Keys struct {
	Options
	guesses    *limit.Limiter
	deliveries *limit.Buckets
}

// New returns the keys of a store.
func New(o Options) (*Keys, error) {
	if o.Store == nil || o.Audit == nil || o.Clock == nil || o.Rand == nil || o.Secure == nil {
		return nil, fhir.Errorf(fhir.Internal, "pushkey.New", "an option is missing")
	}
	if o.Rate <= 0 {
		o.Rate = 2
	}
	if o.Burst <= 0 {
		o.Burst = 120
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Keys{Options: o, guesses: limit.New(limit.Limits{Shared: o.Shared, Name: "push key"}),
		deliveries: limit.NewBuckets(o.Rate, o.Burst).Share(o.Shared, "push key deliveries")}, nil
}

// NewKey describes a key to be created.
type NewKey struct {
	Patient  string
	Vendor   string
	Name     string // may be empty
	Operator bool
	Life     time.Duration // zero for a key that does not expire
}

// Create creates a key in one commit with ev, to which it adds the patient and the
// key. It returns the text of the key, which is not stored.
func (k *Keys) Create(ctx context.Context, n NewKey, ev audit.Event) (_ Key, text string, err error) {
	const op = "pushkey.Create"
	now := k.Clock().UTC()
	r := record{Key: Key{Patient: n.Patient, Vendor: n.Vendor, Name: clean(n.Name), Created: now, Operator: n.Operator}}
	switch {
	case !fhir.ValidID(n.Patient):
		return Key{}, "", fhir.Errorf(fhir.Invalid, op, "patient: must be a FHIR id")
	case n.Vendor == "":
		return Key{}, "", fhir.Errorf(fhir.Invalid, op, "vendor: must not be empty")
	case utf8.RuneCountInString(n.Name) > maxText:
		return Key{}, "", fhir.Errorf(fhir.Invalid, op, "name: it must not be longer than %d characters", maxText)
	case n.Life < 0:
		return Key{}, "", fhir.Errorf(fhir.Invalid, op, "expires: must be in the future")
	case n.Life > 0:
		r.Expires = now.Add(n.Life)
	}
	id, s, err := draw(k.Rand)
	if err != nil {
		return Key{}, "", fhir.Wrap(op, err)
	}
	r.ID, r.Hash = id, sha256.Sum256(s[:])
	var full bool
	err = store.Retry(attempts, op, "other push keys of the patient are being made; try again", func() error {
		full, err = k.create(ctx, &r, ev)
		return err
	})
	switch {
	case err != nil:
		return Key{}, "", err
	case full:
		return Key{}, "", fhir.Errorf(fhir.Conflict, op, "the patient has %d keys already; revoke one first", maxKeys)
	}
	return r.Key, format(id, s), nil
}

// attempts bounds the retries of a change that loses to other writers.
const attempts = 8

// create stores a key unless the patient has all keys allowed. Its commit is lost if
// another key of the patient is made meanwhile.
func (k *Keys) create(ctx context.Context, r *record, ev audit.Event) (full bool, err error) {
	const op = "pushkey.Create"
	latest, err := k.Store.Get(ctx, prefixLatest+r.Patient)
	if err != nil {
		return false, fhir.Wrap(op, err)
	}
	have, err := k.List(ctx, r.Patient)
	if err != nil {
		return false, err
	}
	have = slices.DeleteFunc(have, func(key Key) bool { return key.Expired(r.Created) })
	if len(have) >= maxKeys {
		return true, nil
	}
	w, err := r.write(store.StateAbsent, nil)
	if err != nil {
		return false, err
	}
	mark := store.StateWrite{Key: prefixPatient + r.Patient + "/" + r.ID, Value: []byte(r.ID), Expires: w.Expires}
	last := store.StateWrite{Key: prefixLatest + r.Patient, Value: []byte(r.ID), Expect: store.StateAbsent}
	if latest != nil {
		last.Expect, last.Old = store.StateEquals, latest
	}
	_, err = audit.Commit(ctx, k.Store, k.Audit, &store.Batch{State: []store.StateWrite{w, mark, last}}, r.event(ev))
	return false, fhir.Wrap(op, err)
}

// event adds the key to an event.
func (r *record) event(ev audit.Event) audit.Event {
	ev.Patient = r.Patient
	ev.Extra = append(slices.Clone(ev.Extra), [2]string{"push-key", r.ID}, [2]string{"vendor", r.Vendor})
	return ev
}

func (r *record) write(expect store.StateExpect, old []byte) (store.StateWrite, error) {
	b, err := json.Marshal(r)
	w := store.StateWrite{Key: prefixKey + r.ID, Value: b, Expect: expect, Old: old}
	switch {
	case !r.Revoked.IsZero():
		w.Expires = r.Revoked.Add(keepEnded)
	case !r.Expires.IsZero():
		w.Expires = r.Expires.Add(keepEnded)
	}
	return w, fhir.Wrap("pushkey.write", err)
}

// get returns the record of a key with the bytes that were read. If there is none,
// raw is nil.
func (k *Keys) get(ctx context.Context, id string) (r record, raw []byte, err error) {
	if !fhir.ValidID(id) {
		return r, nil, nil
	}
	raw, err = k.Store.Get(ctx, prefixKey+id)
	if err != nil || raw == nil {
		return r, nil, fhir.Wrap("pushkey.get", err)
	}
	return r, raw, fhir.Wrap("pushkey.get", json.Unmarshal(raw, &r))
}

// List returns the keys of a patient, or of all patients if patient is empty, that
// were not revoked, newest first. Expired keys are listed for 90 days.
func (k *Keys) List(ctx context.Context, patient string) ([]Key, error) {
	const op = "pushkey.List"
	prefix := prefixPatient
	if patient != "" {
		if !fhir.ValidID(patient) {
			return nil, fhir.Errorf(fhir.Invalid, op, "patient: must be a FHIR id")
		}
		prefix += patient + "/"
	}
	var ids []string
	if err := k.Store.List(ctx, prefix, func(_ string, id []byte) bool {
		ids = append(ids, string(id))
		return true
	}); err != nil {
		return nil, fhir.Wrap(op, err)
	}
	now := k.Clock()
	var out []Key
	for _, id := range ids {
		r, raw, err := k.get(ctx, id)
		if err != nil {
			return nil, err
		}
		if raw == nil || !r.Revoked.IsZero() || !r.Expires.IsZero() && now.After(r.Expires.Add(keepEnded)) {
			continue
		}
		if r.Use, _, err = k.use(ctx, id); err != nil {
			return nil, err
		}
		out = append(out, r.Key)
	}
	slices.SortStableFunc(out, func(a, b Key) int { return b.Created.Compare(a.Created) })
	return out, nil
}

// Revoke ends a key in one commit with ev, to which it adds the patient and the key.
// If patient is not empty and the key is another patient's, or if there is no such
// key, the error is NotFound. To revoke a key again has no effect.
func (k *Keys) Revoke(ctx context.Context, patient, id string, ev audit.Event) (Key, error) {
	const op = "pushkey.Revoke"
	var out Key
	return out, store.Retry(attempts, op, "the push key is being changed; try again", func() error {
		r, raw, err := k.get(ctx, strings.ToLower(id))
		if err != nil {
			return err
		}
		if raw == nil || patient != "" && r.Patient != patient {
			return fhir.Errorf(fhir.NotFound, op, "there is no push key with this id")
		}
		out = r.Key
		if !r.Revoked.IsZero() {
			return k.Audit.Record(ctx, r.event(ev))
		}
		r.Revoked = k.Clock().UTC()
		w, err := r.write(store.StateEquals, raw)
		if err != nil {
			return err
		}
		state := []store.StateWrite{w, {Key: prefixPatient + r.Patient + "/" + r.ID}, {Key: prefixUse + r.ID}}
		_, err = audit.Commit(ctx, k.Store, k.Audit, &store.Batch{State: state}, r.event(ev))
		return fhir.Wrap(op, err)
	})
}

// use returns the last use of a key with the bytes that were read, nil if the key was
// not used.
func (k *Keys) use(ctx context.Context, id string) (u Use, raw []byte, err error) {
	raw, err = k.Store.Get(ctx, prefixUse+id)
	if err != nil || raw == nil {
		return u, nil, fhir.Wrap("pushkey.use", err)
	}
	return u, raw, fhir.Wrap("pushkey.use", json.Unmarshal(raw, &u))
}

// touch records a use of a key, unless one was recorded within the last hour. Of
// several uses at once, one is recorded.
func (k *Keys) touch(ctx context.Context, id string, h http.Header, now time.Time) error {
	last, raw, err := k.use(ctx, id)
	if err != nil {
		return err
	}
	if age := now.Sub(last.At); raw != nil && age >= 0 && age < useEvery {
		return nil
	}
	b, err := json.Marshal(Use{At: now.UTC().Truncate(time.Minute), Automation: clean(h.Get("automation-name")),
		AutomationID: clean(h.Get("automation-id")), Aggregation: clean(h.Get("automation-aggregation")),
		Period: clean(h.Get("automation-period"))})
	if err != nil {
		return fhir.Wrap("pushkey.touch", err)
	}
	w := store.StateWrite{Key: prefixUse + id, Value: b, Expect: store.StateAbsent, Expires: now.Add(keepUse)}
	if raw != nil {
		w.Expect, w.Old = store.StateEquals, raw
	}
	_, err = k.Store.Commit(ctx, &store.Batch{State: []store.StateWrite{w}})
	if store.Lost(err) {
		return nil
	}
	return fhir.Wrap("pushkey.touch", err)
}

// clean returns text that a page and a terminal can show: without control and format
// characters, with single spaces, and cut to maxText characters.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case r == utf8.RuneError || !unicode.IsPrint(r):
			return -1
		}
		return r
	}, strings.ToValidUTF8(s[:min(len(s), 4*maxText)], ""))
	runes := []rune(strings.Join(strings.Fields(s), " "))
	return strings.TrimSpace(string(runes[:min(len(runes), maxText)]))
}

// principal returns the caller for a key. A key that is not valid has no grant.
func (k *Keys) principal(r *record, valid bool) *access.Principal {
	p := &access.Principal{ClientID: "push-key:" + r.ID, ClientName: "Push key", Patient: r.Patient, Expires: r.Expires}
	if valid {
		p.Grant = &access.Grant{Recipient: p.ClientID, Rules: []access.Rule{access.DeliveryRule(r.Patient, r.Vendor)},
			Person: true, Recheck: func(ctx context.Context) error { return k.recheck(ctx, r.ID) }}
	}
	return p
}

// recheck returns an error if a key is no longer valid.
func (k *Keys) recheck(ctx context.Context, id string) error {
	r, raw, err := k.get(ctx, id)
	if err != nil {
		return err
	}
	if raw == nil {
		return unknown()
	}
	return r.ended(k.Clock())
}

// ended returns an error if the key was revoked or has expired.
func (r *record) ended(now time.Time) error {
	switch {
	case !r.Revoked.IsZero():
		return fhir.Errorf(fhir.Unauthorized, "pushkey.Authenticate", "the push key has been revoked; make a new one")
	case r.Expired(now):
		return fhir.Errorf(fhir.Unauthorized, "pushkey.Authenticate", "the push key has expired; make a new one")
	}
	return nil
}

func unknown() error {
	return fhir.Errorf(fhir.Unauthorized, "pushkey.Authenticate", "there is no such push key; make a new one")
}
