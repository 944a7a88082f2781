package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"sort"
	"text/tabwriter"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"pulsegate/cmd/internal/admin"
	"pulsegate/fhir/audit"
	"pulsegate/mapping/ingest"
)

func ingestCommand() *cobra.Command {
	c := &cobra.Command{Use: "ingest FILE…", Short: "Read vendor payloads into the store", Args: cobra.MinimumNArgs(1)}
	r := operator(c)
	patient := c.Flags().String("patient", "", "patient id")
	vendor := c.Flags().String("vendor", "", "apple, fitbit or oura")
	format := c.Flags().String("format", "", "format, or format:type where the body does not tell its type (default: found by itself)")
	need(c, "patient", "vendor")
	c.RunE = func(c *cobra.Command, args []string) error {
		var sum ingest.Summary
		for _, name := range args {
			one, err := ingestFile(c.Context(), r, name, url.Values{"patient": {*patient}, "vendor": {*vendor}, "format": {*format}})
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
	st, err := f.Stat()
	if err != nil {
		return out, err
	}
	if !st.Mode().IsRegular() {
		return out, fmt.Errorf("%s is not a file", name)
	}
	q.Set("name", filepath.Base(name))
	var body io.Reader = f
	if term.IsTerminal(int(os.Stderr.Fd())) {
		bar := progressbar.DefaultBytes(st.Size(), filepath.Base(name))
		body = io.TeeReader(f, bar)
	}
	return out, r.client().Send(ctx, "ingest", q, body, st.Size(), &out)
}

func printSummary(w io.Writer, s *ingest.Summary) {
	fmt.Fprintf(w, "read %d  created %d  updated %d  unchanged %d  quarantined %d  dropped %d  in %.1f s\n",
		s.Read, s.Created, s.Updated, s.Unchanged, s.Quarantined, s.Dropped, s.Seconds)
	var metrics []string
	for m := range s.ByMetric {
		metrics = append(metrics, m)
	}
	sort.Strings(metrics)
	for _, m := range metrics {
		b, err := json.Marshal(s.ByMetric[m])
		if err == nil {
			fmt.Fprintf(w, "  %-60s %s\n", m, b)
		}
	}
}

func quarantineCommand() *cobra.Command {
	list := &cobra.Command{Use: "list", Short: "What could not become a resource, and why", Args: cobra.NoArgs}
	lr := operator(list)
	patient := list.Flags().String("patient", "", "only this patient's")
	list.RunE = func(c *cobra.Command, _ []string) error {
		var out admin.Quarantine
		if err := lr.client().Call(c.Context(), "quarantine", url.Values{"patient": {*patient}}, nil, &out); err != nil {
			return err
		}
		return lr.print(out, func(w io.Writer) {
			for _, x := range out.Items {
				fmt.Fprintf(w, "%s  %s  %-6s  %-12s  %s  ×%d  %s\n", x.ID, x.Patient, x.Vendor, x.Reason, x.Metric, x.Count, x.Where)
			}
		})
	}
	show := &cobra.Command{Use: "show ID", Short: "One item with its raw payload", Args: cobra.ExactArgs(1)}
	sr := operator(show)
	show.RunE = func(c *cobra.Command, args []string) error {
		var out admin.QuarantineItem
		if err := sr.client().Call(c.Context(), "quarantine/show", url.Values{"id": {args[0]}}, nil, &out); err != nil {
			return err
		}
		return sr.print(out, func(w io.Writer) {
			fmt.Fprintf(w, "%s  patient %s  %s/%s  %s\nreason %s  %s\nwhere %s  seen %d times since %s\n\n%s\n", out.ID, out.Patient,
				out.Vendor, out.Format, out.Metric, out.Reason, out.Detail, out.Where, out.Count, out.FirstSeen.Format("2006-01-02 15:04:05Z07:00"), out.Raw)
		})
	}
	retry := &cobra.Command{Use: "retry", Short: "Map everything in quarantine again, with the metric table of today", Args: cobra.NoArgs}
	rr := operator(retry)
	retry.RunE = func(c *cobra.Command, _ []string) error {
		var out ingest.Summary
		if err := rr.client().Call(c.Context(), "quarantine/retry", nil, struct{}{}, &out); err != nil {
			return err
		}
		return rr.print(out, func(w io.Writer) { printSummary(w, &out) })
	}
	return group("quarantine", "Payload items that could not be mapped", list, show, retry)
}

func auditCommand() *cobra.Command {
	verify := &cobra.Command{Use: "verify", Short: "Recompute the audit log and find any change, drop or rollback", Args: cobra.NoArgs}
	r := operator(verify)
	checkpoint := verify.Flags().String("checkpoint", "", "file with an earlier checkpoint to hold the log against, too")
	verify.RunE = func(c *cobra.Command, _ []string) error {
		in := struct {
			Checkpoint string `json:"checkpoint,omitempty"`
		}{}
		if *checkpoint != "" {
			b, err := os.ReadFile(*checkpoint)
			if err != nil {
				return err
			}
			in.Checkpoint = string(b)
		}
		var out audit.Report
		if err := r.client().Call(c.Context(), "audit/verify", nil, in, &out); err != nil {
			return err
		}
		err := r.print(out, func(w io.Writer) {
			b, merr := json.MarshalIndent(out, "", "  ")
			if merr == nil {
				fmt.Fprintln(w, string(b))
			}
		})
		if err == nil && !out.OK {
			return errors.New("the audit log does not verify")
		}
		return err
	}
	return group("audit", "The tamper-evident audit log", verify)
}

func storeCommand() *cobra.Command {
	stat := &cobra.Command{Use: "stat", Short: "Sizes of the store", Args: cobra.NoArgs}
	r := operator(stat)
	stat.RunE = func(c *cobra.Command, _ []string) error {
		var out admin.StoreStat
		if err := r.client().Call(c.Context(), "store/stat", nil, nil, &out); err != nil {
			return err
		}
		return r.print(out, func(w io.Writer) {
			fmt.Fprintf(w, "%d resources  %d bytes on disk  commit %d  %d audit leaves\n", out.Resources, out.DiskBytes, out.Commit, out.AuditLeaves)
			fmt.Fprintf(w, "%s: %d bytes free, writes are refused below %d\n", out.Dir, out.FreeBytes, out.ReserveBytes)
			fmt.Fprintf(w, "%d compactions since the start, %d samples written again, %d series waiting\n", out.Compactions, out.Rewritten, out.Waiting)
			if len(out.Series) == 0 {
				return
			}
			t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
			fmt.Fprintln(t, "SAMPLES\tSERIES\tBLOCKS\tTAILS\tB/SAMPLE\tVENDOR\tCODE")
			for _, s := range out.Series {
				fmt.Fprintf(t, "%d\t%d\t%d\t%d\t%.2f\t%s\t%s\n", s.Samples, s.Series, s.Blocks, s.Tails, s.BytesPerSample, s.Vendor, s.Code)
			}
			if err := t.Flush(); err != nil { // the pipe is gone
				return
			}
		})
	}
	check := &cobra.Command{Use: "check", Short: "Read everything and hold index against data", Args: cobra.NoArgs}
	cr := operator(check)
	check.RunE = func(c *cobra.Command, _ []string) error {
		var out admin.StoreCheck
		if err := cr.client().Call(c.Context(), "store/check", nil, struct{}{}, &out); err != nil {
			return err
		}
		err := cr.print(out, func(w io.Writer) {
			for _, p := range out.Problems {
				fmt.Fprintln(w, p)
			}
			fmt.Fprintf(w, "%d problems\n", len(out.Problems))
		})
		if err == nil && len(out.Problems) > 0 {
			return errors.New("the store is not consistent")
		}
		return err
	}
	return group("store", "The embedded store", stat, check)
}
