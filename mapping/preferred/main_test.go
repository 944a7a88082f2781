package preferred

import (
	"flag"
	"os"
	"testing"
)

// TestMain sets the default to few cases. Flags override it.
func TestMain(m *testing.M) {
	if f := flag.Lookup("rapid.checks"); f != nil {
		if err := f.Value.Set("25"); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}
