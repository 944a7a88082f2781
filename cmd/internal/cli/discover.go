package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"pulsegate/cmd/internal/admin"
)

// commonData lists the directories where servers usually keep their data: in the
// working directory (`pulsegate serve`, `make run`), and the directories of the
// systemd unit and of the container.
var commonData = []string{"pulsegate-data", "demo-data", "/var/lib/pulsegate", "/data"}

// findData returns the data directory for a command without --data. It is
// PULSEGATE_DATA if that is set, and otherwise the only one of commonData in which
// a server answers.
func findData() (string, error) {
	if d := os.Getenv("PULSEGATE_DATA"); d != "" {
		return d, nil
	}
	var live []string
	for _, d := range commonData {
		if pid, err := admin.Dial(d).PID(); err == nil && pid > 0 {
			live = append(live, d)
		}
	}
	switch len(live) {
	case 0:
		return "", admin.Advise(fmt.Errorf("no server answers in %s", strings.Join(commonData, ", ")),
			"start one with `pulsegate serve`, or give the data directory of the running one with --data DIR")
	case 1:
		return live[0], nil
	}
	return "", admin.Advise(fmt.Errorf("%d servers are running here: in %s", len(live), strings.Join(live, " and ")),
		"choose one with --data DIR")
}

// InUse returns an error that names the process if a server already answers in the
// data directory.
func InUse(data string) error {
	pid, err := admin.Dial(data).PID()
	if err != nil {
		return nil // the socket is absent or left behind by a killed server
	}
	abs, err := filepath.Abs(data)
	if err != nil {
		abs = data
	}
	return admin.Advise(fmt.Errorf("another pulsegate (pid %d) uses %s", pid, abs),
		"stop it first, or serve another data directory with --data DIR")
}
