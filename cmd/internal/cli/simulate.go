package cli

import (
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"pulsegate/adapters/simulate"
	"pulsegate/cmd/internal/admin"
	"pulsegate/cmd/internal/simulation"
)

// simulateFlags holds the flags of `pulsegate simulate`.
type simulateFlags struct {
	listen, dir, start, faults string
	server                     string
	seed                       uint64
	wearers, history           int
	speed                      float64
	push, pushKeyFile          string
}

func simulateCommand() *cobra.Command {
	c := &cobra.Command{Use: "simulate", Args: cobra.NoArgs,
		Short: "Serve simulated clouds of vendors, with invented wearers",
		Long: "Serve simulated clouds of Oura, Google Health and Withings with invented wearers, to try connections of\n" +
			"devices without accounts at the vendors. The command writes the settings for a server into --dir and prints how to start it.\n\n" +
			"Data, revisions and faults follow from --seed. With --speed over 1, the simulated time begins in the past and\n" +
			"runs until it has caught up with the clock. Grants end when the command ends.\n\n" +
			"Faults are rates per request, event or month: all, outage, drop, slow, ratelimit, emptypage, lapse, losttoken,\n" +
			"expire, duplicate, reorder, lostevent, unexpected."}
	var f simulateFlags
	c.Flags().StringVar(&f.listen, "listen", "127.0.0.1:8095", "address to listen on; port 0 selects a free port")
	c.Flags().StringVar(&f.server, "server", "http://localhost:8080",
		"base URL of the server that connects to the clouds; its callback is registered there")
	c.Flags().StringVar(&f.dir, "dir", "simulated-clouds", "directory for the settings and secrets")
	c.Flags().Uint64Var(&f.seed, "seed", 1, "seed of all data and faults")
	c.Flags().IntVar(&f.wearers, "wearers", 10, "number of wearers")
	c.Flags().Float64Var(&f.speed, "speed", 1, "speed of the simulated time until it has caught up with the clock")
	c.Flags().StringVar(&f.start, "start", "",
		"simulated time at the start, as 2026-11-01 or RFC 3339 (default: now, or two days ago with --speed)")
	c.Flags().IntVar(&f.history, "history", 30, "number of days with data before the start")
	c.Flags().StringVar(&f.faults, "faults", "", "rates of faults: all=0.01,outage=0.05")
	c.Flags().StringVar(&f.push, "push", "",
		"address that a simulated phone pushes to: https://HOST/ingest/apple/health-auto-export")
	c.Flags().StringVar(&f.pushKeyFile, "push-key-file", "", "file with the push key of the phone")
	c.RunE = func(c *cobra.Command, _ []string) error {
		o, err := f.options(time.Now)
		if err != nil {
			return err
		}
		s, err := simulation.New(o)
		if err != nil {
			return err
		}
		l, err := net.Listen("tcp", f.listen)
		if err != nil {
			return err
		}
		base := "http://" + l.Addr().String()
		file, err := s.WriteSettings(base)
		if err != nil {
			return err
		}
		printSimulation(c.OutOrStdout(), base, file, o.Clock.Now())
		return s.Run(c.Context(), l)
	}
	return c
}

// options returns the options of the simulation. now returns the time of the clock.
func (f *simulateFlags) options(now func() time.Time) (simulation.Options, error) {
	o := simulation.Options{Dir: f.dir, Seed: f.seed, Wearers: f.wearers, Wall: now, Server: f.server, Push: f.push}
	if f.speed < 1 || f.speed > 1e6 {
		return o, admin.Advise(fmt.Errorf("--speed %g is not between 1 and 1000000", f.speed), "use --speed 60")
	}
	if f.history < 0 || f.history > 3660 {
		return o, admin.Advise(fmt.Errorf("--history %d is not between 0 and 3660 days", f.history), "use --history 30")
	}
	start := now()
	if f.speed > 1 {
		start = start.Add(-48 * time.Hour)
	}
	if f.start != "" {
		t, err := time.Parse(time.RFC3339, f.start)
		if err != nil {
			t, err = time.ParseInLocation(time.DateOnly, f.start, time.Local)
		}
		if err != nil || t.After(now()) {
			return o, admin.Advise(fmt.Errorf("--start %s is not a time in the past", f.start),
				"write it as 2026-11-01 or 2026-11-01T06:00:00Z")
		}
		start = t
	}
	o.Clock, o.Start = simulate.CatchUp(now, start, f.speed), start.AddDate(0, 0, -f.history)
	var err error
	if o.Faults, err = simulate.ParseFaults(f.faults); err != nil {
		return o, admin.Advise(fmt.Errorf("--faults: %w", err), "use --faults all=0.01")
	}
	if (f.push == "") != (f.pushKeyFile == "") {
		return o, admin.Advise(fmt.Errorf("--push and --push-key-file are needed together"),
			"make a key with `pulsegate push-key create`")
	}
	if f.pushKeyFile != "" {
		b, err := os.ReadFile(f.pushKeyFile)
		if err != nil {
			return o, err
		}
		o.PushKey = strings.TrimSpace(string(b))
	}
	return o, nil
}

// printSimulation prints how a server connects to the clouds.
func printSimulation(w io.Writer, base, file string, now time.Time) {
	fmt.Fprintf(w, "Simulated clouds at %s/oura, %s/google and %s/withings; the simulated time is %s.\n\n"+
		"Add these settings to the server:\n\n  vendors: %s\n  egress-allow: [127.0.0.0/8]\n\n"+
		"or start it with\n\n  PULSEGATE_VENDORS=%s PULSEGATE_EGRESS_ALLOW=127.0.0.0/8 pulsegate serve --demo\n",
		base, base, base, now.Format(time.RFC3339), file, file)
}
