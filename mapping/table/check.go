package table

import (
	"fmt"
	"slices"
	"strings"

	"pulsegate/fhir/element"
	"pulsegate/mapping/decimal"
)

// check enforces the rules that the JSON Schema cannot express on a vendor's file.
func (t *Table) check(file string, v *Vendor) error {
	seen := map[string]bool{}
	for i := range v.Rows {
		r := &v.Rows[i]
		for _, m := range append([]string{r.Metric}, r.Also...) {
			if seen[m] {
				return fmt.Errorf("%s: row %s: %s has two rows", file, r.Metric, m)
			}
			seen[m] = true
		}
		if err := t.checkRow(v, r); err != nil {
			return fmt.Errorf("%s: row %s: %w", file, r.Metric, err)
		}
	}
	return nil
}

// checkRow enforces these rules on one row of v.
func (t *Table) checkRow(v *Vendor, r *Row) error {
	for i, value := range []string{r.Name, r.Trust, r.Category, r.Shape} {
		if value == "" {
			return fmt.Errorf("the field %s is missing", requiredOfRow[i])
		}
	}
	want := TrustLocal
	if len(r.Codes) > 0 && !strings.HasPrefix(r.Codes[0], "measures ") {
		want = TrustSure
	} else if len(r.Doubtful) > 0 {
		want = TrustDoubtful
	}
	if r.Trust != want {
		return fmt.Errorf("trust is %s, but its codes make it %s", r.Trust, want)
	}
	if r.Shape == ShapeQuantity && r.Unit == "" {
		return fmt.Errorf("a quantity needs a unit")
	}
	if r.SegmentsOf != "" && !slices.ContainsFunc(v.Rows,
		func(other Row) bool { return other.Metric == r.SegmentsOf }) {
		return fmt.Errorf("segmentsOf does not name a row")
	}
	if err := checkRate(r); err != nil {
		return err
	}
	if err := checkRange(r); err != nil {
		return err
	}
	if err := checkScales(r); err != nil {
		return err
	}
	if err := t.checkNames(r.Unit, r.Codes, r.Doubtful, r.Series); err != nil {
		return err
	}
	named := map[string]bool{}
	for j := range r.Components {
		c := &r.Components[j]
		switch {
		case named[c.Name]:
			return fmt.Errorf("component %s: there are two of this name", c.Name)
		case c.Display == "":
			return fmt.Errorf("component %s: the field display is missing", c.Name)
		}
		named[c.Name] = true
		if err := t.checkNames(c.Unit, c.Codes, c.Doubtful); err != nil {
			return fmt.Errorf("component %s: %w", c.Name, err)
		}
	}
	for j := range r.Variants {
		x := &r.Variants[j]
		if err := t.checkNames(x.Unit, x.Codes, x.Doubtful); err != nil {
			return fmt.Errorf("variant %d: %w", j+1, err)
		}
	}
	return checkProfile(r)
}

// checkScales requires that factors are numbers.
func checkScales(r *Row) error {
	for channel, factor := range r.Scale {
		if _, ok := decimal.NewConversion(factor, ""); !ok {
			return fmt.Errorf("the scale of %s is not a number", channel)
		}
	}
	for i := range r.Components {
		c := &r.Components[i]
		for channel, factor := range c.Scale {
			if _, ok := decimal.NewConversion(factor, ""); !ok {
				return fmt.Errorf("component %s: the scale of %s is not a number", c.Name, channel)
			}
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
	if len(r.Range) == 2 && r.Range[0] > r.Range[1] {
		return fmt.Errorf("the range ends before it begins")
	}
	for i := range r.Components {
		c := &r.Components[i]
		if c.Unit != "" && len(c.Range) != 2 {
			return fmt.Errorf("component %s: a unit needs a range", c.Name)
		}
		if len(c.Range) == 2 && c.Range[0] > c.Range[1] {
			return fmt.Errorf("component %s: the range ends before it begins", c.Name)
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
	for _, url := range r.Profiles {
		if name, ok := strings.CutPrefix(url, element.StructureDefinition); ok && Profiles[name].Code != "" {
			return fmt.Errorf("profiles: %s is a base vital-signs profile, which the field profile claims", name)
		}
	}
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
