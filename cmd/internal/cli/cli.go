// Package cli is the command line of pulsegate: flags in, one call, text or
// JSON out. Every command but serve and config talks to the running server
// through the admin socket in its data directory.
package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"pulsegate/cmd/internal/admin"
	"pulsegate/cmd/internal/config"
)

// Serve runs a server until the context ends; cmd/pulsegate hands in the real
// one.
type Serve func(ctx context.Context, cfg *config.Config, stdout, stderr io.Writer) error

// New returns the root command.
func New(version string, serve Serve) *cobra.Command {
	root := &cobra.Command{
		Use: "pulsegate", Short: "SMART-on-FHIR server for wearables", Version: version,
		SilenceUsage: true, SilenceErrors: true,
	}
	root.AddCommand(serveCommand(serve), configCommand(), patientCommand(), consentCommand(),
		clientCommand(), ingestCommand(), quarantineCommand(), auditCommand(), storeCommand(), userCommand())
	return root
}

// overridable are the settings that serve and config also take as flags.
var overridable = []struct{ name, usage string }{
	{"data", "data directory"},
	{"listen", "address to serve on (port 0: a free one)"},
	{"base-url", "how clients reach this server"},
}

func configFlags(c *cobra.Command) func() (*config.Config, error) {
	file := c.Flags().String("config", "", "YAML file")
	demo := c.Flags().Bool("demo", false, "three invented wearers, for trying out")
	values := map[string]*string{}
	for _, o := range overridable {
		values[o.name] = c.Flags().String(o.name, "", o.usage)
	}
	return func() (*config.Config, error) {
		set := map[string]string{}
		for name, v := range values {
			if c.Flags().Changed(name) {
				set[name] = *v
			}
		}
		if c.Flags().Changed("demo") {
			set["demo"] = fmt.Sprint(*demo)
		}
		path := *file
		if path == "" {
			path = os.Getenv("PULSEGATE_CONFIG")
		}
		return config.Load(path, os.LookupEnv, set)
	}
}

func serveCommand(serve Serve) *cobra.Command {
	c := &cobra.Command{Use: "serve", Short: "Serve FHIR, SMART and the admin socket", Args: cobra.NoArgs}
	load := configFlags(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		cfg, err := load()
		if err != nil {
			return err
		}
		return serve(c.Context(), cfg, c.OutOrStdout(), c.ErrOrStderr())
	}
	return c
}

func configCommand() *cobra.Command {
	c := &cobra.Command{Use: "config", Short: "Print the effective configuration with comments and defaults", Args: cobra.NoArgs}
	load := configFlags(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		cfg, err := load()
		if err != nil {
			return err
		}
		return cfg.Print(c.OutOrStdout())
	}
	return c
}

// remote is what every operator command shares.
type remote struct {
	data *string
	json *bool
	cmd  *cobra.Command
}

func operator(c *cobra.Command) *remote {
	def := os.Getenv("PULSEGATE_DATA")
	if def == "" {
		def = "pulsegate-data"
	}
	return &remote{
		data: c.Flags().String("data", def, "data directory of the running server"),
		json: c.Flags().Bool("json", false, "print JSON"),
		cmd:  c,
	}
}

func (r *remote) client() *admin.Client { return admin.Dial(*r.data) }

// print writes v as JSON with --json, else through text.
func (r *remote) print(v any, text func(w io.Writer)) error {
	w := r.cmd.OutOrStdout()
	if *r.json {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		e.SetEscapeHTML(false)
		return e.Encode(v)
	}
	text(w)
	return nil
}

func need(c *cobra.Command, flags ...string) {
	for _, f := range flags {
		if err := c.MarkFlagRequired(f); err != nil {
			c.PrintErrln(err)
		}
	}
}

func group(use, short string, subs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		return fmt.Errorf("%s needs a sub-command: %s", use, strings.Join(names(c), ", "))
	}}
	c.AddCommand(subs...)
	return c
}

func names(c *cobra.Command) []string {
	var out []string
	for _, s := range c.Commands() {
		out = append(out, s.Name())
	}
	return out
}

