// Package stolen contains the 100,000 most frequently stolen passwords, and all
// passwords of at least 12 characters among the first million. Shorter ones are
// not valid passwords here, but may be parts of passwords. The list is a file
// of about 350 KiB that is embedded in the binary.
//
// It owns: the file, its format, and the lookup of a word. It does not own: the
// rules for a password (smart/people/authn).
//
// The file contains no passwords. It contains the sorted 36-bit prefixes of the
// SHA-256 of the case-folded passwords, as differences in Golomb-Rice code. The
// false positive rate is 1 in 478,000 per word. To generate the file from a
// list with one password per line, most frequent first, run:
//
//	go run ./smart/people/authn/stolen/gen LIST >smart/people/authn/stolen/stolen.bin
//
// The list is "10-million-password-list-top-1000000" of SecLists (MIT).
package stolen

import (
	"crypto/sha256"
	_ "embed" // embeds the list
	"encoding/binary"
	"errors"
	"slices"
	"strings"

	"golang.org/x/text/unicode/norm"
)

//go:embed stolen.bin
var list []byte

const (
	// Count is the number of most frequent passwords in the list.
	Count = 100_000
	// Long is the minimum length in characters of the less frequent passwords
	// in the list.
	Long = 12

	bits = 36 // bits per hash
	rice = 19 // low bits of each difference, stored as they are
)

// hash returns the truncated hash of a word, ignoring case.
func hash(word string) uint64 {
	sum := sha256.Sum256([]byte(strings.ToLower(norm.NFKC.String(word))))
	return binary.BigEndian.Uint64(sum[:]) >> (64 - bits)
}

// Encode returns the file for a list of words.
func Encode(words []string) []byte {
	hashes := make([]uint64, 0, len(words))
	for _, w := range words {
		hashes = append(hashes, hash(w))
	}
	slices.Sort(hashes)
	hashes = slices.Compact(hashes)
	var out []byte
	n := 0
	put := func(bit uint64) {
		if n%8 == 0 {
			out = append(out, 0)
		}
		out[n/8] |= byte(bit << (7 - n%8))
		n++
	}
	last := uint64(0)
	for _, h := range hashes {
		diff := h - last
		last = h
		for range diff >> rice {
			put(1)
		}
		put(0)
		for i := rice - 1; i >= 0; i-- {
			put(diff >> i & 1)
		}
	}
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(hashes))), out...)
}

// Has reports whether the list contains any of the words. It reads the list
// once.
func Has(words ...string) bool {
	found, err := has(list, words)
	return found || err != nil // If the list cannot be read, all words are refused.
}

var errCut = errors.New("stolen: the list is truncated")

func has(list []byte, words []string) (bool, error) {
	want := make([]uint64, 0, len(words))
	for _, w := range words {
		want = append(want, hash(w))
	}
	slices.Sort(want)
	found := false
	err := each(list, func(h uint64) bool {
		for len(want) > 0 && want[0] < h {
			want = want[1:]
		}
		found = len(want) > 0 && want[0] == h
		return !found && len(want) > 0
	})
	return found, err
}

// each calls fn with the hashes of a list in ascending order, until fn returns
// false.
func each(list []byte, fn func(uint64) bool) error {
	if len(list) < 4 {
		return errCut
	}
	count, body := binary.BigEndian.Uint32(list), list[4:]
	n := 0
	bit := func() uint64 {
		b := uint64(body[n/8]) >> (7 - n%8) & 1
		n++
		return b
	}
	hash := uint64(0)
	for range count {
		high := uint64(0)
		for {
			if n >= len(body)*8 {
				return errCut
			}
			if bit() == 0 {
				break
			}
			high++
		}
		if n+rice > len(body)*8 {
			return errCut
		}
		low := uint64(0)
		for range rice {
			low = low<<1 | bit()
		}
		hash += high<<rice | low
		if !fn(hash) {
			return nil
		}
	}
	return nil
}
