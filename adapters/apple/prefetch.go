package apple

import "io"

const (
	prefetchChunk = 256 << 10 // bytes per chunk
	prefetchDepth = 4         // chunks
)

// prefetcher reads a stream on a goroutine, up to 1 MiB ahead of its consumer,
// so that inflating and decoding run in parallel. Read returns the bytes and the
// error in the order in which the stream produced them.
type prefetcher struct {
	full chan chunk    // chunks that have been read, in order
	free chan []byte   // buffers that the goroutine may fill
	stop chan struct{} // closed by close
	done chan struct{} // closed when the goroutine has ended

	// The remaining fields belong to the goroutine that calls Read.
	cur  chunk
	rest []byte // unread bytes of cur
	err  error  // the error that Read returned
}

type chunk struct {
	data []byte
	err  error
}

func newPrefetcher(r io.Reader) *prefetcher {
	p := &prefetcher{full: make(chan chunk, prefetchDepth), free: make(chan []byte, prefetchDepth),
		stop: make(chan struct{}), done: make(chan struct{})}
	for range prefetchDepth {
		p.free <- make([]byte, prefetchChunk)
	}
	go p.run(r)
	return p
}

func (p *prefetcher) run(r io.Reader) {
	defer close(p.done)
	for {
		var buf []byte
		select {
		case buf = <-p.free:
		case <-p.stop:
			return
		}
		n, err := fill(r, buf, p.stop)
		p.full <- chunk{buf[:n], err} // never blocks: full has capacity for all chunks
		if err != nil {
			return
		}
	}
}

// fill reads until buf is full, an error occurs or stop is closed. It loops
// because a stream may return only a few kilobytes per Read.
func fill(r io.Reader, buf []byte, stop <-chan struct{}) (n int, err error) {
	for empty := 0; n < len(buf) && err == nil; {
		select {
		case <-stop:
			return n, io.ErrClosedPipe
		default:
		}
		var m int
		m, err = r.Read(buf[n:])
		n += m
		if m > 0 {
			empty = 0
		} else if empty++; empty > 100 && err == nil {
			err = io.ErrNoProgress
		}
	}
	return n, err
}

// Read implements io.Reader.
func (p *prefetcher) Read(b []byte) (int, error) {
	for len(p.rest) == 0 {
		if p.cur.err != nil {
			p.err = p.cur.err
			return 0, p.err
		}
		if p.cur.data != nil {
			p.free <- p.cur.data[:prefetchChunk]
		}
		p.cur = <-p.full
		p.rest = p.cur.data
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

// close stops the goroutine and waits for it to end. The caller may then use
// the stream again.
func (p *prefetcher) close() {
	close(p.stop)
	<-p.done
}
