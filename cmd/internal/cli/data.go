package cli

import (
	"cmp"
	"context"
	"errors"
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
	"pulsegate/cmd/internal/admin"
	"pulsegate/fhir/audit"
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

func quarantineCommand() *cobra.Command {
	list := &cobra.Command{Use: "list", Short: "List the parts of payloads that could not become resources, and why", Args: cobra.NoArgs}
	lr := operator(list)
	patient := list.Flags().String("patient", "", "only for this patient")
	items := list.Flags().Bool("items", false, "list every item instead of counts by reason")
	complete(list, "patient", patientIDs, lr)
	list.RunE = func(c *cobra.Command, _ []string) error {
		var out admin.Quarantine
		if err := lr.call(c.Context(), "quarantine", url.Values{"patient": {*patient}}, nil, &out); err != nil {
			return err
		}
		if *items {
			return lr.list(out, []string{"ITEM", "PATIENT", "VENDOR", "REASON", "METRIC", "TIMES", "FIRST SEEN",
				"WHERE"}, func(t *table) {
				for _, x := range out.Items {
					t.row(x.ID, x.Patient, x.Vendor, x.Reason, metricOf(&x), x.Count, x.FirstSeen, x.Where)
				}
			})
		}
		return lr.list(out, []string{"REASON", "VENDOR", "METRIC", "ITEMS", "TIMES", "AN ITEM"}, func(t *table) {
			for _, g := range byReason(out.Items) {
				t.row(g.reason, g.vendor, g.metric, g.items, g.times, g.example)
			}
		})
	}
	show := &cobra.Command{Use: "show ID", Short: "Show one item with its raw payload", Args: cobra.ExactArgs(1)}
	sr := operator(show)
	completeArg(show, sr, quarantineIDs)
	show.RunE = func(c *cobra.Command, args []string) error {
		var out admin.QuarantineItem
		if err := sr.call(c.Context(), "quarantine/show", url.Values{"id": {args[0]}}, nil, &out); err != nil {
			return err
		}
		return sr.print(out, func(w io.Writer) {
			fmt.Fprintf(w, "%s  patient %s  %s/%s  %s\nreason %s  %s\nwhere %s  seen %d times since %s\n\n%s\n",
				out.ID, out.Patient,
				out.Vendor, out.Format, out.Metric, out.Reason, out.Detail, out.Where, out.Count,
				out.FirstSeen.Format("2006-01-02 15:04:05Z07:00"), out.Raw)
		})
	}
	retry := &cobra.Command{Use: "retry",
		Short: "Map all items in quarantine again with the current metric table", Args: cobra.NoArgs}
	rr := operator(retry)
	retry.RunE = func(c *cobra.Command, _ []string) error {
		var out admin.Retried
		if err := rr.call(c.Context(), "quarantine/retry", nil, struct{}{}, &out); err != nil {
			return err
		}
		return rr.print(out, func(w io.Writer) { printRetried(w, &out) })
	}
	return group("quarantine", "Parts of payloads that could not be mapped", list, show, retry)
}

// metricOf returns the metric of an item. If only one component of a sample was
// left out, metricOf names the component, too.
func metricOf(x *admin.QuarantineItem) string {
	if x.Component == "" {
		return x.Metric
	}
	return x.Metric + " (only " + x.Component + ")"
}

// reasonGroup counts quarantined items with the same reason, vendor and metric.
type reasonGroup struct {
	reason, vendor, metric, example string
	items, times                    int
}

// byReason counts items by reason, vendor and metric, the most frequent first.
func byReason(items []admin.QuarantineItem) []*reasonGroup {
	index := map[[3]string]*reasonGroup{}
	var out []*reasonGroup
	for _, x := range items {
		k := [3]string{x.Reason, x.Vendor, metricOf(&x)}
		g := index[k]
		if g == nil {
			g = &reasonGroup{reason: x.Reason, vendor: x.Vendor, metric: k[2], example: x.ID}
			index[k] = g
			out = append(out, g)
		}
		g.items++
		g.times += x.Count
	}
	slices.SortStableFunc(out, func(a, b *reasonGroup) int {
		return cmp.Or(cmp.Compare(b.items, a.items), cmp.Compare(a.reason, b.reason),
			cmp.Compare(a.vendor, b.vendor), cmp.Compare(a.metric, b.metric))
	})
	return out
}

// printRetried prints how many items were mapped, and why the others remain.
func printRetried(w io.Writer, r *admin.Retried) {
	fmt.Fprintf(w, "%d items retried, %d mapped, %d remain in quarantine\n", r.Items, r.Items-r.Left, r.Left)
	if r.Items > r.Left {
		printSummary(w, &r.Summary)
	}
	if len(r.LeftByReason) == 0 {
		return
	}
	fmt.Fprintln(w)
	t := newTable(w, "REASON", "ITEMS")
	for _, reason := range slices.Sorted(maps.Keys(r.LeftByReason)) {
		t.row(reason, r.LeftByReason[reason])
	}
	if t.done() != nil {
		return // the reader has closed the pipe
	}
}

// printReport prints the result of `audit verify`.
func printReport(w io.Writer, r *audit.Report) {
	verdict := "the audit log verifies"
	if !r.OK {
		verdict = "the audit log does NOT verify"
	}
	fmt.Fprintf(w, "%s: %d leaves recomputed, %d AuditEvents, in %.1f s\nroot %s\n", verdict, r.Size, r.Events,
		r.Seconds, r.Root)
	if len(r.Checkpoints) > 0 {
		fmt.Fprintln(w)
		t := newTable(w, "CHECKPOINT SIZE", "CONSISTENT", "ROOT")
		for _, c := range r.Checkpoints {
			t.row(c.Size, c.Consistent, c.Root)
		}
		if t.done() != nil {
			return // the reader has closed the pipe
		}
	}
	if len(r.Problems) == 0 {
		return
	}
	fmt.Fprintln(w)
	t := newTable(w, "PROBLEM", "LEAF", "AUDITEVENT", "DETAIL")
	for _, p := range r.Problems {
		leaf := ""
		if p.Index != nil {
			leaf = fmt.Sprint(*p.Index)
		}
		t.row(p.Class, leaf, p.ID, p.Detail)
	}
	if t.done() != nil {
		return // the reader has closed the pipe
	}
	if r.Omitted > 0 {
		fmt.Fprintf(w, "and %d more problems\n", r.Omitted)
	}
}

func auditCommand() *cobra.Command {
	verify := &cobra.Command{Use: "verify", Short: "Recompute the audit log and report any change, removal or rollback",
		Args: cobra.NoArgs}
	r := operator(verify)
	checkpoint := verify.Flags().String("checkpoint", "",
		"file with an earlier checkpoint that the log must contain")
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
		if err := r.call(c.Context(), "audit/verify", nil, in, &out); err != nil {
			return err
		}
		err := r.print(out, func(w io.Writer) { printReport(w, &out) })
		if err == nil && !out.OK {
			return admin.Advise(errors.New("the audit log does not verify"),
				"keep the data directory and all checkpoints unchanged, and find out who could write to them")
		}
		return err
	}
	return group("audit", "The tamper-evident audit log", verify)
}

