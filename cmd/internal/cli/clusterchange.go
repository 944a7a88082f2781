package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"pulsegate/cmd/internal/membership"
)

func clusterRestoreCommand() *cobra.Command {
	c := &cobra.Command{Use: "restore", Args: cobra.NoArgs,
		Short: "Let stopped servers go on from a log that was restored from a backup",
		Long: `After MongoDB was restored from a backup, the servers have copies of a later state,
and refuse to start with them. This command raises the epoch of the cluster, so
that each server discards its copy when it starts, and begins again from the
restored log. Everything that was acknowledged after the backup is then lost.

Stop all servers first. The command refuses if Redis has heard of a running
server, or if the log grows while it watches it for some seconds. It takes the
settings of the server, and it does nothing unless --cluster names the cluster.
The next start of this server records in the audit trail who gave the order, and
every server records that it has discarded its copy.`}
	return changeCommand(c, membership.Restore, func(w io.Writer, out *membership.Restored) {
		fmt.Fprintf(w, "Cluster %s has epoch %d now, and goes on after entry %d of its log. Start the servers.\n",
			out.Cluster, out.Epoch, out.Entry)
	})
}

func clusterLeaveCommand() *cobra.Command {
	c := &cobra.Command{Use: "leave", Args: cobra.NoArgs,
		Short: "Make a stopped server one that is alone, with its copy of the store",
		Long: `Makes the copy of the store the store of a server that is alone, and writes copies
of the keys that the servers of the cluster share into the data directory. What
the other servers commit from now on, and what they have committed since this
server was stopped, is not in its store. The server and the cluster go separate
ways, and cannot be merged.

Stop the server first. The command takes its settings, of which it needs data and
cluster-key-file. It does nothing unless --cluster names the cluster. Remove
mongodb and redis from the settings before the next start, which records in the
audit trail who gave the order.`}
	return changeCommand(c, membership.Leave, func(w io.Writer, out *membership.Left) {
		fmt.Fprintf(w, "The server has left cluster %s after entry %d. Remove mongodb and redis from its settings.\n",
			out.Cluster, out.Entry)
	})
}

// changeCommand completes a command that changes the cluster of a stopped server.
func changeCommand[Out any](c *cobra.Command, change func(context.Context, membership.Change) (Out, error),
	text func(w io.Writer, out *Out)) *cobra.Command {
	load := configFlags(c)
	asJSON := c.Flags().Bool("json", false, "print JSON")
	id := c.Flags().String("cluster", "", "the id of the cluster, which confirms the command")
	c.RunE = func(c *cobra.Command, _ []string) error {
		cfg, err := load()
		if err != nil {
			return err
		}
		if err := InUse(cfg.Data); err != nil {
			return err
		}
		out, err := change(c.Context(), membership.Change{Config: cfg, Cluster: *id,
			By: fmt.Sprintf("uid:%d", os.Getuid()), Clock: time.Now})
		if err != nil {
			return err
		}
		r := &remote{json: asJSON, cmd: c}
		return r.print(&out, func(w io.Writer) { text(w, &out) })
	}
	return c
}
