package cli

import (
	"fmt"
	"io"
	"runtime"

	"github.com/spf13/cobra"
)

// versionCommand prints the version of the binary and of the Go toolchain.
func versionCommand(version string) *cobra.Command {
	c := &cobra.Command{Use: "version", Short: "Print the version of this binary", Args: cobra.NoArgs}
	asJSON := c.Flags().Bool("json", false, "print JSON")
	c.RunE = func(c *cobra.Command, _ []string) error {
		r := &remote{json: asJSON, cmd: c}
		out := struct {
			Version string `json:"version"`
			Go      string `json:"go"`
			OS      string `json:"os"`
			Arch    string `json:"arch"`
		}{version, runtime.Version(), runtime.GOOS, runtime.GOARCH}
		return r.print(out, func(w io.Writer) {
			fmt.Fprintf(w, "pulsegate %s (%s, %s/%s)\n", out.Version, out.Go, out.OS, out.Arch)
		})
	}
	return c
}
