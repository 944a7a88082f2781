package cli

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"pulsegate/cmd/internal/admin"
	"pulsegate/fhir/audit"
)

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
