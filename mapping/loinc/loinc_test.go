package loinc_test

import (
	"fmt"
	"strings"
	"testing"

	"pulsegate/mapping/loinc"
	"pulsegate/mapping/table"
)

// release returns a file of the form of Loinc.csv that agrees with the table, except for
// the lines in changed, by code. A code with the line "" is left out.
func release(t *table.Table, changed map[string]string) string {
	var b strings.Builder
	b.WriteString("\ufeff\"LOINC_NUM\",\"COMPONENT\",\"STATUS\",\"LONG_COMMON_NAME\",\"EXAMPLE_UCUM_UNITS\"\r\n")
	for _, c := range t.Codes {
		if c.System != "http://loinc.org" {
			continue
		}
		line, ok := changed[c.Code]
		if !ok {
			line = fmt.Sprintf("%q,\"invented\",\"ACTIVE\",%q,\"\"", c.Code, c.Display)
		}
		if line != "" {
			b.WriteString(line + "\r\n")
		}
	}
	b.WriteString("\"1-1\",\"a, \"\"b\"\"\nc\",\"ACTIVE\",\"Not in the table\",\"\"\r\n")
	return b.String()
}

// TestCheck checks that a release that agrees has no problems, and that each kind of
// difference is found and nothing else.
func TestCheck(t *testing.T) {
	tab, err := table.Load(table.Builtin())
	if err != nil {
		t.Fatal(err)
	}
	r, err := loinc.Check(tab, strings.NewReader(release(tab, nil)))
	if err != nil || len(r.Problems) != 0 || r.Codes < 50 || r.Release != r.Codes+1 {
		t.Errorf("%+v %v", r, err)
	}
	r, err = loinc.Check(tab, strings.NewReader(release(tab, map[string]string{
		"29463-7": "",
		"39156-5": `"39156-5","","DEPRECATED","Body mass index (BMI) [Ratio]","kg/m2; g"`,
		"8302-2":  `"8302-2","","ACTIVE","Body height","m; [in_i]"`,
		"8867-4":  `"8867-4","","ACTIVE","Heart beats","/min"`,
		"9279-1":  `"9279-1","","DISCOURAGED","Respiratory rate","/min;{breaths}/min"`,
		"77196-4": `"77196-4","","TRIAL","Pulse wave velocity",""`,
	})))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range r.Problems {
		got = append(got, fmt.Sprintf("%s %s %s|%s %v", p.Code, p.Kind, p.Table, p.Release, p.Fatal()))
		if len(p.Rows) == 0 || !strings.Contains(p.Rows[0], " ") {
			t.Errorf("rows of %s: %v", p.Code, p.Rows)
		}
	}
	want := []string{"29463-7 missing Body weight| true", "39156-5 deprecated |DEPRECATED true",
		"77196-4 trial |TRIAL false", "8302-2 unit cm|m, [in_i] false", "8867-4 display Heart rate|Heart beats false",
		"9279-1 discouraged |DISCOURAGED false"}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestCheckRefuses checks files that are no Loinc.csv. The errors contain none of their
// content.
func TestCheckRefuses(t *testing.T) {
	tab, err := table.Load(table.Builtin())
	if err != nil {
		t.Fatal(err)
	}
	header, _, _ := strings.Cut(release(tab, nil), "\r\n")
	for text, want := range map[string]string{
		"":                    "the file is empty",
		"secret,STATUS\r\n":   "no column LOINC_NUM",
		header + "\n\"secret": "line 2: extraneous or missing",
		header + "\nsecret\n": "line 2: wrong number of fields",
	} {
		if _, err := loinc.Check(tab, strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) ||
			strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}
