package cli

import (
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"pulsegate/cmd/internal/admin"
	"pulsegate/fhir"
	"pulsegate/mapping/explain"
)

func explainCommand() *cobra.Command {
	c := &cobra.Command{Use: "explain Observation/ID", Args: cobra.ExactArgs(1),
		Short: "Tell how an Observation was made of what the vendor sent",
		Long: "Tell how an Observation was made: what the vendor sent, the row of the metric table, the conversions, the\n" +
			"codes, the resource, its versions, and whether the table in force gives the same result."}
	r := operator(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		id := args[0]
		if strings.Contains(id, "/") {
			ref, ok := fhir.ParseRef(id)
			if !ok || ref.Type != "Observation" {
				return admin.Advise(fmt.Errorf("%q does not name an Observation", id),
					"give the reference of an Observation, such as `pulsegate explain Observation/ID`")
			}
			id = ref.ID
		}
		var out explain.Explanation
		if err := r.call(c.Context(), "explain", url.Values{"id": {id}}, nil, &out); err != nil {
			return err
		}
		var failure error
		err := r.print(&out, func(w io.Writer) { failure = out.Print(w, columns(w)) })
		if err == nil {
			err = failure
		}
		return err
	}
	return c
}

// columns returns the width of a terminal, or 160 if w is none.
func columns(w io.Writer) int {
	const wide = 160
	f, ok := w.(*os.File)
	if !ok {
		return wide
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil || size.Col == 0 {
		return wide
	}
	return int(size.Col)
}
