package cli

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"

	"github.com/spf13/cobra"

	"pulsegate/fhir/store/pebblestore"
)

// salvageCommand copies the readable part of a damaged store. It opens the store
// itself, so the server must be stopped.
func salvageCommand() *cobra.Command {
	c := &cobra.Command{Use: "salvage", Short: "Copy the readable part of a damaged store to a new one",
		Args: cobra.NoArgs,
		Long: `Reads the store in the data directory row by row, skips damaged parts, and
writes a new store. Stop the server first.

It prints how many rows of each table were copied, how many ranges could not be
read and in which files, and the type and id of each lost resource. If the
newest version of a resource is lost, the older versions are left out as well,
so that none of them passes for the current one.

If the report is acceptable, move the old store away, move the new one to its
place, start the server, and run "pulsegate audit verify".`,
		Example: `  pulsegate store salvage --data /var/lib/pulsegate --to /var/lib/pulsegate/store.new
  mv /var/lib/pulsegate/store /var/lib/pulsegate/store.damaged
  mv /var/lib/pulsegate/store.new /var/lib/pulsegate/store`}
	r := operator(c)
	to := c.Flags().String("to", "", "directory of the new store; it must not exist")
	need(c, "to")
	c.RunE = func(c *cobra.Command, _ []string) error {
		log := slog.New(slog.NewTextHandler(c.ErrOrStderr(), nil))
		out, err := pebblestore.Salvage(c.Context(), filepath.Join(*r.data, "store"), *to,
			pebblestore.Options{Logger: log})
		if err != nil {
			return err
		}
		if err := r.print(out, func(w io.Writer) { fmt.Fprint(w, out) }); err != nil {
			return err
		}
		if !out.Complete() {
			return errors.New("part of the store is lost; see the report")
		}
		return nil
	}
	return c
}
