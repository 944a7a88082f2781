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

// clusterCommits is the number of concurrent commits of audit events of a server in a
// cluster. Each waits for the log, which can have as many groups on their way.
const clusterCommits = 4

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
	commits := 1
	if env.member != nil {
		commits = clusterCommits
	}
	if t.recorder, err = audit.NewRecorder(audit.Options{Store: db, Clock: env.now, Rand: rand.Reader,
		Observer: env.base, Logger: env.log, Commits: commits}); err != nil {
		return auditTrail{}, err
	}
	o := notaryOptions(env, db, env.roles)
	restored, err := recovery.Requested(env.config.Data, recovery.ClusterRestore)
	if err != nil {
		return auditTrail{}, err
	}
	o.Accept = decision != nil
	if m := env.member; m == nil {
		t.notary, err = audit.OpenNotary(o)
	} else {
		// A restored log is shorter than the checkpoint of this server. Only its operator
		// can accept that: who can write to MongoDB could otherwise hide a rollback.
		o.Accept = o.Accept || restored != nil
		t.notary, err = audit.OpenSharedNotary(ctx, o, m.vault)
	}
	if err != nil {
		return auditTrail{}, err
	}
	if err := t.recordRejoin(ctx, env); err != nil {
		return auditTrail{}, err
	}
	if err := t.recordChange(ctx, env, recovery.ClusterRestore, restored); err != nil {
		return auditTrail{}, err
	}
	left, err := recovery.Requested(env.config.Data, recovery.ClusterLeave)
	if err == nil {
		err = t.recordChange(ctx, env, recovery.ClusterLeave, left)
	}
	if err != nil {
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
	what, extra := "cluster-rejoin", [][2]string{{"node", m.Node}, {"reason", m.Discarded}}
	if m.Was != 0 {
		what = "cluster-restore"
		extra = append(extra, [2]string{"epoch", strconv.FormatUint(m.Identity.Epoch, 10)},
			[2]string{"former-epoch", strconv.FormatUint(m.Was, 10)})
	}
	// The codes of DICOM tell only that a server has started.
	return t.recorder.Record(ctx, audit.Event{Type: audit.Lifecycle, Interaction: "start",
		Extra: append([][2]string{{"event", what}}, extra...)})
}

// recordChange records a change of the cluster that an operator ordered while the server
// was stopped, and removes the order, which may be nil.
func (t auditTrail) recordChange(ctx context.Context, env environment, what string, d *recovery.Decision) error {
	if d == nil {
		return nil
	}
	extra := append([][2]string{{"decided", d.At.Format(time.RFC3339)}}, d.Details...)
	if m := env.member; m != nil {
		extra = append(extra, [2]string{"epoch", strconv.FormatUint(m.Identity.Epoch, 10)})
	}
	if problem := t.notary.Accepted(); problem != "" {
		extra = append(extra, [2]string{"problem", problem})
	}
	err := t.recorder.Record(ctx, audit.Event{Type: audit.Operator, Interaction: what,
		Caller: audit.Caller{Principal: &access.Principal{Operator: d.By}, RequestID: fhir.RandomID()}, Extra: extra})
	if err != nil {
		return err
	}
	return d.Done()
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
