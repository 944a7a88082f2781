package terminology

import (
	"cmp"
	"slices"
	"strings"

	"pulsegate/fhir"
	"pulsegate/mapping"
	"pulsegate/mapping/preferred"
	"pulsegate/mapping/table"
)

// codeSystem is an R4 CodeSystem.
type codeSystem struct {
	metadata
	CaseSensitive bool                 `json:"caseSensitive"`
	Content       string               `json:"content"`
	Count         int                  `json:"count"`
	Property      []propertyDefinition `json:"property,omitempty"`
	Concept       []concept            `json:"concept"`
}

type propertyDefinition struct {
	Code        string `json:"code"`
	URI         string `json:"uri,omitempty"`
	Description string `json:"description"`
	Type        string `json:"type"`
}

type concept struct {
	Code       string            `json:"code"`
	Display    string            `json:"display"`
	Definition string            `json:"definition,omitempty"`
	Property   []conceptProperty `json:"property,omitempty"`
}

type conceptProperty struct {
	Code         string `json:"code"`
	ValueCode    string `json:"valueCode,omitempty"`
	ValueString  string `json:"valueString,omitempty"`
	ValueBoolean bool   `json:"valueBoolean,omitempty"`
}

// Kinds of codes in a vendor's CodeSystem.
const (
	kindMetric    = "metric"
	kindComponent = "component"
	kindValue     = "value"
)

func codeSystems(t *table.Table) (out []codeSystem) {
	for i := range t.Vendors {
		out = append(out, vendorSystem(t, &t.Vendors[i]))
	}
	out = append(out, ownSystems(t)...)
	for i := range t.Systems {
		if s := &t.Systems[i]; s.Publish {
			out = append(out, tenantSystem(t, s))
		}
	}
	return out
}

// vendorSystem returns the CodeSystem with the vendor's own codes.
func vendorSystem(t *table.Table, v *table.Vendor) codeSystem {
	u := usages{}
	for i := range v.Rows {
		u.addRow(&v.Rows[i], true)
	}
	for i := range t.Replaced {
		if r := &t.Replaced[i]; r.Pack.Vendor == v.Vendor {
			u.addRow(&r.Row, false)
		}
	}
	packs := tenantPacks(t, func(p *table.Pack) bool { return p.Vendor == v.Vendor && len(p.Changes) > 0 })
	s := codeSystem{metadata: newMetadata("CodeSystem", v.System, versionWith(v.Version, packs), v.Title,
		"Codes that Observations carry for data of "+v.Title+": metrics, their components, and listed values. "+
			"Other values are passed on as the vendor writes them."),
		Content: "fragment", Property: []propertyDefinition{
			{"kind", "", "Where the code occurs: metric is the code of an Observation, component that of a component, value a value", "code"},
			{"unit", "", "UCUM unit in which the metric is written", "string"},
			{"inactive", "http://hl7.org/fhir/concept-properties#inactive",
				"No row of the metric table has the code any more", "boolean"}},
		Concept: u.concepts()}
	return s.done()
}

// done sets the elements that follow from the others.
func (s codeSystem) done() codeSystem {
	s.CaseSensitive, s.Count = true, len(s.Concept)
	slices.SortFunc(s.Concept, func(a, b concept) int { return strings.Compare(a.Code, b.Code) })
	return s
}

// usage is one place where a code occurs.
type usage struct {
	kind, place, display, unit string
	active                     bool
}

// usages holds the places of each code.
type usages map[string][]usage

func (u usages) add(code string, at usage) {
	if isCode(code) && !slices.ContainsFunc(u[code], func(other usage) bool {
		other.active = at.active
		return other == at
	}) {
		u[code] = append(u[code], at)
	}
}

// addRow adds the codes of a row. active is set if the row is in force.
func (u usages) addRow(r *table.Row, active bool) {
	u.add(r.Metric, usage{kindMetric, r.Name, r.Name, r.Unit, active})
	for code, display := range r.Values {
		u.add(code, usage{kindValue, r.Name, cmp.Or(display, code), "", active})
	}
	for i := range r.Components {
		c := &r.Components[i]
		u.add(c.Name, usage{kindComponent, r.Name, c.Display, "", active})
		for code, display := range c.Values {
			u.add(code, usage{kindValue, r.Name + ", " + c.Display, cmp.Or(display, code), "", active})
		}
	}
}

// maxPlaces limits the places that a definition lists.
const maxPlaces = 10

