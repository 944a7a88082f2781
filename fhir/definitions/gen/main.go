// Command gen writes the tables of fhir/definitions from HL7's definitions.
package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

func main() {
	core := flag.String("definitions", "", "folder with resources.ndjson.gz and datatypes.ndjson.gz of R4 4.0.1")
	codes := flag.String("codes", "gen/codes.txt", "codes of the value sets")
	guides := flag.String("guides", "", "packages of US Core as version=file.tgz, separated by commas, the newest first")
	out := flag.String("out", ".", "folder to write r4.txt.gz and profiles.txt.gz to")
	print := flag.Bool("print", false, "write the uncompressed tables to standard output instead")
	flag.Parse()
	if err := run(*core, *codes, *guides, *out, *print); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

func run(core, codes, guides, out string, print bool) error {
	base, err := r4Tables(core, codes)
	if err != nil {
		return err
	}
	profiles, err := profileTables(core, strings.Split(guides, ","))
	if err != nil {
		return err
	}
	if print {
		_, err := os.Stdout.Write(append(base, profiles...))
		return err
	}
	if err := compress(filepath.Join(out, "r4.txt.gz"), base); err != nil {
		return err
	}
	return compress(filepath.Join(out, "profiles.txt.gz"), profiles)
}

// compress writes a gzip file without a time, so that equal input gives equal
// files.
func compress(name string, b []byte) error {
	var buf bytes.Buffer
	z, err := gzip.NewWriterLevel(&buf, gzip.BestCompression)
	if err != nil {
		return err
	}
	if _, err := z.Write(b); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	return os.WriteFile(name, buf.Bytes(), 0o644)
}

// definition is a StructureDefinition or a ValueSet.
type definition struct {
	ResourceType, URL, Name, Version, Kind, Derivation, Type, BaseDefinition string
	Abstract                                                                 bool
	Snapshot, Differential                                                   struct{ Element []element }
	Compose                                                                  struct{ Include, Exclude []include }
	Concept                                                                  []concept
}

type include struct {
	System   string
	Concept  []concept
	Filter   []json.RawMessage
	ValueSet []string
}

type concept struct {
	Code    string
	Concept []concept
}

type elementType struct {
	Code                   string
	Profile, TargetProfile []string
	Extension              []struct{ URL, ValueURL string }
}

type constraint struct{ Key, Severity, Human, Expression string }

type element struct {
	ID, Path, SliceName, ContentReference, Max string
	Min                                        *int
	Type                                       []elementType
	IsModifier, IsSummary, MustSupport         bool
	Constraint                                 []constraint
	Binding                                    struct {
		Strength, ValueSet string
		Extension          []struct{ URL, ValueCanonical string }
	}
	Slicing *struct {
		Rules         string
		Discriminator []struct{ Type, Path string }
	}
	// raw holds the members fixed[x], pattern[x] and maxLength.
	raw map[string]json.RawMessage
}

func (e *element) UnmarshalJSON(b []byte) error {
	type plain element
	if err := json.Unmarshal(b, (*plain)(e)); err != nil {
		return err
	}
	return json.Unmarshal(b, &e.raw)
}

// each calls fn for each line of a compressed NDJSON file.
func each(name string, fn func(*definition)) (err error) {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer func() {
		if e := f.Close(); err == nil {
			err = e
		}
	}()
	z, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	s := bufio.NewScanner(z)
	s.Buffer(nil, 64<<20)
	for s.Scan() {
		d := &definition{}
		if err := json.Unmarshal(s.Bytes(), d); err != nil {
			return err
		}
		fn(d)
	}
	return s.Err()
}

// clean makes a text fit into a field.
func clean(s string) string {
	return strings.Join(strings.Fields(s), " ")
}

func line(w io.Writer, fields ...string) {
	fmt.Fprintln(w, strings.Join(fields, "\t"))
}
