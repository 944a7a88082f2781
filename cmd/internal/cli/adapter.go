package cli

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"go/format"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"text/template"

	"github.com/spf13/cobra"

	"pulsegate/cmd/internal/admin"
)

//go:embed scaffold/*.tmpl
var scaffold embed.FS

// scaffoldFiles lists the files of a new adapter by template. %s is the vendor's code.
var scaffoldFiles = []struct{ template, path string }{
	{"doc.go", "adapters/%s/doc.go"}, {"adapter.go", "adapters/%s/%[1]s.go"},
	{"adapter_test.go", "adapters/%s/%[1]s_test.go"}, {"canaries.txt", "adapters/%s/testdata/canaries.txt"},
	{"payload.json", "adapters/%s/testdata/api/weight.json"},
	{"golden", "adapters/%s/testdata/api/weight.json.golden"}, {"table.yaml", "mapping/table/%s.yaml"},
	{"cloud.go", "adapters/cloud/%s/%[1]s.go"}, {"cloud_test.go", "adapters/cloud/%s/%[1]s_test.go"},
}

func adapterCommand() *cobra.Command {
	group := &cobra.Command{Use: "adapter", Short: "Write an adapter for a vendor"}
	c := &cobra.Command{Use: "new NAME", Short: "Create the files of an adapter in the source tree",
		Long: "Create the decoder, the metric table and the cloud of a new vendor, with tests that pass, in the\n" +
			"source tree of Pulsegate that the current directory is the root of. adapters/README.md is the guide.",
		Args: cobra.ExactArgs(1)}
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := newAdapter(".", args[0]); err != nil {
			return err
		}
		out := c.OutOrStdout()
		for _, f := range scaffoldFiles {
			fmt.Fprintf(out, "created %s\n", fmt.Sprintf(f.path, args[0]))
		}
		fmt.Fprintf(out, `
Add these lines:
  adapters/vendors/vendors.go        %[1]s.New() in All, by code
  adapters/cloud/clouds/clouds.go    %[2]q: %[1]s.New in All
  README.md                          a row in the table of formats
Then run: go test ./mapping -update && go test ./adapters/... ./mapping/...
`, args[0], args[0])
		return nil
	}
	group.AddCommand(c)
	return group
}

var vendorCode = regexp.MustCompile(`^[a-z][a-z0-9]{1,31}$`)

// newAdapter writes the files of a vendor below root. It overwrites none.
func newAdapter(root, name string) error {
	if !vendorCode.MatchString(name) || token.IsKeyword(name) {
		return admin.Advise(errors.New("the name must be 2 to 32 lower-case letters and digits"),
			"choose the code of the vendor in URLs: pulsegate adapter new acme")
	}
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil || !bytes.HasPrefix(mod, []byte("module pulsegate\n")) {
		return admin.Advise(errors.New("this directory is not the root of Pulsegate's source tree"),
			"change to the directory with its go.mod")
	}
	for _, dir := range []string{"adapters/" + name, "adapters/cloud/" + name, "mapping/table/" + name + ".yaml"} {
		if _, err := os.Lstat(filepath.Join(root, dir)); !errors.Is(err, os.ErrNotExist) {
			return admin.Advise(fmt.Errorf("%s exists", dir), "choose another name or remove it")
		}
	}
	all, err := template.ParseFS(scaffold, "scaffold/*.tmpl")
	if err != nil {
		return err
	}
	title := strings.ToUpper(name[:1]) + name[1:]
	for _, f := range scaffoldFiles {
		var b bytes.Buffer
		if err := all.ExecuteTemplate(&b, f.template+".tmpl", struct{ Name, Title string }{name, title}); err != nil {
			return err
		}
		content := b.Bytes()
		if strings.HasSuffix(f.path, ".go") {
			if content, err = format.Source(content); err != nil {
				return err
			}
		}
		path := filepath.Join(root, fmt.Sprintf(f.path, name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, content, 0o644); err != nil {
			return err
		}
	}
	return nil
}
