package applegen

import (
	"archive/zip"
	"bufio"
	"cmp"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"time"
)

// GenerateZip writes an export.zip with an export.xml, two ECGs, and the routes
// and clinical records that the export.xml refers to.
func GenerateZip(w io.Writer, o Options) error {
	z := zip.NewWriter(w)
	file := func(name string) (io.Writer, error) {
		return z.CreateHeader(&zip.FileHeader{Name: "apple_health_export/" + name, Method: zip.Deflate,
			Modified: o.Start})
	}
	f, err := file("export.xml")
	if err != nil {
		return err
	}
	if err := Generate(f, o); err != nil {
		return err
	}
	for i := range 2 {
		at := o.Start.AddDate(0, 0, i)
		f, err := file("electrocardiograms/ecg_" + at.Format(time.DateOnly) + ".csv")
		if err != nil {
			return err
		}
		if err := generateECG(f, o, at); err != nil {
			return err
		}
	}
	days, err := o.days()
	if err != nil {
		return err
	}
	gen := newGenerator(io.Discard, o, days)
	for day := range days {
		if err := gen.files(day, file); err != nil {
			return err
		}
	}
	return z.Close()
}

// files writes the files that the elements of one day refer to.
func (gen *generator) files(day int, file func(name string) (io.Writer, error)) error {
	write := func(name string) error {
		f, err := file(name)
		if err != nil {
			return err
		}
		_, err = f.Write(gen.buf)
		gen.buf = gen.buf[:0]
		return err
	}
	if _, from, length, ok := gen.session(day); ok {
		gen.str(`<?xml version="1.0" encoding="UTF-8"?>`,
			"\n<gpx version=\"1.1\" creator=\"Apple Health Export\" xmlns=\"http://www.topografix.com/GPX/1/1\"><trk><name>Route</name><trkseg>\n")
		for sec := 0; sec < length; sec += 60 {
			at := gen.start.AddDate(0, 0, day).Add(time.Duration(from+sec) * time.Second).UTC().Format(time.RFC3339)
			gen.buf = fmt.Appendf(gen.buf, "<trkpt lon=\"%.6f\" lat=\"%.6f\"><ele>%d</ele><time>%s</time></trkpt>\n",
				float64(sec)*2e-5, float64(sec)*1e-5, sec/60, at)
		}
		gen.str("</trkseg></trk></gpx>\n")
		if err := write(gen.route(day)); err != nil {
			return err
		}
	}
	if day%clinicalDays == clinicalDays-1 {
		gen.buf = fmt.Appendf(gen.buf, `{"resourceType":"Observation","id":"obs-%d","status":"final","code":{"text":"invented"}}`, day)
		return write(gen.clinicalFile(day))
	}
	return nil
}

// generateECG writes an ECG CSV of 30 seconds at 512 Hz.
func generateECG(w io.Writer, o Options, at time.Time) error {
	b := bufio.NewWriter(w)
	y, m, d := at.Date()
	at = time.Date(y, m, d, 9, 15, 35, 0, at.Location())
	_, err := fmt.Fprintf(b, "Name,%s\nDate of Birth,\"Feb 11, 1984\"\nRecorded Date,%s\nClassification,Sinus Rhythm\nSymptoms,\nSoftware Version,2.0\nDevice,\"Watch7,2\"\nSample Rate,512 hertz\n\n\nLead,Lead I\nUnit,µV\n\n",
		cmp.Or(o.Name, "Alva"), at.Format("2006-01-02 15:04:05 -0700"))
	if err != nil {
		return err
	}
	r := rand.New(rand.NewPCG(o.Seed, uint64(at.Unix())))
	for i := range 30 * 512 {
		phase := math.Mod(float64(i)/512*1.1, 1)
		v := 80*math.Exp(-math.Pow((phase-0.2)/0.03, 2)) - 120*math.Exp(-math.Pow((phase-0.37)/0.008, 2)) +
			900*math.Exp(-math.Pow((phase-0.4)/0.009, 2)) + 180*math.Exp(-math.Pow((phase-0.65)/0.05, 2)) +
			6*r.NormFloat64()
		if _, err := fmt.Fprintf(b, "%.3f\n", v); err != nil {
			return err
		}
	}
	return b.Flush()
}
