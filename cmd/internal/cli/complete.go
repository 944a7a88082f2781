package cli

import (
	"strings"

	"github.com/spf13/cobra"

	"pulsegate/adapters/vendors"
	"pulsegate/cmd/internal/admin"
)

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

func linkIDs(r *remote, c *cobra.Command) (out []string) {
	var got admin.Links
	if r.call(c.Context(), "link", nil, nil, &got) != nil {
		return nil
	}
	for _, l := range got.Links {
		out = append(out, l.ID)
	}
	return out
}

func targetNames(r *remote, c *cobra.Command) (out []string) {
	var got admin.Targets
	if r.call(c.Context(), "target", nil, nil, &got) != nil {
		return nil
	}
	for _, t := range got.Targets {
		out = append(out, t.Name)
	}
	return out
}

func pushKeyIDs(r *remote, c *cobra.Command) (out []string) {
	var got admin.PushKeys
	if r.call(c.Context(), "push-key", nil, nil, &got) != nil {
		return nil
	}
	for _, k := range got.Keys {
		out = append(out, k.ID)
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
