package clusterrun

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// Redis is a Redis server without persistence, which a test may end and start again.
type Redis struct {
	place Place
	addr  string
	cmd   *exec.Cmd // nil while it is down
}

// StartRedis starts a server on a free port of a place.
func StartRedis(at Place) (*Redis, error) {
	if _, err := exec.LookPath("redis-server"); err != nil {
		return nil, errors.New("redis-server is missing; deploy/ensure-redis.sh installs it")
	}
	addr, err := at.Free()
	if err != nil {
		return nil, err
	}
	r := &Redis{place: at, addr: addr}
	return r, r.Start()
}

// Addr returns the address of the server.
func (r *Redis) Addr() string { return r.addr }

// Start starts the server, with no keys, and waits until it answers.
func (r *Redis) Start() error {
	host, port, err := net.SplitHostPort(r.addr)
	if err != nil {
		return err
	}
	r.cmd = exec.Command("redis-server", "--port", port, "--bind", host, "--save", "", "--appendonly", "no",
		"--protected-mode", "no") // it refuses other hosts
	if err := r.place.Do(r.cmd.Start); err != nil {
		return err
	}
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if _, err := r.do("PING"); err == nil {
			return nil
		}
	}
	return errors.Join(errors.New("redis-server does not start"), r.Kill())
}

// Kill ends the server with SIGKILL.
func (r *Redis) Kill() error {
	if r.cmd == nil {
		return nil
	}
	err := r.cmd.Process.Kill()
	_ = r.cmd.Wait() // reports the kill
	r.cmd = nil
	return err
}

// Flush removes all keys.
func (r *Redis) Flush() error {
	_, err := r.do("FLUSHALL")
	return err
}

// do sends a command (RESP, https://redis.io/docs/latest/develop/reference/protocol-spec)
// and returns the strings of the answer.
func (r *Redis) do(args ...string) ([]string, error) {
	c, err := net.DialTimeout("tcp", r.Addr(), 5*time.Second)
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return nil, err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(args))
	for _, a := range args {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(a), a)
	}
	if _, err := io.WriteString(c, b.String()); err != nil {
		return nil, err
	}
	return reply(bufio.NewReader(c))
}

func reply(r *bufio.Reader) ([]string, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return nil, err
	}
	line = strings.TrimRight(line, "\r\n")
	if line == "" {
		return nil, errors.New("empty reply of Redis")
	}
	switch rest := line[1:]; line[0] {
	case '+', ':':
		return []string{rest}, nil
	case '$':
		n, err := strconv.Atoi(rest)
		if err != nil || n < 0 {
			return nil, err
		}
		b := make([]byte, n+2)
		_, err = io.ReadFull(r, b)
		return []string{string(b[:n])}, err
	case '*':
		n, err := strconv.Atoi(rest)
		if err != nil {
			return nil, err
		}
		var out []string
		for range n {
			one, err := reply(r)
			if err != nil {
				return nil, err
			}
			out = append(out, one...)
		}
		return out, nil
	}
	return nil, errors.New("the command is refused")
}
