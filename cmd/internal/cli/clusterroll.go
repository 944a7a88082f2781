package cli

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"pulsegate/cmd/internal/admin"
	"pulsegate/fhir/cluster/nodes"
)

func clusterRollCommand() *cobra.Command {
	c := &cobra.Command{Use: "roll SETTING...",
		Short: "Permit servers to start with another content of settings, one after another",
		Long: `All servers of a cluster must have the same base URL, mapping packs, vendors and other
settings that decide what is stored or answered. A server that starts with another
content than a running one refuses. This command permits it for the named settings
and for some time, so that the servers can be restarted one after another. At most
two contents of them can be in use at the same time, the old one and the new one.

While mapping packs differ, new samples are mapped by the packs of the server that
takes them, which their Provenances name, and "pulsegate remap" is refused. Run it
when all servers have the new packs.

base-url cannot be changed in this way: stop all servers instead.`}
	r := operator(c)
	span := c.Flags().Duration("for", time.Hour, "time for which it is permitted, at most 24h")
	end := c.Flags().Bool("end", false, "end the permission now")
	c.RunE = func(c *cobra.Command, settings []string) error {
		if *end != (len(settings) == 0) {
			return admin.Advise(errors.New("name either settings or --end"), "see `pulsegate cluster roll --help`")
		}
		var out nodes.Roll
		if err := r.call(c.Context(), "cluster/roll", nil, admin.ClusterRoll{Settings: settings,
			Seconds: int64(span.Seconds()), End: *end}, &out); err != nil {
			return err
		}
		return r.print(out, func(w io.Writer) {
			if *end {
				fmt.Fprintln(w, "Servers must have the same settings to start.")
				return
			}
			fmt.Fprintf(w, "Servers may start with another content of %s.\n", out)
		})
	}
	return c
}
