package series

import "slices"

// Search is the first index with a start of at least start, Len if none.
// c is in order.
func (c *Columns) Search(start int64) int {
	i, _ := slices.BinarySearch(c.Start, start)
	return i
}

// Remove takes sample i out; what follows it moves up in c's memory.
func (c *Columns) Remove(i int) {
	c.Start, c.Off = slices.Delete(c.Start, i, i+1), slices.Delete(c.Off, i, i+1)
	if len(c.End) > 0 {
		c.End, c.EndOff = slices.Delete(c.End, i, i+1), slices.Delete(c.EndOff, i, i+1)
	}
	for v := range c.Values {
		c.Values[v] = slices.Delete(c.Values[v], i, i+1)
	}
	if len(c.Commits) > 0 {
		c.Commits = slices.Delete(c.Commits, i, i+1)
	}
}

// Merge puts the samples of a and b, each in the order of ids under t and
// without an id of the other, into dst in that order. dst is reset first and
// keeps its memory; it must not share memory with a or b. Where only one of
// them has ends or commits, the samples of the other get NoEnd and the zero
// Commit.
func Merge(dst, a, b *Columns, t *Template) {
	dst.Reset()
	n, m := a.Len(), b.Len()
	w := merger{dst: dst, ends: len(a.End)+len(b.End) > 0, commits: len(a.Commits)+len(b.Commits) > 0}
	dst.grow(n+m, max(len(a.Values), len(b.Values)), w.ends, w.commits)
	for i, j := 0, 0; i < n || j < m; {
		switch {
		case j == m:
			w.take(a, i, n)
			i = n
		case i == n:
			w.take(b, j, m)
			j = m
		case a.Start[i] < b.Start[j]:
			k := gallop(a.Start, i, b.Start[j])
			w.take(a, i, k)
			i = k
		case a.Start[i] > b.Start[j]:
			k := gallop(b.Start, j, a.Start[i])
			w.take(b, j, k)
			j = k
		default:
			x, y := a.At(i), b.At(j)
			if t.Check(&x) <= t.Check(&y) {
				w.take(a, i, i+1)
				i++
			} else {
				w.take(b, j, j+1)
				j++
			}
		}
	}
}

// gallop is the first index after from with s[index] >= start, where s[from]
// is less; as quick for neighbours as for long runs.
func gallop(s []int64, from int, start int64) int {
	step := 1
	for from+step < len(s) && s[from+step] < start {
		from += step
		step *= 2
	}
	i, _ := slices.BinarySearch(s[from+1:min(from+step, len(s))], start)
	return from + 1 + i
}

// grow makes room for n samples in an empty c.
func (c *Columns) grow(n, values int, ends, commits bool) {
	c.Start, c.Off = slices.Grow(c.Start, n), slices.Grow(c.Off, n)
	if ends {
		c.End, c.EndOff = slices.Grow(c.End, n), slices.Grow(c.EndOff, n)
	}
	if commits {
		c.Commits = slices.Grow(c.Commits, n)
	}
	c.shape(values)
	for v := range c.Values {
		c.Values[v] = slices.Grow(c.Values[v], n)
	}
}

// shape gives an empty c the number of value columns, with the memory that
// those had.
func (c *Columns) shape(values int) {
	for cap(c.Values) < values {
		c.Values = append(c.Values[:cap(c.Values)], nil)
	}
	c.Values = c.Values[:values]
	for v := range c.Values {
		c.Values[v] = c.Values[v][:0]
	}
}

type merger struct {
	dst           *Columns
	ends, commits bool
}

// take appends the samples [from, to) of src.
func (w *merger) take(src *Columns, from, to int) {
	d := w.dst
	d.Start, d.Off = append(d.Start, src.Start[from:to]...), append(d.Off, src.Off[from:to]...)
	switch {
	case !w.ends:
	case len(src.End) > 0:
		d.End, d.EndOff = append(d.End, src.End[from:to]...), append(d.EndOff, src.EndOff[from:to]...)
	default:
		for range to - from {
			d.End, d.EndOff = append(d.End, NoEnd), append(d.EndOff, 0)
		}
	}
	for v := range src.Values {
		d.Values[v] = append(d.Values[v], src.Values[v][from:to]...)
	}
	switch {
	case !w.commits:
	case len(src.Commits) > 0:
		d.Commits = append(d.Commits, src.Commits[from:to]...)
	default:
		for range to - from {
			d.Commits = append(d.Commits, Commit{})
		}
	}
}
