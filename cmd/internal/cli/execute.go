package cli

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"pulsegate/cmd/internal/admin"
)

// Execute runs the command line. A usage error refers to the help of the command
// that refused it.
func Execute(ctx context.Context, root *cobra.Command) error {
	ran := false
	onRun(root, func() { ran = true })
	c, err := root.ExecuteContextC(ctx)
	var a *admin.Advice
	if err == nil || ran || errors.As(err, &a) {
		return err
	}
	return admin.Advise(err, "see `"+c.CommandPath()+" --help`")
}

// onRun arranges that f is called before c or one of its subcommands runs, once
// the flags and arguments have been accepted.
func onRun(c *cobra.Command, f func()) {
	if run := c.RunE; run != nil {
		c.RunE = func(c *cobra.Command, args []string) error {
			f()
			return run(c, args)
		}
	}
	for _, s := range c.Commands() {
		onRun(s, f)
	}
}

// Explain returns the text of an error, followed by a line with the next step if
// the error has one.
func Explain(err error) string {
	text := "pulsegate: " + err.Error()
	var a *admin.Advice
	if errors.As(err, &a) {
		text += "\nnext: " + a.Next
	}
	return text
}
