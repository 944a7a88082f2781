package push

import (
	"net/url"
	"slices"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/egress"
	"pulsegate/fhir/store"
)

// Status is the state of a target.
type Status string

// The states of a target. A target in Error sends nothing until it is resumed.
const (
	Active  Status = "active"
	Paused  Status = "paused"
	Failed  Status = "error"
	removed Status = "removed" // its state is being deleted
)

// Target is an EHR that Observations are sent to.
type Target struct {
	Name string `json:"name"`
	// Base is the FHIR base URL without a trailing slash.
	Base string `json:"base"`
	// Recipient is the id of the registered client that stands for the target in
	// scopes and consents.
	Recipient string `json:"recipient"`
	// ClientID is the id of this server as a client of the target, and Scope what it
	// requests there. TokenURL is empty if the token endpoint is discovered.
	ClientID string `json:"clientId"`
	Scope    string `json:"scope"`
	TokenURL string `json:"tokenUrl,omitempty"`
	Form     string `json:"form"` // a key of Options.Forms
	// Categories are codes, and Codes tokens (code, system|code or |code). A nonempty
	// list matches if one element does; both must match.
	Categories []string `json:"categories,omitempty"`
	Codes      []string `json:"codes,omitempty"`
	// Every is the least time between values of one patient and code at an instant.
	// If it is zero, all values are sent.
	Every time.Duration `json:"every"`
	// PatientSystem is the system of the identifier by which patients are matched. If
	// it is empty, the ids of patients are the same at the target.
	PatientSystem string `json:"patientSystem,omitempty"`
	// Batch is the number of Observations per request. If it is at most 1, each has
	// its own request; otherwise the target must support batch Bundles.
	Batch   int       `json:"batch,omitempty"`
	Created time.Time `json:"created"`
	Status  Status    `json:"status"`
	// Reason is the class of the failure that led to the status error.
	Reason string `json:"reason,omitempty"`
	// From is the commit after which changes are queued.
	From store.Seq `json:"from"`
	// Joining is set until what has changed since From is queued up to the position of
	// the process that sends.
	Joining bool `json:"joining,omitempty"`
	// Backfill is set while what was stored before is queued.
	Backfill *Backfill `json:"backfill,omitempty"`
}

// Backfill is the progress of queueing what was stored before.
type Backfill struct {
	Since time.Time `json:"since"` // earliest effective time
	At    store.Seq `json:"at"`    // commit at the start
	// After is the position of the last patient that is done.
	After string `json:"after,omitempty"`
}

const (
	keyPrefix = "push/"
	cursorKey = keyPrefix + "cursor"
	// revisionKey is the key of a number that each change of a target increases.
	revisionKey = keyPrefix + "revision"

	maxTargets = 100
	maxBatch   = 100
	maxList    = 100
	// maxEvery bounds Target.Every.
	maxEvery = 31 * 24 * time.Hour
	// FormStored is the name of the form that this package implements.
	FormStored = "stored"
)

func targetKey(name string) string { return keyPrefix + "target/" + name }
func statKey(name string) string   { return keyPrefix + "stat/" + name }

// rowPrefix returns the prefix of the keys of one kind of rows of a target.
func rowPrefix(kind, name string) string { return keyPrefix + kind + "/" + name + "/" }

// rowKinds lists the kinds of rows that belong to one target.
func rowKinds() []string { return []string{"queue", "sent", "dense", "patient", "aside"} }

// check validates a new target.
func (t *Target) check(own string, policy egress.Policy, forms map[string]Form) error {
	wrong := func(place, rule string) error {
		return fhir.Errorf(fhir.Invalid, "push.Add", "%s: %s", place, rule)
	}
	t.Base = strings.TrimSuffix(t.Base, "/")
	for place, text := range map[string]string{"url": t.Base, "token-url": t.TokenURL} {
		if text == "" && place == "token-url" {
			continue
		}
		u, err := url.Parse(text)
		if err != nil || u.RawQuery != "" && place == "url" || u.Fragment != "" || len(text) > 2048 {
			return wrong(place, "must be an absolute URL without query and fragment")
		}
		if err := policy.Check(u); err != nil {
			return wrong(place, err.(*fhir.Error).Issues[0].Diagnostics)
		}
	}
	if _, ok := forms[t.Form]; !ok {
		return wrong("form", "this server has no such form")
	}
	switch {
	case !fhir.ValidID(t.Name):
		return wrong("name", "must have 1 to 64 letters, digits, - and .")
	case t.Base == own:
		return wrong("url", "this server cannot be its own target")
	case t.ClientID == "" || len(t.ClientID) > 255:
		return wrong("client-id", "must have 1 to 255 bytes")
	case t.Scope == "" || len(t.Scope) > 2048:
		return wrong("scope", "must have 1 to 2048 bytes")
	case !fhir.ValidID(t.Recipient):
		return wrong("recipient", "must be the id of a registered client")
	case t.Every < 0 || t.Every > maxEvery:
		return wrong("every", "must be from 0 to 744h")
	case t.Batch < 0 || t.Batch > maxBatch:
		return wrong("batch", "must be from 0 to 100")
	case len(t.Categories) > maxList || len(t.Codes) > maxList:
		return wrong("category and code", "at most 100 of each")
	case slices.Contains(t.Categories, "") || slices.Contains(t.Codes, ""):
		return wrong("category and code", "must not be empty")
	case len(t.PatientSystem) > 255 || strings.ContainsAny(t.PatientSystem, "|, "):
		return wrong("patient-system", "must be a URI")
	}
	return nil
}

// match reports whether the criteria of the target match an Observation.
func (t *Target) match(f *access.Facts) bool {
	if f.Type != "Observation" || f.Patient == "" {
		return false
	}
	if len(t.Categories) > 0 && !slices.ContainsFunc(t.Categories, func(c string) bool {
		return slices.Contains(f.Categories, c)
	}) {
		return false
	}
	if len(t.Codes) == 0 {
		return true
	}
	if f.Tokens == nil {
		return false
	}
	have := f.Tokens("code")
	return slices.ContainsFunc(t.Codes, func(want string) bool {
		system, code, ok := strings.Cut(want, "|")
		if !ok {
			code = want
		}
		return slices.ContainsFunc(have, func(h access.Token) bool {
			return h.Code == code && (!ok || h.System == system || system == "" && h.System == "\x00")
		})
	})
}
