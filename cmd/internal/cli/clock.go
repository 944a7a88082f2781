package cli

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"pulsegate/cmd/internal/admin"
)

func clockCommand() *cobra.Command {
	write := func(out admin.Clock) func(w io.Writer) {
		return func(w io.Writer) {
			fmt.Fprintf(w, "clock  %s\nmark   %s\n", out.Clock.Format(time.RFC3339), out.Mark.Format(time.RFC3339))
			if out.LeadSeconds > 0 {
				fmt.Fprintf(w, "The mark is %d s ahead of the clock. Until the clock has passed it, client assertions are refused as expired.\n"+
					"If the clock is correct now, run `pulsegate clock reset`.\n", out.LeadSeconds)
			}
		}
	}
	show := &cobra.Command{Use: "show", Short: "Print the server's clock and the time of the latest token request (the mark)",
		Args:    cobra.NoArgs,
		Example: "  pulsegate clock show --data /var/lib/pulsegate"}
	sr := operator(show)
	show.RunE = func(c *cobra.Command, _ []string) error {
		var out admin.Clock
		if err := sr.call(c.Context(), "clock", nil, nil, &out); err != nil {
			return err
		}
		return sr.print(out, write(out))
	}
	reset := &cobra.Command{Use: "reset",
		Short: "Set the mark back to the clock, after the clock ran ahead and was corrected", Args: cobra.NoArgs,
		Example: "  pulsegate clock reset --data /var/lib/pulsegate"}
	rr := operator(reset)
	reset.RunE = func(c *cobra.Command, _ []string) error {
		var out admin.Clock
		if err := rr.call(c.Context(), "clock/reset", nil, struct{}{}, &out); err != nil {
			return err
		}
		return rr.print(out, write(out))
	}
	return group("clock", "The clock of the token endpoint", show, reset)
}
