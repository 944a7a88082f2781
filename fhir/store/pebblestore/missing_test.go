package pebblestore

import (
	"context"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
)

// TestPresentWithoutRow searches by :missing for elements that are present and have nothing
// to compare, and therefore no index row: a date that is given in words, a code without a
// code, a reference without a reference.
func TestPresentWithoutRow(t *testing.T) {
	d := open(t, vfs.NewMem())
	defer d.Close()
	for id, body := range map[string]string{
		"words": `"performedString":"in spring","code":{"text":"Walk"},"encounter":{"display":"a visit"}`,
		"facts": `"status":"completed","performedDateTime":"2026-01-02","code":{"coding":[{"system":"urn:s","code":"1"}]},` +
			`"encounter":{"reference":"Encounter/e1"}`,
		"none": `"subject":{"reference":"Patient/p1"}`,
	} {
		w := store.Write{Resource: fhir.Resource{Type: "Procedure", ID: id,
			JSON: []byte(fhir.Prefix("Procedure", id) + "}," + body + "}")}}
		if _, err := d.Commit(context.Background(), &store.Batch{Writes: []store.Write{w}}); err != nil {
			t.Fatal(err)
		}
	}
	for raw, want := range map[string][]string{
		"date:missing=false":      {"facts", "words"},
		"date:missing=true":       {"none"},
		"code:missing=false":      {"facts", "words"},
		"encounter:missing=false": {"facts", "words"},
		"status:missing=false":    {"facts"},
		"status:missing=true":     {"none", "words"},
		"code=urn:s|":             {"facts"},
	} {
		got, _ := looked(t, d, "Procedure", raw, 0)
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", raw, got, want)
		}
	}
}
