package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"
)

const resultsHead = `# Bench results

Written by ` + "`go run ./conformance/bench -bin bin/pulsegate -results conformance/bench/RESULTS.md`" + `, newest last.
The load program runs on the same cores as the server. Floors are measured in the same run. Compare the
shares of the floors rather than the figures, which depend on the other load of the machine.
`

// results appends a section to a file of results.
func (b *bench) results(file string) error {
	old, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		old, err = []byte(resultsHead), nil
	}
	if err != nil {
		return err
	}
	var out bytes.Buffer
	out.Write(bytes.TrimRight(old, "\n"))
	fmt.Fprintf(&out, "\n\n## %s, commit %s\n\n%s; %d requests per measurement, %d connections, %d Observations.\n\n",
		time.Now().UTC().Format(time.DateOnly),
		commit(), machine(), b.opt.requests, b.opt.workers, b.opt.seedObs)
	out.WriteString("| what | figure | unit | of its floor | note |\n|---|---:|---|---:|---|\n")
	for _, f := range b.figures {
		share := ""
		if f.Reached > 0 {
			share = fmt.Sprintf("%.2f", f.Reached)
		}
		fmt.Fprintf(&out, "| %s | %s | %s | %s | %s |\n", f.Name, number(f.Value), f.Unit, share, f.Note)
	}
	return os.WriteFile(file, out.Bytes(), 0o644)
}

// commit returns the description of the working tree by git.
func commit() string {
	out, err := exec.Command("git", "describe", "--always", "--dirty").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

// machine describes the machine for comparisons: cores, processor, memory and load.
func machine() string {
	s := fmt.Sprintf("%d cores, %s", runtime.NumCPU(), runtime.GOARCH)
	for _, f := range []struct{ file, key, as string }{{"/proc/cpuinfo", "model name", ""},
		{"/proc/meminfo", "MemTotal", "memory "}} {
		raw, err := os.ReadFile(f.file)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(raw)) {
			if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == f.key {
				s += ", " + f.as + strings.TrimSpace(v)
				break
			}
		}
	}
	if raw, err := os.ReadFile("/proc/loadavg"); err == nil {
		// A load far above the number of cores means that other programs ran, too.
		s += ", load " + strings.Join(strings.Fields(string(raw))[:3], " ") + " at the end"
	}
	return s
}