func storeCommand() *cobra.Command {
	stat := &cobra.Command{Use: "stat", Short: "Show the sizes of the store", Args: cobra.NoArgs}
	r := operator(stat)
	stat.RunE = func(c *cobra.Command, _ []string) error {
		var out admin.StoreStat
		if err := r.call(c.Context(), "store/stat", nil, nil, &out); err != nil {
			return err
		}
		return r.print(out, func(w io.Writer) {
			fmt.Fprintf(w, "%d resources  %d bytes on disk  commit %d  %d audit leaves\n", out.Resources,
				out.DiskBytes, out.Commit, out.AuditLeaves)
			fmt.Fprintf(w, "%s: %d bytes free; writes are refused below %d\n", out.Dir, out.FreeBytes, out.ReserveBytes)
			fmt.Fprintf(w, "%d compactions since the start, %d samples rewritten, %d series waiting\n",
				out.Compactions, out.Rewritten, out.Waiting)
			if len(out.Series) == 0 {
				return
			}
			fmt.Fprintln(w)
			t := newTable(w, "SAMPLES", "SERIES", "BLOCKS", "TAILS", "BYTES/SAMPLE", "VENDOR", "CODE")
			for _, s := range out.Series {
				t.row(s.Samples, s.Series, s.Blocks, s.Tails, s.BytesPerSample, s.Vendor, s.Code)
			}
			if t.done() != nil {
				return // the reader has closed the pipe
			}
		})
	}
	check := &cobra.Command{Use: "check", Short: "Read the whole store and compare its indexes with its data",
		Args: cobra.NoArgs}
	cr := operator(check)
	check.RunE = func(c *cobra.Command, _ []string) error {
		var out admin.StoreCheck
		if err := cr.call(c.Context(), "store/check", nil, struct{}{}, &out); err != nil {
			return err
		}
		err := cr.print(out, func(w io.Writer) {
			for _, problem := range out.Problems {
				fmt.Fprintln(w, problem)
			}
			fmt.Fprintf(w, "%d problems\n", len(out.Problems))
		})
		if err == nil && len(out.Problems) > 0 {
			return errors.New("the store is inconsistent; see the problems above")
		}
		return err
	}
	return group("store", "The embedded store", stat, check, salvageCommand())
}
