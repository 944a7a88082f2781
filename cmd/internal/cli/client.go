package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"pulsegate/cmd/internal/admin"
)

func clientCommand() *cobra.Command {
	list := &cobra.Command{Use: "list", Short: "List registered clients", Args: cobra.NoArgs}
	lr := operator(list)
	list.RunE = func(c *cobra.Command, _ []string) error {
		var out admin.Clients
		if err := lr.call(c.Context(), "client", nil, nil, &out); err != nil {
			return err
		}
		return lr.list(out, []string{"CLIENT", "STATUS", "NAME", "CREATED", "MAY", "SCOPE"}, func(t *table) {
			for _, client := range out.Clients {
				status := "active"
				if client.Disabled {
					status = "disabled"
				}
				t.row(client.ID, status, client.Name, client.Created, clientRights(&client), client.Scope)
			}
		})
	}

	disable := switchClientCommand("disable", "Refuse all requests of a client from now on")
	enable := switchClientCommand("enable", "Accept a disabled client again")
	return group("client", "SMART clients", clientAddCommand(), list, clientShowCommand(), clientChangeCommand(),
		disable, enable,
		registrationTokenCommand(), keygenCommand(), tokenCommand())
}

// clientRights returns the rights of a client that only the operator grants.
func clientRights(c *admin.ClientInfo) string {
	var rights []string
	if c.RecordsConsent {
		rights = append(rights, "record-consent")
	}
	if c.PhoneMade {
		rights = append(rights, "phone-made")
	}
	return strings.Join(rights, ",")
}

// clientShowCommand prints one client.
func clientShowCommand() *cobra.Command {
	c := &cobra.Command{Use: "show ID", Short: "Show a registered client", Args: cobra.ExactArgs(1),
		Example: "  pulsegate client show CLIENT"}
	r := operator(c)
	completeArg(c, r, clientIDs)
	c.RunE = func(c *cobra.Command, args []string) error {
		var all admin.Clients
		if err := r.call(c.Context(), "client", nil, nil, &all); err != nil {
			return err
		}
		i := slices.IndexFunc(all.Clients, func(k admin.ClientInfo) bool { return k.ID == args[0] })
		if i < 0 {
			return admin.Advise(fmt.Errorf("there is no client with this id"),
				"List the clients with `pulsegate client list`.")
		}
		out := all.Clients[i]
		return r.print(out, func(w io.Writer) {
			fmt.Fprintf(w, "Client: %s\nName: %s\nDisabled: %t\nCreated: %s\nScope: %s\n", out.ID, out.Name,
				out.Disabled,
				out.Created.Format(time.RFC3339), out.Scope)
			for _, u := range out.RedirectURIs {
				fmt.Fprintf(w, "Redirect URI: %s\n", u)
			}
			fmt.Fprintf(w, "May record consent: %t\nPhone-made Observations: %t\n", out.RecordsConsent, out.PhoneMade)
		})
	}
	return c
}

// switchClientCommand returns the command to disable or to enable a client.
func switchClientCommand(verb, short string) *cobra.Command {
	c := &cobra.Command{Use: verb + " ID", Short: short, Args: cobra.ExactArgs(1)}
	r := operator(c)
	completeArg(c, r, clientIDs)
	c.RunE = func(c *cobra.Command, args []string) error {
		var out admin.ClientInfo
		if err := r.call(c.Context(), "client/"+verb, nil, admin.ID{ID: args[0]}, &out); err != nil {
			return err
		}
		return r.print(out, func(w io.Writer) { fmt.Fprintln(w, out.ID, verb+"d") })
	}
	return c
}

