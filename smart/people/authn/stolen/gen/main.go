// Command gen generates the list of package stolen. It reads the file that its
// argument names, one password per line, most frequent first, and writes
// stolen.bin to standard output.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"unicode/utf8"

	"pulsegate/smart/people/authn/stolen"
)

func run(path string, out io.Writer) (err error) {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var words []string
	seen := map[string]bool{}
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		w := sc.Text()
		if w != "" && !seen[w] && (len(words) < stolen.Count || utf8.RuneCountInString(w) >= stolen.Long) {
			seen[w] = true
			words = append(words, w)
		}
	}
	if err := sc.Err(); err != nil {
		return err
	}
	if len(words) < stolen.Count {
		return fmt.Errorf("%s has %d passwords; at least %d are needed", path, len(words), stolen.Count)
	}
	_, err = out.Write(stolen.Encode(words))
	return err
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: gen LIST >stolen.bin")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
