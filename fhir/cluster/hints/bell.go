package hints

import (
	"context"
	"errors"
	"net"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
)

// sequencerChanged is published instead of an index when the lease changes hands.
const sequencerChanged = "sequencer"

// Ring tells the other processes that the log has an entry at index. It does not
// wait. Of several calls in a short time, only the one with the greatest index may
// be heard.
func (r *Redis) Ring(index uint64) {
	for {
		old := r.rung.Load()
		if index <= old {
			return
		}
		if r.rung.CompareAndSwap(old, index) {
			signal(r.ring)
			return
		}
	}
}

// Wake returns a channel that receives after another process rang, and each time the
// connection to Redis was made, because rings before that may be lost. Rings that
// were not received yet are one. The channel has one receiver.
func (r *Redis) Wake() <-chan struct{} { return r.wake }

// ringer publishes what Ring announces.
func (r *Redis) ringer() {
	for {
		select {
		case <-r.ring:
			if r.publish(r.ctx, strconv.FormatUint(r.rung.Load(), 10)) {
				continue
			}
			signal(r.ring)
			if !r.pause(r.timing.Retry) {
				return
			}
		case <-r.ctx.Done():
			return
		}
	}
}

// publish sends text to the other processes, and reports whether Redis took it.
func (r *Redis) publish(ctx context.Context, text string) bool {
	ctx, cancel := context.WithTimeout(ctx, r.timing.Call)
	defer cancel()
	return r.client.Publish(ctx, r.prefix+"bell", r.self.Instance+" "+text).Err() == nil
}

// listen receives what the other processes publish, and subscribes again after a
// failure.
func (r *Redis) listen() {
	for {
		err := r.receive()
		if !r.pause(r.timing.Retry) {
			return
		}
		r.logger.Debug("Redis ended the subscription", "error", err)
	}
}

// receive subscribes and handles messages until a failure. It does not use the
// library's own loop, because the library panics at messages without elements.
func (r *Redis) receive() (err error) {
	defer func() {
		if recover() != nil {
			err = errAnswer
		}
	}()
	sub := r.client.Subscribe(r.ctx, r.prefix+"bell")
	stop := context.AfterFunc(r.ctx, func() { _ = sub.Close() }) // ends a Receive in progress
	defer func() {
		if stop() {
			err = errors.Join(err, sub.Close())
		}
	}()
	asked := false
	for {
		m, err := sub.ReceiveTimeout(r.ctx, r.timing.Lease)
		var timeout net.Error
		switch {
		case err == nil:
			asked = false
			r.heard(m)
		case errors.As(err, &timeout) && timeout.Timeout() && !asked:
			asked = true // a connection that is open but dead answers nothing
			if err := sub.Ping(r.ctx); err != nil {
				return err
			}
		default:
			return err
		}
	}
}

// heard handles the confirmation of a subscription or a published message.
func (r *Redis) heard(m any) {
	switch m := m.(type) {
	case *redis.Subscription:
		signal(r.wake)
		signal(r.lease.look)
	case *redis.Message:
		from, text, ok := strings.Cut(m.Payload, " ")
		switch {
		case !ok || from == r.self.Instance:
		case text == sequencerChanged:
			signal(r.lease.look)
		default:
			signal(r.wake)
		}
	}
}
