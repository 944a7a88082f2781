package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/agnivade/levenshtein"
)

// notSettings lists variables with the prefix PULSEGATE_ that are not settings. The
// command line reads PULSEGATE_CONFIG, and the tests read the others.
var notSettings = []string{"PULSEGATE_CONFIG", "PULSEGATE_FIXTURES", "PULSEGATE_BROWSER", "PULSEGATE_SHOTS"}

// CheckEnviron returns an error if environ, in the form of os.Environ, contains an
// unknown PULSEGATE_… variable: a misspelled setting would silently keep its
// default. Variables that begin with PULSEGATE_TEST_ are reserved for tests.
func CheckEnviron(environ []string) error {
	names := slices.Clone(notSettings)
	if err := each(&Config{}, func(f field) error { names = append(names, f.env()); return nil }); err != nil {
		return err
	}
	for _, e := range environ {
		name, _, _ := strings.Cut(e, "=")
		if !strings.HasPrefix(name, "PULSEGATE_") || strings.HasPrefix(name, "PULSEGATE_TEST_") ||
			slices.Contains(names, name) {
			continue
		}
		if s := closest(name, names); s != "" {
			return fmt.Errorf("environment: %s is not a setting; did you mean %s?", name, s)
		}
		return fmt.Errorf("environment: %s is not a setting; `pulsegate config` lists them all", name)
	}
	return nil
}

// closest returns the candidate with the smallest edit distance from name, or "" if
// every distance exceeds a third of the length of name.
func closest(name string, candidates []string) string {
	best, least := "", len(strings.TrimPrefix(name, "PULSEGATE_"))/3+1
	for _, c := range candidates {
		if d := levenshtein.ComputeDistance(name, c); d < least {
			best, least = c, d
		}
	}
	return best
}
