package interaction

import (
	"time"

	"pulsegate/fhir/element"
	"pulsegate/fhir/search"
)

// Form is a form in which other systems accept Observations.
type Form struct {
	// Transaction is set if entries may refer to each other, so that the Bundle must be
	// a transaction. Otherwise it is a batch.
	Transaction bool
	// Query holds the search parameters that all Observations with this form match.
	Query [][2]string
	// Dense returns the stream and the time of an Observation that belongs to a dense
	// stream. If ok is false, it does not. Dense may be nil.
	Dense func(observation []byte) (stream string, at time.Time, ok bool)
	// Write returns the entries for an Observation, and none if it does not qualify.
	Write func(*FormSource) ([]FormEntry, error)
}

// FormSource is the input of Form.Write.
type FormSource struct {
	Observation []byte
	Device      []byte // nil if the caller may see none
	Vendor      string // code of the vendor of ingested data, or ""
	Subject     string // reference to the patient at the receiver
	Base        string // base URL of the FHIR API of this server
}

// FormEntry is a conditional create of an Observation.
type FormEntry struct {
	FullURL, IfNoneExist string
	JSON                 []byte
}

// Names of parameters of $ehr-bundle.
const (
	paramStart     = "start"
	paramEnd       = "end"
	paramCode      = "code"
	paramForm      = "form"
	paramSubject   = "subject"
	paramEvery     = "every"
	paramPreferred = "preferred"
	paramCount     = "_count"
	paramPage      = "__page"
)

const (
	// DefaultForm is the form of a request that names none.
	DefaultForm = "us-core"
	// defaultEvery is the default of every in minutes: one value per hour.
	defaultEvery = 60
	// maxEvery bounds every in minutes: a week.
	maxEvery = 7 * 24 * 60
	// maxScanned bounds the Observations that are read for a page. If only dense
	// samples that are left out remain, the page ends early.
	maxScanned = 20_000
)

// formRequest is a validated request.
type formRequest struct {
	patient string
	name    string
	form    Form
	subject string
	every   time.Duration // 0 keeps all
	count   int
	page    string // sealed position
	query   *search.Query
}

// entry appends an entry with a conditional create.
func (p *Page) entry(e *FormEntry) {
	p.begin(e.FullURL)
	p.entries = append(p.entries, `,"resource":`...)
	p.appendPart(e.JSON)
	p.entries = append(p.entries, `,"request":{"method":"POST","url":"Observation","ifNoneExist":`...)
	p.entries = element.AppendString(p.entries, e.IfNoneExist)
	p.entries = append(p.entries, `}}`...)
}
