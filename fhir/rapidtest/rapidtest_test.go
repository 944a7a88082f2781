package rapidtest

import (
	"flag"
	"testing"
)

func TestFew(t *testing.T) {
	for _, c := range []struct {
		args  []string
		short bool
		want  int
	}{
		{nil, false, 40}, {nil, true, 8}, {[]string{"-rapid.checks=100"}, false, 100},
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
