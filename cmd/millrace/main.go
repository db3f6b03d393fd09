// Command millrace carries a clickstream from a log to its sinks, every record exactly once. See millrace help.
package main

import (
	"context"
	"os"
	_ "time/tzdata" // decode.time.zone must work on machines without a time zone database
)

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
