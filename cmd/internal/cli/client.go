package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
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
			for _, x := range out.Clients {
				status := "active"
				if x.Disabled {
					status = "disabled"
				}
				may := ""
				if x.RecordsConsent {
					may = "record-consent"
				}
				t.row(x.ID, status, x.Name, x.Created, may, x.Scope)
			}
		})
	}

	disable := switchClientCommand("disable", "Refuse a client from now on")
	enable := switchClientCommand("enable", "Take a disabled client back")
	return group("client", "SMART clients", clientAddCommand(), list, clientChangeCommand(), disable, enable,
		registrationTokenCommand(), keygenCommand(), tokenCommand())
}

// switchClientCommand disables or enables a client.
func switchClientCommand(what, short string) *cobra.Command {
	c := &cobra.Command{Use: what + " ID", Short: short, Args: cobra.ExactArgs(1)}
	r := operator(c)
	completeArg(c, r, clientIDs)
	c.RunE = func(c *cobra.Command, args []string) error {
		var out admin.ClientInfo
		if err := r.call(c.Context(), "client/"+what, nil, admin.ID{ID: args[0]}, &out); err != nil {
			return err
		}
		return r.print(out, func(w io.Writer) { fmt.Fprintln(w, out.ID, what+"d") })
	}
	return c
}

// clientAddCommand registers a backend (system/ scopes, keys) or an app (with
// --redirect-uri, and whichever way to authenticate it has).
func clientAddCommand() *cobra.Command {
	c := &cobra.Command{Use: "add", Short: "Register a backend client or an app and print its id", Args: cobra.NoArgs}
	r := operator(c)
	var n admin.NewClient
	f := c.Flags()
	jwks := f.String("jwks", "", "file with the client's public keys (JWK Set)")
	f.StringVar(&n.Name, "name", "", "name for people")
	f.StringVar(&n.JWKSURL, "jwks-url", "", "https URL of the client's JWK Set")
	f.StringVar(&n.Scope, "scope", "", `what it may ask for, e.g. "system/Observation.rs", or of an app "launch/patient patient/*.rs openid fhirUser"`)
	f.StringVar(&n.Method, "auth", "private_key_jwt",
		"private_key_jwt, or of an app none, client_secret_basic or client_secret_post; a secret is printed once")
	f.StringArrayVar(&n.RedirectURIs, "redirect-uri", nil, "where answers to an app may go, exactly; may be repeated")
	f.StringVar(&n.LaunchURL, "launch-url", "", "where an EHR launches the app")
	f.BoolVar(&n.Inspects, "inspects", false, "a resource server: may introspect the tokens of other clients")
	f.BoolVar(&n.RecordsConsent, "may-record-consent", false,
		"may write Consents on behalf of patients, as far as its scope covers Consent; no scope alone allows that")
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

// clientChangeCommand changes what only the operator may say about a client.
func clientChangeCommand() *cobra.Command {
	c := &cobra.Command{Use: "change ID", Short: "Change what a registered client may do beside its scope",
		Args:    cobra.ExactArgs(1),
		Example: "  pulsegate client change CLIENT --may-record-consent=false"}
	r := operator(c)
	completeArg(c, r, clientIDs)
	records := c.Flags().Bool("may-record-consent", false, "whether it may write Consents on behalf of patients")
	c.RunE = func(c *cobra.Command, args []string) error {
		n := admin.ChangeClient{ID: args[0]}
		if c.Flags().Changed("may-record-consent") {
			n.RecordsConsent = records
		}
		var out admin.ClientInfo
		if err := r.call(c.Context(), "client/change", nil, n, &out); err != nil {
			return err
		}
		return r.print(out, func(w io.Writer) { fmt.Fprintln(w, out.ID) })
	}
	return c
}

// registrationTokenCommand makes what dynamic registration begins with.
func registrationTokenCommand() *cobra.Command {
	c := &cobra.Command{Use: "registration-token",
		Short: "Make an initial access token for dynamic registration (RFC 7591); it is shown once", Args: cobra.NoArgs}
	r := operator(c)
	var n admin.NewRegistrationToken
	c.Flags().StringVar(&n.Scope, "scope", "", "what the clients may ask for at most")
	c.Flags().IntVar(&n.Uses, "uses", 1, "how many clients it registers")
	life := c.Flags().Duration("life", 24*time.Hour, "how long it is good for")
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
