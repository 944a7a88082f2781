package rest

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"pulsegate/fhir/subscription"
)

// frame returns a masked WebSocket frame of a client (RFC 6455 section 5.2).
func frame(op byte, payload string) []byte {
	b := []byte{0x80 | op, 0x80 | byte(len(payload)), 1, 2, 3, 4}
	for i := range len(payload) {
		b = append(b, payload[i]^byte(i%4+1))
	}
	return b
}

// messages returns the number of whole frames of a server that begin a message.
func messages(b []byte) (n int) {
	for len(b) >= 2 {
		size, head := int(b[1]), 2
		if size == 126 && len(b) >= 4 {
			size, head = int(b[2])<<8|int(b[3]), 4
		}
		if op := b[0] & 0x0f; op == 1 || op == 2 {
			n++
		}
		b = b[min(len(b), head+size):]
	}
	return n
}

// FuzzSocketFrames sends bytes to an open WebSocket, whose client has no valid token, and
// checks that the server closes it, has bound nothing, and answers the next request.
func FuzzSocketFrames(f *testing.F) {
	for _, s := range [][]byte{frame(1, "bind-with-token x"), frame(1, "bind s1"), frame(2, "\x00"), frame(8, ""),
		frame(8, "\x03\xe8end"), frame(9, "x"), frame(10, "x"), frame(3, ""), {0x81, 0x05, 'h'}, {0x01, 0x80, 0, 0, 0, 0},
		append(frame(9, ""), frame(1, "bind-with-token x")...), {0x81, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
		{0xf1, 0x80, 0, 0, 0, 0}, frame(1, "\xff\xfe"), append([]byte{0x81, 0xfe, 0x20, 0, 0, 0, 0, 0},
			bytes.Repeat([]byte("x"), 0x2000)...)} {
		f.Add(s)
	}
	o := newOperations(f)
	o.subscribe("s1", overSocket)
	o.active("s1")
	addr := strings.TrimPrefix(o.srv.URL, "http://")
	f.Fuzz(func(t *testing.T, frames []byte) {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := fmt.Fprintf(c, "GET /fhir%s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
			"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", subscription.SocketPath,
			addr); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(frames); err != nil {
			return // the server has closed the connection
		}
		if err := c.(*net.TCPConn).CloseWrite(); err != nil {
			return
		}
		got, err := io.ReadAll(c) // until the server closes the connection
		if err == nil && !bytes.HasPrefix(got, []byte("HTTP/1.1 101 ")) {
			t.Errorf("%.200q", got)
		}
		if _, answer, ok := bytes.Cut(got, []byte("\r\n\r\n")); ok && messages(answer) > 0 {
			t.Errorf("%q was answered by the messages %q", frames, answer)
		}
		resp, err := http.Get(o.srv.URL + "/fhir/Subscription")
		if err != nil {
			t.Fatal(err)
		}
		if err := resp.Body.Close(); err != nil || resp.StatusCode != http.StatusOK {
			t.Errorf("afterwards: %d, %v", resp.StatusCode, err)
		}
	})
}
