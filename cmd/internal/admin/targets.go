package admin

import (
	"context"
	"net/http"

	"pulsegate/fhir/push"
)

// TargetOperations are the operations on targets, the EHRs that Observations are sent to.
type TargetOperations interface {
	AddTarget(ctx context.Context, op Operator, in NewTarget) (AddedTarget, error)
	ListTargets(ctx context.Context, op Operator) (Targets, error)
	ShowTarget(ctx context.Context, op Operator, name string) (push.Details, error)
	PauseTarget(ctx context.Context, op Operator, in TargetName) (TargetName, error)
	ResumeTarget(ctx context.Context, op Operator, in ResumeTarget) (TargetName, error)
	RetryTarget(ctx context.Context, op Operator, in TargetName) (RetriedTarget, error)
	RemoveTarget(ctx context.Context, op Operator, in TargetName) (TargetName, error)
}

// NewTarget is the input of `pulsegate target add`.
type NewTarget struct {
	Name string `json:"name"`
	URL  string `json:"url"` // FHIR base URL
	// ClientID is the id of this server at the EHR, and Scope what it requests there.
	ClientID string `json:"client_id"`
	Scope    string `json:"scope,omitempty"`
	TokenURL string `json:"token_url,omitempty"`
	// Recipient is the client that consents name. If it is empty, a receiver with the
	// name of the target is registered.
	Recipient  string   `json:"recipient,omitempty"`
	Form       string   `json:"form,omitempty"`
	Categories []string `json:"categories,omitempty"`
	Codes      []string `json:"codes,omitempty"`
	// Every is the least time in seconds between values of one patient and code.
	Every         int64  `json:"every,omitempty"`
	PatientSystem string `json:"patient_system,omitempty"`
	Batch         int    `json:"batch,omitempty"`
	Since         string `json:"since,omitempty"` // date or instant
}

// AddedTarget is the answer of `target add`.
type AddedTarget struct {
	Name      string `json:"name"`
	Recipient string `json:"recipient"`
	// JWKSURL is the URL of the keys that the EHR registers for this server.
	JWKSURL string `json:"jwks_url"`
}

// TargetName names a target.
type TargetName struct {
	Name string `json:"name"`
}

// ResumeTarget is the input of `target resume`.
type ResumeTarget struct {
	Name  string `json:"name"`
	Since string `json:"since,omitempty"` // date or instant
}

// RetriedTarget is the answer of `target retry`.
type RetriedTarget struct {
	Queued int `json:"queued"` // Observations that are sent again
}

// Targets is the answer of `target list`.
type Targets struct {
	Targets []push.Summary `json:"targets"`
}

func targets(m *mux, s *Server, o TargetOperations) {
	post(m, s, "target/add", o.AddTarget)
	get(m, s, "target", func(ctx context.Context, op Operator, _ *http.Request) (Targets, error) {
		return o.ListTargets(ctx, op)
	})
	get(m, s, "target/show", func(ctx context.Context, op Operator, r *http.Request) (push.Details, error) {
		return o.ShowTarget(ctx, op, r.FormValue("name"))
	})
	post(m, s, "target/pause", o.PauseTarget)
	post(m, s, "target/resume", o.ResumeTarget)
	post(m, s, "target/retry", o.RetryTarget)
	post(m, s, "target/remove", o.RemoveTarget)
}
