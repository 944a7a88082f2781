package server

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"pulsegate/adapters/vendors"
	"pulsegate/cmd/internal/admin"
	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/store"
	"pulsegate/mapping/ingest"
	"pulsegate/smart/client"
	"pulsegate/smart/oauth/register"
)

func info(c client.Client) admin.ClientInfo {
	return admin.ClientInfo{ID: c.ID, Name: c.Name, Scope: c.Scope, JWKSURL: c.JWKSURL,
		RedirectURIs: c.RedirectURIs, Created: c.Created, Disabled: c.Disabled,
		RecordsConsent: c.RecordsConsent}
}

// AddClient registers a backend client or an app.
func (o operator) AddClient(ctx context.Context, op admin.Operator, in admin.NewClient) (admin.ClientInfo, error) {
	c := client.Client{Name: in.Name, JWKS: jwksText(in.JWKS), JWKSURL: in.JWKSURL, Scope: scopeText(in.Scope),
		Method:       client.Method(in.Method),
		RedirectURIs: in.RedirectURIs, LaunchURL: in.LaunchURL, Inspects: in.Inspects,
		RecordsConsent: in.RecordsConsent}
	secret := ""
	if c.Symmetric() {
		var b [32]byte
		if _, err := rand.Read(b[:]); err != nil {
			return admin.ClientInfo{}, err
		}
		secret = client.NewSecret(b)
		c.SecretHash = client.Hash(secret)
	}
	c, write, err := o.m.clients.Prepare(c)
	if err != nil {
		return admin.ClientInfo{}, err
	}
	if err := o.commitClient(ctx, op, "client add", c.ID, write); err != nil {
		return admin.ClientInfo{}, err
	}
	out := info(c)
	out.Secret = secret
	return out, nil
}

// NewRegistrationToken makes an initial access token.
func (o operator) NewRegistrationToken(ctx context.Context, op admin.Operator,
	in admin.NewRegistrationToken) (admin.RegistrationToken, error) {
	if in.Seconds < 1 || in.Seconds > 366*24*3600 {
		return admin.RegistrationToken{},
			fhir.Errorf(fhir.Invalid, "server.NewRegistrationToken", "life: a second to a year")
	}
	tok, write, err := o.m.registration.PrepareToken(register.Ticket{Scope: scopeText(in.Scope), Uses: in.Uses,
		By:      op.Name,
		Expires: o.m.now().Add(time.Duration(in.Seconds) * time.Second)})
	if err != nil {
		return admin.RegistrationToken{}, err
	}
	err = o.commit(ctx, op, "client registration-token",
		[][2]string{{"scope", scopeText(in.Scope)}, {"uses", strconv.Itoa(in.Uses)}}, write)
	if err != nil {
		return admin.RegistrationToken{}, err
	}
	return admin.RegistrationToken{Token: tok}, nil
}

// ListClients lists every client ever registered.
func (o operator) ListClients(ctx context.Context, op admin.Operator) (admin.Clients, error) {
	out := admin.Clients{Clients: []admin.ClientInfo{}}
	cs, err := o.m.clients.List(ctx)
	if err != nil {
		return out, err
	}
	for _, c := range cs {
		out.Clients = append(out.Clients, info(c))
	}
	return out, o.record(ctx, o.request(op), "client list", "")
}

// DisableClient refuses a client from its next request on.
func (o operator) DisableClient(ctx context.Context, op admin.Operator, id string) (admin.ClientInfo, error) {
	return o.switchClient(ctx, op, "client disable", id, true)
}

// EnableClient takes a disabled client back. Its keys and scopes are those it
// had; what people had allowed it stays ended where that was ended.
func (o operator) EnableClient(ctx context.Context, op admin.Operator, id string) (admin.ClientInfo, error) {
	return o.switchClient(ctx, op, "client enable", id, false)
}

func (o operator) switchClient(ctx context.Context, op admin.Operator, command, id string,
	disabled bool) (admin.ClientInfo, error) {
	c, write, err := o.m.clients.PrepareChange(ctx, id,
		func(c *client.Client) error { c.Disabled = disabled; return nil })
	if err != nil {
		return admin.ClientInfo{}, err
	}
	if err := o.commitClient(ctx, op, command, id, write); err != nil {
		return admin.ClientInfo{}, err
	}
	return info(c), nil
}

// commitClient makes the change of a client durable together with its event.
func (o operator) commitClient(ctx context.Context, op admin.Operator, command, id string,
	write store.StateWrite) error {
	err := o.commit(ctx, op, command, [][2]string{{"client", id}}, write)
	if err != nil && fhir.KindOf(err) == fhir.Conflict {
		return fhir.Errorf(fhir.Conflict, command, "client_id: exists already, or was changed meanwhile")
	}
	return err
}

// commit makes an operator's change durable together with the AuditEvent of the
// command, so that neither is without the other.
func (o operator) commit(ctx context.Context, op admin.Operator, command string, extra [][2]string,
	state ...store.StateWrite) error {
	rq := o.request(op)
	_, err := audit.Commit(ctx, o.m.store, o.m.recorder, &store.Batch{State: state}, audit.Event{Type: audit.Operator,
		Interaction: strings.ReplaceAll(command, " ", "-"), Caller: rq.Caller, Extra: extra})
	return fhir.Wrap("server.commit", err)
}

