package link

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"pulsegate/adapters/cloud"
	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/store"
)

// ended is a grant that is to be revoked, and data that are to be erased.
type ended struct {
	Patient string `json:"patient"`
	Vendor  string `json:"vendor"`
	Tokens  []byte `json:"tokens,omitempty"` // sealed as those of the link
	// Accounts are the ids of the account, or nil if they are not known.
	Accounts []string  `json:"accounts,omitempty"`
	Erase    bool      `json:"erase,omitempty"`
	Until    time.Time `json:"until"` // end of the attempts to revoke
	// Busy is the time until which a process revokes or erases; see Links.claim.
	Busy time.Time `json:"busy,omitzero"`
}

// unlinkWait is the time that Unlink waits for the revocation, and for the erasure,
// which may take longer.
const unlinkWait = 10 * time.Second

// sweepFor is the time for which an unfinished revocation is repeated.
const sweepFor = 7 * 24 * time.Hour

// Unlink removes a link and revokes its grant at the vendor. If erase is set, the
// data of the vendor about the patient are deleted, too. The link has ended when
// Unlink returns nil; the revocation and the erasure may still have to be finished
// by Sweep.
func (ls *Links) Unlink(ctx context.Context, by audit.Caller, id string, erase bool) error {
	const op = "link.Unlink"
	if erase && ls.Erase == nil {
		return fhir.Errorf(fhir.Unprocessable, op, "This server cannot delete the data of a vendor.")
	}
	var l Link
	err := store.Retry(attempts, op, "The connection is being changed. Please try again.", func() error {
		var record []byte
		var err error
		if l, record, err = ls.read(ctx, id); err != nil {
			return err
		}
		sealed, err := ls.Store.Get(ctx, tokenPrefix+id)
		if err != nil {
			return err
		}
		e, err := json.Marshal(ended{Patient: l.Patient, Vendor: l.Vendor, Tokens: sealed, Accounts: l.Accounts,
			Erase: erase, Until: ls.Clock().Add(sweepFor)})
		if err != nil {
			return err
		}
		b := &store.Batch{State: []store.StateWrite{
			{Key: recordPrefix + id, Expect: store.StateEquals, Old: record},
			{Key: patientPrefix + l.Patient + "/" + id},
			{Key: endedPrefix + id, Value: e}}}
		if sealed != nil {
			b.State = append(b.State, store.StateWrite{Key: tokenPrefix + id, Expect: store.StateEquals, Old: sealed})
		}
		for _, account := range l.Accounts {
			b.State = append(b.State, store.StateWrite{Key: accountKey(l.Vendor, account), Expect: store.StateEquals,
				Old: []byte(id)})
		}
		b.State = append(b.State, ls.announce(id)...)
		event := ls.event(by, "unlink-account", &l)
		if erase {
			event.Extra = append(event.Extra, [2]string{"erase", "true"})
		}
		_, err = audit.Commit(ctx, ls.Store, ls.Audit, b, event)
		return err
	})
	if err != nil {
		return fhir.Wrap(op, err)
	}
	l.Status, l.Reason, l.Since = Ended, "", ls.Clock()
	ls.changed(l)
	if err := ls.finish(context.WithoutCancel(ctx), id, by, unlinkWait); err != nil {
		ls.Logger.Warn("unlinking will be finished later", "link", id, "error", err.Error())
	}
	return nil
}

// Forget deletes the data of a vendor about a patient, whether or not there is a link.
// What is not finished when Forget returns nil is finished by Sweep.
func (ls *Links) Forget(ctx context.Context, by audit.Caller, patient, vendor string) error {
	const op = "link.Forget"
	if ls.Erase == nil {
		return fhir.Errorf(fhir.Unprocessable, op, "This server cannot delete the data of a vendor.")
	}
	e, err := json.Marshal(ended{Patient: patient, Vendor: vendor, Erase: true, Until: ls.Clock().Add(sweepFor)})
	if err != nil {
		return fhir.Wrap(op, err)
	}
	id, err := fhir.NewID(ls.rand())
	if err != nil {
		return fhir.Wrap(op, err)
	}
	event := ls.event(by, "erase-vendor", &Link{Patient: patient, Vendor: vendor})
	_, err = audit.Commit(ctx, ls.Store, ls.Audit,
		&store.Batch{State: []store.StateWrite{{Key: endedPrefix + id, Value: e,
			Expect: store.StateAbsent}}}, event)
	if err != nil {
		return fhir.Wrap(op, err)
	}
	if err := ls.finish(context.WithoutCancel(ctx), id, by, unlinkWait); err != nil {
		ls.Logger.Warn("data will be deleted later", "vendor", vendor, "error", err.Error())
	}
	return nil
}

