package cli

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"pulsegate/cmd/internal/admin"
)

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
	return group("store", "The embedded store", stat, check, searchParametersCommand(), salvageCommand())
}

func searchParametersCommand() *cobra.Command {
	c := &cobra.Command{Use: "search-parameters",
		Short: "List the active SearchParameters and how far their indexes are built", Args: cobra.NoArgs}
	r := operator(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		var out admin.SearchParameters
		if err := r.call(c.Context(), "store/search-parameters", nil, nil, &out); err != nil {
			return err
		}
		return r.list(out, []string{"ID", "BASE", "CODE", "STATE", "INDEXED", "ABOUT", "PROBLEM"}, func(t *table) {
			for _, p := range out.Parameters {
				t.row(p.ID, p.Base, p.Code, p.State, p.Indexed, p.Total, p.Problem)
			}
		})
	}
	return c
}
