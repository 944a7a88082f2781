package explain

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/element"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
	"pulsegate/mapping"
)

// maxVersions limits the versions of an explanation.
const maxVersions = 50

// versions returns the newest versions of an Observation, and whether there are more.
func (e *Explainer) versions(ctx context.Context, ref fhir.Ref) (out []Version, more bool, err error) {
	type stored struct {
		fhir.Resource
		facts  access.Facts
		stream string
	}
	var list []stored
	err = e.Store.History(ctx, ref, 0, 0, func(r fhir.Resource, facts *access.Facts) bool {
		if more = len(list) == maxVersions+1; more {
			return false
		}
		one := stored{Resource: r, facts: access.Facts{Patient: facts.Patient, Vendor: facts.Vendor,
			Author: facts.Author}}
		one.JSON = slices.Clone(r.JSON)
		list = append(list, one)
		return true
	})
	if err != nil {
		return nil, false, err
	}
	for i := range min(len(list), maxVersions) {
		r := &list[i]
		v := Version{Version: r.Version, At: r.LastUpdated}
		var body, before struct {
			Status     string               `json:"status"`
			Identifier []element.Identifier `json:"identifier"`
		}
		_ = json.Unmarshal(r.JSON, &body) // a deletion has no content
		v.Status = body.Status
		if i+1 < len(list) {
			_ = json.Unmarshal(list[i+1].JSON, &before)
		}
		for _, id := range body.Identifier {
			if id.System == mapping.StreamSystem {
				r.stream = id.Value
			}
		}
		v.Why = happened(r.Deleted, i+1 == len(list), before.Status, body.Status)
		if r.facts.Vendor == "" {
			v.Client = r.facts.Author
		}
		if r.facts.Patient != "" {
			if err := e.addProvenance(ctx, &v, r.facts.Patient, ref, r.stream); err != nil {
				return nil, false, err
			}
		}
		out = append(out, v)
	}
	return out, more || len(list) > maxVersions, nil
}

// happened says what a version is, by the status of the one before and its own.
func happened(deleted, first bool, before, status string) string {
	switch {
	case deleted:
		return "deleted"
	case first && status == "entered-in-error":
		return "created as retracted"
	case first:
		return "created"
	case status == "entered-in-error":
		return "retracted"
	case before == "entered-in-error":
		return "stated again after a retraction"
	case before == "preliminary" && status == "final":
		return "became final"
	case before == "preliminary":
		return "changed while preliminary"
	}
	return "restated or completed"
}

// provenance holds the elements of a Provenance that an explanation shows.
type provenance struct {
	Target []element.Reference `json:"target"`
	Agent  []struct {
		Who struct {
			Identifier element.Identifier `json:"identifier"`
		} `json:"who"`
	} `json:"agent"`
	Entity []struct {
		What struct {
			Identifier element.Identifier `json:"identifier"`
			Display    string             `json:"display"`
		} `json:"what"`
	} `json:"entity"`
}

// addProvenance adds the Provenance of the commit that wrote v. Everything that a commit
// writes has one time.
func (e *Explainer) addProvenance(ctx context.Context, v *Version, patient string, ref fhir.Ref, stream string) error {
	q, err := search.Parse("Provenance", [][2]string{{"patient", patient},
		{"_lastUpdated", "eq" + v.At.UTC().Format(fhir.InstantLayout)}}, search.ParseOptions{})
	if err != nil {
		return err
	}
	return e.Store.Find(ctx, store.Find{Query: q, Filter: access.All().Filter(access.Search)},
		func(f *store.Found) bool {
			var p provenance
			if json.Unmarshal(f.Resource.JSON, &p) != nil || !p.isAbout(ref, stream) {
				return true
			}
			v.Provenance = "Provenance/" + strings.Clone(f.Resource.ID)
			for _, a := range p.Agent {
				if a.Who.Identifier.System == fhir.Canonical+"/CodeSystem/vendor" {
					v.Vendor = a.Who.Identifier.Value
				}
			}
			for _, entity := range p.Entity {
				v.Channel += entity.What.Display
				if entity.What.Identifier.System == fhir.Canonical+"/identifier/link" {
					v.Link = entity.What.Identifier.Value
				}
			}
			return false
		})
}

func (p *provenance) isAbout(ref fhir.Ref, stream string) bool {
	for _, t := range p.Target {
		if t.Reference == ref.String() || stream != "" && t.Identifier != nil &&
			t.Identifier.System == mapping.StreamSystem && t.Identifier.Value == stream {
			return true
		}
	}
	return false
}
