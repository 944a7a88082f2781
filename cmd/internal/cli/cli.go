// Package cli implements the command line of pulsegate. Most commands parse flags,
// call one operation of the running server over the admin socket in its data
// directory, and print the answer as text or JSON.
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

	"pulsegate/cmd/internal/admin"
	"pulsegate/cmd/internal/config"
)

// Serve runs a server until ctx ends.
type Serve func(ctx context.Context, cfg *config.Config, stdout, stderr io.Writer) error

// New returns the root command.
func New(version string, serve Serve) *cobra.Command {
	root := &cobra.Command{
		Use: "pulsegate", Short: "SMART-on-FHIR server for wearables", Version: version,
		SilenceUsage: true, SilenceErrors: true,
	}
	root.AddCommand(serveCommand(serve), configCommand(), patientCommand(), consentCommand(),
		clientCommand(), targetCommand(), pushKeyCommand(), ingestCommand(), linksCommand(), quarantineCommand(),
		remapCommand(), explainCommand(), auditCommand(), storeCommand(), userCommand(),
		clockCommand(), recoverCommand(), demoCommand(), healthCommand(), simulateCommand(), adapterCommand(),
		packCommand(), clusterCommand(), openAPICommand(), collectionCommand(), guideCommand(),
		versionCommand(version))
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return admin.Advise(err, "see `"+c.CommandPath()+" --help`")
	})
	addExamples(root)
	return root
}

// overridable lists the settings that serve and config also accept as flags.
var overridable = []struct{ name, usage string }{
	{"data", "data directory"},
	{"listen", "address to listen on; port 0 selects a free port"},
	{"base-url", "public base URL of this server"},
}

// configFlags adds the flags of the settings to c and returns a function that loads
// the configuration.
func configFlags(c *cobra.Command) func() (*config.Config, error) {
	file := c.Flags().String("config", "", "YAML file with the settings")
	demo := c.Flags().Bool("demo", false, "start with three invented wearers, to try the server out")
	values := map[string]*string{}
	for _, setting := range overridable {
		values[setting.name] = c.Flags().String(setting.name, "", setting.usage)
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
	c := &cobra.Command{Use: "config", Short: "Print the effective settings with comments and defaults",
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

// remote holds the flags that all operator commands share.
type remote struct {
	data *string
	json *bool
	cmd  *cobra.Command
}

// operator adds the flags of a remote to c.
func operator(c *cobra.Command) *remote {
	return &remote{
		data: c.Flags().String("data", "",
			"data directory of the running server (default: PULSEGATE_DATA, or the directory of the only running server)"),
		json: c.Flags().Bool("json", false, "print JSON"),
		cmd:  c,
	}
}

// client returns a client for the server of --data, or for the only running server.
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

// stopped returns the data directory of a stopped server: that of --data, that of
// PULSEGATE_DATA, or the default one if it exists.
func (r *remote) stopped() (string, error) {
	if *r.data != "" {
		return *r.data, nil
	}
	if d := os.Getenv("PULSEGATE_DATA"); d != "" {
		return d, nil
	}
	if _, err := os.Stat(commonData[0]); err != nil {
		return "", admin.Advise(errors.New("no data directory is given"),
			"give the data directory of the stopped server with --data DIR")
	}
	return commonData[0], nil
}

// call calls admin.Client.Call of r.client.
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

// print writes v as JSON with --json, and otherwise calls text.
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

// need marks flags as required.
func need(c *cobra.Command, flags ...string) {
	for _, f := range flags {
		if err := c.MarkFlagRequired(f); err != nil {
			c.PrintErrln(err)
		}
	}
}

// group returns a command that has only subcommands.
func group(use, short string, subs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		return admin.Advise(fmt.Errorf("%s needs a subcommand: %s", c.CommandPath(), strings.Join(names(c), ", ")),
			"see `"+c.CommandPath()+" --help`")
	}}
	c.AddCommand(subs...)
	return c
}

// names returns the names of the subcommands of c.
func names(c *cobra.Command) []string {
	var out []string
	for _, s := range c.Commands() {
		out = append(out, s.Name())
	}
	return out
}