func (u usages) concepts() (out []concept) {
	for code, places := range u {
		slices.SortFunc(places, func(a, b usage) int {
			return cmp.Or(strings.Compare(kindOrder(a.kind), kindOrder(b.kind)), strings.Compare(a.display, b.display),
				strings.Compare(a.place, b.place))
		})
		c := concept{Code: code}
		var displays, listed, kinds, units []string
		active := false
		for _, at := range places {
			displays, kinds = appendNew(displays, at.display), appendNew(kinds, at.kind)
			active = active || at.active
			if at.unit != "" {
				units = appendNew(units, at.unit)
			}
			if at.kind != kindMetric {
				listed = appendNew(listed, at.kind+" of "+at.place+": "+at.display)
			} else {
				listed = appendNew(listed, "metric: "+at.display)
			}
		}
		c.Display = strings.Join(displays, " / ")
		if len(displays) > 1 {
			if more := len(listed) - maxPlaces; more > 0 {
				listed = append(listed[:maxPlaces], "…")
			}
			c.Definition = strings.Join(listed, "; ")
		}
		for _, kind := range kinds {
			c.Property = append(c.Property, conceptProperty{Code: "kind", ValueCode: kind})
		}
		for _, unit := range units {
			c.Property = append(c.Property, conceptProperty{Code: "unit", ValueString: unit})
		}
		if !active {
			c.Property = append(c.Property, conceptProperty{Code: "inactive", ValueBoolean: true})
		}
		out = append(out, c)
	}
	return out
}

// kindOrder sorts kinds as metric, component, value.
func kindOrder(kind string) string {
	return map[string]string{kindMetric: "0", kindComponent: "1", kindValue: "2"}[kind]
}

func appendNew(list []string, s string) []string {
	if slices.Contains(list, s) {
		return list
	}
	return append(list, s)
}

// ownVersion is the version of the CodeSystems of this project that do not come from a
// file: the first number counts codes whose meaning changed, the second one new codes.
const ownVersion = "1.1.0"

// ownSystems returns the CodeSystems that this project defines.
func ownSystems(t *table.Table) []codeSystem {
	own := func(id, title, description string, concepts ...concept) codeSystem {
		return codeSystem{metadata: newMetadata("CodeSystem", id, ownVersion, title, description), Content: "complete",
			Concept: concepts}.done()
	}
	measures := []concept{{Code: mapping.ZoneUnknown, Display: "Time zone unknown",
		Definition: "Tag of an Observation whose instant is correct but whose local time may not be."}}
	for _, c := range t.Codes {
		if c.System == fhir.Canonical+"/CodeSystem/measures" {
			measures = append(measures, concept{Code: c.Code, Display: c.Display})
		}
	}
	measures = append(measures, concept{Code: preferred.Tag, Display: "Preferred value",
		Definition: "Tag of an Observation that is derived from the preferred one of several sources."})
	for _, c := range preferred.Builtin().Codes() {
		measures = append(measures, concept{Code: c.Code, Display: c.Display})
	}
	var vendors []concept
	for i := range t.Vendors {
		vendors = append(vendors, concept{Code: t.Vendors[i].Vendor, Display: t.Vendors[i].Title})
	}
	return []codeSystem{
		own("measures", "Measures without a standard code", "Codes of measures for which no standard code exists, "+
			"and tags of Observations.", measures...),
		own("observation-category", "Categories of Observations", "Categories that refine those of HL7's "+
			"observation-category.", concept{Code: "sleep", Display: "Sleep",
			Definition: "Times, duration and stages of sleep; refines activity."}),
		own("device-property", "Properties of Devices", "Codes of Device.property.", concept{Code: mapping.LastSeen,
			Display:    "Last seen",
			Definition: "Hour in which the newest sample or report of the device was made."}),
		own("vendor", "Vendors", "Codes by which Consents and Provenances name the vendors of wearables.", vendors...),
	}
}

// tenantSystem returns a code system that a pack defines.
func tenantSystem(t *table.Table, s *table.System) codeSystem {
	out := codeSystem{metadata: newMetadata("CodeSystem", s.Pack.Name+"-"+s.Prefix, s.Pack.Version, s.Title,
		"Codes that the mapping pack "+s.Pack.Name+" defines."), Content: "fragment"}
	out.URL, out.Publisher = s.URL, s.Pack.Title
	for _, c := range t.Codes {
		if c.System == s.URL {
			out.Concept = append(out.Concept, concept{Code: c.Code, Display: c.Display})
		}
	}
	return out.done()
}
