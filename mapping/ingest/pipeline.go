package ingest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"

	"pulsegate/adapters"
	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/budget"
	"pulsegate/fhir/store"
	"pulsegate/fhir/yield"
	"pulsegate/mapping"
)

// Consents answers whether data may be taken in; *consent.Engine is one.
type Consents interface {
	Collects(ctx context.Context, patient, vendor string) (fhir.Ref, bool, error)
	CollectsCategory(ctx context.Context, patient, vendor string, categories ...string) (bool, error)
}

// Pipeline takes payloads in. All fields but Logger, Zone and Limits are
// needed.
type Pipeline struct {
	Store    store.Store
	Audit    audit.Trail
	Consents Consents
	Mapper   *mapping.Mapper
	Adapters []adapters.Adapter
	Clock    func() time.Time
	// Zone gives a patient's configured zone; nil: none has one.
	Zone     func(ctx context.Context, patient string) (*time.Location, error)
	SpoolDir string
	Limits   Limits
	Logger   *slog.Logger
	// LegacyIDs has every sample of a stream looked up under the id that it
	// had before there were streams: for a store that holds such ones.
	LegacyIDs bool

	// stripes are locked by patient and vendor while a commit is worked out
	// and written: what it reads of them is what it is written over.
	stripes [64]sync.Mutex
}

// serialize waits for the other commits of the patient and vendor; what it
// returns lets the next one go on.
func (p *Pipeline) serialize(patient, vendor string) (unlock func()) {
	m := &p.stripes[xxhash.Sum64String(patient+"/"+vendor)%uint64(len(p.stripes))]
	m.Lock()
	return m.Unlock
}

// Request is one payload.
type Request struct {
	Patient string
	Vendor  string
	Format  string // "" or "auto": found by itself; "v2:heartrate" names the type too
	Name    string // file name or hint
	Body    io.Reader
	// At and Size are given when the payload is a file.
	At   io.ReaderAt
	Size int64

	// Delivery returns a fact about the delivery by its name, "" if there is
	// none: the HTTP headers of the request. The adapter is told those that its
	// formats list. Nil is no facts.
	Delivery func(name string) string

	audit.Caller
	Progress func(bytes int64)
}

const headSize = 64 << 10

// Run takes one payload in. What was committed before an error stays, and the
// summary counts it.
//
// Every run leaves an AuditEvent: with each commit, and one for its failure.
func (p *Pipeline) Run(ctx context.Context, q Request) (_ Summary, err error) {
	began := p.Clock()
	var r *run
	ctx, span := startSpan(ctx)
	defer func() { endSpan(span, r, err) }()
	if err = budget.Of(ctx).Grow(runMemory); err != nil {
		return Summary{}, err
	}
	if r, err = p.begin(ctx, q); err != nil {
		return Summary{}, err
	}
	if err = r.payload(ctx); err != nil {
		err = r.failed(ctx, err, "")
	}
	r.sum.Seconds = p.Clock().Sub(began).Seconds()
	if r.sum.ByMetric == nil {
		r.sum.ByMetric = map[string]Counts{}
	}
	return r.sum, err
}

// begin checks patient, vendor and consent; a refusal is in the audit trail.
func (p *Pipeline) begin(ctx context.Context, q Request) (*run, error) {
	r, err := p.admit(ctx, q)
	if err != nil {
		return nil, p.refused(ctx, &q, err, "")
	}
	return r, nil
}

func (p *Pipeline) admit(ctx context.Context, q Request) (*run, error) {
	a := p.adapter(q.Vendor)
	if a == nil {
		return nil, fhir.Errorf(fhir.Invalid, "ingest.Run", "vendor is one of %s", p.vendors())
	}
	if !fhir.ValidID(q.Patient) {
		return nil, fhir.Errorf(fhir.Invalid, "ingest.Run", "patient is no id")
	}
	pat, _, err := p.Store.Read(ctx, fhir.Ref{Type: "Patient", ID: q.Patient}, 0)
	if err != nil {
		return nil, fhir.Wrap("ingest.Run", err)
	}
	if pat.Deleted {
		return nil, fhir.Errorf(fhir.NotFound, "ingest.Run", "the patient is deleted")
	}
	r := &run{p: p, q: q, adapter: a, limits: p.Limits.orDefault(), seen: map[string]int{},
		pace:    yield.Counter{Every: yieldEvery},
		devices: map[string]*mapping.DeviceFacts{}, sourced: map[string]bool{},
		categories: map[kind]bool{}, kept: map[string]int{}, log: p.Logger}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	if err := r.consent(ctx); err != nil {
		return nil, err
	}
	if r.meters, err = newMeters(); err != nil {
		return nil, err
	}
	if p.Zone != nil {
		if r.zone, err = p.Zone(ctx, q.Patient); err != nil {
			return nil, fhir.Wrap("ingest.Run", err)
		}
	}
	return r, nil
}

