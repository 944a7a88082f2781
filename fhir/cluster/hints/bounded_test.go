package hints

import (
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// answer draws an answer in RESP2, with arrays of at most depth levels.
func answer(t *rapid.T, depth int) string {
	switch k := rapid.IntRange(0, 4+min(depth, 1)).Draw(t, "type"); k {
	case 0:
		return "+" + rapid.StringMatching(`[A-Za-z ]{0,20}`).Draw(t, "simple") + "\r\n"
	case 1:
		return ":" + strconv.Itoa(rapid.Int().Draw(t, "number")) + "\r\n"
	case 2:
		return "-ERR no\r\n"
	case 3:
		return "$-1\r\n"
	case 4:
		s := rapid.SampledFrom([]string{"", "x", "\r\n", "*1\r\n$9999999999\r\n", strings.Repeat("y", 10000)}).Draw(t, "bulk")
		return "$" + strconv.Itoa(len(s)) + "\r\n" + s + "\r\n"
	}
	n := rapid.IntRange(0, 4).Draw(t, "elements")
	var b strings.Builder
	b.WriteString("*" + strconv.Itoa(n) + "\r\n")
	for range n {
		b.WriteString(answer(t, depth-1))
	}
	return b.String()
}

// TestScanAcceptsAnswers passes valid answers, in pieces of any size.
func TestScanAcceptsAnswers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var c boundedConn
		for range rapid.IntRange(1, 5).Draw(t, "answers") {
			rest := []byte(answer(t, maxDepth))
			for len(rest) > 0 {
				n := rapid.IntRange(1, len(rest)).Draw(t, "piece")
				if !c.scan(rest[:n]) {
					t.Fatalf("refused %q", rest)
				}
				rest = rest[n:]
			}
			if c.skip != 0 || len(c.line) != 0 || len(c.open) != 0 {
				t.Fatalf("after a whole answer: %d, %q, %v", c.skip, c.line, c.open)
			}
		}
	})
}

func TestScanRefuses(t *testing.T) {
	for _, s := range []string{"$1048577\r\n", "*16385\r\n", strings.Repeat("*1\r\n", maxDepth+1),
		strings.Repeat("*2\r\n:1\r\n", maxDepth+1), "+" + strings.Repeat("x", maxLine), "%1\r\n", "\r\n", "x\r\n",
		"+x\n", "$-2\r\n", "$x\r\n"} {
		if new(boundedConn).scan([]byte(s)) {
			t.Errorf("accepted %.30q", s)
		}
	}
}
