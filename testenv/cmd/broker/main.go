// Command broker runs testenv/broker in a process of its own, for the crash test and the benchmark:
//
//	broker -topic clicks -partitions 4 -data DIR
//
// It prints "ready 127.0.0.1:PORT" and runs until SIGTERM or SIGINT. With -data its state survives those; a SIGKILL may
// cost the last records, as it does on a broker without replicas.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/millrace-io/millrace/testenv/broker"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "broker:", err)
		os.Exit(1)
	}
}

func run() error {
	var o broker.Options
	topics := flag.String("topic", "", "topics to create, separated by commas")
	flag.StringVar(&o.Addr, "addr", "127.0.0.1:0", "host:port to listen on")
	flag.IntVar(&o.Partitions, "partitions", 4, "partitions of each topic")
	flag.StringVar(&o.Dir, "data", "", "folder that keeps the state; default: memory only")
	flag.Parse()
	if *topics != "" {
		o.Topics = strings.Split(*topics, ",")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	b, err := broker.Start(o)
	if err != nil {
		return err
	}
	defer b.Close()
	if err := b.Announce(os.Stdout); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}
