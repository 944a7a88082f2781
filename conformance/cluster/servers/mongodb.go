// Package servers starts the servers that a cluster needs besides its own processes: a
// stand-in for MongoDB and a Redis. Both listen on the loopback interface only.
package servers

import (
	"context"
	"os"
	"os/exec"
	"strconv"

	"pulsegate/conformance/blackbox"
	"pulsegate/fhir/store/sharedlog/mongolog/mongotest"
)

// MongoDB is the stand-in for MongoDB (conformance/ferretd). It keeps its databases
// when it is killed.
type MongoDB struct {
	Addr      string // host and port
	dir, path string
	cmd       *exec.Cmd
	stop      func() error // nil while it is down
}

// StartMongoDB builds the stand-in, if necessary, and starts it on a free port. It
// keeps its databases in dir, which must not exist.
func StartMongoDB(dir string) (*MongoDB, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	path, err := mongotest.Build(context.Background())
	if err != nil {
		return nil, err
	}
	port, err := blackbox.FreePort()
	if err != nil {
		return nil, err
	}
	s := &MongoDB{Addr: "127.0.0.1:" + strconv.Itoa(port), dir: dir, path: path}
	return s, s.Start()
}

// Start starts it again after Kill.
func (s *MongoDB) Start() (err error) {
	s.cmd = exec.Command(s.path, "-listen", s.Addr, "-dir", s.dir)
	_, s.stop, err = mongotest.Start(s.cmd)
	return err
}

// PID returns the process id.
func (s *MongoDB) PID() int { return s.cmd.Process.Pid }

// Kill ends it with SIGKILL.
func (s *MongoDB) Kill() error {
	if err := s.cmd.Process.Kill(); err != nil {
		return err
	}
	_ = s.stop() // reports the kill
	s.stop = nil
	return nil
}

// Stop ends it and waits for it, unless it is down.
func (s *MongoDB) Stop() error {
	if s.stop == nil {
		return nil
	}
	err := s.stop()
	s.stop = nil
	return err
}
