package series

import "slices"

// Search returns the first index with a start of at least start, or Len. The
// samples must be sorted.
func (c *Columns) Search(start int64) int {
	i, _ := slices.BinarySearch(c.Start, start)
	return i
}

// Remove removes sample i and moves the samples after it up, in the same memory.
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

// merge replaces the samples of dst with those of a and b. Both must be sorted by
// their ids under t and have no id in common; the result is sorted too. dst keeps
// its memory and must not share memory with a or b. If only one of a and b has
// ends or commits, the samples of the other get NoEnd or the zero Commit.
func merge(dst, a, b *Columns, t *Template) {
	dst.Reset()
	m := merger{dst: dst, ends: len(a.End)+len(b.End) > 0, commits: len(a.Commits)+len(b.Commits) > 0}
	na, nb := a.Len(), b.Len()
	dst.grow(na+nb, max(len(a.Values), len(b.Values)), m.ends, m.commits)
	for i, j := 0, 0; i < na || j < nb; {
		switch {
		case j == nb:
			m.take(a, i, na)
			i = na
		case i == na:
			m.take(b, j, nb)
			j = nb
		case a.Start[i] < b.Start[j]:
			k := gallop(a.Start, i, b.Start[j])
			m.take(a, i, k)
			i = k
		case a.Start[i] > b.Start[j]:
			k := gallop(b.Start, j, a.Start[i])
			m.take(b, j, k)
			j = k
		default:
			x, y := a.At(i), b.At(j)
			if t.Check(&x) <= t.Check(&y) {
				m.take(a, i, i+1)
				i++
			} else {
				m.take(b, j, j+1)
				j++
			}
		}
	}
}

// gallop returns the first index after from with s[index] >= start, where s[from]
// is less. It is fast both for adjacent indexes and for long runs.
func gallop(s []int64, from int, start int64) int {
	step := 1
	for from+step < len(s) && s[from+step] < start {
		from += step
		step *= 2
	}
	i, _ := slices.BinarySearch(s[from+1:min(from+step, len(s))], start)
	return from + 1 + i
}

// grow gives an empty c the capacity for n samples.
func (c *Columns) grow(n, values int, ends, commits bool) {
	c.Start, c.Off = slices.Grow(c.Start, n), slices.Grow(c.Off, n)
	if ends {
		c.End, c.EndOff = slices.Grow(c.End, n), slices.Grow(c.EndOff, n)
	}
	if commits {
		c.Commits = slices.Grow(c.Commits, n)
	}
	c.setValues(values)
	for v := range c.Values {
		c.Values[v] = slices.Grow(c.Values[v], n)
	}
}

// setValues sets the number of value columns of an empty c and reuses their
// memory.
func (c *Columns) setValues(values int) {
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
func (m *merger) take(src *Columns, from, to int) {
	d := m.dst
	d.Start, d.Off = append(d.Start, src.Start[from:to]...), append(d.Off, src.Off[from:to]...)
	switch {
	case !m.ends:
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
	case !m.commits:
	case len(src.Commits) > 0:
		d.Commits = append(d.Commits, src.Commits[from:to]...)
	default:
		for range to - from {
			d.Commits = append(d.Commits, Commit{})
		}
	}
}
