package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// guides writes the definitions in the packages of US Core to a file. The newest package
// comes last, and is the one that a URL without a version names.
func (in *inputs) guides(fixtures string) error {
	packages, err := filepath.Glob(filepath.Join(fixtures, "r4", "us_core_*.tgz"))
	if err != nil {
		return err
	}
	if len(packages) == 0 {
		return errors.New("no r4/us_core_*.tgz below PULSEGATE_FIXTURES")
	}
	var b bytes.Buffer
	for _, p := range packages {
		if err := definitions(&b, p); err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
	}
	return os.WriteFile(in.file("guides"), b.Bytes(), 0o600)
}

// definitions writes the profiles, value sets and code systems of a package, one per line.
func definitions(w *bytes.Buffer, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	for t := tar.NewReader(z); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		base := filepath.Base(h.Name)
		typ, _, _ := strings.Cut(base, "-")
		if filepath.Ext(base) != ".json" || strings.Contains(h.Name, "example") ||
			typ != "StructureDefinition" && typ != "ValueSet" && typ != "CodeSystem" {
			continue
		}
		text, err := io.ReadAll(t)
		if err != nil {
			return err
		}
		if text, err = versioned(text, file); err != nil {
			return err
		}
		if err := json.Compact(w, text); err != nil {
			return err
		}
		w.WriteByte('\n')
	}
}

// versioned gives a definition the version of its package, as HL7's publisher does:
// us_core_900.tgz has the sources of version 9.0.0, where it is absent or outdated.
func versioned(text []byte, file string) ([]byte, error) {
	var doc map[string]json.RawMessage
	if err := json.Unmarshal(text, &doc); err != nil {
		return nil, err
	}
	digits := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(file), "us_core_"), ".tgz")
	version, err := json.Marshal(strings.Join(strings.Split(digits, ""), "."))
	if err != nil {
		return nil, err
	}
	doc["version"] = version
	return json.Marshal(doc)
}
