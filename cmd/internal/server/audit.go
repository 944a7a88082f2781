package server

import (
	"context"
	"crypto/rand"
	"strconv"
	"time"

	"pulsegate/cmd/internal/recovery"
	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/cluster/role"
	"pulsegate/fhir/store"
)

// auditOrigin names the audit log in its checkpoints. It does not depend on the
// base URL, which may change.
const auditOrigin = "pulsegate/audit"

// auditTrail records AuditEvents and signs checkpoints of the log that holds
// them.
type auditTrail struct {
	recorder *audit.Recorder
	notary   *audit.Notary
}

// openAudit opens the audit trail. It fails if the log does not continue its
// last checkpoint, unless an operator has decided to accept that.
func openAudit(ctx context.Context, env environment, db database) (auditTrail, error) {
	decision, err := recovery.Requested(env.config.Data, recovery.AuditLog)
	if err != nil {
		return auditTrail{}, err
	}
	var t auditTrail
	if t.recorder, err = audit.NewRecorder(audit.Options{Store: db, Clock: env.now, Rand: rand.Reader,
		Observer: env.base, Logger: env.log}); err != nil {
		return auditTrail{}, err
	}
	o := notaryOptions(env, db, env.roles)
	o.Accept = decision != nil
	if m := env.member; m == nil {
		t.notary, err = audit.OpenNotary(o)
	} else {
		// A restored log is shorter than the checkpoint of this server. Only its operator
		// can accept that: who can write to MongoDB could otherwise hide a rollback.
		t.notary, err = audit.OpenSharedNotary(ctx, o, m.vault)
	}
	if err != nil {
		return auditTrail{}, err
	}
	if err := t.recordRejoin(ctx, env); err != nil {
		return auditTrail{}, err
	}
	return t, t.recordRecovery(ctx, env, recovery.AuditLog, decision, t.notary.Accepted())
}

func notaryOptions(env environment, db store.Store, roles role.Roles) audit.NotaryOptions {
	return audit.NotaryOptions{Store: db, Dir: env.config.Data, Origin: auditOrigin, Rand: rand.Reader, Clock: env.now,
		Logger: env.log, Roles: roles}
}

// recordRejoin records that a server of a cluster has discarded its copy of the store.
func (t auditTrail) recordRejoin(ctx context.Context, env environment) error {
	m := env.member
	if m == nil || m.Discarded == "" {
		return nil
	}
	extra := [][2]string{{"node", m.Node}, {"reason", m.Discarded}}
	what := "cluster-rejoin"
	if m.Was != 0 {
		what = "cluster-restore"
		extra = append(extra, [2]string{"epoch", strconv.FormatUint(m.Identity.Epoch, 10)},
			[2]string{"former-epoch", strconv.FormatUint(m.Was, 10)})
	}
	return t.recorder.Record(ctx, audit.Event{Type: audit.Lifecycle, Interaction: what, Extra: extra})
}

// recordRecovery records that the server starts after a loss because an
// operator has decided so, and removes the decision. It records a decision that
// was not needed as well. If decision is nil, recordRecovery does nothing.
func (t auditTrail) recordRecovery(ctx context.Context, env environment, what string, decision *recovery.Decision,
	problem string) error {
	if decision == nil {
		return nil
	}
	if problem == "" {
		problem = "nothing was lost"
	}
	err := t.recorder.Record(ctx, audit.Event{Type: audit.Operator, Interaction: "recover-" + what,
		Caller: audit.Caller{Principal: &access.Principal{Operator: decision.By}, RequestID: fhir.RandomID()},
		Extra:  [][2]string{{"problem", problem}, {"decided", decision.At.Format(time.RFC3339)}}})
	if err != nil {
		return err
	}
	env.log.Warn("the server starts after a loss because an operator decided so", "what", what, "problem", problem,
		"operator", decision.By)
	return decision.Done()
}
