package clusterrun

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"pulsegate/fhir/store/sharedlog/mongolog"
	"pulsegate/fhir/store/sharedlog/mongolog/mongotest"
)

// Database is the name of the cluster's database in the stand-in.
const Database = "pulsegate"

// StandIn is the stand-in for MongoDB. It keeps its databases when it is killed.
type StandIn struct {
	place           Place
	addr, dir, path string
	cmd             *exec.Cmd
	stop            func() error
}

// BuildStandIn returns the path of the stand-in's program, which it builds if this user
// does not have it.
func BuildStandIn() (string, error) { return mongotest.Build(context.Background()) }

// StartStandIn starts a stand-in with the new directory dir on a free port of a place, and
// lays out the log of a cluster.
func StartStandIn(at Place, dir string) (*StandIn, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	path, err := BuildStandIn()
	if err != nil {
		return nil, err
	}
	addr, err := at.Free()
	if err != nil {
		return nil, err
	}
	s := &StandIn{place: at, addr: addr, dir: dir, path: path}
	if err := s.Start(); err != nil {
		return nil, err
	}
	if err := s.layOut(); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

// segment is the number of entries per collection of the log. The stand-in reads a whole
// collection at each look at the log.
const segment = 16

// layOut lays out the log of the cluster before a server does.
func (s *StandIn) layOut() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	l, err := mongolog.Open(ctx, mongolog.Options{URI: s.URI(), Standalone: true, Segment: segment})
	if err != nil {
		return err
	}
	return l.Close(ctx)
}

// Addr returns the address of the stand-in.
func (s *StandIn) Addr() string { return s.addr }

// Dir returns the directory of its databases.
func (s *StandIn) Dir() string { return s.dir }

// URI returns the connection string of the cluster's database.
func (s *StandIn) URI() string { return "mongodb://" + s.addr + "/" + Database }

// Start starts the stand-in after Kill.
func (s *StandIn) Start() (err error) {
	s.cmd = exec.Command(s.path, "-listen", s.addr, "-dir", s.dir)
	return s.place.Do(func() error {
		_, s.stop, err = mongotest.Start(s.cmd)
		return err
	})
}

// PID returns the process id of the stand-in.
func (s *StandIn) PID() int { return s.cmd.Process.Pid }

// Kill ends the stand-in with SIGKILL.
func (s *StandIn) Kill() error {
	if err := s.cmd.Process.Kill(); err != nil {
		return err
	}
	_ = s.stop() // reports the kill
	return nil
}

// Stop ends the stand-in.
func (s *StandIn) Stop() error { return s.stop() }

// Member holds the settings that make a server process a member of a cluster.
type Member struct {
	Name         string
	MongoDB      string // connection string without a password
	PasswordFile string // of MongoDB; may be empty
	Standalone   bool   // MongoDB is the stand-in
	Redis        string // URL; may be empty
	KeyFile      string // of the cluster key
	PeerListen   string // address to listen on for other processes
	PeerAddress  string // address at which other processes connect
}

// Env returns the settings as environment variables.
func (m Member) Env() []string {
	return []string{"PULSEGATE_MONGODB=" + m.MongoDB, "PULSEGATE_MONGODB_PASSWORD_FILE=" + m.PasswordFile,
		"PULSEGATE_MONGODB_STANDALONE=" + strconv.FormatBool(m.Standalone), "PULSEGATE_REDIS=" + m.Redis,
		"PULSEGATE_CLUSTER_KEY_FILE=" + m.KeyFile, "PULSEGATE_NODE=" + m.Name,
		"PULSEGATE_PEER_LISTEN=" + m.PeerListen, "PULSEGATE_PEER_ADDRESS=" + m.PeerAddress}
}

// WriteKey writes a new cluster key to a file in dir and returns its path.
func WriteKey(dir string) (string, error) {
	secret := make([]byte, 32)
	rand.Read(secret) // never fails (crypto/rand since Go 1.24)
	path := filepath.Join(dir, "cluster-key")
	return path, os.WriteFile(path, []byte(base64.StdEncoding.EncodeToString(secret)+"\n"), 0o600)
}
