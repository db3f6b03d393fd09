package nats

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/millrace-io/millrace/testenv/child"
)

// patience bounds the start of a process on a machine that is busy with other things.
const patience = 3 * time.Minute

// ProcessOptions of a server in a process of its own. Dir is wanted.
type ProcessOptions struct {
	Dir string // keeps everything of the server; it outlives the process, however that ends

	// Settings are lines of a nats-server's configuration, added to the address, the folder and sync_interval: always.
	Settings []string

	NoJetStream bool // a server without streams
}

// Process is nats-server itself, the program that operators run.
type Process struct {
	URL string // what a client connects to

	dir, bin, health string
	process          *child.Process
}

// StartProcess builds nats-server, of the version in go.mod, and returns one that answers. Stop or Kill ends it.
func StartProcess(ctx context.Context, o ProcessOptions) (*Process, error) {
	p := &Process{dir: o.Dir, bin: filepath.Join(o.Dir, "nats-server")}
	build := exec.CommandContext(ctx, "go", "build", "-o", p.bin, "github.com/nats-io/nats-server/v2")
	if text, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build nats-server: %w\n%s", err, text)
	}
	ports, err := child.Ports(2)
	if err != nil {
		return nil, err
	}
	p.URL = fmt.Sprintf("nats://127.0.0.1:%d", ports[0])
	p.health = fmt.Sprintf("http://127.0.0.1:%d/healthz", ports[1])
	settings := append([]string{
		"server_name: millrace",
		fmt.Sprintf("listen: 127.0.0.1:%d", ports[0]),
		fmt.Sprintf("http: 127.0.0.1:%d", ports[1]),
		"max_payload: 8MB",
	}, o.Settings...)
	if !o.NoJetStream {
		settings = append(settings, fmt.Sprintf("jetstream { store_dir: %q, sync_interval: always }", filepath.Join(o.Dir, "store")))
	}
	if err := os.WriteFile(p.path("server.conf"), []byte(strings.Join(settings, "\n")+"\n"), 0o600); err != nil {
		return nil, err
	}
	return p, p.Restart(ctx)
}

// Restart starts a server that was stopped or killed, with the same data and address, and returns when it answers.
func (p *Process) Restart(ctx context.Context) error {
	process, err := child.Start(exec.CommandContext(context.WithoutCancel(ctx), p.bin, "-c", p.path("server.conf")), p.path("log"))
	if err != nil {
		return err
	}
	p.process = process
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := process.Ready(limited, child.Answers(p.health)); err != nil { // connections are not taken, or streams not recovered
		process.Kill()
		return err
	}
	return nil
}

// Stop ends the server as an operator does.
func (p *Process) Stop() { p.process.Stop() }

// Kill ends the server with KILL.
func (p *Process) Kill() { p.process.Kill() }

func (p *Process) path(name string) string { return filepath.Join(p.dir, name) }
