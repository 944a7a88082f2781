package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"pulsegate/conformance/blackbox"
)

// wire is one persistent connection that writes HTTP/1.1 by hand. The client of
// net/http costs as much as the server; on shared cores it would be half of each
// measurement. wire supports only plain HTTP.
type wire struct {
	host   string
	base   string // path of the FHIR base without a trailing slash, such as "/fhir"
	client *blackbox.Client
	conn   net.Conn
	reader *bufio.Reader
	out    []byte
	body   []byte // of the latest answer
}

// newWire connects to the server of the client. It returns nil if that uses TLS.
func newWire(c *blackbox.Client) (*wire, error) { return newWireAt(c, "") }

// newWireAt is newWire for a server that listens at addr, if that is not "", and has
// the base URL of the client, such as one of several behind a load balancer.
func newWireAt(c *blackbox.Client, addr string) (*wire, error) {
	u, err := url.Parse(c.FHIRBase())
	if err != nil || u.Scheme != "http" {
		return nil, err
	}
	host := u.Host
	if u.Port() == "" {
		host = net.JoinHostPort(host, "80")
	}
	if addr == "" {
		addr = host
	}
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	return &wire{host: host, base: u.Path, client: c, conn: conn, reader: bufio.NewReaderSize(conn, 64<<10)}, nil
}

func (w *wire) close() error { return w.conn.Close() }

// do sends one request and reads the whole answer into w.body. path is relative to the
// FHIR base, or an absolute URL below it.
func (w *wire) do(method, path string, body []byte, want int) (location string, err error) {
	tok, err := w.client.Token()
	if err != nil {
		return "", err
	}
	b := append(append(w.out[:0], method...), ' ')
	if rest, ok := strings.CutPrefix(path, "http://"); ok {
		if i := strings.IndexByte(rest, '/'); i >= 0 {
			b = append(b, rest[i:]...)
		}
	} else if strings.HasPrefix(path, "/") {
		b = append(b, path...)
	} else {
		b = append(b, w.base...)
		if path != "" || w.base == "" {
			b = append(append(b, '/'), path...)
		}
	}
	b = append(append(b, " HTTP/1.1\r\nHost: "...), w.host...)
	if tok != "-" {
		b = append(append(b, "\r\nAuthorization: Bearer "...), tok...)
	}
	b = append(b, "\r\nAccept: application/fhir+json"...)
	if body != nil {
		b = append(b, "\r\nContent-Type: application/fhir+json\r\nContent-Length: "...)
		b = strconv.AppendInt(b, int64(len(body)), 10)
	}
	b = append(append(b, "\r\n\r\n"...), body...)
	w.out = b
	if err := w.conn.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		return "", err
	}
	if _, err := w.conn.Write(b); err != nil {
		return "", err
	}
	status, location, err := w.answer(method)
	if err == nil && status != want {
		err = fmt.Errorf("%s: %d", method, status)
	}
	return location, err
}

var errWire = errors.New("the answer is not HTTP/1.1 with a Content-Length or chunked")

// answer reads the header and the body of an answer.
func (w *wire) answer(method string) (status int, location string, err error) {
	line, err := w.reader.ReadSlice('\n')
	if err != nil {
		return 0, "", err
	}
	if len(line) < 12 || string(line[:9]) != "HTTP/1.1 " {
		return 0, "", errWire
	}
	if status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return 0, "", errWire
	}
	length, chunked := int64(-1), false
	for {
		if line, err = w.reader.ReadSlice('\n'); err != nil {
			return 0, "", err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte(": "))
		switch {
		case bytes.EqualFold(name, []byte("Content-Length")):
			if length, err = strconv.ParseInt(string(value), 10, 64); err != nil {
				return 0, "", errWire
			}
		case bytes.EqualFold(name, []byte("Transfer-Encoding")):
			chunked = true
		case bytes.EqualFold(name, []byte("Location")):
			location = string(value)
		}
	}
	switch {
	case method == http.MethodHead || status == http.StatusNoContent || status == http.StatusNotModified:
		w.body = w.body[:0]
		return status, location, nil
	case chunked:
		return status, location, w.chunks()
	case length < 0:
		return 0, "", errWire
	}
	return status, location, w.take(w.body[:0], length)
}

// take appends n bytes of the body to into.
func (w *wire) take(into []byte, n int64) error {
	at := len(into)
	if need := at + int(n); cap(into) < need {
		into = append(make([]byte, 0, 2*need), into...)
	}
	w.body = into[:at+int(n)]
	_, err := io.ReadFull(w.reader, w.body[at:])
	return err
}

// chunks reads a chunked body.
func (w *wire) chunks() error {
	w.body = w.body[:0]
	for {
		line, err := w.reader.ReadSlice('\n')
		if err != nil {
			return err
		}
		n, err := strconv.ParseInt(string(bytes.TrimRight(line, "\r\n")), 16, 64)
		if err != nil {
			return errWire
		}
		if n > 0 {
			if err := w.take(w.body, n); err != nil {
				return err
			}
		}
		if _, err := w.reader.Discard(2); err != nil {
			return err
		}
		if n == 0 {
			return nil
		}
	}
}

// line returns functions that send a request on a new connection and close it. They
// use a wire, or net/http for TLS.
func (b *bench) line() (do func(method, path string, body []byte, want int) (string, error),
	end func() error, err error) {
	w, err := newWire(b.client)
	if err != nil {
		return nil, nil, err
	}
	if w == nil {
		return func(method, path string, body []byte, want int) (string, error) {
			_, loc, err := b.call(method, path, body, want)
			return loc, err
		}, func() error { return nil }, nil
	}
	return w.do, w.close, nil
}
