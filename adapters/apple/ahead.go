package apple

import "io"

const (
	aheadBlock  = 256 << 10
	aheadBlocks = 4
)

// ahead reads its source on a goroutine of its own, a few blocks ahead of the
// one who reads it: receiving and inflating go on beside decoding. It is
// read by one goroutine, which must call stop at the end.
type ahead struct {
	full, empty chan block
	quit, done  chan struct{}
	cur         block
	pos         int
}

type block struct {
	b   []byte
	err error // after b
}

func readAhead(r io.Reader) *ahead {
	a := &ahead{full: make(chan block, aheadBlocks), empty: make(chan block, aheadBlocks), quit: make(chan struct{}), done: make(chan struct{})}
	for range aheadBlocks {
		a.empty <- block{}
	}
	go a.run(r)
	return a
}

func (a *ahead) run(r io.Reader) {
	defer close(a.done)
	for {
		var x block
		select {
		case x = <-a.empty:
		case <-a.quit:
			return
		}
		if x.b == nil {
			x.b = make([]byte, aheadBlock)
		}
		x.b = x.b[:aheadBlock]
		x.b, x.err = readBlock(r, x.b)
		a.full <- x // there are as many places as blocks
		if x.err != nil {
			return
		}
	}
}

// readBlock reads what one block takes, at least half of it: small reads
// (of a network, of an inflater) are not worth an exchange each.
func readBlock(r io.Reader, b []byte) ([]byte, error) {
	n := 0
	for empty := 0; n < len(b)/2; {
		m, err := r.Read(b[n:])
		n += m
		if err != nil {
			return b[:n], err
		}
		if m > 0 {
			empty = 0
		} else if empty++; empty > 100 {
			return b[:n], io.ErrNoProgress
		}
	}
	return b[:n], nil
}

// Read is io.Reader.
func (a *ahead) Read(p []byte) (int, error) {
	for a.pos == len(a.cur.b) {
		if a.cur.err != nil {
			return 0, a.cur.err
		}
		if a.cur.b != nil {
			a.empty <- a.cur
		}
		a.cur, a.pos = <-a.full, 0
	}
	n := copy(p, a.cur.b[a.pos:])
	a.pos += n
	return n, nil
}

// stop ends the reading. A read that is under way is waited for, so that the
// source belongs to the caller again.
func (a *ahead) stop() {
	close(a.quit)
	<-a.done
}