// Profile implements admin.Operations: a profile holds addresses and timings of
// the process and no content, but who took one is in the trail.
func (o operator) Profile(ctx context.Context, op admin.Operator, name string) error {
	return o.commit(ctx, op, "profile", [][2]string{{"profile", name}})
}

// ChangeClient changes what only the operator may say about a client, in one
// commit with the record of it.
func (o operator) ChangeClient(ctx context.Context, op admin.Operator,
	in admin.ChangeClient) (admin.ClientInfo, error) {
	if in.RecordsConsent == nil {
		return admin.ClientInfo{}, fhir.Errorf(fhir.Invalid, "client change",
			"nothing to change: give --may-record-consent=true or --may-record-consent=false")
	}
	c, w, err := o.m.clients.PrepareChange(ctx, in.ID, func(c *client.Client) error {
		c.RecordsConsent = *in.RecordsConsent
		return nil
	})
	if err != nil {
		return admin.ClientInfo{}, err
	}
	err = o.commit(ctx, op, "client change",
		[][2]string{{"client", c.ID}, {"may-record-consent", strconv.FormatBool(c.RecordsConsent)}}, w)
	if err != nil && fhir.KindOf(err) == fhir.Conflict {
		err = fhir.Errorf(fhir.Conflict, "client change", "the client was changed meanwhile; try again")
	}
	return info(c), err
}

// Ingest reads a vendor payload.
func (o operator) Ingest(ctx context.Context, op admin.Operator, in admin.IngestRequest,
	body io.Reader) (ingest.Summary, error) {
	in.Vendor = vendors.Code(in.Vendor)
	if err := o.knownVendor(in.Vendor); err != nil {
		return ingest.Summary{}, err
	}
	if err := o.havePatient(ctx, in.Patient); err != nil {
		return ingest.Summary{}, err
	}
	rq := o.request(op)
	sum, err := o.m.pipeline.Run(ctx, ingest.Request{Patient: in.Patient, Vendor: in.Vendor, Format: in.Format,
		Name:     in.Name,
		Delivery: func(name string) string { return in.Delivery[name] }, Body: body, Caller: rq.Caller})
	if err != nil && fhir.KindOf(err) == fhir.Forbidden {
		err = admin.Advise(err, fmt.Sprintf(
			"record the patient's consent with `pulsegate consent grant --patient %s --vendor %s`", in.Patient,
			in.Vendor))
	}
	return sum, err
}

// VerifyAudit recomputes the log.
func (o operator) VerifyAudit(ctx context.Context, op admin.Operator, earlier string) (any, error) {
	if err := o.record(ctx, o.request(op), "audit verify", ""); err != nil {
		return nil, err
	}
	if err := o.m.notary.Sign(); err != nil {
		return nil, err
	}
	opts := audit.VerifyOptions{Verifier: o.m.notary.Verifier(), Clock: o.m.now}
	if strings.TrimSpace(earlier) != "" {
		opts.Also = [][]byte{[]byte(earlier)}
	}
	return audit.Verify(ctx, o.m.store, o.m.notary.Checkpoint(), opts)
}

// StoreStat tells the sizes of the store.
func (o operator) StoreStat(ctx context.Context, op admin.Operator) (admin.StoreStat, error) {
	if err := o.record(ctx, o.request(op), "store stat", ""); err != nil {
		return admin.StoreStat{}, err
	}
	s := o.m.store.Stats()
	out := admin.StoreStat{DiskBytes: s.DiskBytes, Resources: s.Resources, Commit: uint64(s.Seq),
		AuditLeaves: s.Log, Dir: filepath.Join(o.m.Config.Data, "store")}
	if x := o.m.store.Space(); x.Known {
		out.FreeBytes, out.ReserveBytes = x.Free, x.Reserve
	}
	c := o.m.store.Compaction()
	out.Compactions, out.Rewritten, out.Waiting = c.Series, c.Rewritten, c.Waiting
	stats, err := o.m.store.SeriesStats(ctx)
	if err != nil {
		return out, err
	}
	for _, x := range stats {
		out.Series = append(out.Series, admin.SeriesStat{Vendor: x.Vendor, Code: x.Code, Series: x.Series,
			Samples: x.Samples,
			Blocks:  x.Blocks, Tails: x.Tails, BytesPerSample: float64(x.Bytes) / float64(max(1, x.Samples))})
	}
	return out, nil
}

// StoreCheck reads everything and holds index against data.
func (o operator) StoreCheck(ctx context.Context, op admin.Operator) (admin.StoreCheck, error) {
	out := admin.StoreCheck{Problems: []string{}}
	more := 0
	err := o.m.store.Check(ctx, func(p string) {
		if len(out.Problems) < 1000 {
			out.Problems = append(out.Problems, p)
		} else {
			more++
		}
	})
	if err != nil {
		return out, err
	}
	if more > 0 {
		out.Problems = append(out.Problems, fmt.Sprintf("and %d more", more))
	}
	return out, o.record(ctx, o.request(op), "store check", "")
}
