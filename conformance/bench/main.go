// Command bench is a load program for FHIR R4 servers. Without -target it starts the
// binary on an empty store and also measures ingest, start-up, disk and memory. Most
// figures have a floor, which is measured in the same run. With -target URL it
// measures any R4 server (create, transaction, search, read, export).
//
//	bench -bin bin/pulsegate
//	bench -bin bin/pulsegate -steps create,mixed        # only these steps
//	bench -bin bin/pulsegate -nodes 1,2,4               # processes over one log
//	bench -target http://127.0.0.1:8090/fhir -token -   # without a token
//	bench -target https://ehr.example/r4 -token TOKEN   # any base URL
//	bench -xml 1000 -write-xml export.xml               # only write the payload
//
// Each load makes a fixed number of requests. The figures are printed as a table,
// written to a file with -json FILE, and appended to a history of dated sections with
// -results FILE.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"pulsegate/conformance/blackbox"
)

// options are the flags.
type options struct {
	bin, target, token, json string
	steps, results, mix      string
	requests                 int // per measurement
	workers, seedObs         int
	patients                 int // of the step kinds
	xmlMB, samples           int
	writeXML                 string

	// of the step cluster
	nodes, latency, joins    string
	mongodb, mongodbPassword string
	before                   string
	length                   time.Duration // of a load
}

// figure is one measured value.
type figure struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	Note  string  `json:"note,omitempty"`
	// Reached, for a floor, is the share of it that the preceding figure reached.
	Reached float64 `json:"reached,omitempty"`
}

// bench is one run of the program.
type bench struct {
	opt     options
	client  *blackbox.Client
	srv     *blackbox.Server
	dir     string
	patient string
	ids     []string // URLs of the Observations that the step create made

	exportRate  float64 // MB/s
	exportBytes int64
	figures     []figure
}

