package r4

import (
	"strings"
	"sync"
)

//go:generate go run ./gen -definitions ../../../shared/fixtures/r4/hl7-core-4.0.1 -out tables_gen.go -types ../types_gen.go

// elementDefinition is a top-level element of a resource type. For a choice element, base
// is the name without the type: "value" for "valueQuantity".
type elementDefinition struct {
	typ, name, base    string
	mandatory, summary bool
}

type lookup struct {
	elements map[string]bool
	top      map[string]map[string]*elementDefinition
}

// names returns the generated tables as sets, built on first use.
var names = sync.OnceValue(func() *lookup {
	l := &lookup{elements: set(elementNames), top: map[string]map[string]*elementDefinition{}}
	for i := range topLevel {
		e := &topLevel[i]
		if l.top[e.typ] == nil {
			l.top[e.typ] = map[string]*elementDefinition{}
		}
		l.top[e.typ][e.name] = e
	}
	return l
})

func set(words string) map[string]bool {
	m := map[string]bool{}
	for _, w := range strings.Fields(words) {
		m[w] = true
	}
	return m
}