// Sweep finishes unlinking where it was interrupted. It returns the number of
// unlinked grants that remain.
func (ls *Links) Sweep(ctx context.Context, by audit.Caller) (int, error) {
	var ids []string
	err := ls.Store.List(ctx, endedPrefix, func(key string, _ []byte) bool {
		ids = append(ids, strings.TrimPrefix(key, endedPrefix))
		return true
	})
	if err != nil {
		return 0, fhir.Wrap("link.Sweep", err)
	}
	left := 0
	for _, id := range ids {
		if err := ls.finish(ctx, id, by, 0); err != nil {
			ls.Logger.Warn("unlinking is not finished", "link", id, "error", err.Error())
			left++
		}
	}
	return left, nil
}

// finish revokes and erases what an unlinked grant left behind. If wait is not 0, it
// bounds the time of each of the two.
func (ls *Links) finish(ctx context.Context, id string, by audit.Caller, wait time.Duration) error {
	const op = "link.finish"
	old, err := ls.Store.Get(ctx, endedPrefix+id)
	if err != nil || old == nil {
		return fhir.Wrap(op, err)
	}
	var e ended
	if err := json.Unmarshal(old, &e); err != nil {
		return fhir.Wrap(op, err)
	}
	if ls.Clustered {
		if old, err = ls.claim(ctx, id, &e, old); err != nil || old == nil {
			return fhir.Wrap(op, err)
		}
	}
	// The vendor may be out of order for days. The patient's data do not wait for it.
	var failures []error
	if e.Tokens != nil {
		err := within(ctx, wait, func(ctx context.Context) error { return ls.revokeSealed(ctx, id, &e) })
		switch {
		case err == nil:
			e.Tokens = nil
		case ls.Clock().Before(e.Until):
			failures = append(failures, err)
		default:
			ls.Logger.Error("the vendor did not revoke a grant within a week", "link", id, "vendor", e.Vendor,
				"error", err.Error())
			e.Tokens = nil
		}
	}
	if e.Erase {
		if ls.Erase == nil {
			failures = append(failures, fhir.Errorf(fhir.Unprocessable, op, "data cannot be deleted"))
		} else if err := within(ctx, wait, func(ctx context.Context) error {
			return ls.Erase(ctx, e.Patient, e.Vendor, by)
		}); err != nil {
			failures = append(failures, err)
		} else {
			e.Erase = false
		}
	}
	e.Busy = time.Time{}
	w := store.StateWrite{Key: endedPrefix + id, Expect: store.StateEquals, Old: old}
	if len(failures) > 0 {
		if w.Value, err = json.Marshal(e); err != nil {
			return fhir.Wrap(op, err)
		}
	}
	if !bytes.Equal(w.Value, old) {
		_, err = ls.Store.Commit(context.WithoutCancel(ctx), &store.Batch{State: []store.StateWrite{w}})
		failures = append(failures, err)
	}
	return fhir.Wrap(op, errors.Join(failures...))
}

// within calls fn with a context that ends after wait, or with ctx if wait is 0.
func within(ctx context.Context, wait time.Duration, fn func(context.Context) error) error {
	if wait > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, wait)
		defer cancel()
	}
	return fn(ctx)
}

