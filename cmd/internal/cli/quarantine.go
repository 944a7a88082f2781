package cli

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"

	"github.com/spf13/cobra"

	"pulsegate/cmd/internal/admin"
)

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
				for _, item := range out.Items {
					t.row(item.ID, item.Patient, item.Vendor, item.Reason, metricOf(&item), item.Count,
						item.FirstSeen, item.Where)
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
func metricOf(item *admin.QuarantineItem) string {
	if item.Component == "" {
		return item.Metric
	}
	return item.Metric + " (only " + item.Component + ")"
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
	for _, item := range items {
		k := [3]string{item.Reason, item.Vendor, metricOf(&item)}
		g := index[k]
		if g == nil {
			g = &reasonGroup{reason: item.Reason, vendor: item.Vendor, metric: k[2], example: item.ID}
			index[k] = g
			out = append(out, g)
		}
		g.items++
		g.times += item.Count
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
