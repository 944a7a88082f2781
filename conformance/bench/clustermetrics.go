package main

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"pulsegate/conformance/blackbox"
)

// meter is a histogram of the processes: how often something was done, and for how long
// together.
type meter struct{ count, seconds float64 }

func (m meter) minus(o meter) meter { return meter{m.count - o.count, m.seconds - o.seconds} }

// mean returns the mean in milliseconds.
func (m meter) mean() float64 { return m.seconds / max(1, m.count) * 1000 }

// logWork counts the operations of the processes on the log.
type logWork struct{ appends, looks meter }

// note describes the work since an earlier state, for a number of requests.
func (w logWork) note(before logWork, n int) string {
	a, l := w.appends.minus(before.appends), w.looks.minus(before.looks)
	of := float64(max(1, n))
	return fmt.Sprintf("%.2f appends of %.1f ms and %.2f looks of %.1f ms per request", a.count/of, a.mean(),
		l.count/of, l.mean())
}

// logMeters sums the metrics of the log over processes.
func logMeters(processes []*blackbox.Server) (w logWork, err error) {
	for _, p := range processes {
		r, err := http.Get(p.Metrics)
		if err != nil {
			return w, err
		}
		err = w.add(r.Body)
		if cerr := r.Body.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return w, err
		}
	}
	return w, nil
}

// add adds the metrics of a process in the text format of Prometheus.
func (w *logWork) add(text io.Reader) error {
	lines := bufio.NewScanner(text)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		name, rest, _ := strings.Cut(lines.Text(), "{")
		into := map[string]*float64{
			"pulsegate_log_append_duration_seconds_count": &w.appends.count,
			"pulsegate_log_append_duration_seconds_sum":   &w.appends.seconds,
			"pulsegate_log_look_duration_seconds_count":   &w.looks.count,
			"pulsegate_log_look_duration_seconds_sum":     &w.looks.seconds,
		}[name]
		if into == nil {
			continue
		}
		v, err := strconv.ParseFloat(rest[strings.LastIndexByte(rest, ' ')+1:], 64)
		if err != nil {
			return fmt.Errorf("the metric %s: %w", name, err)
		}
		*into += v
	}
	return lines.Err()
}
