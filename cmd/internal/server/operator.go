package server

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"pulsegate/adapters/vendors"
	"pulsegate/cmd/internal/admin"
	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/interaction"
	"pulsegate/fhir/store"
	"pulsegate/mapping/ingest"
	"pulsegate/smart/client"
	"pulsegate/smart/oauth/register"
)

// operations implements admin.Operations by the services that also answer
// requests from clients. It acts with the grant of an operator.
type operations struct{ *services }

var _ admin.Operations = operations{}

func principal(op admin.Operator) *access.Principal {
	return &access.Principal{Operator: op.Name, Grant: access.All()}
}

func (ops operations) request(op admin.Operator) *interaction.Request {
	return &interaction.Request{Caller: audit.Caller{Principal: principal(op), RequestID: newID()}}
}

// put stores a resource by the FHIR interactions and returns its id. If id is
// empty, the server chooses one.
func (ops operations) put(ctx context.Context, rq *interaction.Request, typ, id string, body []byte) (string, error) {
	if id == "" {
		w, err := ops.fhir.Create(ctx, rq, typ, body, "")
		return w.Resource.ID, err
	}
	body = (&fhir.Resource{Type: typ, ID: id, JSON: body}).Sendable()
	w, err := ops.fhir.Update(ctx, rq, fhir.Ref{Type: typ, ID: id}, body, interaction.Preconditions{})
	return w.Resource.ID, err
}

// record records the AuditEvent of a command that is not a FHIR interaction.
func (ops operations) record(ctx context.Context, rq *interaction.Request, command, patient string) error {
	return ops.audit.recorder.Record(ctx, commandEvent(rq, command, patient))
}

// commandEvent returns the AuditEvent of a command.
func commandEvent(rq *interaction.Request, command, patient string) audit.Event {
	return audit.Event{Type: audit.Operator, Interaction: strings.ReplaceAll(command, " ", "-"),
		Caller: rq.Caller, Patient: patient}
}

// clientInfo converts a client for the command line.
func clientInfo(c client.Client) admin.ClientInfo {
	return admin.ClientInfo{ID: c.ID, Name: c.Name, Scope: c.Scope, JWKSURL: c.JWKSURL,
		RedirectURIs: c.RedirectURIs, Created: c.Created, Disabled: c.Disabled,
		RecordsConsent: c.RecordsConsent}
}

// AddClient registers a backend client or an app.
func (ops operations) AddClient(ctx context.Context, op admin.Operator, in admin.NewClient) (admin.ClientInfo, error) {
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
	c, write, err := ops.clients.Prepare(c)
	if err != nil {
		return admin.ClientInfo{}, err
	}
	if err := ops.commitClient(ctx, op, "client add", c.ID, write); err != nil {
		return admin.ClientInfo{}, err
	}
	out := clientInfo(c)
	out.Secret = secret
	return out, nil
}

// NewRegistrationToken creates an initial access token (RFC 7591 1.2).
func (ops operations) NewRegistrationToken(ctx context.Context, op admin.Operator,
	in admin.NewRegistrationToken) (admin.RegistrationToken, error) {
	if in.Seconds < 1 || in.Seconds > 366*24*3600 {
		return admin.RegistrationToken{},
			fhir.Errorf(fhir.Invalid, "server.NewRegistrationToken", "--life: must be between one second and one year")
	}
	tok, write, err := ops.oauth.registration.PrepareToken(register.Ticket{Scope: scopeText(in.Scope), Uses: in.Uses,
		By:      op.Name,
		Expires: ops.now().Add(time.Duration(in.Seconds) * time.Second)})
	if err != nil {
		return admin.RegistrationToken{}, err
	}
	err = ops.commit(ctx, op, "client registration-token",
		[][2]string{{"scope", scopeText(in.Scope)}, {"uses", strconv.Itoa(in.Uses)}}, write)
	if err != nil {
		return admin.RegistrationToken{}, err
	}
	return admin.RegistrationToken{Token: tok}, nil
}

