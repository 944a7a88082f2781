package relay

import (
	"bufio"
	"net"
	"sync"
	"time"
)

// writeTimeout bounds the time in which a peer must take what is written.
const writeTimeout = 10 * time.Second

// pipe writes frames to a connection. Frames that are sent while others are written
// share a write.
type pipe struct {
	conn  net.Conn
	clock func() time.Time
	out   chan frame
	done  chan struct{} // closed by close

	once sync.Once
	err  error // set before done is closed
}

func newPipe(c net.Conn, clock func() time.Time) *pipe {
	return &pipe{conn: c, clock: clock, out: make(chan frame, 256), done: make(chan struct{})}
}

// send queues a frame. It reports false if the connection has ended.
func (p *pipe) send(f frame) bool {
	select {
	case p.out <- f:
		return true
	case <-p.done:
		return false
	}
}

// close ends the connection. The first error is kept.
func (p *pipe) close(err error) {
	p.once.Do(func() {
		p.err = err
		close(p.done)
		_ = p.conn.Close()
	})
}

// write writes frames until the connection ends.
func (p *pipe) write() {
	w := bufio.NewWriterSize(p.conn, bufferSize)
	for {
		select {
		case f := <-p.out:
			if err := p.writeAll(w, f); err != nil {
				p.close(err)
				return
			}
		case <-p.done:
			return
		}
	}
}

// maxTogether bounds the frames that share a write and a deadline.
const maxTogether = 64

// writeAll writes a frame and those that are waiting.
func (p *pipe) writeAll(w *bufio.Writer, f frame) error {
	if err := p.conn.SetWriteDeadline(p.clock().Add(writeTimeout)); err != nil {
		return err
	}
	for range maxTogether {
		if err := writeFrame(w, &f); err != nil {
			return err
		}
		select {
		case f = <-p.out:
			continue
		default:
		}
		return w.Flush()
	}
	// The last frame taken was not written.
	if err := writeFrame(w, &f); err != nil {
		return err
	}
	return w.Flush()
}
