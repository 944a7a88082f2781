// Package cli is the command line of pulsegate: flags in, one call, text or
// JSON out. Every command but serve and config talks to the running server
// through the admin socket in its data directory.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"pulsegate/adapters/vendors"
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
		clientCommand(), ingestCommand(), quarantineCommand(), auditCommand(), storeCommand(), userCommand(),
		clockCommand(), recoverCommand(), demoCommand(), healthCommand(), versionCommand(version))
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return admin.Advise(err, "see `"+c.CommandPath()+" --help`")
	})
	addExamples(root)
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
		if err := config.CheckEnviron(os.Environ()); err != nil {
			return nil, err
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
	c := &cobra.Command{Use: "config", Short: "Print the effective configuration with comments and defaults",
		Args: cobra.NoArgs}
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
	return &remote{
		data: c.Flags().String("data", "",
			"data directory of the running server (default: PULSEGATE_DATA, else where the only server here keeps its data)"),
		json: c.Flags().Bool("json", false, "print JSON"),
		cmd:  c,
	}
}

// client returns a client for the server of --data, or for the only one that
// is running.
func (r *remote) client() (*admin.Client, error) {
	dir := *r.data
	if dir == "" {
		var err error
		if dir, err = findData(); err != nil {
			return nil, err
		}
	}
	return admin.Dial(dir), nil
}

// stopped returns the data directory of a server that does not run: that of
// --data, of PULSEGATE_DATA, or the default one if it exists.
func (r *remote) stopped() (string, error) {
	if *r.data != "" {
		return *r.data, nil
	}
	if d := os.Getenv("PULSEGATE_DATA"); d != "" {
		return d, nil
	}
	if _, err := os.Stat(usualData[0]); err != nil {
		return "", admin.Advise(errors.New("no data directory is named"),
			"name the one of the stopped server with --data DIR")
	}
	return usualData[0], nil
}

// call is admin.Client.Call on that client.
func (r *remote) call(ctx context.Context, op string, query url.Values, in, out any) error {
	c, err := r.client()
	if err != nil {
		return err
	}
	return c.Call(ctx, op, query, in, out)
}

// list prints a table of v's rows, or v itself with --json.
func (r *remote) list(v any, header []string, rows func(t *table)) error {
	var err error
	perr := r.print(v, func(w io.Writer) {
		t := newTable(w, header...)
		rows(t)
		err = t.done()
	})
	return errors.Join(perr, err)
}

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
		return admin.Advise(fmt.Errorf("%s needs a subcommand: %s", c.CommandPath(), strings.Join(names(c), ", ")),
			"see `"+c.CommandPath()+" --help`")
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

func consentCommand() *cobra.Command {
	grant := &cobra.Command{Use: "grant", Short: "Record a patient's consent and print its id", Args: cobra.NoArgs}
	gr := operator(grant)
	var n admin.NewConsent
	grant.Flags().StringVar(&n.Patient, "patient", "", "patient id")
	grant.Flags().StringVar(&n.Vendor, "vendor", "", vendors.Codes())
	grant.Flags().StringSliceVar(&n.Categories, "categories", nil,
		"only these: vital-signs, activity, exam, laboratory, procedure, survey, sleep, … (default: all)")
	grant.Flags().StringVar(&n.Recipient, "recipient", "any", "client id that may see the data, or any")
	need(grant, "patient", "vendor")
	complete(grant, "patient", patientIDs, gr)
	values(grant, "vendor", vendorCodes()...)
	complete(grant, "recipient", func(r *remote,
		c *cobra.Command) []string {
		return append(clientIDs(r, c), "any")
	}, gr)
	grant.RunE = func(c *cobra.Command, _ []string) error {
		var out admin.ID
		if err := gr.call(c.Context(), "consent/grant", nil, n, &out); err != nil {
			return err
		}
		return gr.print(out, func(w io.Writer) { fmt.Fprintln(w, out.ID) })
	}

	withdraw := &cobra.Command{Use: "withdraw",
		Short: "Take back what a patient has agreed to, at once, and print the ids of the Consents that said so",
		Args:  cobra.NoArgs,
		Long: "Take back what a patient has agreed to, of all vendors or of one. Afterwards no Consent shows anything of it to anybody or lets it be collected.\n" +
			"A Consent that is about other vendors too goes on for those. What the patient denied stays denied."}
	wr := operator(withdraw)
	var wd admin.WithdrawConsent
	withdraw.Flags().StringVar(&wd.Patient, "patient", "", "patient id")
	complete(withdraw, "patient", patientIDs, wr)
	withdraw.Flags().StringVar(&wd.Vendor, "vendor", "", "only this vendor's (default: all)")
	need(withdraw, "patient")
	withdraw.RunE = func(c *cobra.Command, _ []string) error {
		var out admin.Withdrawn
		if err := wr.call(c.Context(), "consent/withdraw", nil, wd, &out); err != nil {
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
		if err := lr.call(c.Context(), "consent", q, nil, &out); err != nil {
			return err
		}
		return lr.list(out, consentHeader, func(t *table) {
			for _, x := range out.Consents {
				consentRow(t, x)
			}
		})
	}
	return group("consent", "Consents", grant, withdraw, list)
}
