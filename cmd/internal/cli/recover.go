package cli

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"pulsegate/cmd/internal/recovery"
)

// recoverCommand records decisions to start after a loss.
func recoverCommand() *cobra.Command {
	command := func(what, short, long string) *cobra.Command {
		c := &cobra.Command{Use: what, Short: short, Long: long, Args: cobra.NoArgs}
		r := operator(c)
		c.RunE = func(c *cobra.Command, _ []string) error {
			dir, err := r.stopped()
			if err != nil {
				return err
			}
			if err := recovery.Request(dir, what, fmt.Sprintf("uid:%d", os.Getuid()), time.Now()); err != nil {
				return err
			}
			_, err = fmt.Fprintln(c.OutOrStdout(),
				"the next `pulsegate serve` will start and record this decision in the audit trail")
			return err
		}
		return c
	}
	return group("recover", "Allow the server to start after a loss",
		command(recovery.AuditLog, "Accept the audit log as it is",
			"The next start accepts the audit log although it does not continue the last signed checkpoint, or although the\n"+
				"checkpoint is missing.\n"+
				"It records the decision, keeps the former checkpoint in the data directory, and signs a new one.\n"+
				"An auditor with an earlier checkpoint can still find what is missing: `pulsegate audit verify --checkpoint FILE`."),
		command(recovery.SealKey, "Start with a new keys/seal.key",
			"The next start creates a new keys/seal.key and records the decision.\n"+
				"The authenticator apps (TOTP) of all users stop working. Send new invitations with `pulsegate user reinvite`."))
}
