package definitions

import (
	_ "embed"
	"strconv"
	"strings"
	"sync"
)

//go:embed profiles.txt.gz
var profilesCompressed []byte

// Profile is a StructureDefinition that constrains a type.
type Profile struct {
	URL     string
	Version string // of the guide: 4.0.1 for the profiles of R4 itself
	Type    string // the constrained type
	Base    string // URL of the constrained type or profile
	// Constraints lists the constraints of the differential in its order.
	Constraints []Constraint

	guide *guide
}

// Constraint is a constraint of a profile on an element.
type Constraint struct {
	// ID is the id of the element without the type, such as
	// component:systolic.code. It is empty for the root.
	ID string
	// Min and Max are the cardinality. They are -1 if the constraint does not set them;
	// a Max of Unbounded stands for *.
	Min, Max    int
	Types       []ConstraintType // empty if not constrained
	MustSupport bool
	// Binds is set if the constraint sets the binding. Codes is the binding if it is
	// required, and Extensible if it is extensible. Both are nil if the codes are not
	// known.
	Binds             bool
	Codes, Extensible *ValueSet
	// Fixed and Pattern are JSON values, or empty.
	Fixed, Pattern string
	Slicing        *Slicing // nil if the constraint does not define slices
	Invariants     []*Invariant
}

// Unbounded is the maximum cardinality *.
const Unbounded = 1 << 30

// ConstraintType is an allowed type of an element.
type ConstraintType struct {
	Name     string
	Targets  *Targets // of a Reference; nil if all are allowed
	Profiles []string // URLs of profiles of the type
}

// Slicing says how the values of an element are assigned to slices.
type Slicing struct {
	Closed        bool // values outside of the slices are not allowed
	Discriminator []Discriminator
}

// Discriminator is one criterion: the value at Path decides by its value, pattern
// or type.
type Discriminator struct{ Type, Path string }

// guide is a version of a guide.
type guide struct {
	version   string
	byURL     map[string]*Profile
	valueSets map[string]*ValueSet
	fallback  *guide // the profiles of R4
}

func (g *guide) profile(url string) *Profile {
	for ; g != nil; g = g.fallback {
		if p := g.byURL[url]; p != nil {
			return p
		}
	}
	return nil
}

// Profiles holds the profiles of R4 on Observation and of US Core.
type Profiles struct {
	byURL map[string][]*Profile // the newest version first
	list  []*Profile
}

// KnownProfiles returns the profiles. It decodes them on first use.
var KnownProfiles = sync.OnceValue(func() *Profiles {
	text, err := inflate(profilesCompressed)
	if err == nil {
		var p *Profiles
		if p, err = decodeProfiles(text, R4()); err == nil {
			return p
		}
	}
	panic("definitions: the embedded profiles are damaged: " + err.Error()) // a fault of the build
})

// All lists the profiles. The slice is shared and must not be changed.
func (p *Profiles) All() []*Profile { return p.list }

// Lookup returns the versions of a profile, the newest first. The canonical URL
// may end in a version, as in url|6.1.0.
func (p *Profiles) Lookup(canonical string) []*Profile {
	url, version, versioned := strings.Cut(canonical, "|")
	all := p.byURL[url]
	if !versioned {
		return all
	}
	for i := range all {
		if all[i].Version == version {
			return all[i : i+1 : i+1]
		}
	}
	return nil
}

// Related returns a profile as it is seen from p: of the same guide, or of R4. It
// returns nil if it is not known.
func (p *Profile) Related(url string) *Profile {
	url, _, _ = strings.Cut(url, "|")
	return p.guide.profile(url)
}

// Lineage returns the profiles that p is derived from and p itself, the most
// general first.
func (p *Profile) Lineage() []*Profile {
	var out []*Profile
	for at := p; at != nil && len(out) < 16; at = at.Related(at.Base) {
		out = append([]*Profile{at}, out...)
	}
	return out
}

func decodeProfiles(text string, base *Set) (*Profiles, error) {
	out := &Profiles{byURL: map[string][]*Profile{}}
	d := &decoder{targets: map[string]*Targets{}}
	var f fields
	var r4, current *guide
	var p *Profile
	for text != "" {
		text = f.read(text)
		switch {
		case f.is('G', 1):
			current = &guide{version: f.field[0], byURL: map[string]*Profile{}, valueSets: map[string]*ValueSet{},
				fallback: r4}
			if r4 == nil {
				r4 = current
			}
			d.set, d.invariants = &Set{valueSets: current.valueSets}, nil
		case current == nil:
			return nil, errRecord
		case f.is('V', 2):
			d.valueSet(&f)
		case f.is('I', 4):
			d.invariants = append(d.invariants, &Invariant{Key: f.field[0], Error: f.field[1] == "error",
				Expression: f.field[2], Human: f.field[3]})
		case f.is('P', 3):
			p = &Profile{URL: f.field[0], Version: current.version, Type: f.field[1], Base: f.field[2], guide: current}
			current.byURL[p.URL] = p
			out.byURL[p.URL] = append(out.byURL[p.URL], p)
			out.list = append(out.list, p)
		case f.is('C', 8) && p != nil:
			c, err := d.constraint(&f, current, base)
			if err != nil {
				return nil, err
			}
			p.Constraints = append(p.Constraints, c)
		default:
			return nil, errRecord
		}
	}
	return out, nil
}

func (d *decoder) constraint(f *fields, g *guide, base *Set) (c Constraint, err error) {
	c = Constraint{ID: f.field[0], Min: -1, Max: -1, MustSupport: f.field[4] == "M"}
	if f.field[1] != "" {
		if c.Min, err = strconv.Atoi(f.field[1]); err != nil {
			return c, errRecord
		}
	}
	switch f.field[2] {
	case "":
	case "*":
		c.Max = Unbounded
	default:
		if c.Max, err = strconv.Atoi(f.field[2]); err != nil {
			return c, errRecord
		}
	}
	if f.field[3] != "" {
		for t := range strings.SplitSeq(f.field[3], " ") {
			c.Types = append(c.Types, d.constraintType(t))
		}
	}
	if url := f.field[5]; url != "" {
		url, extensible := strings.CutPrefix(url, "+")
		set := g.valueSets[url]
		if set == nil && g.fallback != nil {
			set = g.fallback.valueSets[url]
		}
		if set == nil {
			set = base.ValueSet(url)
		}
		c.Binds = true
		if extensible {
			c.Extensible = set
		} else {
			c.Codes = set
		}
	}
	if v := f.field[6]; v != "" && v[0] == '=' {
		c.Fixed = v[1:]
	} else if v != "" {
		c.Pattern = v[1:]
	}
	slicing, invariants, _ := strings.Cut(f.field[7], "\t")
	if slicing != "" {
		rules, discriminators, _ := strings.Cut(slicing, " ")
		c.Slicing = &Slicing{Closed: rules == "closed"}
		for x := range strings.SplitSeq(discriminators, " ") {
			if typ, path, ok := strings.Cut(x, ":"); ok {
				c.Slicing.Discriminator = append(c.Slicing.Discriminator, Discriminator{typ, path})
			}
		}
	}
	c.Invariants, err = d.numbered(invariants)
	return c, err
}

func (d *decoder) constraintType(s string) ConstraintType {
	parts := strings.Split(s, "@")
	name, targets, _ := strings.Cut(parts[0], "|")
	t := ConstraintType{Name: name, Profiles: parts[1:]}
	if targets != "" && targets != "Resource" {
		if d.targets[targets] == nil {
			d.targets[targets] = &Targets{strings.Split(targets, "|")}
		}
		t.Targets = d.targets[targets]
	}
	return t
}
