package terminology

import (
	"encoding/json"
	"slices"
	"strings"

	"pulsegate/fhir"
	"pulsegate/mapping/table"
)

// Resource is a resource to be published. Its JSON has no meta.
type Resource struct {
	Type, ID, URL, Version string
	JSON                   []byte
}

// Resources returns the resources that publish t, CodeSystems first, in a fixed order.
func Resources(t *table.Table) ([]Resource, error) {
	var out []Resource
	for _, s := range codeSystems(t) {
		body, err := json.Marshal(s)
		if err != nil {
			return nil, fhir.Wrap("terminology.Resources", err)
		}
		out = append(out, Resource{s.ResourceType, s.ID, s.URL, s.Version, body})
	}
	for _, m := range conceptMaps(t) {
		body, err := json.Marshal(m)
		if err != nil {
			return nil, fhir.Wrap("terminology.Resources", err)
		}
		out = append(out, Resource{m.ResourceType, m.ID, m.URL, m.Version, body})
	}
	return out, nil
}

// metadata holds the elements that CodeSystem and ConceptMap share.
type metadata struct {
	ResourceType string `json:"resourceType"`
	ID           string `json:"id"`
	URL          string `json:"url"`
	Version      string `json:"version"`
	Name         string `json:"name"`
	Title        string `json:"title"`
	Status       string `json:"status"`
	Experimental bool   `json:"experimental"`
	Publisher    string `json:"publisher"`
	Description  string `json:"description"`
}

func newMetadata(typ, id, version, title, description string) metadata {
	return metadata{ResourceType: typ, ID: id, URL: fhir.Canonical + "/" + typ + "/" + id, Version: version,
		Name: computerName(id), Title: title, Status: "active", Publisher: "Pulsegate", Description: description}
}

// computerName returns a name for programs (R4, invariant csd-0): "google-health"
// becomes "GoogleHealth".
func computerName(id string) string {
	var b strings.Builder
	for _, part := range strings.FieldsFunc(id, func(r rune) bool { return r == '-' }) {
		b.WriteString(strings.ToUpper(part[:1]) + part[1:])
	}
	return b.String()
}

// versionWith returns a version with those of packs as build metadata.
func versionWith(version string, packs []*table.Pack) string {
	sep := "+"
	for _, p := range packs {
		version += sep + p.Name + "." + p.Version
		sep = "."
	}
	return version
}

// tenantPacks returns the packs of a tenant that has picks.
func tenantPacks(t *table.Table, has func(p *table.Pack) bool) (out []*table.Pack) {
	for _, p := range t.Packs {
		if p.Tenant && has(p) {
			out = append(out, p)
		}
	}
	return out
}

// isCode reports whether s is a FHIR code: not empty, at most 128 bytes, without control
// characters and without leading, trailing or repeated spaces.
func isCode(s string) bool {
	return s != "" && len(s) <= 128 && strings.Join(strings.Fields(s), " ") == s &&
		!strings.ContainsFunc(s, func(r rune) bool { return r < ' ' })
}

// builtinRows returns the rows of a vendor as they are built in, sorted by metric.
func builtinRows(t *table.Table, v *table.Vendor) (out []*table.Row) {
	for i := range v.Rows {
		if !v.Rows[i].Pack.Tenant {
			out = append(out, &v.Rows[i])
		}
	}
	for i := range t.Replaced {
		if r := &t.Replaced[i].Row; r.Pack.Vendor == v.Vendor {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b *table.Row) int { return strings.Compare(a.Metric, b.Metric) })
	return out
}