// ListClients lists all registered clients, disabled ones included.
func (ops operations) ListClients(ctx context.Context, op admin.Operator) (admin.Clients, error) {
	out := admin.Clients{Clients: []admin.ClientInfo{}}
	cs, err := ops.clients.List(ctx)
	if err != nil {
		return out, err
	}
	for _, c := range cs {
		out.Clients = append(out.Clients, clientInfo(c))
	}
	return out, ops.record(ctx, ops.request(op), "client list", "")
}

// DisableClient refuses a client from its next request onward.
func (ops operations) DisableClient(ctx context.Context, op admin.Operator, id string) (admin.ClientInfo, error) {
	return ops.switchClient(ctx, op, "client disable", id, true)
}

// EnableClient accepts a disabled client again, with the keys and scopes that it
// had. Authorizations that have ended remain ended.
func (ops operations) EnableClient(ctx context.Context, op admin.Operator, id string) (admin.ClientInfo, error) {
	return ops.switchClient(ctx, op, "client enable", id, false)
}

func (ops operations) switchClient(ctx context.Context, op admin.Operator, command, id string,
	disabled bool) (admin.ClientInfo, error) {
	c, write, err := ops.clients.PrepareChange(ctx, id,
		func(c *client.Client) error { c.Disabled = disabled; return nil })
	if err != nil {
		return admin.ClientInfo{}, err
	}
	if err := ops.commitClient(ctx, op, command, id, write); err != nil {
		return admin.ClientInfo{}, err
	}
	return clientInfo(c), nil
}

// commitClient commits the change of a client together with its AuditEvent.
func (ops operations) commitClient(ctx context.Context, op admin.Operator, command, id string,
	write store.StateWrite) error {
	err := ops.commit(ctx, op, command, [][2]string{{"client", id}}, write)
	if err != nil && fhir.KindOf(err) == fhir.Conflict {
		return fhir.Errorf(fhir.Conflict, command,
			"the client exists already or has changed meanwhile; repeat the command")
	}
	return err
}

// commit writes an operator's change and the AuditEvent of the command in one
// commit, so that neither exists without the other.
func (ops operations) commit(ctx context.Context, op admin.Operator, command string, extra [][2]string,
	state ...store.StateWrite) error {
	rq := ops.request(op)
	_, err := audit.Commit(ctx, ops.store, ops.audit.recorder, &store.Batch{State: state},
		audit.Event{Type: audit.Operator, Interaction: strings.ReplaceAll(command, " ", "-"), Caller: rq.Caller,
			Extra: extra})
	return fhir.Wrap("server.commit", err)
}

// Profile records who takes a profile of the process. Profiles hold addresses and
// timings, but no content.
func (ops operations) Profile(ctx context.Context, op admin.Operator, name string) error {
	return ops.commit(ctx, op, "profile", [][2]string{{"profile", name}})
}

// ChangeClient changes the rights of a client that only the operator grants, in
// one commit with the AuditEvent.
func (ops operations) ChangeClient(ctx context.Context, op admin.Operator,
	in admin.ChangeClient) (admin.ClientInfo, error) {
	if in.RecordsConsent == nil {
		return admin.ClientInfo{}, fhir.Errorf(fhir.Invalid, "client change",
			"nothing to change: give --may-record-consent=true or --may-record-consent=false")
	}
	c, w, err := ops.clients.PrepareChange(ctx, in.ID, func(c *client.Client) error {
		c.RecordsConsent = *in.RecordsConsent
		return nil
	})
	if err != nil {
		return admin.ClientInfo{}, err
	}
	err = ops.commit(ctx, op, "client change",
		[][2]string{{"client", c.ID}, {"may-record-consent", strconv.FormatBool(c.RecordsConsent)}}, w)
	if err != nil && fhir.KindOf(err) == fhir.Conflict {
		err = fhir.Errorf(fhir.Conflict, "client change", "the client has changed meanwhile; repeat the command")
	}
	return clientInfo(c), err
}

