package cli

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"pulsegate/cmd/internal/admin"
	"pulsegate/cmd/internal/config"
)

// healthCommand asks the server on this machine whether it is ready, at the address
// that clients use. The exit status is 0 only if it is.
func healthCommand() *cobra.Command {
	c := &cobra.Command{Use: "health", Short: "Check whether the server on this machine is ready (exit status 0 or 1)",
		Args: cobra.NoArgs}
	load := configFlags(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		cfg, err := load()
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(c.Context(), 5*time.Second)
		defer cancel()
		text, err := readiness(ctx, cfg)
		if err != nil {
			return admin.Advise(err, "see the server's log")
		}
		_, err = fmt.Fprintln(c.OutOrStdout(), text)
		return err
	}
	return c
}

// readiness returns the body of /readyz, or an error unless its status is 200.
func readiness(ctx context.Context, cfg *config.Config) (string, error) {
	status, body, err := fetch(ctx, cfg, "/readyz", 4<<10)
	if err != nil {
		return "", err
	}
	text := strings.TrimSpace(string(body))
	if status != http.StatusOK {
		return "", fmt.Errorf("not ready: %s", text)
	}
	return text, nil
}

// fetch returns the status and at most limit bytes of a document of the server on this
// machine.
func fetch(ctx context.Context, cfg *config.Config, path string, limit int64) (int, []byte, error) {
	host, port, err := net.SplitHostPort(cfg.Listen)
	if err != nil {
		return 0, nil, err
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	tr := &http.Transport{DisableKeepAlives: true}
	scheme := "http"
	if cfg.TLSCert != "" {
		scheme = "https"
		if tr.TLSClientConfig, err = trustOnly(cfg.TLSCert); err != nil {
			return 0, nil, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+net.JoinHostPort(host, port)+path, nil)
	if err != nil {
		return 0, nil, err
	}
	resp, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, limit))
	return resp.StatusCode, body, err
}

// trustOnly returns a TLS configuration that accepts only the certificate in file,
// under the name in the certificate.
func trustOnly(file string) (*tls.Config, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(raw)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("%s: not a PEM certificate", file)
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, errors.New(file + ": malformed certificate")
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	out := &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	switch {
	case len(leaf.DNSNames) > 0:
		out.ServerName = strings.Replace(leaf.DNSNames[0], "*", "health", 1)
	case len(leaf.IPAddresses) > 0:
		out.ServerName = leaf.IPAddresses[0].String()
	}
	return out, nil
}
