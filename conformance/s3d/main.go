// Command s3d serves an object store for tests: the S3 API of Versity Gateway over a
// directory, with one bucket. It is a module of its own, so that Pulsegate does not depend on
// Versity Gateway. Package s3test builds and starts it.
package main

import (
	"bufio"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"

	"github.com/versity/versitygw/auth"
	"github.com/versity/versitygw/backend/meta"
	"github.com/versity/versitygw/backend/posix"
	"github.com/versity/versitygw/s3api"
	"github.com/versity/versitygw/s3api/middlewares"
)

func main() {
	var o options
	flag.StringVar(&o.dir, "dir", "", "directory of the objects")
	flag.StringVar(&o.bucket, "bucket", "exports", "name of the bucket")
	flag.StringVar(&o.region, "region", "us-east-1", "region that requests are signed for")
	flag.StringVar(&o.id, "id", "", "access key id")
	flag.StringVar(&o.certificate, "certificate", "", "PEM file with the certificate and the key of TLS")
	flag.Parse()
	o.secret = os.Getenv("S3D_SECRET")
	if err := run(&o); err != nil {
		fmt.Fprintln(os.Stderr, "s3d:", err)
		os.Exit(1)
	}
}

type options struct{ dir, bucket, region, id, secret, certificate string }

// run serves until standard input ends, which it does when the process that started this one
// dies. It prints the URL of the bucket once the server accepts connections.
func run(o *options) error {
	if o.dir == "" || o.id == "" || o.secret == "" {
		return errors.New("-dir, -id and S3D_SECRET are required")
	}
	objects, facts := filepath.Join(o.dir, "objects"), filepath.Join(o.dir, "facts")
	for _, dir := range []string{filepath.Join(objects, o.bucket), filepath.Join(facts)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	// Metadata are files, because not every file system has extended attributes.
	side, err := meta.NewSideCar(facts)
	if err != nil {
		return err
	}
	be, err := posix.New(objects, side, posix.PosixOpts{ForceNoTmpFile: true})
	if err != nil {
		return err
	}
	defer be.Shutdown()
	account := auth.Account{Access: o.id, Secret: o.secret, Role: auth.RoleAdmin}
	root := middlewares.RootUserConfig{Access: o.id, Secret: o.secret}
	// The socket's path is short: the system bounds it.
	sockets, err := os.MkdirTemp("", "s3d")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(sockets) }()
	socket := filepath.Join(sockets, "s")
	up := make(chan struct{})
	srv, err := s3api.New(be, root, o.region, auth.NewIAMServiceSingle(account), nil, nil, nil, nil,
		s3api.WithQuiet(), s3api.WithKeepAlive(), s3api.WithConcurrencyLimiter(1000, 1000),
		s3api.WithOnListen(func() { close(up) }))
	if err != nil {
		return err
	}
	failed := make(chan error, 2)
	go func() { failed <- srv.ServeMultiPort([]string{socket}) }()
	select {
	case err := <-failed:
		return err
	case <-up:
	}
	// The gateway does not tell which port it got, so it listens on a socket of the system.
	l, scheme, err := o.listen()
	if err != nil {
		return err
	}
	go forward(l, socket)
	fmt.Printf("%s://%s/%s\n", scheme, l.Addr(), o.bucket)
	go func() {
		_, _ = io.Copy(io.Discard, bufio.NewReader(os.Stdin))
		failed <- nil
	}()
	return <-failed
}

func (o *options) listen() (net.Listener, string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil || o.certificate == "" {
		return l, "http", err
	}
	cert, err := tls.LoadX509KeyPair(o.certificate, o.certificate)
	if err != nil {
		return nil, "", err
	}
	return tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}),
		"https", nil
}

// forward passes connections on to a socket.
func forward(l net.Listener, socket string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer func() { _ = c.Close() }()
			s, err := net.Dial("unix", socket)
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(s, c)
				_ = s.Close()
			}()
			_, _ = io.Copy(c, s)
		}()
	}
}
