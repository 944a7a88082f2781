package guide

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"slices"
	"time"

	"pulsegate/fhir"
)

// PackageID is the name of the FHIR package and the id of its ImplementationGuide.
const PackageID = "dev.pulsegate.fhir"

const (
	r4Version = "4.0.1"
	license   = "Apache-2.0"
	title     = "Pulsegate: wearables on FHIR"
	about     = "Profiles, extensions, value sets, code systems, concept maps and operations of Pulsegate, a SMART on " +
		"FHIR server for the data of wearables."
)

// packed is the fixed modification time of the files of a package, so that equal contents
// have equal bytes.
var packed = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// manifest is package/package.json of a FHIR package.
type manifest struct {
	Name         string            `json:"name"`
	Version      string            `json:"version"`
	Type         string            `json:"type"`
	Canonical    string            `json:"canonical"`
	URL          string            `json:"url"`
	Title        string            `json:"title"`
	Description  string            `json:"description"`
	Author       string            `json:"author"`
	License      string            `json:"license"`
	FHIRVersions []string          `json:"fhirVersions"`
	Dependencies map[string]string `json:"dependencies"`
	Directories  map[string]string `json:"directories"`
}

// index is package/.index.json of a FHIR package.
type index struct {
	Version int         `json:"index-version"`
	Files   []indexFile `json:"files"`
}

type indexFile struct {
	Filename     string `json:"filename"`
	ResourceType string `json:"resourceType"`
	ID           string `json:"id"`
	URL          string `json:"url,omitempty"`
	Version      string `json:"version,omitempty"`
	Kind         string `json:"kind,omitempty"`
	Type         string `json:"type,omitempty"`
}

// Package returns a FHIR package (a gzip-compressed tar file) with the resources of this
// package, those in extra, and the ImplementationGuide that lists them. Resources that
// extra repeats are taken from extra. Equal inputs give equal bytes.
func Package(extra []Resource) ([]byte, error) {
	list := merge(extra)
	ig, err := ImplementationGuide(list)
	if err != nil {
		return nil, err
	}
	list = append(list, ig)
	slices.SortFunc(list, byTypeAndID)
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	w := &packer{tar: tar.NewWriter(z)}
	w.json("package.json", manifest{Name: PackageID, Version: Version, Type: "IG", Canonical: fhir.Canonical,
		URL: fhir.Canonical, Title: title, Description: about, Author: "Pulsegate", License: license,
		FHIRVersions: []string{r4Version}, Dependencies: map[string]string{"hl7.fhir.r4.core": r4Version},
		Directories: map[string]string{"lib": "package"}})
	names := index{Version: 1}
	for _, r := range list {
		f := indexFile{Filename: filename(r), ResourceType: r.Type, ID: r.ID, URL: r.URL, Version: r.Version}
		// Only the kind and type of StructureDefinitions and OperationDefinitions are strings.
		if r.Type == "StructureDefinition" || r.Type == "OperationDefinition" {
			var d struct{ Kind, Type any }
			if err := json.Unmarshal(r.JSON, &d); err != nil {
				return nil, fhir.Wrap("guide.Package", err)
			}
			f.Kind, _ = d.Kind.(string)
			f.Type, _ = d.Type.(string)
		}
		names.Files = append(names.Files, f)
	}
	w.json(".index.json", names)
	for _, r := range list {
		w.file(filename(r), r.JSON)
	}
	for _, finish := range []func() error{w.tar.Close, z.Close} {
		if err := finish(); w.err == nil {
			w.err = err
		}
	}
	return out.Bytes(), fhir.Wrap("guide.Package", w.err)
}

func filename(r Resource) string { return r.Type + "-" + r.ID + ".json" }

// merge returns the resources of this package and extra, sorted by type and id.
func merge(extra []Resource) []Resource {
	out := slices.Clone(extra)
	for _, r := range static() {
		if !slices.ContainsFunc(extra, func(x Resource) bool { return x.Type == r.Type && x.ID == r.ID }) {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, byTypeAndID)
	return out
}

// packer writes the files of a package. It keeps the first error.
type packer struct {
	tar *tar.Writer
	err error
}

func (w *packer) json(name string, v any) {
	body, err := json.MarshalIndent(v, "", "  ")
	if w.err == nil {
		w.err = err
	}
	w.file(name, body)
}

func (w *packer) file(name string, body []byte) {
	if w.err != nil {
		return
	}
	w.err = w.tar.WriteHeader(&tar.Header{Name: "package/" + name, Mode: 0o644, Size: int64(len(body)), ModTime: packed,
		Format: tar.FormatUSTAR})
	if w.err == nil {
		_, w.err = w.tar.Write(body)
	}
}

// implementationGuide is an R4 ImplementationGuide.
type implementationGuide struct {
	ResourceType string     `json:"resourceType"`
	ID           string     `json:"id"`
	URL          string     `json:"url"`
	Version      string     `json:"version"`
	Name         string     `json:"name"`
	Title        string     `json:"title"`
	Status       string     `json:"status"`
	Publisher    string     `json:"publisher"`
	Description  string     `json:"description"`
	PackageID    string     `json:"packageId"`
	License      string     `json:"license"`
	FHIRVersion  []string   `json:"fhirVersion"`
	Definition   definition `json:"definition"`
}

type definition struct {
	Resource []defined `json:"resource"`
}

type defined struct {
	Reference struct {
		Reference string `json:"reference"`
	} `json:"reference"`
	Name           string `json:"name"`
	ExampleBoolean bool   `json:"exampleBoolean"`
}

// ImplementationGuide returns the ImplementationGuide that lists these resources.
func ImplementationGuide(list []Resource) (Resource, error) {
	out := Resource{Type: "ImplementationGuide", ID: PackageID, URL: fhir.Canonical + "/ImplementationGuide/" + PackageID,
		Version: Version}
	ig := implementationGuide{ResourceType: out.Type, ID: out.ID, URL: out.URL, Version: Version, Name: "Pulsegate",
		Title: title, Status: "active", Publisher: "Pulsegate", Description: about, PackageID: PackageID,
		License: license, FHIRVersion: []string{r4Version}}
	for _, r := range list {
		var named struct{ Name, Title string }
		if err := json.Unmarshal(r.JSON, &named); err != nil {
			return out, fhir.Wrap("guide.ImplementationGuide", err)
		}
		d := defined{Name: named.Title}
		if d.Name == "" {
			d.Name = named.Name
		}
		d.Reference.Reference = r.Type + "/" + r.ID
		ig.Definition.Resource = append(ig.Definition.Resource, d)
	}
	var err error
	out.JSON, err = json.Marshal(ig)
	return out, fhir.Wrap("guide.ImplementationGuide", err)
}
