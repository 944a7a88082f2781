// Command comments prints doc comments picked at random, for a reader to judge.
//
//	go run ./conformance/lint/comments -n 5
package main

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"
)

func main() {
	n := flag.Int("n", 5, "number of comments")
	seed := flag.Uint64("seed", 0, "seed of the choice; if zero, the clock is the seed")
	root := flag.String("root", ".", "directory to read")
	flag.Parse()
	if *seed == 0 {
		*seed = uint64(time.Now().UnixNano())
	}
	all, err := docComments(*root)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Printf("%d doc comments; -seed %d repeats this choice\n", len(all), *seed)
	r := rand.New(rand.NewPCG(*seed, 0))
	for _, i := range r.Perm(len(all))[:min(*n, len(all))] {
		fmt.Println()
		fmt.Println(all[i])
	}
}

// docComments returns the doc comments of functions, types, variables and
// constants in the Go files below root, each with its position and the line
// that it documents. Test files and generated files are left out.
func docComments(root string) (out []string, err error) {
	fset := token.NewFileSet()
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "testdata" || strings.HasPrefix(d.Name(), ".") && path != root) {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || strings.HasSuffix(path, "_gen.go") {
			return nil
		}
		src, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(fset, path, src, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		lines := strings.Split(string(src), "\n")
		for _, d := range f.Decls {
			var doc *ast.CommentGroup
			switch d := d.(type) {
			case *ast.FuncDecl:
				doc = d.Doc
			case *ast.GenDecl:
				doc = d.Doc
			}
			if doc == nil {
				continue
			}
			from, to := fset.Position(doc.Pos()).Line, fset.Position(d.Pos()).Line
			out = append(out, fmt.Sprintf("%s:%d\n%s", path, from, strings.Join(lines[from-1:to], "\n")))
		}
		return nil
	})
	return out, err
}
