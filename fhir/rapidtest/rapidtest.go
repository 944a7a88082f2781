// Package rapidtest sets how many cases the property tests of a package try by default.
package rapidtest

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
)

// Main runs the tests of a package with checks as the default of -rapid.checks, or short
// under -short, which is how they run under the race detector. A TestMain calls it.
func Main(m *testing.M, checks, short int) {
	flag.Parse()
	if err := few(flag.CommandLine, checks, short, testing.Short()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	os.Exit(m.Run())
}

// fifth undoes that rapid tries a fifth of -rapid.checks under -short.
const fifth = 5

// few sets the flag unless the command line does.
func few(flags *flag.FlagSet, checks, short int, isShort bool) error {
	given := false
	flags.Visit(func(f *flag.Flag) { given = given || f.Name == "rapid.checks" })
	if given {
		return nil
	}
	if isShort {
		checks = short * fifth
	}
	return flags.Set("rapid.checks", strconv.Itoa(checks))
}

// Seed returns the seed of a random test that does not use rapid: given, or the RAPID_SEED
// of the environment, or a random one. The first that is not 0 counts.
func Seed(given uint64) uint64 {
	if given != 0 {
		return given
	}
	if n, err := strconv.ParseUint(os.Getenv("RAPID_SEED"), 10, 64); err == nil && n != 0 {
		return n
	}
	return rand.Uint64()
}
