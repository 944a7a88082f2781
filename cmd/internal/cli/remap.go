package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"pulsegate/adapters/vendors"
	"pulsegate/cmd/internal/admin"
	"pulsegate/mapping/ingest"
)

func remapCommand() *cobra.Command {
	c := &cobra.Command{Use: "remap", Args: cobra.NoArgs,
		Short: "Map stored samples again, with the mapping packs that the server has loaded",
		Long: "Map the stored samples of a vendor again. Observations whose mapping has changed get a new version; the\n" +
			"others stay as they are. With --dry-run, only show what would change. The job goes on if the command is\n" +
			"interrupted, and after a restart of the server; `pulsegate remap cancel` ends it. Running the command again\n" +
			"continues a job that failed, and otherwise begins anew."}
	r := operator(c)
	var in admin.Remap
	flags := c.Flags()
	flags.StringVar(&in.Vendor, "vendor", "", vendors.Codes())
	flags.StringArrayVar(&in.Metrics, "metric", nil, "only this metric of the vendor; may be repeated")
	flags.StringVar(&in.Patient, "patient", "", "only for this patient")
	since := flags.String("since", "", "only samples from this day or instant on (2026-01-31 or RFC 3339)")
	flags.BoolVar(&in.DryRun, "dry-run", false, "show the differences and write nothing")
	flags.IntVar(&in.Limit, "limit", 0, "end after this number of changes (default: no limit)")
	flags.IntVar(&in.Examples, "examples", 5, "number of examples that a dry run shows, with data of patients")
	need(c, "vendor")
	values(c, "vendor", vendorCodes()...)
	complete(c, "patient", patientIDs, r)
	c.RunE = func(c *cobra.Command, _ []string) error {
		if !in.DryRun {
			in.Examples = 0
		}
		var err error
		if in.Since, err = parseSince(*since); err != nil {
			return err
		}
		client, err := r.client()
		if err != nil {
			return err
		}
		job, err := followRemap(c, client, &in)
		if err != nil {
			return err
		}
		return r.print(job, func(w io.Writer) { printRemap(w, job) })
	}
	c.AddCommand(remapStatusCommand(), remapCancelCommand())
	return c
}

// parseSince returns the start of a day in UTC, or an instant.
func parseSince(text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if at, err := time.Parse(layout, text); err == nil {
			return at, nil
		}
	}
	return time.Time{}, admin.Advise(fmt.Errorf("--since %s is neither a day nor an instant", text),
		"write the day as 2026-01-31")
}

// followRemap runs a job and shows its progress on stderr.
func followRemap(c *cobra.Command, client *admin.Client, in *admin.Remap) (job *ingest.RemapJob, err error) {
	errs := c.ErrOrStderr()
	end := "\n"
	if f, ok := errs.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		end = "\r"
	}
	shown := ""
	err = client.Stream(c.Context(), "remap", in, func(raw json.RawMessage) error {
		job = &ingest.RemapJob{}
		if err := json.Unmarshal(raw, job); err != nil {
			return err
		}
		if line := progressOf(job); line != shown {
			shown = line
			fmt.Fprint(errs, line, end)
		}
		return nil
	})
	if end == "\r" && shown != "" {
		fmt.Fprintln(errs)
	}
	if c.Context().Err() != nil && !in.DryRun {
		return nil, admin.Advise(fmt.Errorf("the command was interrupted; the job goes on"),
			"see `pulsegate remap status`, or end the job with `pulsegate remap cancel --vendor "+in.Vendor+"`")
	}
	if err == nil && job == nil {
		err = fmt.Errorf("the server has sent no answer")
	}
	return job, err
}

func progressOf(job *ingest.RemapJob) string {
	r := &job.Report
	return fmt.Sprintf("%s: patients %d  read %d  changed %d  replaced %d", job.Status, r.Patients, r.Read, r.Changed,
		r.Replaced)
}

