package fault

import (
	"bytes"
	"context"
	"encoding/binary"
	"slices"

	"github.com/cockroachdb/pebble/v2"
)

// Gap is a range of keys (after, to) that cannot be read. If to is nil, the gap
// extends to the end of the walk.
type Gap struct {
	after, to []byte
	File      string
}

// WalkReadable calls fn for the rows [lower, upper) that can be read, and lost for
// each gap between them.
func WalkReadable(ctx context.Context, r pebble.Reader, lower, upper []byte, fn func(k, v []byte) error,
	lost func(Gap) error) error {
	last := slices.Clone(lower)
	for from := lower; ; {
		g, err := walkTo(ctx, r, from, upper, &last, fn)
		if err != nil || g == nil {
			return err
		}
		if g.to, err = resume(r, last, upper); err != nil {
			return err
		}
		if err := lost(*g); err != nil || g.to == nil {
			return err
		}
		from = g.to
	}
}

// walkTo walks until the end or a gap. It returns errors other than damage.
func walkTo(ctx context.Context, r pebble.Reader, from, upper []byte, last *[]byte,
	fn func(k, v []byte) error) (_ *Gap, err error) {
	it, err := r.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: upper})
	if err != nil {
		return gapOf(*last, err)
	}
	defer it.Close() // the walk has returned its error
	n := 0
	for ok := it.First(); ok; ok = it.Next() {
		if n++; n%256 == 0 && ctx.Err() != nil {
			return nil, Canceled("pebblestore.walk", ctx.Err())
		}
		v, err := it.ValueAndErr()
		if err != nil {
			return gapOf(*last, err)
		}
		if err := fn(it.Key(), v); err != nil {
			return nil, err
		}
		*last = append((*last)[:0], it.Key()...)
	}
	if err := it.Error(); err != nil {
		return gapOf(*last, err)
	}
	return nil, nil
}

func gapOf(after []byte, err error) (*Gap, error) {
	if !Damaged(err) {
		return nil, err
	}
	return &Gap{after: slices.Clone(after), File: Describe(err)}, nil
}

// resume returns the least key after a gap that can be read, or nil if there is
// none. The end of a damaged block is unknown, so resume bisects the keys until a
// seek succeeds, and walks back from there.
func resume(r pebble.Reader, after, upper []byte) (best []byte, err error) {
	lo, hi := slices.Clone(after), slices.Clone(upper)
	for range 1024 {
		mid := between(lo, hi)
		if mid == nil {
			break
		}
		k, ok, err := readableFrom(r, lo, mid, upper)
		switch {
		case err != nil:
			return nil, err
		case !ok: // mid is damaged
			lo = mid
		case k == nil || bytes.Compare(k, mid) >= 0: // no readable key between mid and k
			hi = mid
		default:
			hi = k
		}
		if k != nil && (best == nil || bytes.Compare(k, best) < 0) {
			best = k
		}
	}
	return best, nil
}

// readableFrom walks back from the first key at or after mid and returns the least
// readable key that it reaches. It reports false if mid cannot be read.
func readableFrom(r pebble.Reader, lo, mid, upper []byte) (k []byte, ok bool, err error) {
	it, err := r.NewIter(&pebble.IterOptions{UpperBound: upper})
	if err != nil {
		return nil, false, unlessDamaged(err)
	}
	defer it.Close()
	if !it.SeekGE(mid) {
		return nil, it.Error() == nil, unlessDamaged(it.Error())
	}
	for good := true; good && bytes.Compare(it.Key(), lo) > 0; good = it.Prev() {
		if _, err := it.ValueAndErr(); err != nil {
			break
		}
		k = append(k[:0], it.Key()...)
	}
	return k, true, unlessDamaged(it.Error())
}

func unlessDamaged(err error) error {
	if err == nil || Damaged(err) {
		return nil
	}
	return err
}

// between returns a key halfway between two others, or nil if they are too close to
// bisect.
func between(lo, hi []byte) []byte {
	n := 0
	for n < len(lo) && n < len(hi) && lo[n] == hi[n] {
		n++
	}
	var a, b [8]byte
	copy(a[:], lo[n:])
	copy(b[:], hi[n:])
	x, y := binary.BigEndian.Uint64(a[:]), binary.BigEndian.Uint64(b[:])
	if y < x+2 {
		if len(lo) < n+8 || y == x {
			return nil
		}
		// The keys differ after the first 8 bytes of lo.
		mid := append(slices.Clone(lo[:n+8]), 0xff)
		if bytes.Compare(mid, lo) <= 0 || bytes.Compare(mid, hi) >= 0 {
			return nil
		}
		return mid
	}
	return binary.BigEndian.AppendUint64(slices.Clone(lo[:n]), x+(y-x)/2)
}
