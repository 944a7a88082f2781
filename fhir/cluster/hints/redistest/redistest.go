// Package redistest starts Redis servers for tests.
package redistest

import (
	"bufio"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"pulsegate/fhir/porttest"
)

// Variable names the environment variable with the URL of a running Redis server.
const Variable = "PULSEGATE_TEST_REDIS"

// patience bounds the wait for a server to start.
const patience = 2 * time.Minute

// URL returns the URL of a Redis server: the one that the environment names, or one
// that Start starts.
func URL(t testing.TB) string {
	t.Helper()
	if url := os.Getenv(Variable); url != "" {
		return url
	}
	return Start(t).URL()
}

// Server is a redis-server process on a port of the loopback interface, with a
// directory of its own.
type Server struct {
	test testing.TB
	dir  string
	port int

	mu      sync.Mutex
	process *exec.Cmd
	ended   chan struct{} // closed when process has ended
}

// Start starts a server, which ends with the test. It skips the test if there is no
// redis-server and the tests run in their short form.
func Start(t testing.TB) *Server {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		if testing.Short() {
			t.Skip("redis-server is missing; deploy/ensure-redis.sh installs it")
		}
		t.Fatal("redis-server is missing; deploy/ensure-redis.sh installs it")
	}
	port, err := porttest.Reserve()
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{test: t, dir: t.TempDir(), port: port}
	if !s.start() {
		t.Fatal("redis-server does not start")
	}
	t.Cleanup(s.Stop)
	return s
}

// Addr returns the host and port of the server.
func (s *Server) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)) }

// URL returns the URL of the server.
func (s *Server) URL() string { return "redis://" + s.Addr() }

// Restart starts the server again after Stop, at the same address and without data.
func (s *Server) Restart() {
	s.test.Helper()
	if !s.start() {
		s.test.Fatal("redis-server does not start again")
	}
}

func (s *Server) start() bool {
	s.test.Helper()
	cmd := exec.Command("redis-server", "--port", strconv.Itoa(s.port), "--bind", "127.0.0.1", "--dir", s.dir,
		"--save", "", "--appendonly", "no", "--unixsocket", filepath.Join(s.dir, "socket"))
	if err := cmd.Start(); err != nil {
		s.test.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // reports the signal of Stop
		close(ended)
	}()
	s.mu.Lock()
	s.process, s.ended = cmd, ended
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		// The socket is in a directory of this server, so that an answer there is not
		// from another server on the port.
		c, err := new(net.Dialer).DialContext(ctx, "unix", filepath.Join(s.dir, "socket"))
		if err == nil {
			_ = c.Close()
			return true
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ended:
			return false
		case <-ctx.Done():
			s.Stop()
			return false
		}
	}
}

// Stop kills the server. It may be called more than once.
func (s *Server) Stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil {
		return
	}
	_ = s.process.Process.Signal(syscall.SIGCONT)
	_ = s.process.Process.Kill() // fails only if it has ended
	<-s.ended                    // only then is the port free
	s.process = nil
	_ = os.Remove(filepath.Join(s.dir, "socket"))
}

// Pause stops the server as SIGSTOP does: connections stay open, and nothing is
// answered until Resume.
func (s *Server) Pause() { s.signal(syscall.SIGSTOP) }

// Resume continues the server after Pause.
func (s *Server) Resume() { s.signal(syscall.SIGCONT) }

func (s *Server) signal(sig syscall.Signal) {
	s.test.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.process.Process.Signal(sig); err != nil {
		s.test.Fatal(err)
	}
}

// Do sends a command to the server. It fails the test if the server refuses it.
func (s *Server) Do(command string) {
	s.test.Helper()
	c, err := net.DialTimeout("tcp", s.Addr(), patience)
	if err != nil {
		s.test.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte(command + "\r\n")); err != nil {
		s.test.Fatal(err)
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil || strings.HasPrefix(line, "-") {
		s.test.Fatalf("%s: %s%v", command, line, err)
	}
}