func (p *Pipeline) adapter(vendor string) adapters.Adapter {
	for _, a := range p.Adapters {
		if strings.EqualFold(a.Vendor(), vendor) {
			return a
		}
	}
	return nil
}

func (p *Pipeline) vendors() string {
	var names []string
	for _, a := range p.Adapters {
		names = append(names, a.Vendor())
	}
	return strings.Join(names, ", ")
}

// payload finds the format, decodes, and commits.
func (r *run) payload(ctx context.Context) (err error) {
	in := adapters.Input{Name: baseName(r.q.Name), Zone: r.zone, Received: r.p.Clock(), At: r.q.At, Size: r.q.Size}
	if r.q.Delivery != nil {
		in.Delivery = adapters.Facts(r.adapter, r.q.Delivery)
	}
	if r.q.Format != "auto" {
		in.Format, in.Hint, _ = strings.Cut(r.q.Format, ":")
	}
	head := make([]byte, headSize)
	n, err := io.ReadFull(r.q.Body, head)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return bodyError(err)
	}
	head = head[:n]
	if n == 0 {
		return fhir.Errorf(fhir.Invalid, "ingest.Run", "the payload is empty")
	}
	sum := sha256.Sum256(head)
	r.digest = hex.EncodeToString(sum[:])
	if in.Format == "" {
		var ok bool
		if in.Format, ok = r.adapter.Detect(in.Name, head); !ok {
			return &fhir.Error{Kind: fhir.Invalid, Op: "ingest.Run", Err: adapters.ErrUnknownFormat,
				Issues: []fhir.Issue{{Code: "structure",
					Diagnostics: "the payload is none of the formats of " + r.q.Vendor + ": " + formats(r.adapter) +
						"; name it by format"}}}
		}
	}
	if !knownFormat(r.adapter, in.Format) {
		return fhir.Errorf(fhir.Invalid, "ingest.Run", "format is one of %s", formats(r.adapter))
	}
	r.format = in.Format
	in.Body = &contextReader{ctx, io.MultiReader(bytes.NewReader(head), r.q.Body)}
	if in.At == nil && seeks(r.adapter, in.Format) {
		f, size, err := spool(r.p.SpoolDir, in.Body, r.limits.MaxSpool)
		if err != nil {
			return err
		}
		defer func() {
			if cerr := f.Close(); err == nil {
				err = fhir.Wrap("ingest.Run", cerr)
			}
		}()
		in.At, in.Size, in.Body = f, size, io.NewSectionReader(f, 0, size)
	}
	return r.execute(ctx, func(ctx context.Context) error { return r.adapter.Decode(ctx, in, r) })
}

type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

func baseName(s string) string {
	if i := strings.LastIndexAny(s, `/\`); i >= 0 {
		s = s[i+1:]
	}
	return s[:min(len(s), 255)]
}

func knownFormat(a adapters.Adapter, name string) bool {
	for _, f := range a.Formats() {
		if f.Name == name {
			return true
		}
	}
	return false
}

// seeks reports whether a format needs random access to its payload.
func seeks(a adapters.Adapter, name string) bool {
	for _, f := range a.Formats() {
		if f.Name == name {
			return f.Seek
		}
	}
	return false
}

func formats(a adapters.Adapter) string {
	var names []string
	for _, f := range a.Formats() {
		names = append(names, f.Name)
	}
	return strings.Join(names, ", ")
}

// bodyError turns a failure of decoding into an error with place and rule.
func bodyError(err error) error {
	var fe *fhir.Error
	if errors.As(err, &fe) {
		return fe
	}
	var pe *adapters.PayloadError
	if errors.As(err, &pe) {
		is := fhir.Issue{Code: "structure", Diagnostics: pe.Error()}
		return &fhir.Error{Kind: fhir.Invalid, Op: "ingest.Run", Issues: []fhir.Issue{is}, Err: pe.Err}
	}
	if errors.Is(err, adapters.ErrUnknownFormat) {
		return &fhir.Error{Kind: fhir.Invalid, Op: "ingest.Run", Err: err,
			Issues: []fhir.Issue{{Code: "structure", Diagnostics: "unknown payload format"}}}
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return &fhir.Error{Kind: fhir.Invalid, Op: "ingest.Run", Err: err,
			Issues: []fhir.Issue{{Code: "structure", Diagnostics: "the payload ends too early"}}}
	}
	return fhir.Wrap("ingest.Run", err)
}
