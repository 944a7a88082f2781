package main

import (
	"archive/zip"
	"bufio"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
)

// Rules of the counts of Apple's formats.
const (
	rulePair = "two halves are one blood pressure"
	ruleFile = "file of an archive that is not read"
)

// halves pairs the halves of blood pressures by start and source.
type halves map[[2]string]int

// add adds a half if the type is one.
func (h halves) add(typ, start, source string) {
	switch strings.TrimPrefix(typ, "HKQuantityTypeIdentifierBloodPressure") {
	case "Systolic":
		h[[2]string{start, source}] |= 1
	case "Diastolic":
		h[[2]string{start, source}] |= 2
	}
}

// pairs returns the number of complete pairs.
func (h halves) pairs() (n int) {
	for _, sides := range h {
		if sides == 3 {
			n++
		}
	}
	return n
}

// countExport counts the items of an export.xml.
func countExport(body io.Reader) (t tally, err error) {
	dec := xml.NewDecoder(&cleaned{body: bufio.NewReader(body)})
	dec.Strict = false
	dec.Entity = xml.HTMLEntity
	var open []string
	bp := halves{}
	for {
		token, err := dec.RawToken()
		if errors.Is(err, io.EOF) && len(open) == 0 {
			t.note(rulePair, -bp.pairs())
			return t, nil
		}
		if err != nil {
			return t, fmt.Errorf("XML is not well-formed near byte %d", dec.InputOffset())
		}
		switch e := token.(type) {
		case xml.StartElement:
			open = append(open, e.Name.Local)
			t.element(open, &e, bp)
		case xml.EndElement:
			if len(open) == 0 || open[len(open)-1] != e.Name.Local {
				return t, fmt.Errorf("XML is not well-formed near byte %d", dec.InputOffset())
			}
			open = open[:len(open)-1]
		}
	}
}

// element counts an element of an export. open holds the names of the open elements.
func (t *tally) element(open []string, e *xml.StartElement, bp halves) {
	attr := map[string]string{}
	for _, a := range e.Attr {
		if _, twice := attr[a.Name.Local]; !twice {
			attr[a.Name.Local] = a.Value
		}
	}
	bpType := attr["type"] == "HKCorrelationTypeIdentifierBloodPressure"
	switch name := e.Name.Local; {
	case len(open) == 2 && name == "Correlation" && !bpType:
		t.items++
	case name == "Record" && (len(open) == 2 || len(open) == 3):
		t.items++
		bp.add(attr["type"], attr["startDate"], attr["sourceName"])
	case len(open) == 2:
		switch name {
		case "Workout", "ActivitySummary", "Audiogram", "ClinicalRecord", "VisionPrescription":
			t.items++
		}
	}
}

// cleaned replaces what an export of Apple's may have and XML forbids: control
// characters and bytes that need not be UTF-8 become spaces, and the document type
// declaration is left out.
type cleaned struct {
	body    *bufio.Reader
	started bool
}

// Read implements io.Reader.
func (c *cleaned) Read(p []byte) (int, error) {
	if !c.started {
		c.started = true
		if err := c.skipDoctype(); err != nil {
			return 0, err
		}
	}
	n, err := c.body.Read(p)
	for i, b := range p[:n] {
		if b < ' ' && b != '\t' && b != '\n' && b != '\r' || b >= 0x80 {
			p[i] = ' '
		}
	}
	return n, err
}

// skipDoctype reads up to the root element.
func (c *cleaned) skipDoctype() error {
	const root = "<HealthData"
	for {
		head, err := c.body.Peek(len(root))
		if string(head) == root {
			return nil
		}
		if err != nil {
			return errors.New("no element HealthData")
		}
		if _, err := c.body.Discard(1); err != nil {
			return err
		}
	}
}

// countAppleArchive counts the items of an export.zip.
func countAppleArchive(body *io.SectionReader) (t tally, err error) {
	z, err := zip.NewReader(body, body.Size())
	if err != nil {
		return t, err
	}
	documents := 0
	for _, f := range z.File {
		if !isData(f) {
			continue
		}
		folder := path.Base(path.Dir(f.Name))
		switch ext := strings.ToLower(path.Ext(f.Name)); {
		case folder == "electrocardiograms" && ext == ".csv":
			t.items++
			continue
		case ext == ".xml" && folder != "clinical-records":
			var one tally
			err := inEntry(f, func(r io.Reader) (err error) { one, err = countExport(r); return err })
			if err == nil {
				documents++
				t.add(one)
				continue
			}
		}
		t.note(ruleFile, 1)
	}
	if documents != 1 {
		return t, fmt.Errorf("the archive has %d export documents", documents)
	}
	return t, nil
}

// isData reports whether an entry is a file, and not a folder or one that macOS adds.
func isData(f *zip.File) bool {
	base := path.Base(f.Name)
	return f.Mode().IsRegular() && !strings.HasPrefix(f.Name, "__MACOSX/") && !strings.HasPrefix(base, "._") &&
		base != ".DS_Store"
}

// inEntry calls fn with the content of an entry.
func inEntry(f *zip.File, fn func(io.Reader) error) error {
	r, err := f.Open()
	if err != nil {
		return err
	}
	return errors.Join(fn(r), r.Close())
}

// autoExport counts a body of Health Auto Export.
func (t *tally) autoExport(o object) {
	data, _ := o["data"].(object)
	for _, m := range items(data, "metrics") {
		metric, _ := m.(object)
		t.items += len(items(metric, "data"))
	}
	t.items += len(items(data, "workouts", "stateOfMind", "medications", "symptoms", "cycleTracking", "ecg",
		"heartRateNotifications"))
}

// companion counts a batch of the companion app.
func (t *tally) companion(o object) { t.items += len(items(o, "samples", "deleted")) }

// resource counts a FHIR resource made on the phone, or the entries of a Bundle.
func (t *tally) resource(o object) {
	if o["resourceType"] == "Bundle" {
		t.items += len(items(o, "entry"))
		return
	}
	t.items++
}

// openWearables counts a sync request of the Open Wearables SDK. Requests of other
// vendors' phones have no items for Apple.
func (t *tally) openWearables(o object) {
	data, _ := o["data"].(object)
	if p, ok := o["provider"].(string); ok && p != "apple" {
		return
	}
	t.items += len(items(data, "records", "sleep", "workouts"))
	bp := halves{}
	for _, r := range items(data, "records") {
		typ, _ := inner(r, "type").(string)
		start, _ := inner(r, "startDate").(string)
		source, _ := inner(r, "source", "name").(string)
		bp.add(typ, start, source)
	}
	t.note(rulePair, -bp.pairs())
}
