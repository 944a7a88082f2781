package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"pulsegate/cmd/internal/admin"
)

// linkCommand is a command that prints a one-time link.
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
		"Print the one-time link of the first administrator (refused once there is one)", "user/bootstrap", first,
		func(c *cobra.Command) {
			c.Flags().StringVar(&first.Login, "login", "", "name for signing in")
			c.Flags().StringVar(&first.Name, "name", "", "full name")
			need(c, "login", "name")
		})
	more := &admin.NewUser{}
	invite := linkCommand("invite", "Make a user and print their one-time link", "user", more, func(c *cobra.Command) {
		c.Flags().StringVar(&more.Login, "login", "", "name for signing in")
		c.Flags().StringVar(&more.Name, "name", "", "full name")
		c.Flags().StringSliceVar(&more.Roles, "role", nil,
			"patient, practitioner, administrator or auditor; several with commas")
		c.Flags().StringVar(&more.Patient, "patient", "", "id of the Patient that they are")
		c.Flags().StringVar(&more.Practitioner, "practitioner", "", "id of the Practitioner that they are")
		need(c, "login", "name", "role")
		values(c, "role", "patient", "practitioner", "administrator", "auditor")
	})
	anew := &admin.Login{}
	reinvite := linkCommand("reinvite", "End a user's sessions and the access of their apps, and print a link to begin anew (a lost passkey, a stolen account)", "user/reinvite", anew, func(c *cobra.Command) {
		c.Flags().StringVar(&anew.Login, "login", "", "name for signing in")
		need(c, "login")
	})

	disable := switchUserCommand("disable", "End a user's access, at once")
	enable := switchUserCommand("enable", "Give a disabled user their access back")

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
	return group("user", "People who sign in", bootstrap, invite, reinvite, disable, enable, list)
}

// switchUserCommand disables or enables a user.
func switchUserCommand(what, short string) *cobra.Command {
	c := &cobra.Command{Use: what, Short: short, Args: cobra.NoArgs}
	r := operator(c)
	login := c.Flags().String("login", "", "name for signing in")
	need(c, "login")
	complete(c, "login", logins, r)
	c.RunE = func(c *cobra.Command, _ []string) error {
		var out admin.UserInfo
		if err := r.call(c.Context(), "user/"+what, nil, admin.Login{Login: *login}, &out); err != nil {
			return err
		}
		return r.print(out, func(w io.Writer) { fmt.Fprintln(w, out.Login, what+"d") })
	}
	return c
}
