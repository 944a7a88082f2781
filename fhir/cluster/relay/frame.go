package relay

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
)

// Types of frames.
const (
	frameHello = iota
	frameCommit
	frameResult
	frameRefusal
	frameBusy
	framePing
	framePong
	frameEntry
)

const (
	headerSize = 13
	// maxFrame bounds a payload in bytes. A process commits a larger batch itself.
	maxFrame   = 16 << 20
	bufferSize = 64 << 10
)

var (
	errFrame  = errors.New("relay: a frame of the peer is malformed or exceeds a limit")
	errClosed = errors.New("relay: the connection was closed")
)

// frame is one message.
type frame struct {
	kind    byte
	call    uint64
	payload []byte
}

// writeFrame writes a frame to a buffer.
func writeFrame(w *bufio.Writer, f *frame) error {
	var h [headerSize]byte
	binary.BigEndian.PutUint32(h[:], uint32(len(f.payload)))
	h[4] = f.kind
	binary.BigEndian.PutUint64(h[5:], f.call)
	if _, err := w.Write(h[:]); err != nil {
		return err
	}
	_, err := w.Write(f.payload)
	return err
}

// readFrame reads a frame whose payload has at most limit bytes.
func readFrame(r *bufio.Reader, limit int) (f frame, err error) {
	var h [headerSize]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return f, err
	}
	n := binary.BigEndian.Uint32(h[:])
	if int64(n) > int64(limit) {
		return f, errFrame
	}
	f.kind, f.call = h[4], binary.BigEndian.Uint64(h[5:])
	f.payload = make([]byte, n)
	_, err = io.ReadFull(r, f.payload)
	return f, err
}
