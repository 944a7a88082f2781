package cli

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/spf13/cobra"

	"pulsegate/cmd/internal/admin"
	"pulsegate/cmd/internal/config"
)

// maxDocument bounds a document of the server, in bytes.
const maxDocument = 64 << 20

func openAPICommand() *cobra.Command {
	c := &cobra.Command{Use: "openapi", Short: "Write the OpenAPI document of the server on this machine", Args: cobra.NoArgs}
	types := c.Flags().String("types", "", "resource types, separated by commas (default: all)")
	return documentCommand(c, func() string {
		if *types == "" {
			return "/openapi.json"
		}
		return "/openapi.json?types=" + url.QueryEscape(*types)
	})
}

func collectionCommand() *cobra.Command {
	return documentCommand(&cobra.Command{Use: "collection", Args: cobra.NoArgs,
		Short: "Write the requests of the server on this machine as a Postman collection"},
		func() string { return "/collection.json" })
}

func guideCommand() *cobra.Command {
	return documentCommand(&cobra.Command{Use: "guide", Args: cobra.NoArgs,
		Short: "Write the implementation guide of the server on this machine as a FHIR package"},
		func() string { return "/guide.tgz" })
}

// documentCommand completes a command that writes the document at a path of the server.
func documentCommand(c *cobra.Command, path func() string) *cobra.Command {
	out := c.Flags().String("out", "", "file to write (default: standard output)")
	load := configFlags(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		cfg, err := load()
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(c.Context(), time.Minute)
		defer cancel()
		body, err := document(ctx, cfg, path())
		if err != nil {
			return err
		}
		if *out == "" {
			_, err = c.OutOrStdout().Write(body)
			return err
		}
		return os.WriteFile(*out, body, 0o644)
	}
	return c
}

// document returns a document of the server on this machine.
func document(ctx context.Context, cfg *config.Config, path string) ([]byte, error) {
	status, body, err := fetch(ctx, cfg, path, maxDocument)
	switch {
	case err != nil:
		return nil, admin.Advise(err, "start the server, or give its address with --listen")
	case status == http.StatusBadRequest:
		return nil, fmt.Errorf("the server refuses the request: give resource types of FHIR R4 with --types")
	case status != http.StatusOK:
		return nil, fmt.Errorf("the server answers with status %d", status)
	}
	return body, nil
}
