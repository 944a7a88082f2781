package link

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"pulsegate/adapters/cloud"
	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/limit"
	"pulsegate/fhir/store"
)

// Status is the state of a link.
type Status string

const (
	Working Status = "working"
	// Reconnect: the grant has ended or its tokens are lost. The patient must link
	// the account again.
	Reconnect Status = "reconnect"
	// Membership: the vendor serves no data because the wearer's membership has
	// lapsed.
	Membership Status = "membership"
	// Permission: the vendor refuses data that the patient's grant covers.
	Permission Status = "permission"
	// Gone: the vendor has ended its API.
	Gone Status = "gone"
	// Ended is the status of a link that was removed, in notifications only.
	Ended Status = "ended"
)

// Link is the connection of a patient to an account at a vendor.
type Link struct {
	ID       string   `json:"id"`
	Patient  string   `json:"patient"`
	Vendor   string   `json:"vendor"`
	Accounts []string `json:"accounts"` // ids under which the vendor knows the account
	Scopes   []string `json:"scopes"`   // granted
	Missing  []string `json:"missing,omitempty"`
	Issuer   string   `json:"issuer"` // URL of the token endpoint that issued the grant

	Status Status    `json:"status"`
	Reason string    `json:"reason,omitempty"` // code that explains the status
	Since  time.Time `json:"since"`            // of the status

	Created   time.Time `json:"created"`
	Connected time.Time `json:"connected"` // latest completed linking flow
}

// Covers reports whether the patient has granted what a stream needs.
func (l *Link) Covers(s *cloud.Stream) bool {
	return s.Scope == "" || slices.Contains(l.Scopes, s.Scope)
}

// Vault seals secrets. *authn.Vault implements it.
type Vault interface {
	Seal(purpose string, plain []byte) []byte
	Open(purpose string, sealed []byte) ([]byte, error)
}

// Options configures Links. Erase, Notify and Logger are optional.
type Options struct {
	Store   store.State
	Audit   audit.Trail
	Vault   Vault
	Vendors []cloud.Vendor
	HTTP    *http.Client // for token endpoints; see fhir/egress
	// API returns a client for the API of a vendor with an access token.
	API func(v cloud.Vendor, token string) *cloud.Client
	// Callback is the redirect URI.
	Callback string
	Clock    func() time.Time
	Rand     io.Reader
	// Erase deletes the data of a vendor about a patient. It may be called again
	// after an error or a restart.
	Erase func(ctx context.Context, patient, vendor string, by audit.Caller) error
	// Clustered is set if several processes share the store. Then changes of links are kept
	// for Changes, and what a process does with a vendor is claimed in the store.
	Clustered bool
	Logger    *slog.Logger
	// Shared, if set, makes the limit of linking flows that of all processes together.
	Shared limit.Shared
}

// Links manages links. It is safe for concurrent use.
type Links struct {
	Options

	starts *limit.Buckets // of linking flows, by patient and by session

	mu        sync.Mutex
	refreshes map[string]*refresh // in progress, by id of the link
	notify    []func(Link)
}

// New returns Links.
func New(o Options) *Links {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Links{Options: o, refreshes: map[string]*refresh{},
		starts: limit.NewBuckets(1, maxStarts*startInterval).Share(o.Shared, "linking flows")}
}

// Notify registers fn, which is called after a link was made, connected again,
// changed its status, or ended.
func (ls *Links) Notify(fn func(Link)) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ls.notify = append(ls.notify, fn)
}

func (ls *Links) changed(l Link) {
	ls.mu.Lock()
	fns := slices.Clone(ls.notify)
	ls.mu.Unlock()
	for _, fn := range fns {
		fn(l)
	}
}

// Vendor returns the vendor with a code, or nil if it is not configured.
func (ls *Links) Vendor(code string) cloud.Vendor {
	for _, v := range ls.Vendors {
		if v.Code() == code {
			return v
		}
	}
	return nil
}

const (
	recordPrefix  = "link/record/"
	tokenPrefix   = "link/token/"
	accountPrefix = "link/account/"
	patientPrefix = "link/patient/"
	pendingPrefix = "link/pending/"
	endedPrefix   = "link/ended/"
	changedPrefix = "link/changed/"
)

