package interaction

import (
	"context"
	"io"
	"sync"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/r4"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
	"pulsegate/fhir/terminology"
)

// Validator validates untrusted resources and returns them in canonical form
// (r4.Validator). Create replaces the id in the body; Resource requires it to be
// the given one.
type Validator interface {
	Create(typ string, body []byte, id string) (fhir.Resource, error)
	Resource(typ string, body []byte, id string) (fhir.Resource, error)
	Bundle(body []byte) (*r4.Bundle, error)
}

// Check checks the rules of one resource type beyond R4, after validation and
// before the commit. It receives the new resource (nil for a delete) and the
// stored one (nil for a create) and returns the resource to store. It must keep
// the type, the id and the canonical form.
type Check func(ctx context.Context, p *access.Principal, next, old *fhir.Resource) (*fhir.Resource, error)

// Request describes one request: its caller, and how it was made.
type Request struct {
	audit.Caller
	// Line is the request line for the audit event of a query, for example
	// "GET Observation?patient=1".
	Line string
	// Lenient drops unknown search parameters instead of refusing them
	// (Prefer: handling=lenient).
	Lenient bool

	// room is the number of bytes that a page may have as an entry of a Bundle;
	// 0 is no limit beside that of the server.
	capacity int
	// waits, if not nil, is called when nothing is left to do but to wait for the store.
	// size is about the size of the resource in the answer in bytes.
	waits func(size int)
}

// wait reports that the request is about to wait for the store.
func (rq *Request) wait(size int) {
	if rq.waits != nil {
		rq.waits(size)
	}
}

// Limits bounds the work for one request. A zero field means the default.
type Limits struct {
	Count         int // resources on a page without _count; 50 by default
	MaxCount      int // maximum of _count; 1,000 by default
	PageBytes     int // size in bytes after which a page ends early; 32 MiB by default
	Includes      int // included resources on a page; 2,000 by default
	Joined        int // resources that a chained parameter or _has may find; 5,000 by default
	BundleEntries int // entries of a batch or transaction; 1,000 by default
	BundleBytes   int // size in bytes of the answer to a batch or transaction; 32 MiB by default
	// BatchTogether is the number of entries of a batch that wait for the store at the
	// same time; 64 by default. If it is 1, the order of their commits is certain.
	BatchTogether int
}

// batchTogether is the default of Limits.BatchTogether.
const batchTogether = 64

func (l Limits) withDefaults() Limits {
	for _, d := range []struct {
		field *int
		value int
	}{{&l.Count, 50}, {&l.MaxCount, 1000}, {&l.PageBytes, 32 << 20}, {&l.Includes, 2000}, {&l.Joined, 5000},
		{&l.BundleEntries, 1000},
		{&l.BundleBytes, 32 << 20}, {&l.BatchTogether, batchTogether}} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	return l
}

// Service performs interactions. All exported fields except Limits, Checks, Forms,
// Registry, Terminology and Receiver are required. It must not be copied after first use.
type Service struct {
	Store     store.Store
	Validator Validator
	Audit     *audit.Recorder
	Clock     func() time.Time
	Rand      io.Reader // ids of created resources
	Limits    Limits
	Base      string // base URL of the FHIR API, without a trailing slash
	Checks    map[string]Check
	// Receiver receives phone-made Observations. If it is nil, they are stored as sent.
	Receiver  Receiver
	Preferred Preferred       // nil if $stats has no preferred sources
	Forms     map[string]Form // of $ehr-bundle, by name
	// Registry returns the search parameters of this moment. If it is nil, they are
	// search.Builtin.
	Registry func() *search.Registry
	// Terminology answers the operations on terminology. If it is nil, they are not offered.
	Terminology *terminology.Service

	randMu sync.Mutex
	locks  locks
	pages  pageSealer

	batches batchTests
}

// registry returns the search parameters of this moment.
func (s *Service) registry() *search.Registry {
	if s.Registry == nil {
		return search.Builtin()
	}
	return s.Registry()
}

// newID returns a random id. It serializes the reads of Rand.
func (s *Service) newID() (string, error) {
	s.randMu.Lock()
	defer s.randMu.Unlock()
	return fhir.NewID(s.Rand)
}

// Written is the outcome of a write.
type Written struct {
	Resource fhir.Resource // stamped; for a delete only type, id and version
	Created  bool
	// Matched is set if a conditional create has found a match and created nothing.
	Matched bool
}

// supported returns an error for types that the server does not store.
func supported(op, typ string) error {
	if !fhir.KnownType(typ) {
		return fhir.Errorf(fhir.NotFound, op, "the server does not support this resource type")
	}
	return nil
}

// pageBytes returns the size in bytes after which a page of this request ends.
func (rq *Request) pageBytes(l Limits) int {
	if rq.capacity > 0 {
		return min(rq.capacity, l.PageBytes)
	}
	return l.PageBytes
}

// limits returns the limits of this request.
func (rq *Request) limits(s *Service) Limits {
	l := s.Limits.withDefaults()
	l.PageBytes = rq.pageBytes(l)
	return l
}

func errHidden(op string) error {
	return fhir.Errorf(fhir.NotFound, op, "the resource does not exist")
}

// may returns an error unless the token covers an interaction on a type.
func (rq *Request) may(op string, i access.Interaction, typ string) error {
	if rq.Principal == nil {
		return fhir.Errorf(fhir.Unauthorized, op, "an access token is needed")
	}
	if !rq.Principal.Grant.May(i, typ) {
		if typ == "Consent" && rq.Principal.Grant.Scoped(i, typ) {
			return fhir.Errorf(fhir.Forbidden, op,
				"this client is not registered to record Consents; no scope allows that. "+
					"The patient's own pages and the operator record them, and a client to which the operator has given that right")
		}
		return fhir.Errorf(fhir.Forbidden, op, "the granted scopes do not cover this interaction on %s", typ)
	}
	return nil
}

func (rq *Request) filter(i access.Interaction) access.Filter {
	if rq.Principal == nil {
		return access.Filter{}
	}
	return rq.Principal.Grant.Filter(i)
}

func (rq *Request) author() string {
	if rq.Principal == nil {
		return ""
	}
	return rq.Principal.ClientID
}

// factsOf describes a resource that is about to be written.
func factsOf(r *fhir.Resource, v *search.Values, vendor, author string) *access.Facts {
	return &access.Facts{
		Type: r.Type, ID: r.ID, Patient: v.Patient, Vendor: vendor, Author: author, Categories: v.Categories,
		Tokens: v.Tokens,
	}
}
