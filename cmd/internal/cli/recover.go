package cli

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"pulsegate/cmd/internal/recovery"
)

// recoverCommand lets the next start go on after a loss that it would refuse.
func recoverCommand() *cobra.Command {
	one := func(what, short, long string) *cobra.Command {
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
				"the next `pulsegate serve` goes on and records this decision in the audit trail")
			return err
		}
		return c
	}
	return group("recover", "Let the next start go on after a loss that it refuses",
		one(recovery.AuditLog, "Go on from the audit log as it is",
			"The next start accepts the audit log as it is, although it does not continue the last signed checkpoint or no checkpoint is left.\n"+
				"It records the decision, keeps the former checkpoint beside the new one, and signs a new one.\n"+
				"An auditor who kept an earlier checkpoint still finds what is missing: `pulsegate audit verify --checkpoint FILE`."),
		one(recovery.SealKey, "Go on with a new keys/seal.key",
			"The next start makes a new keys/seal.key and records the decision.\n"+
				"Authenticator apps (TOTP) of all people stop working; they need new invitations: `pulsegate user reinvite`."))
}