func accountKey(vendor, account string) string {
	// The vendor chooses the id, so a slash must not lead out of the prefix.
	return accountPrefix + vendor + "/" + strings.NewReplacer("%", "%25", "/", "%2F").Replace(account)
}

// Get returns a link. It fails with NotFound if there is none.
func (ls *Links) Get(ctx context.Context, id string) (Link, error) {
	l, _, err := ls.read(ctx, id)
	return l, err
}

// read returns a link and its stored bytes.
func (ls *Links) read(ctx context.Context, id string) (Link, []byte, error) {
	const op = "link.Get"
	var l Link
	b, err := ls.Store.Get(ctx, recordPrefix+id)
	if err != nil {
		return l, nil, fhir.Wrap(op, err)
	}
	if b == nil {
		return l, nil, fhir.Errorf(fhir.NotFound, op, "there is no such connection")
	}
	return l, b, fhir.Wrap(op, json.Unmarshal(b, &l))
}

// List returns the links of a patient, or all if patient is "", in order of their
// ids.
func (ls *Links) List(ctx context.Context, patient string) ([]Link, error) {
	const op = "link.List"
	var out []Link
	var failure error
	add := func(b []byte) bool {
		var l Link
		if failure = json.Unmarshal(b, &l); failure == nil {
			out = append(out, l)
		}
		return failure == nil
	}
	if patient == "" {
		err := ls.Store.List(ctx, recordPrefix, func(_ string, b []byte) bool { return add(b) })
		if err == nil {
			err = failure
		}
		return out, fhir.Wrap(op, err)
	}
	var ids []string
	prefix := patientPrefix + patient + "/"
	err := ls.Store.List(ctx, prefix, func(key string, _ []byte) bool {
		ids = append(ids, strings.TrimPrefix(key, prefix))
		return true
	})
	for _, id := range ids {
		if err != nil {
			break
		}
		var b []byte
		if b, err = ls.Store.Get(ctx, recordPrefix+id); err == nil && b != nil {
			add(b)
			err = failure
		}
	}
	return out, fhir.Wrap(op, err)
}

// ByAccount returns the id of the link of a vendor's account, or "".
func (ls *Links) ByAccount(ctx context.Context, vendor, account string) (string, error) {
	b, err := ls.Store.Get(ctx, accountKey(vendor, account))
	return string(b), fhir.Wrap("link.ByAccount", err)
}

// attempts bounds the retries of a change that loses to other writers.
const attempts = 16

// SetStatus sets the status of a link. It reports whether that changed anything.
// A link that must be connected again stays so until it is.
func (ls *Links) SetStatus(ctx context.Context, id string, status Status, reason string) (changed bool, err error) {
	return ls.setStatus(ctx, id, status, reason, nil)
}

// errReplaced says that the tokens of a link are not those that a change expects.
var errReplaced = errors.New("the link was connected again")

// setStatus sets the status if the values that same expects are unchanged.
func (ls *Links) setStatus(ctx context.Context, id string, status Status, reason string,
	same []store.StateWrite) (changed bool, err error) {
	const op = "link.SetStatus"
	err = store.Retry(attempts, op, "The connection is being changed. Try again.", func() error {
		changed = false
		l, old, err := ls.read(ctx, id)
		if err != nil {
			return err
		}
		if l.Status == status && l.Reason == reason || l.Status == Reconnect {
			return nil
		}
		for _, w := range same {
			if have, err := ls.Store.Get(ctx, w.Key); err != nil {
				return err
			} else if !bytes.Equal(have, w.Old) {
				return errReplaced
			}
		}
		l.Status, l.Reason, l.Since = status, reason, ls.Clock()
		b, err := json.Marshal(l)
		if err != nil {
			return err
		}
		writes := append([]store.StateWrite{{Key: recordPrefix + id, Value: b, Expect: store.StateEquals,
			Old: old}}, same...)
		_, err = ls.Store.Commit(ctx, &store.Batch{State: append(writes, ls.announce(id)...)})
		if err == nil {
			changed = true
			ls.changed(l)
		}
		return err
	})
	if changed {
		ls.Logger.Info("link status", "link", id, "status", string(status), "reason", reason)
	}
	return changed, fhir.Wrap(op, err)
}
