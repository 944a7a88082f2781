package bulk

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/element"
)

// Status is the response to a poll. The export is in progress while Progress is set.
type Status struct {
	// Manifest is nil while the export is in progress, unless the client takes partial
	// manifests.
	Manifest []byte
	Progress string // a text for X-Progress
	Expires  time.Time
}

// Form is the version of the guide whose manifest a client wants.
type Form int

const (
	// Form3 is the manifest of Bulk Data 1 to 3.
	Form3 Form = iota
	// Form4 is the manifest of the ballot of 4.0.0: outcome instead of error, no request.
	Form4
)

type fileItem struct {
	Type      string `json:"type,omitempty"`
	URL       string `json:"url"`
	Count     int    `json:"count,omitempty"`
	FileSize  int64  `json:"fileSize,omitempty"`
	Continues string `json:"continuesInFile,omitempty"`
	// Extension tells where a copy of the file is.
	Extension *extension `json:"extension,omitempty"`
}

type link struct {
	Relation string `json:"relation"`
	URL      string `json:"url"`
}

type manifest struct {
	ManifestType        string      `json:"manifestType,omitempty"`
	TransactionTime     string      `json:"transactionTime"`
	Request             string      `json:"request,omitempty"`
	RequiresAccessToken bool        `json:"requiresAccessToken"`
	OrganizedBy         string      `json:"outputOrganizedBy,omitempty"`
	Output              []fileItem  `json:"output"`
	Deleted             []fileItem  `json:"deleted"`
	Error               *[]fileItem `json:"error,omitempty"`
	Outcome             *[]fileItem `json:"outcome,omitempty"`
	Link                []link      `json:"link,omitempty"`
	Extension           *extension  `json:"extension,omitempty"`
}

// Names of the files that do not hold one exported type.
const (
	deletedFile = "deleted.Bundle.ndjson"
	errorFile   = "error.OperationOutcome.ndjson"
)

func (e *Exporter) statusURL(id string) string { return e.opts.Base + "/$export-status/" + id }
func (e *Exporter) fileURL(id, name string) string {
	return e.opts.Base + "/$export-file/" + id + "/" + name
}

// Status returns the status of a job to the client that started it. Page is the number of
// the manifest, from 0, if there are several.
func (e *Exporter) Status(ctx context.Context, c audit.Caller, id string, page int, form Form) (*Status, error) {
	j, err := e.load(ctx, c.Principal, id)
	if err != nil {
		return nil, err
	}
	s := &Status{Expires: j.Expires}
	switch {
	case j.State == failed:
		return nil, &fhir.Error{Kind: fhir.Internal, Op: "bulk.Status", Issues: []fhir.Issue{{Code: "exception",
			Diagnostics: "the export failed on the server; start a new one"}}}
	case j.State == running:
		s.Progress = "in progress"
		if !j.Partial {
			return s, nil
		}
	}
	m, n, err := e.manifest(ctx, j, page, form)
	if err != nil {
		return nil, err
	}
	if s.Progress != "" {
		s.Progress = fmt.Sprintf("in progress, files available: %d", n)
	}
	s.Manifest, err = json.Marshal(m)
	return s, fhir.Wrap("bulk.Status", err)
}

// manifest returns a manifest of a job, and the number of its files that are known.
func (e *Exporter) manifest(ctx context.Context, j *job, page int, form Form) (*manifest, int, error) {
	m := &manifest{
		TransactionTime: j.Transaction.UTC().Format(fhir.InstantLayout), RequiresAccessToken: true,
		Output: []fileItem{}, Deleted: []fileItem{},
	}
	outcomes := []fileItem{}
	if len(j.Warnings) > 0 {
		outcomes = append(outcomes, fileItem{Type: "OperationOutcome", URL: e.fileURL(j.ID, errorFile),
			Count: len(j.Warnings)})
	}
	if form == Form4 {
		m.ManifestType, m.Outcome = definition(j.Level), &outcomes
	} else {
		m.Request, m.Error = j.Request, &outcomes
	}
	if j.Organized {
		m.OrganizedBy = "Patient"
	}
	n, last := 0, true
	err := e.files(ctx, j.ID, func(f *file, _ []byte) bool {
		if n++; j.Partial && (n-1)/e.opts.ManifestFiles != page {
			last = last && n <= page*e.opts.ManifestFiles
			return true
		}
		it := fileItem{Type: f.Type, URL: e.fileURL(j.ID, f.name())}
		if !f.Changed {
			it.Count, it.FileSize = f.Count, f.Size
		}
		if f.Continues {
			next := file{Type: f.Type, Number: f.Number + 1}
			it.Continues = e.fileURL(j.ID, next.name())
		}
		m.Output = append(m.Output, it)
		return true
	})
	if err != nil {
		return nil, 0, err
	}
	if page > 0 && len(m.Output) == 0 {
		return nil, 0, fhir.Errorf(fhir.NotFound, "bulk.Status", "there is no such manifest")
	}
	if !last {
		m.Link = []link{{Relation: "next", URL: fmt.Sprintf("%s?page=%d", e.statusURL(j.ID), page+1)}}
	}
	if j.Deleted && last {
		m.Deleted = append(m.Deleted, fileItem{Type: "Bundle", URL: e.fileURL(j.ID, deletedFile)})
	}
	first := 0
	if j.Partial {
		first = page * e.opts.ManifestFiles
	}
	return m, n, e.describe(ctx, j, m, first, n)
}

// definition returns the canonical URL of the OperationDefinition of a level.
func definition(l Level) string {
	const base = element.HL7 + "uv/bulkdata/OperationDefinition/"
	if l == System {
		return base + "export"
	}
	return base + string(l) + "-export"
}