// clientAddCommand registers a backend, which has keys and system/ scopes, or with
// --redirect-uri an app.
func clientAddCommand() *cobra.Command {
	c := &cobra.Command{Use: "add", Short: "Register a backend client or an app and print its id", Args: cobra.NoArgs}
	r := operator(c)
	var n admin.NewClient
	flags := c.Flags()
	jwks := flags.String("jwks", "", "file with the client's public keys (JWK Set)")
	flags.StringVar(&n.Name, "name", "", "display name")
	flags.StringVar(&n.JWKSURL, "jwks-url", "", "https URL of the client's JWK Set")
	flags.StringVar(&n.Scope, "scope", "",
		`scopes that the client may request, such as "system/Observation.rs", or for an app "launch/patient patient/*.rs openid fhirUser"`)
	flags.StringVar(&n.Method, "auth", "private_key_jwt",
		"authentication: private_key_jwt, or for an app also none, client_secret_basic or client_secret_post; a secret is printed once")
	flags.StringArrayVar(&n.RedirectURIs, "redirect-uri", nil,
		"redirect URI of the app, compared exactly; may be repeated")
	flags.StringVar(&n.LaunchURL, "launch-url", "", "URL where an EHR launches the app")
	flags.BoolVar(&n.Inspects, "inspects", false,
		"the client is a resource server and may introspect the tokens of other clients")
	flags.BoolVar(&n.RecordsConsent, "may-record-consent", false,
		"the client may write Consents on behalf of patients within its scope; scopes alone do not allow that")
	flags.BoolVar(&n.PhoneMade, "phone-made", false,
		"all Observations of the client were made on a phone from HealthKit samples; the server repairs them")
	need(c, "name", "scope")
	values(c, "auth", "private_key_jwt", "none", "client_secret_basic", "client_secret_post")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if *jwks != "" {
			b, err := os.ReadFile(*jwks)
			if err != nil {
				return err
			}
			if !json.Valid(b) {
				return fmt.Errorf("%s is not JSON", *jwks)
			}
			n.JWKS = b
		}
		var out admin.ClientInfo
		if err := r.call(c.Context(), "client", nil, n, &out); err != nil {
			return err
		}
		return r.print(out, func(w io.Writer) {
			fmt.Fprintln(w, out.ID)
			if out.Secret != "" {
				fmt.Fprintln(w, out.Secret)
			}
		})
	}
	return c
}

// clientChangeCommand changes the rights of a client that only the operator grants.
func clientChangeCommand() *cobra.Command {
	c := &cobra.Command{Use: "change ID",
		Short:   "Change the rights of a registered client that do not follow from its scopes",
		Args:    cobra.ExactArgs(1),
		Example: "  pulsegate client change CLIENT --may-record-consent=false\n  pulsegate client change CLIENT --phone-made"}
	r := operator(c)
	completeArg(c, r, clientIDs)
	records := c.Flags().Bool("may-record-consent", false,
		"whether the client may write Consents on behalf of patients")
	phoneMade := c.Flags().Bool("phone-made", false,
		"whether all Observations of the client were made on a phone from HealthKit samples, and are to be repaired")
	c.RunE = func(c *cobra.Command, args []string) error {
		n := admin.ChangeClient{ID: args[0]}
		if c.Flags().Changed("may-record-consent") {
			n.RecordsConsent = records
		}
		if c.Flags().Changed("phone-made") {
			n.PhoneMade = phoneMade
		}
		var out admin.ClientInfo
		if err := r.call(c.Context(), "client/change", nil, n, &out); err != nil {
			return err
		}
		return r.print(out, func(w io.Writer) { fmt.Fprintln(w, out.ID) })
	}
	return c
}

// registrationTokenCommand creates an initial access token (RFC 7591 1.2).
func registrationTokenCommand() *cobra.Command {
	c := &cobra.Command{Use: "registration-token",
		Short: "Create an initial access token for dynamic registration (RFC 7591) and print it once",
		Args:  cobra.NoArgs}
	r := operator(c)
	var n admin.NewRegistrationToken
	c.Flags().StringVar(&n.Scope, "scope", "", "scopes that the registered clients may request at most")
	c.Flags().IntVar(&n.Uses, "uses", 1, "number of clients that the token may register")
	life := c.Flags().Duration("life", 24*time.Hour, "lifetime of the token")
	need(c, "scope")
	c.RunE = func(c *cobra.Command, _ []string) error {
		n.Seconds = int64(*life / time.Second)
		var out admin.RegistrationToken
		if err := r.call(c.Context(), "client/registration-token", nil, n, &out); err != nil {
			return err
		}
		return r.print(out, func(w io.Writer) { fmt.Fprintln(w, out.Token) })
	}
	return c
}
