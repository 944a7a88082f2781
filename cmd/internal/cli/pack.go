package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"pulsegate/cmd/internal/admin"
	"pulsegate/mapping/loinc"
	metrics "pulsegate/mapping/table"
)

func packCommand() *cobra.Command {
	list := &cobra.Command{Use: "list", Short: "List the mapping packs in force and what they change",
		Args: cobra.NoArgs}
	lr := operator(list)
	list.RunE = func(c *cobra.Command, _ []string) error {
		var out admin.Packs
		if err := lr.call(c.Context(), "pack", nil, nil, &out); err != nil {
			return err
		}
		return lr.list(out, []string{"PACK", "VERSION", "VENDOR", "ROWS", "ADDED", "OVERRIDDEN", "REMOVED", "FILE"},
			func(t *table) {
				for _, p := range out.Packs {
					t.row(p.Pack, p.Version, p.Vendor, p.Rows, p.Added, p.Overridden, p.Removed, p.File)
				}
			})
	}

	show := &cobra.Command{Use: "show VENDOR METRIC|NAME", Args: cobra.RangeArgs(1, 2),
		Short: "Show the row in force for a metric, and the packs that it comes from",
		Long: "Show the row in force for a metric of a vendor, or the row with a name in a Provenance (identifier/mapping-row),\n" +
			"and the packs that it comes from."}
	sr := operator(show)
	show.ValidArgsFunction = func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return vendorCodes(), cobra.ShellCompDirectiveNoFileComp
	}
	show.RunE = func(c *cobra.Command, args []string) error {
		var out admin.PackRow
		query := url.Values{"name": {args[0]}}
		if len(args) == 2 {
			query = url.Values{"vendor": {args[0]}, "metric": {args[1]}}
		}
		if err := sr.call(c.Context(), "pack/show", query, nil, &out); err != nil {
			return err
		}
		return sr.print(out, func(w io.Writer) {
			fmt.Fprintf(w, "row %s\n", out.Row)
			if out.Base != "" {
				fmt.Fprintf(w, "overrides %s of %s\n", strings.Join(out.Overridden, ", "), out.Base)
			}
			fmt.Fprintf(w, "in Provenances %s\n", out.Name)
			fmt.Fprintf(w, "\n%s", out.YAML)
		})
	}
	return group("pack", "Mapping packs: which vendor metric becomes which code, unit and profile", list, show,
		packCheckCommand(), packLOINCCommand())
}

// checkedPack summarizes a pack that breaks no rule.
type checkedPack struct {
	File    string `json:"file"`
	Pack    string `json:"pack"`
	Version string `json:"version"`
	Vendor  string `json:"vendor"`
	Added   int    `json:"added"`
	Changed int    `json:"overridden"`
	Removed int    `json:"removed"`
}

func packCheckCommand() *cobra.Command {
	c := &cobra.Command{Use: "check DIR|FILE", Args: cobra.ExactArgs(1),
		Short: "Check mapping packs without a server",
		Long: "Check the packs in a directory, or one pack, against the schema, the rules and the built-in packs, as the\n" +
			"server does when it starts. Each problem names the file, the line or row, and the rule."}
	asJSON := c.Flags().Bool("json", false, "print JSON")
	c.RunE = func(c *cobra.Command, args []string) error {
		dir, err := packDir(args[0])
		if err != nil {
			return err
		}
		t, err := metrics.LoadPacks(metrics.Builtin(), dir)
		if err != nil {
			return admin.Advise(err, "correct the packs; adapters/README.md, \"Mapping packs\", describes their fields and rules")
		}
		checked := []checkedPack{}
		for _, p := range t.Packs {
			if !p.Tenant {
				continue
			}
			kinds := map[string]int{}
			for _, change := range p.Changes {
				kinds[change.Kind]++
			}
			checked = append(checked, checkedPack{p.File, p.Name, p.Version, p.Vendor, kinds[metrics.ChangeAdd],
				kinds[metrics.ChangeOverride], kinds[metrics.ChangeRemove]})
		}
		if len(checked) == 0 {
			return admin.Advise(errors.New("there is no pack"), "name a directory with files that end in .yaml, or one such file")
		}
		r := &remote{json: asJSON, cmd: c}
		return r.list(checked, []string{"FILE", "PACK", "VERSION", "VENDOR", "ADDED", "OVERRIDDEN", "REMOVED"},
			func(t *table) {
				for _, p := range checked {
					t.row(p.File, p.Pack, p.Version, p.Vendor, p.Added, p.Changed, p.Removed)
				}
			})
	}
	return c
}

// packDir returns a directory of packs, or one with a single file.
func packDir(path string) (fs.FS, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, admin.Advise(err, "name a directory with packs, or one pack")
	case info.IsDir():
		return os.DirFS(path), nil
	}
	return oneFile{os.DirFS(filepath.Dir(path)), filepath.Base(path)}, nil
}

// oneFile is a directory of which one file is listed.
type oneFile struct {
	fs.FS
	name string
}

// Glob implements fs.GlobFS.
func (f oneFile) Glob(string) ([]string, error) { return []string{f.name}, nil }

func packLOINCCommand() *cobra.Command {
	c := &cobra.Command{Use: "loinc FILE", Args: cobra.ExactArgs(1),
		Short: "Compare the LOINC codes of the packs with a release of LOINC",
		Long: "Compare the LOINC codes of the built-in packs, and of those in --packs, with Loinc.csv of a release (loinc.org,\n" +
			"after accepting its license). The command reports codes that are missing, deprecated, discouraged or on trial,\n" +
			"displays that differ, and units that are not among the example units. It fails if a code is missing or deprecated."}
	asJSON := c.Flags().Bool("json", false, "print JSON")
	packs := c.Flags().String("packs", "", "directory with mapping packs, or one pack")
	c.RunE = func(c *cobra.Command, args []string) error {
		var dir fs.FS
		if *packs != "" {
			var err error
			if dir, err = packDir(*packs); err != nil {
				return err
			}
		}
		t, err := metrics.LoadPacks(metrics.Builtin(), dir)
		if err != nil {
			return admin.Advise(err, "see `pulsegate pack check --help`")
		}
		f, err := os.Open(args[0])
		if err != nil {
			return err
		}
		defer f.Close()
		report, err := loinc.Check(t, f)
		if err != nil {
			return admin.Advise(fmt.Errorf("%s: %w", filepath.Base(args[0]), err),
				"give Loinc.csv from the folder LoincTable of a release")
		}
		r := &remote{json: asJSON, cmd: c}
		if err := r.list(report, []string{"CODE", "PROBLEM", "TABLE", "RELEASE", "ROWS"}, func(t *table) {
			for _, p := range report.Problems {
				t.row(p.Code, p.Kind, p.Table, p.Release, p.Rows)
			}
		}); err != nil {
			return err
		}
		fatal := 0
		for i := range report.Problems {
			if report.Problems[i].Fatal() {
				fatal++
			}
		}
		if fatal > 0 {
			return admin.Advise(fmt.Errorf("%d of %d codes are missing or deprecated in this release", fatal, report.Codes),
				"replace the codes in mapping/table or in the pack")
		}
		return nil
	}
	return c
}
