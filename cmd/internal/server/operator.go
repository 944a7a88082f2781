package server

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"pulsegate/adapters/vendors"
	"pulsegate/cmd/internal/admin"
	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/interaction"
	"pulsegate/fhir/store"
	"pulsegate/mapping/ingest"
)

// operations implements admin.Operations by the services that also answer
// requests from clients. It acts with the grant of an operator.
type operations struct{ *services }

var _ admin.Operations = operations{}

func principal(op admin.Operator) *access.Principal {
	return &access.Principal{Operator: op.Name, Grant: access.All()}
}

func (ops operations) request(op admin.Operator) *interaction.Request {
	return &interaction.Request{Caller: audit.Caller{Principal: principal(op), RequestID: fhir.RandomID()}}
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

// publish stores the content that body returns for the current version of a resource, nil
// if there is none, unless it is nil. If another server changes the resource meanwhile,
// body is called again, so that servers that start together store it once.
func (ops operations) publish(ctx context.Context, op admin.Operator, ref fhir.Ref,
	body func(current []byte) ([]byte, error)) error {
	const attempts = 16
	return store.Retry(attempts, "server.publish", ref.String()+" is being changed; try again", func() error {
		old, _, err := ops.store.Read(ctx, ref, 0)
		var p interaction.Preconditions
		switch {
		case err != nil && fhir.KindOf(err) != fhir.NotFound:
			return err
		case err != nil || old.Deleted:
			old.JSON = nil
			p.IfNoneMatch, err = interaction.ParseTags("*")
		default:
			p.IfMatch, err = interaction.ParseTags(`W/"` + strconv.FormatUint(old.Version, 10) + `"`)
		}
		if err != nil {
			return err
		}
		next, err := body(old.JSON)
		if err != nil || next == nil {
			return err
		}
		next = (&fhir.Resource{Type: ref.Type, ID: ref.ID, JSON: next}).Sendable()
		_, err = ops.fhir.Update(ctx, ops.request(op), ref, next, p)
		return err
	})
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
	if err := ops.audit.notary.Cover(ctx); err != nil {
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
	if space := ops.embedded.Space(); space.Known {
		out.FreeBytes, out.ReserveBytes = space.Free, space.Reserve
	}
	c := ops.embedded.Compaction()
	out.Compactions, out.Rewritten, out.Waiting = c.Series, c.Rewritten, c.Waiting
	stats, err := ops.embedded.SeriesStats(ctx)
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

// recordAll records an AuditEvent for each patient about whom a command disclosed
// data, or one without a patient if there are none.
func (ops operations) recordAll(ctx context.Context, rq *interaction.Request, command string, patients []string) error {
	slices.Sort(patients)
	patients = slices.Compact(patients)
	if len(patients) == 0 {
		return ops.record(ctx, rq, command, "")
	}
	events := make([]audit.Event, len(patients))
	for i, id := range patients {
		events[i] = commandEvent(rq, command, id)
	}
	return ops.audit.recorder.Record(ctx, events...)
}
