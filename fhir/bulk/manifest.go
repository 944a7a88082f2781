package bulk

import (
	"context"
	"encoding/json"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/audit"
)

// Status is the answer to a poll: in progress while Manifest is nil.
type Status struct {
	Manifest []byte
	Progress string
	Expires  time.Time
}

type fileItem struct {
	Type string `json:"type"`
	URL  string `json:"url"`
}

type manifest struct {
	TransactionTime     string     `json:"transactionTime"`
	Request             string     `json:"request"`
	RequiresAccessToken bool       `json:"requiresAccessToken"`
	Output              []fileItem `json:"output"`
	Deleted             []fileItem `json:"deleted"`
	Error               []fileItem `json:"error"`
}

// Names of the files that are not of one exported type.
const (
	deletedFile = "deleted.Bundle.ndjson"
	errorFile   = "error.OperationOutcome.ndjson"
)

func (x *Exporter) statusURL(id string) string { return x.opts.Base + "/$export-status/" + id }
func (x *Exporter) fileURL(id, name string) string {
	return x.opts.Base + "/$export-file/" + id + "/" + name
}

// Status answers a poll by the client that started the job.
func (x *Exporter) Status(ctx context.Context, c audit.Caller, id string) (*Status, error) {
	j, err := x.load(ctx, c.Principal, id)
	if err != nil {
		return nil, err
	}
	switch j.State {
	case running:
		return &Status{Progress: "in progress", Expires: j.Expires}, nil
	case failed:
		return nil, &fhir.Error{Kind: fhir.Internal, Op: "bulk.Status", Issues: []fhir.Issue{{Code: "exception",
			Diagnostics: "the export failed on the server; start it again"}}}
	}
	m := manifest{
		TransactionTime: j.Transaction.UTC().Format(fhir.InstantLayout), Request: j.Request, RequiresAccessToken: true,
		Output: []fileItem{}, Deleted: []fileItem{}, Error: []fileItem{},
	}
	for _, t := range j.Found {
		m.Output = append(m.Output, fileItem{t, x.fileURL(id, t+".ndjson")})
	}
	if j.Deleted {
		m.Deleted = append(m.Deleted, fileItem{"Bundle", x.fileURL(id, deletedFile)})
	}
	if len(j.Warnings) > 0 {
		m.Error = append(m.Error, fileItem{"OperationOutcome", x.fileURL(id, errorFile)})
	}
	b, err := json.Marshal(m)
	if err != nil {
		return nil, fhir.Wrap("bulk.Status", err)
	}
	return &Status{Manifest: b, Expires: j.Expires}, nil
}