// Ingest reads a vendor payload into the store.
func (ops operations) Ingest(ctx context.Context, op admin.Operator, in admin.IngestRequest,
	body io.Reader) (ingest.Summary, error) {
	in.Vendor = vendors.Code(in.Vendor)
	if err := ops.knownVendor(in.Vendor); err != nil {
		return ingest.Summary{}, err
	}
	if err := ops.havePatient(ctx, in.Patient); err != nil {
		return ingest.Summary{}, err
	}
	rq := ops.request(op)
	sum, err := ops.pipeline.Run(ctx, ingest.Request{Patient: in.Patient, Vendor: in.Vendor, Format: in.Format,
		Name:     in.Name,
		Delivery: func(name string) string { return in.Delivery[name] }, Body: body, Caller: rq.Caller})
	if err != nil && fhir.KindOf(err) == fhir.Forbidden {
		err = admin.Advise(err, fmt.Sprintf(
			"record the patient's consent with `pulsegate consent grant --patient %s --vendor %s`", in.Patient,
			in.Vendor))
	}
	return sum, err
}

// VerifyAudit verifies the audit log against its checkpoint, and against an
// earlier checkpoint unless that is empty.
func (ops operations) VerifyAudit(ctx context.Context, op admin.Operator, earlier string) (any, error) {
	if err := ops.record(ctx, ops.request(op), "audit verify", ""); err != nil {
		return nil, err
	}
	if err := ops.audit.notary.Sign(); err != nil {
		return nil, err
	}
	opts := audit.VerifyOptions{Verifier: ops.audit.notary.Verifier(), Clock: ops.now}
	if strings.TrimSpace(earlier) != "" {
		opts.Also = [][]byte{[]byte(earlier)}
	}
	return audit.Verify(ctx, ops.store, ops.audit.notary.Checkpoint(), opts)
}

// StoreStat returns the sizes of the store.
func (ops operations) StoreStat(ctx context.Context, op admin.Operator) (admin.StoreStat, error) {
	if err := ops.record(ctx, ops.request(op), "store stat", ""); err != nil {
		return admin.StoreStat{}, err
	}
	s := ops.store.Stats()
	out := admin.StoreStat{DiskBytes: s.DiskBytes, Resources: s.Resources, Commit: uint64(s.Seq),
		AuditLeaves: s.Log, Dir: filepath.Join(ops.config.Data, "store")}
	if space := ops.store.Space(); space.Known {
		out.FreeBytes, out.ReserveBytes = space.Free, space.Reserve
	}
	c := ops.store.Compaction()
	out.Compactions, out.Rewritten, out.Waiting = c.Series, c.Rewritten, c.Waiting
	stats, err := ops.store.SeriesStats(ctx)
	if err != nil {
		return out, err
	}
	for _, st := range stats {
		out.Series = append(out.Series, admin.SeriesStat{Vendor: st.Vendor, Code: st.Code, Series: st.Series,
			Samples: st.Samples,
			Blocks:  st.Blocks, Tails: st.Tails, BytesPerSample: float64(st.Bytes) / float64(max(1, st.Samples))})
	}
	return out, nil
}

// StoreCheck reads the whole store and compares its indexes with its data. It
// returns at most 1,000 problems.
func (ops operations) StoreCheck(ctx context.Context, op admin.Operator) (admin.StoreCheck, error) {
	out := admin.StoreCheck{Problems: []string{}}
	omitted := 0
	err := ops.store.Check(ctx, func(p string) {
		if len(out.Problems) < 1000 {
			out.Problems = append(out.Problems, p)
		} else {
			omitted++
		}
	})
	if err != nil {
		return out, err
	}
	if omitted > 0 {
		out.Problems = append(out.Problems, fmt.Sprintf("and %d more", omitted))
	}
	return out, ops.record(ctx, ops.request(op), "store check", "")
}

// scopeText normalizes the white space of a scope that a person typed.
func scopeText(s string) string { return strings.Join(strings.Fields(s), " ") }

// jwksText returns nil for a JSON null.
func jwksText(raw json.RawMessage) json.RawMessage {
	if string(raw) == "null" {
		return nil
	}
	return raw
}