// revokeSealed revokes the grant of an unlinked account.
func (ls *Links) revokeSealed(ctx context.Context, id string, e *ended) error {
	b, err := ls.Vault.Open("link/token/"+id, e.Tokens)
	if err != nil {
		return err
	}
	var t tokens
	if err := json.Unmarshal(b, &t); err != nil {
		return err
	}
	v := ls.Vendor(e.Vendor)
	if v == nil {
		return fhir.Errorf(fhir.Unavailable, "link.revoke", "the vendor is not configured")
	}
	if r, ok := v.(cloud.Revoker); ok {
		for _, account := range e.Accounts {
			// The patient may have linked the account again.
			if linked, err := ls.ByAccount(ctx, e.Vendor, account); err != nil || linked != "" {
				return err
			}
		}
		err := r.Revoke(ctx, ls.tokenClient(), cloud.Grant{Access: t.Access, Refresh: t.Refresh, Accounts: e.Accounts})
		switch {
		case err == nil:
			return nil
		case cloud.ProblemOf(err) == cloud.Rejected, cloud.ProblemOf(err) == cloud.Permission:
			ls.Logger.Warn("the vendor refuses to revoke a grant; the patient can end it in the vendor's app",
				"link", id, "vendor", e.Vendor, "error", err.Error())
			return nil
		}
		return err
	}
	return ls.revoke(ctx, v, t)
}

// revoke revokes a grant. A vendor that does not know it has revoked it before.
func (ls *Links) revoke(ctx context.Context, v cloud.Vendor, t tokens) error {
	o := v.OAuth()
	if o.RevokeURL == "" && o.Revoke == nil {
		return nil
	}
	request := o.Revoke
	if request == nil {
		request = func(ctx context.Context, access, refresh string) (*http.Request, error) {
			token, hint := refresh, "refresh_token"
			if token == "" {
				token, hint = access, "access_token"
			}
			form := url.Values{"token": {token}, "token_type_hint": {hint}}
			if o.FormSecret || o.ClientSecret == "" {
				form.Set("client_id", o.ClientID)
				if o.ClientSecret != "" {
					form.Set("client_secret", o.ClientSecret)
				}
			}
			rq, err := http.NewRequestWithContext(ctx, http.MethodPost, o.RevokeURL, strings.NewReader(form.Encode()))
			if err != nil {
				return nil, err
			}
			rq.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			if !o.FormSecret && o.ClientSecret != "" {
				rq.SetBasicAuth(url.QueryEscape(o.ClientID), url.QueryEscape(o.ClientSecret))
			}
			return rq, nil
		}
	}
	rq, err := request(ctx, t.Access, t.Refresh)
	if err != nil {
		return &cloud.Error{Problem: cloud.Rejected, Err: err} // its text drops the URL, which may hold the token
	}
	_, _, err = cloud.Do(ls.tokenClient(), rq, ls.Clock(), nil)
	if err == nil {
		return nil
	}
	switch cloud.ProblemOf(err) {
	case cloud.NotFound, cloud.Rejected, cloud.Gone:
		return nil
	case cloud.Unauthorized:
		if o.Revoke != nil {
			return nil
		}
		// RFC 7009 2.2.1: the client is refused, not the token.
	}
	return err
}

// abandon revokes a grant that no link uses. Sweep repeats it if it fails. accounts
// are the ids of the account, or nil if they are not known.
func (ls *Links) abandon(ctx context.Context, v cloud.Vendor, patient string, accounts []string, t tokens) {
	ctx = context.WithoutCancel(ctx)
	err := func() error {
		if v.OAuth().RevokesAll {
			if accounts == nil {
				return nil
			}
			for _, account := range accounts {
				if id, err := ls.ByAccount(ctx, v.Code(), account); err != nil || id != "" {
					return err
				}
			}
		}
		id, err := fhir.NewID(ls.rand())
		if err != nil {
			return err
		}
		e, err := json.Marshal(ended{Patient: patient, Vendor: v.Code(), Tokens: ls.seal(id, t), Accounts: accounts,
			Until: ls.Clock().Add(sweepFor)})
		if err != nil {
			return err
		}
		if _, err = ls.Store.Commit(ctx, &store.Batch{State: []store.StateWrite{{Key: endedPrefix + id, Value: e,
			Expect: store.StateAbsent}}}); err != nil {
			return err
		}
		return ls.finish(ctx, id, audit.Caller{}, unlinkWait)
	}()
	if err != nil {
		ls.Logger.Warn("link: an unused grant was not revoked", "vendor", v.Code(), "error", err.Error())
	}
}
