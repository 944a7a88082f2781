package clusterrun

import (
	"bufio"
	"slices"
	"strings"
	"testing"
)

func TestReply(t *testing.T) {
	for in, want := range map[string][]string{
		"+PONG\r\n":                           {"PONG"},
		":3\r\n":                              {"3"},
		"$-1\r\n":                             nil,
		"$5\r\na\r\nbc\r\n":                   {"a\r\nbc"},
		"*0\r\n":                              nil,
		"*2\r\n$1\r\na\r\n*1\r\n$2\r\nbc\r\n": {"a", "bc"},
		"*2\r\n$3\r\nkey\r\n$-1\r\n":          {"key"},
		"$0\r\n\r\n":                          {""},
	} {
		got, err := reply(bufio.NewReader(strings.NewReader(in)))
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("reply %q: got %q and error %v, want %q", in, got, err, want)
		}
	}
	for _, in := range []string{"", "\r\n", "-ERR no\r\n", "$5\r\nab", "*2\r\n+a\r\n", "$x\r\n"} {
		if got, err := reply(bufio.NewReader(strings.NewReader(in))); err == nil {
			t.Errorf("reply %q: got %q, want an error", in, got)
		}
	}
}
