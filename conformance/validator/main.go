// Command validator runs the HL7 validator on what the server produces: the goldens of
// every vendor, everything that a demo server exports, its CapabilityStatement and its
// definitions. It fails for each error that known.txt does not list.
//
// Maven fetches the validator (HAPI FHIR's distribution of org.hl7.fhir.validation) and
// the definitions of R4, as pinned in pom.xml. The packages of US Core come from
// PULSEGATE_FIXTURES. No terminology server is asked: codes of LOINC and SNOMED CT are
// not checked, codes of HL7's own code systems and of UCUM are.
package main

import (
	"bufio"
	_ "embed" // known.txt
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

//go:embed known.txt
var knownText string

//go:embed testdata/control.ndjson
var control string

func main() {
	bin := flag.String("bin", "bin/pulsegate", "the binary to start")
	dir := flag.String("dir", "", "directory for the resources, kept afterwards; empty uses a temporary one")
	flag.Parse()
	if err := run(*bin, *dir); err != nil {
		fmt.Fprintln(os.Stderr, "validator: FAIL:", err)
		os.Exit(1)
	}
}

func run(bin, dir string) (err error) {
	if dir == "" {
		if dir, err = os.MkdirTemp("", "pulsegate-validator-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	} else if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	in := &inputs{dir: dir}
	if err := in.guides(os.Getenv("PULSEGATE_FIXTURES")); err != nil {
		return err
	}
	if err := in.text("control", control); err != nil {
		return err
	}
	if err := in.goldens("mapping"); err != nil {
		return err
	}
	if err := in.served(bin); err != nil {
		return err
	}
	found, err := validate(in)
	if err != nil {
		return err
	}
	return judge(in, found)
}

// finding is an error that the validator reports.
type finding struct {
	source        string // what the resource is, such as "mapping/testdata/golden/oura/a.json"
	control       bool
	line          int // in the file of controls
	location, why string
}

// validate runs the validator on all inputs.
func validate(in *inputs) ([]finding, error) {
	home := filepath.Join("conformance", "validator")
	classes := filepath.Join(in.dir, "classpath")
	abs, err := filepath.Abs(classes)
	if err != nil {
		return nil, err
	}
	mvn := exec.Command("mvn", "-q", "-B", "dependency:build-classpath", "-Dmdep.outputFile="+abs)
	mvn.Dir = home
	if out, err := mvn.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("mvn: %w\n%s", err, out)
	}
	path, err := os.ReadFile(classes)
	if err != nil {
		return nil, err
	}
	args := []string{"-Xmx3g", "-cp", string(path), filepath.Join(home, "src", "Validate.java"),
		"--definitions", in.file("guides"), "--definitions", in.file("definitions")}
	for _, name := range in.names {
		args = append(args, in.file(name))
	}
	java := exec.Command("java", args...)
	java.Stderr = os.Stderr
	out, err := java.Output()
	if err != nil {
		return nil, fmt.Errorf("java: %w\n%s", err, out)
	}
	if err := os.WriteFile(filepath.Join(in.dir, "findings.txt"), out, 0o600); err != nil {
		return nil, err
	}
	return in.parse(string(out))
}

// parse reads the lines of Validate.java.
func (in *inputs) parse(out string) (all []finding, err error) {
	total := 0
	for _, sources := range in.sources {
		total += len(sources)
	}
	for lines := bufio.NewScanner(strings.NewReader(out)); lines.Scan(); {
		if lines.Text() == fmt.Sprint(total, " resources") {
			return all, nil
		}
		parts := strings.SplitN(lines.Text(), "\t", 3)
		file, number, ok := strings.Cut(parts[0], ".ndjson:")
		var line int
		if _, err := fmt.Sscan(number, &line); !ok || len(parts) != 3 || err != nil || line > len(in.sources[file]) {
			return nil, fmt.Errorf("unexpected line %q", lines.Text())
		}
		all = append(all, finding{source: in.sources[file][line-1], control: file == "control", line: line,
			location: parts[1], why: parts[2]})
	}
	return nil, fmt.Errorf("the validator did not validate all of %d resources", total)
}

// known is a kind of error that is expected, and why.
type known struct {
	location, why, reason string
	used                  int
}

// readKnown reads known.txt.
func readKnown(text string) (all []*known, err error) {
	reason := ""
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		location, why, ok := strings.Cut(line, " | ")
		switch {
		case strings.HasPrefix(line, "#"):
			reason = strings.TrimSpace(reason + " " + strings.TrimPrefix(line, "# "))
		case line == "":
			reason = ""
		case !ok || reason == "":
			return nil, fmt.Errorf("known.txt: %q needs a location, a message, and a reason above", line)
		default:
			all = append(all, &known{location: location, why: why, reason: reason})
		}
	}
	return all, nil
}

// judge prints what was found. It fails for an unknown error, for a known one that no
// longer occurs, and for a seeded fault that the validator did not find.
func judge(in *inputs, found []finding) error {
	list, err := readKnown(knownText)
	if err != nil {
		return err
	}
	caught, failed := map[int]bool{}, 0
	for _, f := range found {
		if f.control {
			caught[f.line] = true
			continue
		}
		i := slices.IndexFunc(list, func(k *known) bool {
			return strings.Contains(f.location, k.location) && strings.Contains(f.why, k.why)
		})
		if i >= 0 {
			list[i].used++
			continue
		}
		failed++
		fmt.Printf("error: %s: %s: %s\n", f.source, f.location, f.why)
	}
	passed := 0
	for _, name := range slices.Sorted(maps.Keys(in.sources)) {
		fmt.Printf("%-14s %6d resources\n", name, len(in.sources[name]))
		passed += len(in.sources[name])
	}
	for _, k := range list {
		fmt.Printf("known, %d times: %s | %s: %s\n", k.used, k.location, k.why, k.reason)
		if k.used == 0 {
			failed++
			fmt.Printf("error: known.txt lists an error that does not occur: %s | %s\n", k.location, k.why)
		}
	}
	for i := range in.sources["control"] {
		if !caught[i+1] {
			failed++
			fmt.Printf("error: the fault in line %d of control.ndjson was not found\n", i+1)
		}
	}
	fmt.Printf("%d passed, %d failed\n", passed-failed, failed)
	if failed > 0 {
		return fmt.Errorf("%d errors", failed)
	}
	return nil
}
