package main

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
)

const versionHelp = `the version of this program

Usage: millrace version

Example:
  $ millrace version
  millrace v0.1.0 go1.26.0 linux/amd64`

func version(_ context.Context, c *call) int {
	if len(c.args) > 0 {
		return c.usage("it takes no arguments")
	}
	number, revision := "(unknown)", ""
	if info, ok := debug.ReadBuildInfo(); ok {
		number = info.Main.Version
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				revision = " " + s.Value[:min(12, len(s.Value))]
			}
		}
	}
	fmt.Fprintf(c.stdout, "millrace %s%s %s %s/%s\n", number, revision, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return exitOK
}
