package table

import (
	"fmt"
	"slices"
	"strings"
)

// check enforces the rules that the JSON Schema cannot express.
func (t *Table) check(file string, v *Vendor) error {
	seen := map[string]bool{}
	for i := range v.Rows {
		r := &v.Rows[i]
		fail := func(format string, args ...any) error {
			return fmt.Errorf("%s: row %s: %s", file, r.Metric, fmt.Sprintf(format, args...))
		}
		for _, m := range append([]string{r.Metric}, r.Also...) {
			if seen[m] {
				return fail("%s has two rows", m)
			}
			seen[m] = true
		}
		want := TrustLocal
		if len(r.Codes) > 0 && !strings.HasPrefix(r.Codes[0], "measures ") {
			want = TrustSure
		} else if len(r.Doubtful) > 0 {
			want = TrustDoubtful
		}
		if r.Trust != want {
			return fail("trust is %s, but its codes make it %s", r.Trust, want)
		}
		if r.Shape == ShapeQuantity && r.Unit == "" {
			return fail("a quantity needs a unit")
		}
		if r.SegmentsOf != "" && !slices.ContainsFunc(v.Rows,
			func(other Row) bool { return other.Metric == r.SegmentsOf }) {
			return fail("segmentsOf does not name a row")
		}
		if err := checkRate(r); err != nil {
			return fail("%v", err)
		}
		if err := checkRange(r); err != nil {
			return fail("%v", err)
		}
		if err := t.checkNames(r.Unit, r.Codes, r.Doubtful, r.Series); err != nil {
			return fail("%v", err)
		}
		for j := range r.Components {
			c := &r.Components[j]
			if err := t.checkNames(c.Unit, c.Codes, c.Doubtful); err != nil {
				return fail("component %s: %v", c.Name, err)
			}
		}
		for j := range r.Variants {
			x := &r.Variants[j]
			if err := t.checkNames(x.Unit, x.Codes, x.Doubtful); err != nil {
				return fail("variant %d: %v", j+1, err)
			}
		}
		if err := checkProfile(r); err != nil {
			return fail("%v", err)
		}
	}
	return nil
}

// checkRange requires a plausible range wherever there is a unit, so that an
// absurd number is never published.
func checkRange(r *Row) error {
	if r.Unit != "" && len(r.Range) != 2 {
		return fmt.Errorf("a unit needs a range")
	}
	for i := range r.Components {
		if c := &r.Components[i]; c.Unit != "" && len(c.Range) != 2 {
			return fmt.Errorf("component %s: a unit needs a range", c.Name)
		}
	}
	return nil
}

// checkRate requires that a stream consists of numbers or of listed codes.
func checkRate(r *Row) error {
	switch {
	case r.Rate == 0:
		return nil
	case r.Rate < 0 || r.Rate > 86400*1000:
		return fmt.Errorf("rate is not a number of samples per day")
	case r.Shape == ShapeQuantity:
		return nil
	case r.Shape == ShapeCodeable && len(r.Values) == 0:
		return fmt.Errorf("a rate of codes needs their values")
	case r.Shape != ShapeComponents && r.Shape != ShapeCodeable:
		return fmt.Errorf("a rate is for quantities, codes and components")
	}
	for i := range r.Components {
		if r.Components[i].Unit == "" {
			return fmt.Errorf("a rate needs numbers only, component %s has no unit", r.Components[i].Name)
		}
	}
	return nil
}

// checkNames requires that a unit and all codes are defined.
func (t *Table) checkNames(unit string, lists ...[]string) error {
	if _, ok := t.Units[unit]; !ok && unit != "" {
		return fmt.Errorf("unit %s is not in units.yaml", unit)
	}
	for _, codes := range lists {
		for _, c := range codes {
			if _, ok := t.Codes[c]; !ok {
				return fmt.Errorf("code %s is not in codes.yaml", c)
			}
		}
	}
	return nil
}

// Profile is a base vital-signs profile of FHIR R4.
type Profile struct {
	Code  string   // fixed by the profile, a key of Table.Codes
	Units []string // UCUM codes that the profile allows
}

// Profiles holds the base vital-signs profiles (FHIR R4, vital signs profiles;
// value sets ucum-bodyweight, ucum-bodylength and ucum-bodytemp).
var Profiles = map[string]Profile{
	"heartrate":  {"loinc 8867-4", []string{"/min"}},
	"resprate":   {"loinc 9279-1", []string{"/min"}},
	"oxygensat":  {"loinc 2708-6", []string{"%"}},
	"bodytemp":   {"loinc 8310-5", []string{"Cel", "[degF]"}},
	"bodyheight": {"loinc 8302-2", []string{"cm", "[in_i]"}},
	"bodyweight": {"loinc 29463-7", []string{"g", "kg", "[lb_av]"}},
	"bmi":        {"loinc 39156-5", []string{"kg/m2"}},
	"bp":         {"loinc 85354-9", []string{"mm[Hg]"}},
}

// checkProfile requires that a row keeps its profile, and that a row with the
// code of a profile names that profile.
func checkProfile(r *Row) error {
	if r.Profile == "" {
		for name, p := range Profiles {
			if slices.Contains(r.Codes, p.Code) {
				return fmt.Errorf("code %s needs the profile %s", p.Code, name)
			}
		}
		return nil
	}
	p, ok := Profiles[r.Profile]
	if !ok {
		return fmt.Errorf("profile %s is not a base vital-signs profile", r.Profile)
	}
	if !slices.Contains(r.Codes, p.Code) {
		return fmt.Errorf("profile %s fixes %s", r.Profile, p.Code)
	}
	if r.Unit != "" && !slices.Contains(p.Units, r.Unit) {
		return fmt.Errorf("profile %s does not allow the unit %s", r.Profile, r.Unit)
	}
	if r.Category != "vital-signs" {
		return fmt.Errorf("profile %s requires the category vital-signs", r.Profile)
	}
	return nil
}
