package guide

import (
	"embed"
	"slices"
	"strings"
	"sync"

	"pulsegate/fhir"
)

//go:generate go run ./gen -definitions ../../../shared/fixtures/r4/hl7-core-4.0.1

//go:embed resources/*.json
var files embed.FS

// Version is the version of the guide and of its resources.
const Version = "1.0.0"

// Canonical URLs of the profiles that Observations of wearables claim.
const (
	SleepSession         = structure + "sleep-session"
	SleepStage           = structure + "sleep-stage"
	HeartRateVariability = structure + "heart-rate-variability"
	WellnessScore        = structure + "wellness-score"

	structure = fhir.Canonical + "/StructureDefinition/"
)

// Resource is a conformance resource. Its JSON has no meta.
type Resource struct {
	Type, ID, URL, Version string
	JSON                   []byte
}

// Resources returns the resources of this package, sorted by type and id. They do not
// depend on the installation. The bytes are shared and must not be changed.
func Resources() []Resource { return slices.Clone(static()) }

// static reads the embedded files. Their names hold the type and the id.
var static = sync.OnceValue(func() (out []Resource) {
	entries, _ := files.ReadDir("resources") // an embedded folder cannot fail
	for _, e := range entries {
		typ, id, _ := strings.Cut(strings.TrimSuffix(e.Name(), ".json"), "-")
		body, _ := files.ReadFile("resources/" + e.Name())
		out = append(out, Resource{typ, id, fhir.Canonical + "/" + typ + "/" + id, Version, body})
	}
	slices.SortFunc(out, byTypeAndID)
	return out
})

func byTypeAndID(a, b Resource) int {
	if c := strings.Compare(a.Type, b.Type); c != 0 {
		return c
	}
	return strings.Compare(a.ID, b.ID)
}
