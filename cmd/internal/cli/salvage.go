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

// salvageCommand copies what can be read of a damaged store. It opens the
// store itself: the server must not run.
func salvageCommand() *cobra.Command {
	c := &cobra.Command{Use: "salvage", Short: "Copy everything readable of a damaged store to a new one",
		Args: cobra.NoArgs,
		Long: `Reads the store in the data directory, row by row, past what is damaged, and
writes a new store. Stop the server first.

It prints how many rows of each table were copied, how many ranges could not be
read and in which files, and the type and id of each resource that is lost. A
resource whose newest version is lost is left out whole: an older version must
not stand for it.

Then, if the report is acceptable: move the old store away, put the new one in
its place, start the server, and run "pulsegate audit verify".`,
		Example: `  pulsegate store salvage --data /var/lib/pulsegate --to /var/lib/pulsegate/store.new
  mv /var/lib/pulsegate/store /var/lib/pulsegate/store.damaged
  mv /var/lib/pulsegate/store.new /var/lib/pulsegate/store`}
	r := operator(c)
	to := c.Flags().String("to", "", "directory of the new store; it must not exist yet")
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
			return errors.New("not everything could be saved; see the report")
		}
		return nil
	}
	return c
}
