package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"time"
)

// SocketName is the admin socket's name in the data directory.
const SocketName = "admin.sock"

// Client calls the operations of a running server over its admin socket.
type Client struct {
	http *http.Client
	path string
}

// Dial returns a client for the server with the data directory dir.
func Dial(dir string) *Client {
	path := filepath.Join(dir, SocketName)
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}}
	return &Client{http: &http.Client{Transport: tr}, path: path}
}

// PID returns the process id of the server, which the kernel reports.
func (c *Client) PID() (int, error) {
	conn, err := net.DialTimeout("unix", c.path, time.Second)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	cred, err := peerCredentials(conn)
	if err != nil {
		return 0, err
	}
	return int(cred.Pid), nil
}

// Call posts in to the operation and decodes the answer into out. If in is nil,
// Call sends a GET.
func (c *Client) Call(ctx context.Context, op string, query url.Values, in, out any) error {
	method, body := http.MethodGet, io.Reader(nil)
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		method, body = http.MethodPost, bytes.NewReader(b)
	}
	return c.do(ctx, method, op, query, body, 0, out)
}

// Send posts a vendor payload of size bytes to the operation.
func (c *Client) Send(ctx context.Context, op string, query url.Values, body io.Reader, size int64, out any) error {
	return c.do(ctx, http.MethodPost, op, query, body, size, out)
}

// maxAnswer limits the size of an answer in bytes.
const maxAnswer = 256 << 20

func (c *Client) do(ctx context.Context, method, op string, query url.Values, body io.Reader, size int64,
	out any) error {
	resp, err := c.send(ctx, method, op, query, body, size)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return err
	}
	if resp.StatusCode >= 300 {
		if err := failureOf(raw); err != nil {
			return err
		}
		return fmt.Errorf("the server answered %s", resp.Status)
	}
	return json.Unmarshal(raw, out)
}

// send sends a request to the operation.
func (c *Client) send(ctx context.Context, method, op string, query url.Values, body io.Reader,
	size int64) (*http.Response, error) {
	u := url.URL{Scheme: "http", Host: "admin", Path: "/" + op, RawQuery: query.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, err
	}
	if size > 0 {
		req.ContentLength = size // chunked encoding would cost one more read per chunk
	}
	resp, err := c.http.Do(req)
	var opErr *net.OpError
	if errors.As(err, &opErr) && opErr.Op == "dial" {
		return nil, Advise(fmt.Errorf("no server answers at %s", c.path),
			"start one with `pulsegate serve --data "+filepath.Dir(c.path)+
				"`, or give the data directory of the running one with --data DIR")
	}
	return resp, err
}

// failureOf returns the error of a refused operation, or nil if raw is no Failure.
func failureOf(raw []byte) error {
	var e Failure
	if json.Unmarshal(raw, &e) != nil || e.Error == "" {
		return nil
	}
	if e.Next != "" {
		return Advise(errors.New(e.Error), e.Next)
	}
	return errors.New(e.Error)
}

// Failure is the body of a refused operation.
type Failure struct {
	Error string `json:"error"`
	Next  string `json:"next,omitempty"` // the next step
}
