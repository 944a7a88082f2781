package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/agnivade/levenshtein"
)

// notSettings are variables with our prefix that are read elsewhere: the name
// of the YAML file by the command line, the others by the tests.
var notSettings = []string{"PULSEGATE_CONFIG", "PULSEGATE_FIXTURES", "PULSEGATE_BROWSER", "PULSEGATE_SHOTS"}

// CheckEnviron refuses a PULSEGATE_… variable that sets nothing, since a
// misspelled setting would silently leave its default in force. Variables that
// begin with PULSEGATE_TEST_ are left to tests. environ is in the form of
// os.Environ.
func CheckEnviron(environ []string) error {
	known := slices.Clone(notSettings)
	if err := each(&Config{}, func(f field) error { known = append(known, f.env()); return nil }); err != nil {
		return err
	}
	for _, e := range environ {
		name, _, _ := strings.Cut(e, "=")
		if !strings.HasPrefix(name, "PULSEGATE_") || strings.HasPrefix(name, "PULSEGATE_TEST_") ||
			slices.Contains(known, name) {
			continue
		}
		if s := closest(name, known); s != "" {
			return fmt.Errorf("environment: %s is not a setting; did you mean %s?", name, s)
		}
		return fmt.Errorf("environment: %s is not a setting; `pulsegate config` lists them all", name)
	}
	return nil
}

// closest returns the candidate with the fewest edits from name, or "" when
// none is within a third of its length.
func closest(name string, candidates []string) string {
	best, least := "", len(strings.TrimPrefix(name, "PULSEGATE_"))/3+1
	for _, c := range candidates {
		if d := levenshtein.ComputeDistance(name, c); d < least {
			best, least = c, d
		}
	}
	return best
}
