package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"pulsegate/cmd/internal/admin"
)

// linkCommand returns a command that prints a one-time link.
func linkCommand(use, short, op string, in any, flags func(c *cobra.Command)) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs}
	r := operator(c)
	flags(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		var out admin.UserLink
		if err := r.call(c.Context(), op, nil, in, &out); err != nil {
			return err
		}
		return r.print(out, func(w io.Writer) { fmt.Fprintln(w, out.Link) })
	}
	return c
}

func userCommand() *cobra.Command {
	first := &admin.NewUser{}
	bootstrap := linkCommand("bootstrap",
		"Print the one-time link for the first administrator; refused if one exists", "user/bootstrap", first,
		func(c *cobra.Command) {
			c.Flags().StringVar(&first.Login, "login", "", "login name")
			c.Flags().StringVar(&first.Name, "name", "", "full name")
			need(c, "login", "name")
		})
	invited := &admin.NewUser{}
	invite := linkCommand("invite", "Create a user and print the one-time link", "user", invited,
		func(c *cobra.Command) {
			c.Flags().StringVar(&invited.Login, "login", "", "login name")
			c.Flags().StringVar(&invited.Name, "name", "", "full name")
			c.Flags().StringSliceVar(&invited.Roles, "role", nil,
				"patient, practitioner, administrator or auditor; separate several by commas")
			c.Flags().StringVar(&invited.Patient, "patient", "", "id of the Patient resource of this user")
			c.Flags().StringVar(&invited.Practitioner, "practitioner", "",
				"id of the Practitioner resource of this user")
			need(c, "login", "name", "role")
			values(c, "role", "patient", "practitioner", "administrator", "auditor")
		})
	account := &admin.Login{}
	reinvite := linkCommand("reinvite",
		"End a user's sessions and the access of their apps, and print a new one-time link (for a lost passkey or a stolen account)",
		"user/reinvite", account, func(c *cobra.Command) {
			c.Flags().StringVar(&account.Login, "login", "", "login name")
			need(c, "login")
		})

	disable := switchUserCommand("disable", "End a user's access immediately")
	enable := switchUserCommand("enable", "Restore the access of a disabled user")

	list := &cobra.Command{Use: "list", Short: "List users", Args: cobra.NoArgs}
	lr := operator(list)
	list.RunE = func(c *cobra.Command, _ []string) error {
		var out admin.Users
		if err := lr.call(c.Context(), "user", nil, nil, &out); err != nil {
			return err
		}
		return lr.list(out, []string{"USER", "LOGIN", "STATUS", "ROLES", "NAME"}, func(t *table) {
			for _, u := range out.Users {
				status := "invited"
				if u.Enrolled {
					status = "enrolled"
				}
				if u.Disabled {
					status = "disabled"
				}
				t.row(u.ID, u.Login, status, u.Roles, u.Name)
			}
		})
	}
	return group("user", "Users who sign in", bootstrap, invite, reinvite, disable, enable, list)
}

// switchUserCommand returns the command to disable or to enable a user.
func switchUserCommand(verb, short string) *cobra.Command {
	c := &cobra.Command{Use: verb, Short: short, Args: cobra.NoArgs}
	r := operator(c)
	login := c.Flags().String("login", "", "login name")
	need(c, "login")
	complete(c, "login", logins, r)
	c.RunE = func(c *cobra.Command, _ []string) error {
		var out admin.UserInfo
		if err := r.call(c.Context(), "user/"+verb, nil, admin.Login{Login: *login}, &out); err != nil {
			return err
		}
		return r.print(out, func(w io.Writer) { fmt.Fprintln(w, out.Login, verb+"d") })
	}
	return c
}