func patientCommand() *cobra.Command {
	add := &cobra.Command{Use: "add", Short: "Add a Patient and print its id", Args: cobra.NoArgs}
	r := operator(add)
	var p admin.NewPatient
	add.Flags().StringVar(&p.Given, "given", "", "given name")
	add.Flags().StringVar(&p.Family, "family", "", "family name")
	add.Flags().StringVar(&p.BirthDate, "birthdate", "", "YYYY-MM-DD")
	add.Flags().StringVar(&p.Gender, "gender", "", "male, female, other or unknown")
	add.Flags().StringVar(&p.TimeZone, "timezone", "", "IANA zone of the wearer, for payloads that state no offset")
	add.Flags().StringVar(&p.ID, "id", "", "id to use; otherwise the server chooses")
	need(add, "given", "family")
	add.RunE = func(c *cobra.Command, _ []string) error {
		var out admin.ID
		if err := r.client().Call(c.Context(), "patient", nil, p, &out); err != nil {
			return err
		}
		return r.print(out, func(w io.Writer) { fmt.Fprintln(w, out.ID) })
	}
	return group("patient", "Patients", add)
}

func consentCommand() *cobra.Command {
	grant := &cobra.Command{Use: "grant", Short: "Record a patient's consent and print its id", Args: cobra.NoArgs}
	gr := operator(grant)
	var n admin.NewConsent
	grant.Flags().StringVar(&n.Patient, "patient", "", "patient id")
	grant.Flags().StringVar(&n.Vendor, "vendor", "", "apple, fitbit or oura")
	grant.Flags().StringSliceVar(&n.Categories, "categories", nil, "only these: vital-signs, activity, exam, laboratory, procedure, survey, sleep, … (default: all)")
	grant.Flags().StringVar(&n.Recipient, "recipient", "any", "client id that may see the data, or any")
	need(grant, "patient", "vendor")
	grant.RunE = func(c *cobra.Command, _ []string) error {
		var out admin.ID
		if err := gr.client().Call(c.Context(), "consent/grant", nil, n, &out); err != nil {
			return err
		}
		return gr.print(out, func(w io.Writer) { fmt.Fprintln(w, out.ID) })
	}

	withdraw := &cobra.Command{Use: "withdraw", Short: "Take back what a patient has agreed to, at once, and print the ids of the Consents that said so", Args: cobra.NoArgs,
		Long: "Take back what a patient has agreed to, of all vendors or of one. Afterwards no Consent shows anything of it to anybody or lets it be collected.\n" +
			"A Consent that is about other vendors too goes on for those. What the patient denied stays denied."}
	wr := operator(withdraw)
	var wd admin.WithdrawConsent
	withdraw.Flags().StringVar(&wd.Patient, "patient", "", "patient id")
	withdraw.Flags().StringVar(&wd.Vendor, "vendor", "", "only this vendor's (default: all)")
	need(withdraw, "patient")
	withdraw.RunE = func(c *cobra.Command, _ []string) error {
		var out admin.Withdrawn
		if err := wr.client().Call(c.Context(), "consent/withdraw", nil, wd, &out); err != nil {
			return err
		}
		return wr.print(out, func(w io.Writer) { fmt.Fprintln(w, strings.Join(out.Withdrawn, "\n")) })
	}

	list := &cobra.Command{Use: "list", Short: "List consents", Args: cobra.NoArgs}
	lr := operator(list)
	patient := list.Flags().String("patient", "", "only this patient's")
	list.RunE = func(c *cobra.Command, _ []string) error {
		var out admin.Consents
		q := url.Values{}
		if *patient != "" {
			q.Set("patient", *patient)
		}
		if err := lr.client().Call(c.Context(), "consent", q, nil, &out); err != nil {
			return err
		}
		return lr.print(out, func(w io.Writer) {
			for _, x := range out.Consents {
				cats := strings.Join(x.Categories, ",")
				if cats == "" {
					cats = "all"
				}
				fmt.Fprintf(w, "%s  %s  %-8s  %-6s  %s  to %s\n", x.ID, x.Patient, x.Status, x.Vendor, cats, x.Recipient)
			}
		})
	}
	return group("consent", "Consents", grant, withdraw, list)
}
