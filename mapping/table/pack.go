package table

import "pulsegate/fhir"

// Pack identifies a mapping pack: a versioned file with rows for one vendor. The
// built-in packs are the files of the vendors; a tenant's pack adds rows to them and
// overrides or removes rows.
type Pack struct {
	Name    string // of the pack; a built-in pack has the code of its vendor
	Version string
	Vendor  string // code
	Title   string
	// Tenant is set for a pack of a tenant. File and Changes belong to it.
	Tenant  bool
	File    string
	Changes []Change
}

// Change says what a tenant's pack does to one row.
type Change struct {
	Metric string
	Kind   string   // one of the Change constants
	Fields []string // that are stated, in the order of the file, without metric
}

// Values of Change.Kind.
const (
	ChangeAdd      = "add"
	ChangeOverride = "override"
	ChangeRemove   = "remove"
)

// URL returns the canonical URL of the ConceptMap that publishes the pack, without
// the version.
func (p *Pack) URL() string { return fhir.Canonical + "/ConceptMap/" + p.Name }

// RowURI names a row of the pack: the canonical URL of its ConceptMap with the version,
// and the row as the fragment.
func (p *Pack) RowURI(metric string) string { return p.URL() + "|" + p.Version + "#" + metric }

// RowName names a row of the pack like RowURI, but without the URL: "apple|1.0.0#ROW".
func (p *Pack) RowName(row string) string { return p.Name + "|" + p.Version + "#" + row }

// System is a code system that a tenant's pack defines.
type System struct {
	Prefix  string // in the codes of rows
	URL     string
	Title   string
	Publish bool // as a CodeSystem of this server
	Pack    *Pack
}
