package link

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"pulsegate/adapters/cloud"
	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/limit"
	"pulsegate/fhir/store"
)

// flowLife is the time that a person has on the vendor's pages.
const flowLife = 10 * time.Minute

const (
	// maxStarts is the number of linking flows that a patient, and a session, may begin
	// at once. Each occupies memory of the store until it expires.
	maxStarts = 10
	// startInterval is the time in seconds after which one more flow may begin.
	startInterval = 60
)

// errTooMany is the error of a flow that begins too soon.
type errTooMany struct{ wait time.Duration }

func (e *errTooMany) Error() string { return "too many linking flows have begun" }

// RetryAfter returns the time until another flow may begin.
func (e *errTooMany) RetryAfter() time.Duration { return e.wait }

// mayBegin counts a linking flow, and returns an error if there are too many.
func (ls *Links) mayBegin(op, patient, session string) error {
	for _, name := range []string{"patient/" + patient, "session/" + session} {
		if wait, ok := ls.starts.Take(limit.Named(name), ls.Clock(), startInterval); !ok {
			return &fhir.Error{Kind: fhir.TooMany, Op: op, Err: &errTooMany{wait}, Issues: []fhir.Issue{{
				Severity: "error", Code: "throttled",
				Diagnostics: "You have begun to connect too often. Please wait a few minutes and try again."}}}
		}
	}
	return nil
}

// pending is a linking flow that has begun.
type pending struct {
	Patient  string    `json:"patient"`
	Vendor   string    `json:"vendor"`
	Session  []byte    `json:"session"`  // SHA-256
	Verifier []byte    `json:"verifier"` // sealed
	Expires  time.Time `json:"expires"`
}

// config returns the client of a vendor for package oauth2.
func (ls *Links) config(o cloud.OAuth) *oauth2.Config {
	c := &oauth2.Config{ClientID: o.ClientID, ClientSecret: o.ClientSecret, RedirectURL: ls.Callback,
		Endpoint: oauth2.Endpoint{AuthURL: o.AuthURL, TokenURL: o.TokenURL, AuthStyle: oauth2.AuthStyleInHeader}}
	if o.FormSecret || o.ClientSecret == "" {
		// The style is always set: with AuthStyleAutoDetect, the package repeats a
		// refused request and so uses a code or refresh token twice.
		c.Endpoint.AuthStyle = oauth2.AuthStyleInParams
	}
	for _, s := range o.Scopes {
		c.Scopes = append(c.Scopes, s.Name)
	}
	return c
}

func (ls *Links) vendor(op, code string) (cloud.Vendor, error) {
	if v := ls.Vendor(code); v != nil {
		return v, nil
	}
	return nil, fhir.Errorf(fhir.NotFound, op, "This server has no connection to that vendor.")
}

// Begin starts linking an account of a vendor to a patient and returns the URL to
// which the browser must go. session identifies the browser's session.
func (ls *Links) Begin(ctx context.Context, patient, vendor, session string) (string, error) {
	const op = "link.Begin"
	v, err := ls.vendor(op, vendor)
	if err != nil {
		return "", err
	}
	if err := ls.mayBegin(op, patient, session); err != nil {
		return "", err
	}
	state := make([]byte, 32)
	if _, err := io.ReadFull(ls.rand(), state); err != nil {
		return "", fhir.Wrap(op, err)
	}
	value := base64.RawURLEncoding.EncodeToString(state)
	verifier := oauth2.GenerateVerifier()
	sid := sha256.Sum256([]byte(session))
	p := pending{Patient: patient, Vendor: vendor, Session: sid[:], Expires: ls.Clock().Add(flowLife),
		Verifier: ls.Vault.Seal("link/pending", []byte(verifier))}
	b, err := json.Marshal(p)
	if err != nil {
		return "", fhir.Wrap(op, err)
	}
	_, err = ls.Store.Commit(ctx, &store.Batch{State: []store.StateWrite{{Key: pendingKey(value), Value: b,
		Expect: store.StateAbsent, Expires: p.Expires}}})
	if err != nil {
		return "", fhir.Wrap(op, err)
	}
	o := v.OAuth()
	options := []oauth2.AuthCodeOption{oauth2.S256ChallengeOption(verifier)}
	for name, value := range o.Params {
		options = append(options, oauth2.SetAuthURLParam(name, value))
	}
	return ls.config(o).AuthCodeURL(value, options...), nil
}

func (ls *Links) rand() io.Reader {
	if ls.Rand != nil {
		return ls.Rand
	}
	return rand.Reader
}

func pendingKey(state string) string {
	h := sha256.Sum256([]byte(state))
	return pendingPrefix + hex.EncodeToString(h[:])
}

