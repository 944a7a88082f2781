// Command app serves a small SMART app that shows the heart rate of one patient, after
// an EHR launch or a standalone launch. The app itself is the page in static, a public
// client with PKCE. This program serves the page and registers the app with a server on
// the same machine.
//
//	GET /               the page; also its launch URL and redirect URI
//	GET /settings.json  {"iss": FHIR base, "client_id": …, "scope": …}
package main

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

//go:embed static
var static embed.FS

// The scopes are the minimum that the app needs. The page adds launch or
// launch/patient.
const (
	scope      = "patient/Patient.r patient/Observation.rs?category=http://terminology.hl7.org/CodeSystem/observation-category|vital-signs"
	registered = "launch launch/patient " + scope
	name       = "Heart rate"
)

// settings is the content of settings.json.
type settings struct {
	ISS      string `json:"iss"`
	ClientID string `json:"client_id"`
	Scope    string `json:"scope"`
}

func main() {
	listen := flag.String("listen", "127.0.0.1:8090", "address to listen on")
	server := flag.String("server", "http://localhost:8080", "base URL of the Pulsegate server")
	client := flag.String("client", "", "client id of the app, if it is already registered")
	bin := flag.String("bin", "bin/pulsegate", "pulsegate binary, to register the app")
	data := flag.String("data", "demo-data", "data directory of the server, to register the app")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *listen, *server, *client,
		func(origin string) (string, error) { return register(*bin, *data, origin) }); err != nil {
		fmt.Fprintln(os.Stderr, "app:", err)
		os.Exit(1)
	}
}

// run serves the app until ctx ends. It calls register unless client is set.
func run(ctx context.Context, listen, server, client string, register func(origin string) (string, error)) error {
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	// Passkeys require a host name, so use localhost instead of the address.
	origin := fmt.Sprint("http://localhost:", l.Addr().(*net.TCPAddr).Port)
	if client == "" {
		if client, err = register(origin); err != nil {
			return errors.Join(err, l.Close())
		}
	}
	server = strings.TrimSuffix(server, "/")
	h, err := handler(settings{ISS: server + "/fhir", ClientID: client, Scope: scope})
	if err != nil {
		return errors.Join(err, l.Close())
	}
	fmt.Printf("The sample app, client %s:\n\n  standalone         %s\n  from the console   %s/auth/launches\n\n",
		client, origin, server)
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: 10 * time.Second, MaxHeaderBytes: 16 << 10}
	go func() {
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		defer cancel()
		if err := srv.Shutdown(grace); err != nil {
			fmt.Fprintln(os.Stderr, "app:", err)
		}
	}()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// handler serves the page. The Content-Security-Policy allows only its own files and
// requests to the FHIR server.
func handler(s settings) (http.Handler, error) {
	files, err := fs.Sub(static, "static")
	if err != nil {
		return nil, err
	}
	iss, err := url.Parse(s.ISS)
	if err != nil || iss.Host == "" {
		return nil, errors.New("the base URL of the server is not a URL")
	}
	body, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	m := http.NewServeMux()
	m.Handle("GET /", http.FileServerFS(files))
	m.HandleFunc("GET /settings.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if _, err := w.Write(body); err != nil {
			return // the browser has closed the connection
		}
	})
	policy := "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self' " +
		iss.Scheme + "://" + iss.Host +
		"; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		m.ServeHTTP(w, r)
	}), nil
}

// register returns the client id of the app. If the app is not registered with the
// server, register adds it with the pulsegate command.
func register(bin, data, origin string) (string, error) {
	type info struct {
		ID           string   `json:"client_id"`
		Name         string   `json:"name"`
		Scope        string   `json:"scope"`
		RedirectURIs []string `json:"redirect_uris"`
		Disabled     bool     `json:"disabled"`
	}
	command := func(out any, args ...string) error {
		cmd := exec.Command(bin, append(args, "--json", "--data", data)...)
		cmd.Stderr = os.Stderr
		b, err := cmd.Output()
		if err != nil {
			return fmt.Errorf("%s %s: %w (is the server running?)", bin, strings.Join(args[:2], " "), err)
		}
		return json.Unmarshal(b, out)
	}
	var list struct{ Clients []info }
	if err := command(&list, "client", "list"); err != nil {
		return "", err
	}
	for _, c := range list.Clients {
		if c.Name == name && !c.Disabled && slices.Contains(c.RedirectURIs, origin+"/") {
			return c.ID, nil
		}
	}
	var added info
	err := command(&added, "client", "add", "--name", name, "--auth", "none", "--redirect-uri", origin+"/",
		"--launch-url", origin+"/", "--scope", registered)
	return added.ID, err
}
