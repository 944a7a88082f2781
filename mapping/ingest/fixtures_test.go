package ingest

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pulsegate/fhir"
	"pulsegate/mapping/sample"
)

// TestVendorTestdata ingests the testdata of the adapters and checks that the
// table accepts the units and codes that adapters emit. Only metrics without a
// row and items that are broken on purpose may be in quarantine, and a second
// delivery must change nothing.
func TestVendorTestdata(t *testing.T) {
	for _, vendor := range []string{"apple", "fitbit", "oura"} {
		w := newWorld(t)
		round := func() (sum Summary) {
			root := filepath.Join("..", "..", "adapters", vendor, "testdata")
			err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
				if err != nil || d.IsDir() || strings.HasSuffix(path, ".golden") ||
					strings.HasSuffix(path, "canaries.txt") || strings.Contains(path, "fuzz") {
					return err
				}
				body, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				format := filepath.Base(filepath.Dir(path))
				one, err := w.pipeline.Run(t.Context(),
					Request{Patient: "p1", Vendor: vendor, Format: format, Name: filepath.Base(path),
						Body: strings.NewReader(string(body))})
				if err != nil && fhir.KindOf(err) != fhir.Invalid {
					t.Errorf("%s: %v", path, err)
				}
				sum.Add(one)
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			return sum
		}
		if first := round(); first.Created == 0 {
			t.Errorf("%s: nothing was created: %+v", vendor, first)
		}
		if again := round(); again.Created != 0 || again.Updated != 0 {
			t.Errorf("%s: the second round created %d and updated %d", vendor, again.Created, again.Updated)
		}
		err := w.pipeline.List(t.Context(), "p1", func(it *Item) bool {
			if it.Sample != nil && it.Reason != sample.ReasonUnmapped && it.Reason != sample.ReasonUnknownZone {
				t.Errorf("%s: %s %s %s: %s", vendor, it.Reason, it.Metric, it.Detail, it.Sample)
			} else {
				t.Logf("%s: %s %s %s", vendor, it.Reason, it.Metric, it.Detail)
			}
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
