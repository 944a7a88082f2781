package bulk

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/element"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

// Publisher implements $bulk-publish (Bulk Data 4.0.0 ballot) for the terminology and
// the definitions that the server itself publishes. The files are public and contain nothing
// else.
//
// A file has its content's hash in its name, so that it never changes. The files of the
// manifest before the current one remain, for downloads that are under way.
type Publisher struct {
	st      store.Store
	base    string
	stop    func()
	changed atomic.Bool // set after a commit of a published type

	mu       sync.Mutex
	manifest []byte            // guarded by mu
	files    map[string][]byte // of the current manifest; guarded by mu
	before   map[string][]byte // of the one before; guarded by mu
}

// publishedTypes lists the types that $bulk-publish offers.
var publishedTypes = []string{"CodeSystem", "ConceptMap", "ImplementationGuide", "OperationDefinition",
	"SearchParameter", "StructureDefinition", "ValueSet"} // read only

// isOwn reports whether the server itself has written a resource, under a canonical URL of
// its own. Clients write other resources of these types.
func isOwn(f *store.Found) bool {
	return f.Facts != nil && f.Facts.Author == "" && f.Facts.Patient == "" && f.Facts.Vendor == "" &&
		bytes.Contains(f.Resource.JSON, []byte(`"url":"`+fhir.Canonical+"/"+f.Resource.Type+"/"))
}

// NewPublisher returns a Publisher of a store with a FHIR base URL.
func NewPublisher(st store.Store, base string) *Publisher {
	p := &Publisher{st: st, base: base}
	p.changed.Store(true)
	p.stop = st.Watch(func(c store.Commit) {
		for i := range c.Changes {
			if slices.Contains(publishedTypes, c.Changes[i].Ref.Type) {
				p.changed.Store(true)
				return
			}
		}
	})
	return p
}

// Close stops following the store.
func (p *Publisher) Close() { p.stop() }

// Manifest returns the manifest, and its entity tag without quotes.
func (p *Publisher) Manifest(ctx context.Context) (body []byte, tag string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.refresh(ctx); err != nil {
		return nil, "", err
	}
	return p.manifest, contentTag(p.manifest), nil
}

// File returns a file by the last part of its URL, or nil.
func (p *Publisher) File(ctx context.Context, name string) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.refresh(ctx); err != nil {
		return nil, err
	}
	if b, ok := p.files[name]; ok {
		return b, nil
	}
	return p.before[name], nil
}

func contentTag(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:16])
}

// publishManifest is the manifest of $bulk-publish.
type publishManifest struct {
	ManifestType        string     `json:"manifestType"`
	TransactionTime     string     `json:"transactionTime"`
	RequiresAccessToken bool       `json:"requiresAccessToken"`
	OutputFormat        string     `json:"outputFormat"`
	Output              []fileItem `json:"output"`
	Deleted             []fileItem `json:"deleted"`
	Error               []fileItem `json:"error"`
}

// refresh makes the files anew if a published resource has changed. The caller holds mu.
// transactionTime is the time of the latest change, so that all processes of a cluster have
// the same manifest.
func (p *Publisher) refresh(ctx context.Context) error {
	if !p.changed.Swap(false) {
		return nil
	}
	m := publishManifest{ManifestType: element.HL7 + "uv/bulkdata/OperationDefinition/bulk-publish",
		OutputFormat: "application/fhir+ndjson", Output: []fileItem{}, Deleted: []fileItem{}, Error: []fileItem{}}
	files, latest := map[string][]byte{}, time.Unix(0, 0)
	for _, t := range publishedTypes {
		var text bytes.Buffer
		n := 0
		err := p.st.Find(ctx, store.Find{Query: &search.Query{Type: t}, Filter: access.All().Filter(access.Read)},
			func(f *store.Found) bool {
				if !isOwn(f) {
					return true
				}
				text.Write(f.Resource.JSON)
				text.WriteByte('\n')
				if n++; f.Resource.LastUpdated.After(latest) {
					latest = f.Resource.LastUpdated
				}
				return true
			})
		if err != nil {
			p.changed.Store(true)
			return fhir.Wrap("bulk.Publisher", err)
		}
		if n == 0 {
			continue
		}
		name := strings.Join([]string{t, contentTag(text.Bytes()), "ndjson"}, ".")
		files[name] = text.Bytes()
		m.Output = append(m.Output, fileItem{Type: t, URL: p.base + "/$bulk-publish-file/" + name, Count: n,
			FileSize: int64(text.Len())})
	}
	m.TransactionTime = latest.UTC().Format(fhir.InstantLayout)
	body, err := json.Marshal(&m)
	if err != nil {
		return fhir.Wrap("bulk.Publisher", err)
	}
	if !bytes.Equal(body, p.manifest) {
		p.manifest, p.before, p.files = body, p.files, files
	}
	return nil
}
