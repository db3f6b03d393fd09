// Command s3 is the S3 server of package testenv/s3 as a process of its own, with faults. It prints "ready http://host:port"
// when it answers, and ends with SIGTERM or SIGINT.
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/millrace-io/millrace/testenv/faults"
	"github.com/millrace-io/millrace/testenv/s3"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "s3:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	dir := flag.String("dir", "s3-data", "folder of the objects")
	addr := flag.String("addr", "127.0.0.1:0", "host:port to listen on; port 0: a free one")
	bucket := flag.String("bucket", "lake", "bucket to make")
	accessKey := flag.String("access-key", "local", "access key id")
	secretKey := flag.String("secret-key", "localsecret", "secret access key")
	rate := flag.Float64("fault-rate", 0, "share of requests that fail, 0 to 1")
	seed := flag.Uint64("seed", 1, "of the faults")
	flag.Parse()

	listener, err := net.Listen("tcp", *addr)
	if err != nil {
		return err
	}
	defer listener.Close()
	server, err := s3.Start(ctx, *dir, s3.Options{Bucket: *bucket, AccessKey: *accessKey, SecretKey: *secretKey})
	if err != nil {
		return err
	}
	defer server.Close()
	proxy, err := faults.New(server.URL(), faults.Options{Rate: *rate, Seed: *seed})
	if err != nil {
		return err
	}
	front := &http.Server{Handler: proxy, ReadHeaderTimeout: time.Minute}
	go func() {
		<-ctx.Done()
		front.Close()
	}()
	fmt.Printf("ready http://%s\n", listener.Addr())
	if err := front.Serve(listener); err != nil && ctx.Err() == nil {
		return err
	}
	if *rate > 0 {
		fmt.Fprintln(os.Stderr, "s3: faults:", proxy.Counts())
	}
	return nil
}
