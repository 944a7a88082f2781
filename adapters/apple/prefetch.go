package apple

import "io"

const (
	aheadChunk = 256 << 10
	aheadDepth = 4
)

// ahead reads a stream on a goroutine of its own, at most a MiB before its
// reader, so that inflating and decoding go on side by side. Bytes and error
// come in the order in which the stream gave them.
type ahead struct {
	full chan chunk
	free chan []byte
	stop chan struct{}
	done chan struct{}
	cur  chunk
	rest []byte
	told error // what Read returned
}

type chunk struct {
	b   []byte
	err error
}

func readAhead(r io.Reader) *ahead {
	a := &ahead{full: make(chan chunk, aheadDepth), free: make(chan []byte, aheadDepth), stop: make(chan struct{}),
		done: make(chan struct{})}
	for range aheadDepth {
		a.free <- make([]byte, aheadChunk)
	}
	go a.run(r)
	return a
}

func (a *ahead) run(r io.Reader) {
	defer close(a.done)
	for {
		var b []byte
		select {
		case b = <-a.free:
		case <-a.stop:
			return
		}
		n, err := fill(r, b, a.stop)
		a.full <- chunk{b[:n], err} // never waits: it holds all chunks there are
		if err != nil {
			return
		}
	}
}

// fill reads until b is full, an error comes or stop is closed: the stream may
// hand out a few kilobytes at a time.
func fill(r io.Reader, b []byte, stop <-chan struct{}) (n int, err error) {
	for empty := 0; n < len(b) && err == nil; {
		select {
		case <-stop:
			return n, io.ErrClosedPipe
		default:
		}
		var m int
		m, err = r.Read(b[n:])
		n += m
		if m > 0 {
			empty = 0
		} else if empty++; empty > 100 && err == nil {
			err = io.ErrNoProgress
		}
	}
	return n, err
}

// Read is io.Reader.
func (a *ahead) Read(p []byte) (int, error) {
	for len(a.rest) == 0 {
		if a.cur.err != nil {
			a.told = a.cur.err
			return 0, a.told
		}
		if a.cur.b != nil {
			a.free <- a.cur.b[:aheadChunk]
		}
		a.cur = <-a.full
		a.rest = a.cur.b
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}

// close ends the goroutine and waits for it; the stream may be used again.
func (a *ahead) close() {
	close(a.stop)
	<-a.done
}