// Answer holds the parameters that the browser brought back from the vendor.
type Answer struct {
	State, Code string
	Error       string // OAuth error code
	Scope       string // granted scopes, if the vendor states them here
}

// Complete finishes linking. by is the person who linked, and session identifies
// the browser's session, which must be that of Begin.
func (ls *Links) Complete(ctx context.Context, by audit.Caller, session string, a Answer) (Link, error) {
	const op = "link.Complete"
	p, err := ls.take(ctx, session, a.State)
	if err != nil {
		return Link{}, err
	}
	v, err := ls.vendor(op, p.Vendor)
	if err != nil {
		return Link{}, err
	}
	switch {
	case a.Error == "access_denied":
		return Link{}, fhir.Errorf(fhir.Forbidden, op,
			"The connection was not made, because it was not allowed on the vendor’s page.")
	case a.Error != "" || a.Code == "":
		return Link{}, fhir.Errorf(fhir.Unprocessable, op,
			"The vendor could not make the connection. Please try again.")
	}
	verifier, err := ls.Vault.Open("link/pending", p.Verifier)
	if err != nil {
		return Link{}, fhir.Wrap(op, err)
	}
	// If the person closes the page, the grant is still stored or revoked.
	ctx = context.WithoutCancel(ctx)
	o := v.OAuth()
	t, err := ls.exchange(ctx, o, func(ctx context.Context, c *oauth2.Config) (*oauth2.Token, error) {
		return c.Exchange(ctx, a.Code, oauth2.VerifierOption(string(verifier)))
	})
	if err != nil {
		ls.Logger.Warn("link: the code could not be redeemed", "vendor", p.Vendor, "error", err.Error())
		return Link{}, fhir.Errorf(fhir.Unavailable, op,
			"The vendor did not complete the connection. Please try again.")
	}
	l := Link{Patient: p.Patient, Vendor: p.Vendor, Issuer: o.TokenURL, Status: Working}
	l.Scopes, l.Missing = granted(o, t.scope, a.Scope)
	client := ls.API(v, t.Access)
	client.Account = t.account
	l.Accounts, err = v.Account(ctx, client)
	if err == nil && len(l.Accounts) == 0 {
		err = &cloud.Error{Problem: cloud.Unavailable, Reason: "no-account"}
	}
	missing := required(o, l.Scopes)
	if err != nil || missing != "" {
		ls.abandon(ctx, v, l.Patient, l.Accounts, t)
	}
	switch {
	case missing != "":
		return Link{}, fhir.Errorf(fhir.Forbidden, op, "Without the permission for %s, nothing can be read. "+
			"Please connect again and leave it ticked.", missing)
	case err != nil && cloud.ProblemOf(err) == cloud.Unlinked:
		return Link{}, fhir.Errorf(fhir.Unprocessable, op,
			"This account has no data from a device. Please choose the account that your device uses.")
	case err != nil:
		ls.Logger.Warn("link: the account could not be read", "vendor", p.Vendor, "error", err.Error())
		return Link{}, fhir.Errorf(fhir.Unavailable, op, "The vendor did not answer. Please try again.")
	}
	var merged []Link
	err = store.Retry(attempts, op, "The connection is being changed. Please try again.",
		func() (err error) { merged, err = ls.save(ctx, by, &l, t); return err })
	if err != nil {
		ls.abandon(ctx, v, l.Patient, l.Accounts, t)
		return Link{}, fhir.Wrap(op, err)
	}
	for _, m := range merged {
		m.Status, m.Reason, m.Since = Ended, "", l.Since
		ls.changed(m)
	}
	ls.changed(l)
	return l, nil
}

// take returns a pending flow and removes it.
func (ls *Links) take(ctx context.Context, session, state string) (pending, error) {
	const op = "link.Complete"
	expired := fhir.Errorf(fhir.Unprocessable, op,
		"This connection was already completed, has expired, or was started in another browser. Please start again.")
	var p pending
	key := pendingKey(state)
	b, err := ls.Store.Get(ctx, key)
	if err != nil {
		return p, fhir.Wrap(op, err)
	}
	if b == nil {
		return p, expired
	}
	if err := json.Unmarshal(b, &p); err != nil {
		return p, fhir.Wrap(op, err)
	}
	sid := sha256.Sum256([]byte(session))
	if subtle.ConstantTimeCompare(sid[:], p.Session) != 1 || !ls.Clock().Before(p.Expires) {
		return p, expired
	}
	_, err = ls.Store.Commit(ctx, &store.Batch{State: []store.StateWrite{
		{Key: key, Expect: store.StateEquals, Old: b}}})
	if store.Lost(err) {
		return p, expired
	}
	return p, fhir.Wrap(op, err)
}

