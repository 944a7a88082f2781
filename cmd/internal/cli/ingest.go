package cli

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"pulsegate/adapters/vendors"
	"pulsegate/mapping/ingest"
)

func ingestCommand() *cobra.Command {
	c := &cobra.Command{Use: "ingest FILE…", Short: "Read vendor payloads into the store", Args: cobra.MinimumNArgs(1)}
	r := operator(c)
	patient := c.Flags().String("patient", "", "patient id")
	vendor := c.Flags().String("vendor", "", vendors.Codes())
	format := c.Flags().String("format", "",
		"format, or format:type if the payload does not name its type (default: detected)")
	delivery := c.Flags().StringArray("delivery", nil,
		"header of the original delivery, as NAME=VALUE (automation-aggregation=Days); may be repeated")
	need(c, "patient", "vendor")
	complete(c, "patient", patientIDs, r)
	values(c, "vendor", vendorCodes()...)
	c.RunE = func(c *cobra.Command, args []string) error {
		var sum ingest.Summary
		for _, name := range args {
			one, err := ingestFile(c.Context(), r, name,
				url.Values{"patient": {*patient}, "vendor": {*vendor}, "format": {*format}, "delivery": *delivery})
			sum.Add(one)
			if err != nil {
				if len(args) > 1 {
					err = fmt.Errorf("%s: %w", filepath.Base(name), err)
				}
				return err
			}
		}
		return r.print(sum, func(w io.Writer) { printSummary(w, &sum) })
	}
	return c
}

func ingestFile(ctx context.Context, r *remote, name string, q url.Values) (ingest.Summary, error) {
	var out ingest.Summary
	f, err := os.Open(name)
	if err != nil {
		return out, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return out, err
	}
	if !info.Mode().IsRegular() {
		return out, fmt.Errorf("%s is not a file", name)
	}
	q.Set("name", filepath.Base(name))
	var body io.Reader = f
	if term.IsTerminal(int(os.Stderr.Fd())) {
		bar := progressbar.DefaultBytes(info.Size(), filepath.Base(name))
		body = io.TeeReader(f, bar)
	}
	client, err := r.client()
	if err != nil {
		return out, err
	}
	return out, client.Send(ctx, "ingest", q, body, info.Size(), &out)
}

// printSummary prints the totals of a delivery and a table by metric.
func printSummary(w io.Writer, s *ingest.Summary) {
	fmt.Fprintf(w, "read %d  created %d  updated %d  unchanged %d  quarantined %d  dropped %d  in %.1f s\n",
		s.Read, s.Created, s.Updated, s.Unchanged, s.Quarantined, s.Dropped, s.Seconds)
	if s.LeftOut > 0 {
		fmt.Fprintf(w, "left out %d components that broke a rule or were not measured; the rest of each sample was stored\n", s.LeftOut)
	}
	if len(s.ByMetric) > 0 {
		fmt.Fprintln(w)
		t := newTable(w, "METRIC", "READ", "CREATED", "UPDATED", "UNCHANGED", "QUARANTINED", "DROPPED", "LEFT OUT")
		for _, m := range slices.Sorted(maps.Keys(s.ByMetric)) {
			c := s.ByMetric[m]
			t.row(m, c.Read, c.Created, c.Updated, c.Unchanged, c.Quarantined, c.Dropped, c.LeftOut)
		}
		if t.done() != nil {
			return // the reader has closed the pipe
		}
	}
	if s.Quarantined > 0 || s.LeftOut > 0 {
		fmt.Fprintln(w, "\nnext: see why with `pulsegate quarantine list`")
	}
}