func main() {
	var o options
	flag.StringVar(&o.bin, "bin", "bin/pulsegate", "the binary to start")
	flag.StringVar(&o.target, "target", "", "FHIR base URL of a running server to measure instead")
	flag.StringVar(&o.token, "token", "-", `bearer token for -target ("-" sends none)`)
	flag.StringVar(&o.json, "json", "", "also write the figures to this file")
	flag.StringVar(&o.steps, "steps", "",
		"run only these steps, comma separated: create, transactions, read, search, kinds, operations, export, exportfloor, notifications, mixed, links, ingest, samples, batches, floors, restart, cluster (only if named)")
	flag.StringVar(&o.mix, "mix", "ingest,export",
		"background load of the step mixed, besides notifications")
	flag.StringVar(&o.results, "results", "", "also append a dated section with the figures to this file")
	flag.IntVar(&o.requests, "n", 5000, "requests per measurement")
	flag.IntVar(&o.workers, "c", 16, "concurrent connections")
	flag.IntVar(&o.seedObs, "observations", 100000, "Observations in the store before searching")
	flag.IntVar(&o.patients, "patients", 20_000, "Patients and Encounters in the store of the step kinds")
	flag.IntVar(&o.samples, "samples", 10_000_000, "heart rates in the store of the step samples")
	flag.IntVar(&o.xmlMB, "xml", 100, "size of the generated export.xml in MB")
	flag.StringVar(&o.writeXML, "write-xml", "", "only write the export.xml of -xml MB to this file")
	flag.StringVar(&o.nodes, "nodes", "",
		"run the step cluster with these numbers of processes over one log, such as 1,2,4, which is the default of the step")
	flag.StringVar(&o.latency, "latency", "",
		"round trips to the log in the step cluster, through a network that delays (default 0,5ms,10ms)")
	flag.StringVar(&o.joins, "joins", "",
		"Observations in the store when a process joins, in the step cluster, or none (default 20000,200000)")
	flag.DurationVar(&o.length, "length", 3*time.Second, "length of each load of the step cluster")
	flag.StringVar(&o.mongodb, "mongodb", "",
		"connection string, without a password, of a replica set for the step cluster, which adds databases and removes them; empty starts a stand-in")
	flag.StringVar(&o.mongodbPassword, "mongodb-password-file", "", "file with the password of the user in -mongodb")
	flag.StringVar(&o.before, "before", "",
		"an earlier binary, with which the step cluster compares one process alone")
	flag.Parse()
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(o options) error {
	if o.writeXML != "" {
		_, err := writeExport(o.writeXML, o.xmlMB)
		return err
	}
	if o.nodes != "" && o.steps == "" {
		o.steps = "cluster"
	}
	b := &bench{opt: o}
	tr := &http.Transport{MaxIdleConnsPerHost: o.workers * 2, MaxConnsPerHost: o.workers * 2}
	hc := &http.Client{Transport: tr, Timeout: 2 * time.Minute}
	if o.target != "" {
		b.client = &blackbox.Client{FHIR: strings.TrimSuffix(o.target, "/"), Static: o.token, HTTP: hc}
		return b.finish(b.foreign())
	}
	dir, err := os.MkdirTemp("", "pulsegate-bench-")
	if err != nil {
		return err
	}
	b.dir = dir
	err = b.own(hc)
	if b.srv != nil {
		if serr := b.srv.Stop(); err == nil {
			err = serr
		}
	}
	if rerr := os.RemoveAll(dir); err == nil {
		err = rerr
	}
	return b.finish(err)
}

// foreign measures a server of which only the FHIR base URL is known.
func (b *bench) foreign() error {
	status, out, err := b.client.JSON("POST", "Patient", []byte(`{"resourceType":"Patient","name":[{"family":"Bench"}]}`))
	if status != 0 && status != http.StatusCreated {
		return fmt.Errorf("create of a Patient at %s: status %d, want 201; check that this is the FHIR base URL and that -token may create", b.client.FHIRBase(), status)
	}
	if err != nil {
		return fmt.Errorf("create of a Patient at %s: %w", b.client.FHIRBase(), err)
	}
	if b.patient, _ = out["id"].(string); b.patient == "" {
		return fmt.Errorf("create of a Patient at %s: the answer has no Patient with an id", b.client.FHIRBase())
	}
	return b.fhir()
}

// own starts the binary and runs all measurements.
func (b *bench) own(hc *http.Client) error {
	var err error
	if b.srv, err = blackbox.Start(b.opt.bin, filepath.Join(b.dir, "data")); err != nil {
		return err
	}
	b.add("start-up, empty store", float64(b.srv.Ready.Milliseconds()), "ms", "")
	time.Sleep(2 * time.Second)
	rss, err := b.srv.RSS()
	if err != nil {
		return err
	}
	b.add("memory, idle", float64(rss)/1e6, "MB", "")
	var p struct{ ID string }
	if err := b.srv.Run(&p, "patient", "add", "--given", "Bo", "--family", "Bench"); err != nil {
		return err
	}
	b.patient = p.ID
	for _, v := range []string{"apple", "oura", "fitbit"} {
		if err := b.srv.Run(nil, "consent", "grant", "--patient", p.ID, "--vendor", v); err != nil {
			return err
		}
	}
	if b.client, err = b.newClient(b.srv, hc); err != nil {
		return err
	}
	return b.run([]step{{"create", b.create}, {"transactions", b.transactions}, {"read", b.read},
		{"search", b.search}, {"kinds", b.kinds}, {"operations", b.operations}, {"export", b.export},
		{"exportfloor", b.exportFloor}, {"notifications", b.notifications}, {"mixed", b.mixed},
		{"links", b.links}, {"ingest", b.ingest}, {"samples", b.samples}, {"batches", b.batches},
		{"floors", b.floors}, {"restart", b.restart}, {clusterStep, b.cluster}})
}

// newClient registers a client of srv that may do everything.
func (b *bench) newClient(srv *blackbox.Server, hc *http.Client) (*blackbox.Client, error) {
	key, err := blackbox.NewKey()
	if err != nil {
		return nil, err
	}
	jwks, err := key.JWKS()
	if err != nil {
		return nil, err
	}
	file := filepath.Join(b.dir, "jwks.json")
	if err := os.WriteFile(file, jwks, 0o600); err != nil {
		return nil, err
	}
	var c struct {
		ID string `json:"client_id"`
	}
	if err := srv.Run(&c, "client", "add", "--name", "bench", "--jwks", file, "--scope", "system/*.cruds"); err != nil {
		return nil, err
	}
	return &blackbox.Client{Base: srv.Base, ID: c.ID, Scope: "system/*.cruds", Key: key, HTTP: hc}, nil
}

// step is one measurement, which -steps selects by name.
type step struct {
	name string
	do   func() error
}

// clusterStep is the name of the step that runs only if it is named.
const clusterStep = "cluster"

// run runs the selected steps.
func (b *bench) run(steps []step) error {
	for _, s := range steps {
		if !b.selected(s.name) {
			continue
		}
		if err := s.do(); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

// selected reports whether a step is to be run.
func (b *bench) selected(name string) bool {
	if b.opt.steps == "" {
		return name != clusterStep
	}
	return slices.Contains(strings.Split(b.opt.steps, ","), name)
}

// add adds a figure and prints it.
func (b *bench) add(name string, v float64, unit, note string) {
	b.figures = append(b.figures, figure{Name: name, Value: v, Unit: unit, Note: note})
	fmt.Printf("%-46s %12s %-12s %s\n", name, number(v), unit, note)
}

// number formats a value with about three significant digits.
func number(v float64) string {
	if v >= 100 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// finish writes the figures to the files of -results and -json. It returns err or its
// own error.
func (b *bench) finish(err error) error {
	if b.opt.results != "" && err == nil {
		if err := b.results(b.opt.results); err != nil {
			return err
		}
	}
	if b.opt.json != "" {
		doc := map[string]any{"date": time.Now().UTC().Format(time.DateOnly), "cores": runtime.NumCPU(),
			"figures": b.figures}
		raw, jerr := json.MarshalIndent(doc, "", "  ")
		if jerr != nil {
			return jerr
		}
		if werr := os.WriteFile(b.opt.json, append(raw, '\n'), 0o644); werr != nil {
			return werr
		}
	}
	return err
}