// granted returns the scopes that the patient granted, and those of the vendor that
// are missing. The token endpoint's statement counts, or else that of the redirect;
// without either, everything was granted (RFC 6749 5.1).
func granted(o cloud.OAuth, statements ...string) (have, missing []string) {
	var stated []string
	for _, s := range statements {
		if stated = strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == ',' }); len(stated) > 0 {
			break
		}
	}
	silent := len(stated) == 0
	if o.Granted != nil && !silent {
		stated = o.Granted(stated)
	}
	for _, s := range o.Scopes {
		if silent || slices.Contains(stated, s.Name) {
			have = append(have, s.Name)
		} else {
			missing = append(missing, s.Name)
		}
	}
	return have, missing
}

// required returns the words of a scope that is needed and missing, or "".
func required(o cloud.OAuth, have []string) string {
	for _, s := range o.Scopes {
		if !s.Optional && !slices.Contains(have, s.Name) {
			return s.Words
		}
	}
	if len(have) == 0 {
		return "any data"
	}
	return ""
}

// save commits a new link, or changes the link that the account already has. It
// returns further links that have turned out to be of the same account and were
// removed.
func (ls *Links) save(ctx context.Context, by audit.Caller, l *Link, t tokens) (merged []Link, err error) {
	now := ls.Clock()
	l.Created, l.Connected, l.Since = now, now, now
	if l.ID, err = fhir.NewID(ls.rand()); err != nil {
		return nil, err
	}
	have, records, err := ls.ofAccount(ctx, l)
	if err != nil {
		return nil, err
	}
	writes := map[string][]byte{}
	for i, h := range have {
		if i == 0 {
			l.ID, l.Created = h.ID, h.Created
		} else {
			merged = append(merged, h)
			writes[tokenPrefix+h.ID], writes[patientPrefix+h.Patient+"/"+h.ID] = nil, nil
		}
		writes[recordPrefix+h.ID] = nil
		for _, account := range h.Accounts {
			writes[accountKey(h.Vendor, account)] = nil
		}
	}
	for _, account := range l.Accounts {
		writes[accountKey(l.Vendor, account)] = []byte(l.ID)
	}
	if writes[recordPrefix+l.ID], err = json.Marshal(l); err != nil {
		return nil, err
	}
	writes[tokenPrefix+l.ID] = ls.seal(l.ID, t)
	writes[patientPrefix+l.Patient+"/"+l.ID] = []byte("1")
	var b store.Batch
	for _, key := range slices.Sorted(maps.Keys(writes)) {
		w := store.StateWrite{Key: key, Value: writes[key], Expect: store.StateAbsent}
		old, known := records[key]
		if !known {
			if old, err = ls.Store.Get(ctx, key); err != nil {
				return nil, err
			}
		}
		if old != nil {
			w.Expect, w.Old = store.StateEquals, old
		}
		b.State = append(b.State, w)
	}
	for _, h := range merged {
		b.State = append(b.State, ls.announce(h.ID)...)
	}
	b.State = append(b.State, ls.announce(l.ID)...)
	_, err = audit.Commit(ctx, ls.Store, ls.Audit, &b, ls.event(by, "link-account", l))
	return merged, err
}

// ofAccount returns the links that have an account of l, and the values that it read,
// by key. It fails if one belongs to another patient.
func (ls *Links) ofAccount(ctx context.Context, l *Link) (have []Link, records map[string][]byte, err error) {
	records = map[string][]byte{}
	for _, account := range l.Accounts {
		key := accountKey(l.Vendor, account)
		owner, err := ls.Store.Get(ctx, key)
		if err != nil {
			return nil, nil, err
		}
		records[key] = owner
		id := string(owner)
		if id == "" || records[recordPrefix+id] != nil {
			continue
		}
		h, old, err := ls.read(ctx, id)
		if fhir.KindOf(err) == fhir.NotFound {
			continue // it was removed between the two reads
		}
		if err != nil {
			return nil, nil, err
		}
		if h.Patient != l.Patient {
			return nil, nil, fhir.Errorf(fhir.Unprocessable, "link.Complete",
				"This account is already connected to another person’s record.")
		}
		have, records[recordPrefix+id] = append(have, h), old
	}
	return have, records, nil
}

// event returns the AuditEvent of a change of a link. It names no account.
func (ls *Links) event(by audit.Caller, change string, l *Link) audit.Event {
	return audit.Event{Type: audit.Security, Interaction: "configuration", Caller: by, Patient: l.Patient,
		Extra: [][2]string{{"change", change}, {"link", l.ID}, {"vendor", l.Vendor}}}
}