func remapStatusCommand() *cobra.Command {
	c := &cobra.Command{Use: "status", Short: "List the latest job of each vendor", Args: cobra.NoArgs}
	r := operator(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		var out admin.RemapJobs
		if err := r.call(c.Context(), "remap", nil, nil, &out); err != nil {
			return err
		}
		return r.list(out, []string{"VENDOR", "STATUS", "REASON", "PATIENTS", "READ", "CHANGED", "REPLACED", "STARTED",
			"UPDATED", "BY", "PACKS"}, func(t *table) {
			for i := range out.Jobs {
				j := &out.Jobs[i]
				t.row(j.Vendor, j.Status, j.Reason, j.Report.Patients, j.Report.Read, j.Report.Changed,
					j.Report.Replaced,
					j.Started, j.Updated, j.By, j.Packs)
			}
		})
	}
	return c
}

func remapCancelCommand() *cobra.Command {
	c := &cobra.Command{Use: "cancel", Args: cobra.NoArgs,
		Short: "End the job of a vendor; what it has changed stays"}
	r := operator(c)
	var in admin.VendorName
	c.Flags().StringVar(&in.Vendor, "vendor", "", vendors.Codes())
	need(c, "vendor")
	values(c, "vendor", vendorCodes()...)
	c.RunE = func(c *cobra.Command, _ []string) error {
		var out admin.VendorName
		if err := r.call(c.Context(), "remap/cancel", nil, in, &out); err != nil {
			return err
		}
		return r.print(out, func(w io.Writer) { fmt.Fprintln(w, out.Vendor) })
	}
	return c
}

// printRemap prints the result of a job.
func printRemap(w io.Writer, job *ingest.RemapJob) {
	r := &job.Report
	verb := ""
	if job.DryRun {
		verb = "would be "
	}
	fmt.Fprintf(w, "patients %d  read %d  %schanged %d  %sreplaced %d  unchanged %d\n", r.Patients, r.Read, verb,
		r.Changed, verb, r.Replaced, r.Unchanged)
	if r.Items > 0 {
		fmt.Fprintf(w, "quarantine: %d items tried, %d %smapped\n", r.Items, r.Released, verb)
	}
	if r.WithoutConsent > 0 || r.Unavailable > 0 {
		fmt.Fprintf(w, "not read: %d patients without a consent, %d deleted\n", r.WithoutConsent, r.Unavailable)
	}
	if r.Documents > 0 {
		become := "have become"
		if job.DryRun {
			become = "would become"
		}
		fmt.Fprintf(w, "%d samples of series %s documents: about %s of JSON\n", r.Documents, become, bytesText(r.Bytes))
	}
	if r.Limited {
		fmt.Fprintln(w, "the job has ended at its limit; more may change")
	}
	if len(r.ByMetric) == 0 {
		return
	}
	fmt.Fprintln(w)
	t := newTable(w, "METRIC", "READ", "CHANGED", "REPLACED", "UNCHANGED", "REJECTED", "SKIPPED", "KINDS")
	for _, name := range slices.Sorted(maps.Keys(r.ByMetric)) {
		c := r.ByMetric[name]
		t.row(name, c.Read, c.Changed, c.Replaced, c.Unchanged, countsText(c.Rejected), countsText(c.Skipped),
			countsText(c.Kinds))
	}
	if t.done() != nil {
		return // the reader has closed the pipe
	}
	for i := range r.Examples {
		e := &r.Examples[i]
		fmt.Fprintf(w, "\nObservation/%s  %s  patient %s\n", e.Observation, e.Metric, e.Patient)
		t := newTable(w, "ELEMENT", "BEFORE", "AFTER")
		for _, change := range e.Changes {
			t.row(change.Element, change.Before, change.After)
		}
		if t.done() != nil {
			return
		}
	}
}

// countsText returns counts as "name=count" in order of the names.
func countsText(counts map[string]int) []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		out = append(out, fmt.Sprintf("%s=%d", name, counts[name]))
	}
	return out
}

// bytesText returns a number of bytes in the largest unit in which it is at least 1.
func bytesText(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
}
