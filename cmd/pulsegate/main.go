// Command pulsegate is the server and the command line of its operator.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	_ "time/tzdata" // for systems without a time zone database

	"pulsegate/cmd/internal/cli"
	"pulsegate/cmd/internal/server"
)

var version = "dev" // set by the linker

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := cli.New(version, server.Serve(version))
	if err := cli.Execute(ctx, root); err != nil {
		fmt.Fprintln(os.Stderr, cli.Explain(err))
		stop()
		os.Exit(1)
	}
}
