package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"pulsegate/cmd/internal/admin"
)

func demoCommand() *cobra.Command {
	tok := &cobra.Command{Use: "token", Short: "Print a new access token for the demo's client, valid for five minutes",
		Args: cobra.NoArgs}
	r := operator(tok)
	tok.RunE = func(c *cobra.Command, _ []string) error {
		var out admin.DemoToken
		if err := r.call(c.Context(), "demo/token", nil, struct{}{}, &out); err != nil {
			return err
		}
		return r.print(out, func(w io.Writer) { fmt.Fprintln(w, out.Token) })
	}
	return group("demo", "The demo of `serve --demo`", tok)
}
