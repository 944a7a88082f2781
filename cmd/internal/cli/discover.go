package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"pulsegate/adapters/vendors"
	"pulsegate/cmd/internal/admin"
)

// commonData lists the directories where servers usually keep their data: in the
// working directory (`pulsegate serve`, `make run`), and the directories of the
// systemd unit and of the container.
var commonData = []string{"pulsegate-data", "demo-data", "/var/lib/pulsegate", "/data"}

// findData returns the data directory for a command without --data. It is
// PULSEGATE_DATA if that is set, and otherwise the only one of commonData in which
// a server answers.
func findData() (string, error) {
	if d := os.Getenv("PULSEGATE_DATA"); d != "" {
		return d, nil
	}
	var live []string
	for _, d := range commonData {
		if pid, err := admin.Dial(d).PID(); err == nil && pid > 0 {
			live = append(live, d)
		}
	}
	switch len(live) {
	case 0:
		return "", admin.Advise(fmt.Errorf("no server answers in %s", strings.Join(commonData, ", ")),
			"start one with `pulsegate serve`, or give the data directory of the running one with --data DIR")
	case 1:
		return live[0], nil
	}
	return "", admin.Advise(fmt.Errorf("%d servers are running here: in %s", len(live), strings.Join(live, " and ")),
		"choose one with --data DIR")
}

// InUse returns an error that names the process if a server already answers in the
// data directory.
func InUse(data string) error {
	pid, err := admin.Dial(data).PID()
	if err != nil {
		return nil // the socket is absent or left behind by a killed server
	}
	abs, err := filepath.Abs(data)
	if err != nil {
		abs = data
	}
	return admin.Advise(fmt.Errorf("another pulsegate (pid %d) uses %s", pid, abs),
		"stop it first, or serve another data directory with --data DIR")
}

// values registers a fixed list for the completion of a flag.
func values(c *cobra.Command, flag string, list ...string) {
	complete(c, flag, func(*remote, *cobra.Command) []string { return list }, nil)
}

// complete registers the completion of a flag. For a list, the last element is
// completed.
func complete(c *cobra.Command, flag string, list func(*remote, *cobra.Command) []string, r *remote) {
	err := c.RegisterFlagCompletionFunc(flag,
		func(c *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
			prefix := ""
			if i := strings.LastIndexByte(typed, ','); i >= 0 {
				prefix = typed[:i+1]
			}
			var out []string
			for _, v := range list(r, c) {
				if strings.HasPrefix(v, typed[len(prefix):]) {
					out = append(out, prefix+v)
				}
			}
			return out, cobra.ShellCompDirectiveNoFileComp
		})
	if err != nil { // the flag does not exist, which is a bug in this package
		c.PrintErrln(err)
	}
}

// completeArg registers the completion of the only argument of a command.
func completeArg(c *cobra.Command, r *remote, list func(*remote, *cobra.Command) []string) {
	c.ValidArgsFunction = func(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return list(r, c), cobra.ShellCompDirectiveNoFileComp
	}
}

// vendorCodes lists the codes of the vendors.
func vendorCodes() (out []string) {
	for _, a := range vendors.All() {
		out = append(out, a.Vendor())
	}
	return out
}

// patientIDs lists the patients of the running server. Like the functions below, it
// returns nil if no server is running.
func patientIDs(r *remote, c *cobra.Command) (out []string) {
	var got admin.Patients
	if r.call(c.Context(), "patient", nil, nil, &got) != nil {
		return nil
	}
	for _, p := range got.Patients {
		out = append(out, p.ID)
	}
	return out
}

func clientIDs(r *remote, c *cobra.Command) (out []string) {
	var got admin.Clients
	if r.call(c.Context(), "client", nil, nil, &got) != nil {
		return nil
	}
	for _, client := range got.Clients {
		out = append(out, client.ID)
	}
	return out
}

func quarantineIDs(r *remote, c *cobra.Command) (out []string) {
	var got admin.Quarantine
	if r.call(c.Context(), "quarantine", nil, nil, &got) != nil {
		return nil
	}
	for _, item := range got.Items {
		out = append(out, item.ID)
	}
	return out
}

func logins(r *remote, c *cobra.Command) (out []string) {
	var got admin.Users
	if r.call(c.Context(), "user", nil, nil, &got) != nil {
		return nil
	}
	for _, u := range got.Users {
		out = append(out, u.Login)
	}
	return out
}

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
