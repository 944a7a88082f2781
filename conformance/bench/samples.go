package main

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"pulsegate/conformance/blackbox"
)

// samples fills a separate data directory with -samples heart rates of 20 patients and
// measures the sample tier: ingest, bytes on disk after a clean stop, start-up, memory,
// and searches.
func (b *bench) samples() error {
	data := filepath.Join(b.dir, "samples")
	srv, err := blackbox.Start(b.opt.bin, data)
	if err != nil {
		return err
	}
	var ids []string
	for i := range 20 {
		var p struct{ ID string }
		if err := srv.Run(&p, "patient", "add", "--given", "Bo", "--family", "Bench"+strconv.Itoa(i)); err != nil {
			return err
		}
		if err := srv.Run(nil, "consent", "grant", "--patient", p.ID, "--vendor", "apple"); err != nil {
			return err
		}
		ids = append(ids, p.ID)
	}
	client, err := b.newClient(srv, b.client.HTTP)
	if err != nil {
		return err
	}
	if err := srv.Stop(); err != nil {
		return err
	}
	before, err := diskUse(data)
	if err != nil {
		return err
	}
	created, took, err := fill(data, ids, b.opt.samples)
	if err != nil {
		return fmt.Errorf("fill: %w", err)
	}
	b.add("samples, decoded to durable", float64(created)/took.Seconds(), "samples/s",
		fmt.Sprintf("%d heart rates of %d patients", created, len(ids)))
	for i := range 2 { // the second start finds a store that was closed cleanly
		if srv, err = blackbox.Start(b.opt.bin, data); err != nil {
			return err
		}
		if i == 0 {
			if err := srv.Stop(); err != nil {
				return err
			}
		}
	}
	defer func() {
		if serr := srv.Stop(); err == nil {
			err = serr
		}
	}()
	after, err := diskUse(data)
	if err != nil {
		return err
	}
	b.add("samples, disk after a clean stop", float64(after-before)/float64(created), "B/sample",
		"index, change log and audit included")
	b.add("samples, start-up", float64(srv.Ready.Milliseconds()), "ms", "")
	time.Sleep(2 * time.Second)
	rss, err := srv.RSS()
	if err != nil {
		return err
	}
	b.add("samples, memory after start", float64(rss)/1e6, "MB", "")
	client.Base = srv.Base
	return b.sampleReads(client, ids)
}

// sampleReads measures searches and operations on one connection.
func (b *bench) sampleReads(c *blackbox.Client, ids []string) error {
	own := *b
	own.client = c
	do, end, err := own.line()
	if err != nil {
		return err
	}
	now := time.Now().UTC()
	day := func(back int) string { return now.AddDate(0, 0, -back).Format(time.DateOnly) }
	for _, q := range []struct {
		name string
		n    int
		path func(i int) string
	}{
		{"samples, search patient+code+date, 100 newest", 1000, func(i int) string {
			return "Observation?patient=" + ids[i%len(ids)] + "&code=http://loinc.org%7C8867-4&date=lt" +
				day(2+i%7) + "&_sort=-date&_count=100"
		}},
		{"samples, $lastn of a patient", 300, func(i int) string {
			return "Observation/$lastn?patient=" + ids[i%len(ids)] + "&category=vital-signs"
		}},
		{"samples, $stats of a day", 300, func(i int) string {
			return "Observation/$stats?subject=Patient/" + ids[i%len(ids)] +
				"&coding=http://loinc.org%7C8867-4&statistic=average,minimum,maximum,count,median&period=" +
				day(4) + "/" + day(4)
		}},
		{"samples, $stats of a year", 40, func(i int) string {
			return "Observation/$stats?subject=Patient/" + ids[i%len(ids)] +
				"&coding=http://loinc.org%7C8867-4&statistic=average,minimum,maximum,count,median&period=" +
				day(365) + "/" + day(0)
		}},
		{"samples, $time-buckets of a year by day", 40, func(i int) string {
			return "Observation/$time-buckets?subject=Patient/" + ids[i%len(ids)] +
				"&coding=http://loinc.org%7C8867-4&calendar=day&zone=Europe/Berlin&start=" + day(365) + "&end=" + day(0)
		}},
	} {
		var lat []time.Duration
		for i := range q.n {
			begin := time.Now()
			if _, err := do("GET", q.path(i), nil, 200); err != nil {
				return fmt.Errorf("%s: %w", q.name, err)
			}
			lat = append(lat, time.Since(begin))
		}
		slices.Sort(lat)
		b.add(q.name, ms(lat, .5), "ms p50", fmt.Sprintf("p99 %.2f ms, one connection", ms(lat, .99)))
	}
	return end()
}

// diskUse returns the size of all files below dir in bytes.
func diskUse(dir string) (n int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if err == nil && info.Mode().IsRegular() {
			n += info.Size()
		}
		return err
	})
	return n, err
}
