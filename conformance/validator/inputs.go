package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"pulsegate/conformance/blackbox"
)

// inputs are files with one resource per line.
type inputs struct {
	dir     string
	names   []string
	sources map[string][]string // by name of the file, the origin of each line
}

func (in *inputs) file(name string) string { return filepath.Join(in.dir, name+".ndjson") }

// write writes a file of resources and remembers where each is from.
func (in *inputs) write(name string, resources []json.RawMessage, sources []string) error {
	var b bytes.Buffer
	for _, r := range resources {
		if err := json.Compact(&b, r); err != nil {
			return err
		}
		b.WriteByte('\n')
	}
	if in.sources == nil {
		in.sources = map[string][]string{}
	}
	in.names = append(in.names, name)
	in.sources[name] = sources
	return os.WriteFile(in.file(name), b.Bytes(), 0o600)
}

// text adds resources that are given as NDJSON.
func (in *inputs) text(name, ndjson string) error {
	var resources []json.RawMessage
	var sources []string
	for line := range strings.Lines(ndjson) {
		resources = append(resources, json.RawMessage(line))
		sources = append(sources, fmt.Sprint(name, " ", len(resources)))
	}
	return in.write(name, resources, sources)
}

// goldens adds every resource in the JSON files of testdata below dir.
func (in *inputs) goldens(dir string) error {
	var resources []json.RawMessage
	var sources []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".json" || !strings.Contains(path, "testdata") {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		for dec := json.NewDecoder(f); ; {
			var doc any
			dec.UseNumber()
			if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
				return nil
			} else if err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			for _, r := range resourcesIn(doc) {
				b, err := json.Marshal(r)
				if err != nil {
					return err
				}
				resources, sources = append(resources, b), append(sources, path)
			}
		}
	})
	if err != nil {
		return err
	}
	if len(resources) == 0 {
		return fmt.Errorf("no goldens below %s", dir)
	}
	return in.write("goldens", resources, sources)
}

// resourcesIn returns the outermost resources in a JSON value. The store fills meta when
// it commits, so that an empty one is removed here.
func resourcesIn(v any) (out []map[string]any) {
	switch v := v.(type) {
	case map[string]any:
		if _, ok := v["resourceType"].(string); ok {
			if meta, ok := v["meta"].(map[string]any); ok && len(meta) == 0 {
				delete(v, "meta")
			}
			return []map[string]any{v}
		}
		for _, k := range slices.Sorted(maps.Keys(v)) {
			out = append(out, resourcesIn(v[k])...)
		}
	case []any:
		for _, x := range v {
			out = append(out, resourcesIn(x)...)
		}
	}
	return out
}

// perKind bounds how many resources of an export with the same type, code and profile
// are validated, because the demo has tens of thousands that differ only in their values.
const perKind = 3

// served adds what a demo server exports, and its CapabilityStatement and definitions.
func (in *inputs) served(bin string) (err error) {
	srv, err := blackbox.Start(bin, filepath.Join(in.dir, "data"), "--demo")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, srv.Stop()) }()
	key, err := blackbox.NewKey()
	if err != nil {
		return err
	}
	set, err := key.JWKS()
	if err != nil {
		return err
	}
	keys := filepath.Join(in.dir, "keys.json")
	if err := os.WriteFile(keys, set, 0o600); err != nil {
		return err
	}
	const scope = "system/*.rs"
	var c struct {
		ID string `json:"client_id"`
	}
	if err := srv.Run(&c, "client", "add", "--name", "Validator", "--scope", scope, "--jwks", keys); err != nil {
		return err
	}
	client := &blackbox.Client{Base: srv.Base, ID: c.ID, Key: key, Scope: scope,
		HTTP: &http.Client{Timeout: 2 * time.Minute}}
	if err := in.exported(client); err != nil {
		return err
	}
	return in.described(client)
}

// exported adds the resources of a system export.
func (in *inputs) exported(client *blackbox.Client) error {
	byType, _, err := client.Export("$export")
	if err != nil {
		return err
	}
	var resources []json.RawMessage
	var sources []string
	seen := map[string]int{}
	for _, typ := range slices.Sorted(maps.Keys(byType)) {
		for _, r := range byType[typ] {
			var doc struct {
				ID         string
				Meta       struct{ Profile []string }
				Code, Type json.RawMessage
			}
			if err := json.Unmarshal(r, &doc); err != nil {
				return err
			}
			kind := fmt.Sprint(typ, string(doc.Code), string(doc.Type), doc.Meta.Profile)
			if seen[kind]++; seen[kind] > perKind {
				continue
			}
			resources, sources = append(resources, r), append(sources, "demo "+typ+"/"+doc.ID)
		}
	}
	return in.write("demo", resources, sources)
}

// described adds the CapabilityStatement and the definitions that the server publishes.
func (in *inputs) described(client *blackbox.Client) error {
	var resources []json.RawMessage
	var sources []string
	for _, path := range []string{"metadata", "CodeSystem?_count=1000", "ValueSet?_count=1000", "ConceptMap?_count=1000",
		"StructureDefinition?_count=1000", "OperationDefinition?_count=1000", "SearchParameter?_count=1000"} {
		status, doc, err := client.JSON("GET", path, nil)
		if err != nil {
			return err
		}
		if status != http.StatusOK {
			return fmt.Errorf("%s: %d %v", path, status, doc)
		}
		entries := []any{doc}
		if doc["resourceType"] == "Bundle" {
			entries, _ = doc["entry"].([]any)
		}
		for _, r := range resourcesIn(entries) {
			b, err := json.Marshal(r)
			if err != nil {
				return err
			}
			resources, sources = append(resources, b), append(sources, fmt.Sprint(r["resourceType"], " ", r["url"]))
		}
	}
	return in.write("definitions", resources, sources)
}
