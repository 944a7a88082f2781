package blackbox

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"pulsegate/fhir/porttest"
)

// Server is a running pulsegate process.
type Server struct {
	Bin, Data string
	Base      string        // printed base URL
	Metrics   string        // printed URL of the metrics
	Ready     time.Duration // time from the start to the ready line
	cmd       *exec.Cmd
	log       *tail
	done      chan error
}

// Binary is the environment variable with the path of a binary that was just built from
// this source, as the Makefile does.
const Binary = "PULSEGATE_TEST_BINARY"

// Build builds the binary in dir and returns its path. It returns the binary of the
// environment if there is one.
func Build(dir string) (string, error) {
	if bin := os.Getenv(Binary); bin != "" {
		_, err := os.Stat(bin) // go test runs the tests again when the file has changed
		return bin, err
	}
	bin := filepath.Join(dir, "pulsegate")
	if out, err := exec.Command("go", "build", "-o", bin, "pulsegate/cmd/pulsegate").CombinedOutput(); err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, out)
	}
	return bin, nil
}

// FreePort returns a free loopback port, for a server with a base URL that must be
// known before it starts. No other process is given it before this one has ended.
func FreePort() (int, error) { return porttest.Reserve() }

// patience bounds the wait for a server to start and to drain.
const patience = 2 * time.Minute

// Start runs `serve` on a free loopback port and waits for the ready line. The
// environment allows subscriptions and key URLs on loopback.
func Start(bin, data string, args ...string) (*Server, error) {
	return StartAt(bin, data, "127.0.0.1:0", args...)
}

// StartAt is Start with the address to listen on.
func StartAt(bin, data, listen string, args ...string) (*Server, error) {
	return StartWith(bin, data, listen, []string{"PULSEGATE_EGRESS_ALLOW=127.0.0.0/8",
		"PULSEGATE_METRICS_LISTEN=127.0.0.1:0"}, args...)
}

// StartWith is StartAt with env, in addition to the environment of this process.
func StartWith(bin, data, listen string, env []string, args ...string) (*Server, error) {
	s := &Server{Bin: bin, Data: data, log: &tail{}, done: make(chan error, 1)}
	s.cmd = exec.Command(bin, append([]string{"serve", "--data", data, "--listen", listen}, args...)...)
	s.cmd.Env = append(os.Environ(), env...)
	s.cmd.Stderr = s.log
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	ready := make(chan string, 1)
	go func() {
		sc := bufio.NewScanner(out)
		for sc.Scan() {
			if url, ok := strings.CutPrefix(sc.Text(), "pulsegate metrics "); ok {
				s.Metrics = url // printed before the ready line
			}
			if base, ok := strings.CutPrefix(sc.Text(), "pulsegate ready "); ok {
				ready <- base
			}
		}
		s.done <- s.cmd.Wait()
	}()
	select {
	case s.Base = <-ready:
		s.Ready = time.Since(begin)
		return s, nil
	case err := <-s.done:
		return nil, fmt.Errorf("the server ended before it was ready: %v\n%s", err, s.log)
	case <-time.After(patience):
		return nil, errors.Join(fmt.Errorf("no ready line in %v\n%s", patience, s.log), s.cmd.Process.Kill())
	}
}

// Kill ends the process with SIGKILL.
func (s *Server) Kill() error {
	if err := s.cmd.Process.Kill(); err != nil {
		return err
	}
	<-s.done
	return nil
}

// Stop ends the process with SIGTERM, which drains it, and waits for it.
func (s *Server) Stop() error {
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case err := <-s.done:
		return err
	case <-time.After(patience):
		return errors.Join(fmt.Errorf("the server did not drain in %v", patience), s.cmd.Process.Kill())
	}
}

// Signal sends a signal to the process, such as SIGSTOP and SIGCONT.
func (s *Server) Signal(sig os.Signal) error { return s.cmd.Process.Signal(sig) }

// pID returns the process id.
func (s *Server) pID() int { return s.cmd.Process.Pid }

// Log returns the last MiB that the server wrote to stderr.
func (s *Server) Log() string { return s.log.String() }

// Run runs a command of the operator with --data and --json, and decodes its output
// into out unless that is nil.
func (s *Server) Run(out any, args ...string) error {
	return s.RunStdin(nil, out, args...)
}

// RunStdin is Run with standard input.
func (s *Server) RunStdin(in io.Reader, out any, args ...string) error {
	cmd := exec.Command(s.Bin, append(args, "--data", s.Data, "--json")...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, &stdout, &stderr
	err := cmd.Run()
	if out != nil && stdout.Len() > 0 {
		if jerr := json.Unmarshal(stdout.Bytes(), out); jerr != nil && err == nil {
			err = jerr
		}
	}
	if err != nil {
		return fmt.Errorf("pulsegate %s: %w: %s", strings.Join(args[:min(2, len(args))], " "), err,
			strings.TrimSpace(stderr.String()))
	}
	return nil
}

// RSS returns the resident memory of the process in bytes.
func (s *Server) RSS() (int64, error) { return s.memory("VmRSS:") }

// PeakRSS returns the maximum resident memory of the process so far, in bytes.
func (s *Server) PeakRSS() (int64, error) { return s.memory("VmHWM:") }

// memory returns a field of /proc/PID/status in bytes.
func (s *Server) memory(field string) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.pID()))
	if err != nil {
		return 0, err
	}
	for _, l := range strings.Split(string(b), "\n") {
		if v, ok := strings.CutPrefix(l, field); ok {
			var kb int64
			if _, err := fmt.Sscanf(strings.TrimSpace(v), "%d kB", &kb); err != nil {
				return 0, err
			}
			return kb << 10, nil
		}
	}
	return 0, errors.New("no " + field)
}

// CPU returns the processor time that the process has used in user and system mode,
// with a resolution of 10 ms.
func (s *Server) CPU() (time.Duration, error) { return CPU(s.pID()) }

// CPU returns the processor time that a process has used, as Server.CPU does.
func CPU(pid int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(string(b), ") ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 13 {
		return 0, errors.New("no processor time")
	}
	var ticks time.Duration
	for _, f := range fields[11:13] {
		var n int64
		if _, err := fmt.Sscan(f, &n); err != nil {
			return 0, err
		}
		ticks += time.Duration(n)
	}
	return ticks * 10 * time.Millisecond, nil
}

// tail keeps the last MiB written to it.
type tail struct {
	mu  sync.Mutex
	buf []byte // guarded by mu
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if len(t.buf) > 2<<20 {
		t.buf = append([]byte(nil), t.buf[len(t.buf)-1<<20:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.buf)
}
