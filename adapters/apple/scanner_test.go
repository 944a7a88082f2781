package apple

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

// scannerEvents renders the tokens of the scanner so that they can be compared with
// stdEvents.
func scannerEvents(r io.Reader) ([]string, error) {
	var out []string
	text := ""
	flush := func() {
		if text != "" {
			out, text = append(out, "text "+text), ""
		}
	}
	s := newScanner(r)
	for {
		tok, err := s.next()
		if err != nil {
			return out, err
		}
		switch tok {
		case tokenEOF:
			flush()
			return out, nil
		case tokenText:
			text += string(s.text)
		case tokenEnd:
			flush()
			out = append(out, "end "+string(s.name))
		case tokenStart:
			flush()
			l := "start " + string(s.name)
			for i := range s.attrs {
				l += "\x01" + string(s.attrs[i].name) + "\x02" + string(s.value(&s.attrs[i]))
			}
			out = append(out, l)
		}
	}
}

func qualified(n xml.Name) string {
	if n.Space != "" {
		return n.Space + ":" + n.Local
	}
	return n.Local
}

// stdEvents renders the tokens of encoding/xml. ok is false if the document cannot be
// compared because encoding/xml refuses it or because it has an internal subset, in
// which the scanner is more lenient.
func stdEvents(doc []byte) (out []string, ok bool) {
	check := xml.NewDecoder(bytes.NewReader(doc))
	for {
		tok, err := check.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, false
		}
		if d, is := tok.(xml.Directive); is && bytes.ContainsAny(d, "[<") {
			return nil, false
		}
	}
	d := xml.NewDecoder(bytes.NewReader(doc))
	text := ""
	flush := func() {
		if text != "" {
			out, text = append(out, "text "+text), ""
		}
	}
	for {
		tok, err := d.RawToken()
		if err == io.EOF {
			flush()
			return out, true
		}
		if err != nil {
			return nil, false
		}
		switch x := tok.(type) {
		case xml.CharData:
			text += string(x)
		case xml.StartElement:
			flush()
			l := "start " + qualified(x.Name)
			for _, a := range x.Attr {
				l += "\x01" + qualified(a.Name) + "\x02" + a.Value
			}
			out = append(out, l)
		case xml.EndElement:
			flush()
			out = append(out, "end "+qualified(x.Name))
		}
	}
}

var scannerSeeds = []string{
	`<a/>`, `<a b="c"/>`, `<a b='c"d' e = "f" >x</a >`,
	`<?xml version="1.0" encoding="UTF-8"?><a>&lt;&#65;&#x42;&amp;</a>`,
	"<a b=\"x\r\ny\rz\tq\">one\r\ntwo&#13;</a>", `<a><!-- c > < --><![CDATA[<&]] >]]></a>`, `<!DOCTYPE a><a/>`,
	`<!DOCTYPE a "x>y"><a/>`, "\ufeff<a>\u202f’</a>", `<a:b c:d="e" xmlns:a="u"></a:b>`, `<a><b/><b></b></a>tail`,
	`<a b="c"d="e"/>`, `<?x ?y?><a/>`, `<a b="&quot;&apos;&gt;"/>`, `<é ü="ß"/>`, `<a b="&#xD800;"/>`, `<a b=""/>`,
	"<!DOCTYPE H [\n<!-- Version: 12 -->\n<!ATTLIST V\n brand CDATA #IMPLIED\n<!ELEMENT R EMPTY>\n>\n>\n]>\n<H/>",
	`<a>&bogus;</a>`, "<a>\x0b\xff</a>", `<a><b></a></b>`, `<a b="<"/>`, `<a`, `<a b`, `<a b=`, `<a b="`, `<!`,
	`<!-`, `<![CDATA[`, `</a>`,
}

func FuzzScanner(f *testing.F) {
	for _, s := range scannerSeeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		got, err := scannerEvents(bytes.NewReader(doc))
		slow, slowErr := scannerEvents(iotest.OneByteReader(bytes.NewReader(doc)))
		if !slices.Equal(got, slow) || (err == nil) != (slowErr == nil) {
			t.Fatalf("reading byte by byte gives other tokens: %q %v, %q %v", got, err, slow, slowErr)
		}
		want, ok := stdEvents(doc)
		var refused refusedError
		if !ok || errors.As(err, &refused) {
			return
		}
		if err != nil {
			t.Fatalf("encoding/xml accepts the document: %v", err)
		}
		if !slices.Equal(got, want) {
			t.Fatalf("got  %q\nwant %q", got, want)
		}
	})
}

func TestScannerOnMalformedDocuments(t *testing.T) {
	repeat := func(s string, n int) string { return strings.Repeat(s, n) }
	for name, c := range map[string]struct {
		doc  string
		want []string // nil means an error
		err  string
	}{
		"DTD without a '>'": {scannerSeeds[17], []string{"text \n", "start H", "end H"}, ""},
		"control characters": {"<a b=\"x\x0by\">\x01</a>",
			[]string{"start a\x01b\x02x\ufffdy", "text \ufffd", "end a"}, ""},
		"not UTF-8":           {"<a b=\"\xff\"/>", []string{"start a\x01b\x02\ufffd", "end a"}, ""},
		"unknown entity":      {"<a>&x;&</a>", []string{"start a", "text &x;&", "end a"}, ""},
		"duplicate attribute": {`<a b="1" b="2"/>`, []string{"start a\x01b\x021\x01b\x022", "end a"}, ""},
		"entity declared":     {`<!DOCTYPE a [<!ENTITY x "y">]><a/>`, nil, "declares an entity"},
		"external DTD":        {`<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>`, nil, "external"},
		"external subset":     {`<!DOCTYPE a [<!ELEMENT PUBLIC "x">]><a/>`, nil, "external"},
		"deep":                {repeat("<a>", 33), nil, "32 deep"},
		"long token":          {`<a b="` + repeat("x", 2<<20) + `"/>`, nil, "1 MiB"},
		"long DTD":            {`<!DOCTYPE a [` + repeat(" ", 2<<20), nil, "1 MiB"},
		"many attributes":     {"<a " + repeat(`b="" `, 300) + "/>", nil, "256"},
		"crossed":             {"<a><b></a></b>", nil, "without its start"},
		"unclosed":            {"<a><b></b>", nil, "inside an element"},
		"half a tag":          {"<a b=\"c", nil, "inside a tag"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := scannerEvents(strings.NewReader(c.doc))
			if c.want == nil {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("got %v, want %q", err, c.err)
				}
				return
			}
			if err != nil || !slices.Equal(got, c.want) {
				t.Fatalf("got %q %v, want %q", got, err, c.want)
			}
		})
	}
}
