// Command ferretd serves a MongoDB-compatible database for tests: FerretDB over
// SQLite. It is a module of its own, so that Pulsegate does not depend on
// FerretDB. Package mongotest builds and starts it.
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/FerretDB/FerretDB/ferretdb"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address to listen on")
	dir := flag.String("dir", "", "directory of the databases; a temporary one if empty")
	flag.Parse()
	if err := run(*listen, *dir); err != nil {
		fmt.Fprintln(os.Stderr, "ferretd:", err)
		os.Exit(1)
	}
}

// run serves until SIGTERM or SIGINT, or until standard input ends, which it
// does when the process that started this one dies.
func run(listen, dir string) error {
	if dir == "" {
		// Not in memory: FerretDB then has one connection to SQLite, and an update
		// waits for itself.
		temporary, err := os.MkdirTemp("", "ferretd-")
		if err != nil {
			return err
		}
		defer func() { _ = os.RemoveAll(temporary) }()
		dir = temporary
	}
	// Databases survive the end of this process, but need not survive the machine's.
	address := url.URL{Scheme: "file", Opaque: strings.TrimSuffix(dir, "/") + "/",
		RawQuery: url.Values{"_pragma": {"synchronous(off)"}}.Encode()}
	db, err := ferretdb.New(&ferretdb.Config{
		Listener:  ferretdb.ListenerConfig{TCP: listen},
		Logger:    slog.New(slog.DiscardHandler),
		Handler:   "sqlite",
		SQLiteURL: address.String(),
	})
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	go func() {
		_, _ = io.Copy(io.Discard, bufio.NewReader(os.Stdin))
		stop()
	}()
	ready := make(chan error, 1)
	go func() { ready <- announce(db.MongoDBURI()) }() // MongoDBURI waits for Run
	if err := db.Run(ctx); err != nil {
		return err
	}
	return <-ready
}

// announce prints the address once the server accepts connections.
func announce(uri string) error {
	u, err := url.Parse(uri)
	if err != nil {
		return err
	}
	c, err := net.Dial("tcp", u.Host)
	if err != nil {
		return err
	}
	_ = c.Close()
	_, err = fmt.Println(uri)
	return err
}
