package rapidtest

import (
	"flag"
	"testing"

	"pgregory.net/rapid"
)

func TestFew(t *testing.T) {
	for _, c := range []struct {
		args  []string
		short bool
		want  int
	}{
		{nil, false, 40}, {nil, true, 40}, {[]string{"-rapid.checks=100"}, false, 100},
		{[]string{"-rapid.checks=5000"}, true, 5000},
	} {
		flags := flag.NewFlagSet("", flag.ContinueOnError)
		checks := flags.Int("rapid.checks", 100, "")
		if err := flags.Parse(c.args); err != nil {
			t.Fatal(err)
		}
		if err := few(flags, 40, 8, c.short); err != nil || *checks != c.want {
			t.Errorf("%v short=%v: %d checks, want %d (%v)", c.args, c.short, *checks, c.want, err)
		}
	}
	if few(flag.NewFlagSet("", flag.ContinueOnError), 1, 1, false) == nil {
		t.Error("a package without property tests is not told apart")
	}
}

// TestMain makes three cases the default, and two under -short.
func TestMain(m *testing.M) { Main(m, 3, 2) }

// TestCases counts the cases that rapid tries.
func TestCases(t *testing.T) {
	n, want := 0, 3
	rapid.Check(t, func(*rapid.T) { n++ })
	if testing.Short() {
		want = 2
	}
	if n != want {
		t.Errorf("%d cases, want %d", n, want)
	}
}

func TestSeed(t *testing.T) {
	for _, c := range []struct {
		given uint64
		env   string
		want  uint64 // 0 is a random one
	}{{7, "8", 7}, {0, "8", 8}, {0, "0", 0}, {0, "", 0}, {0, "x", 0}} {
		t.Setenv("RAPID_SEED", c.env)
		if got := Seed(c.given); got == 0 || c.want != 0 && got != c.want || c.want == 0 && got == 8 {
			t.Errorf("Seed(%d) with RAPID_SEED=%q is %d", c.given, c.env, got)
		}
	}
}
