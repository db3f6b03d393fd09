package dynamodb

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/millrace-io/millrace/testenv/child"
)

// Moto is the Python package moto, an independent DynamoDB in a process of its own, which knows times to live. testenv/install.sh
// installs it.
type Moto struct {
	url     string
	process *child.Process
}

// StartMoto returns a server that answers. dir is for its log.
func StartMoto(ctx context.Context, dir string) (*Moto, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, fmt.Errorf("no folder for moto: %w", err)
	}
	bin := filepath.Join(cache, "millrace", "venv", "bin", "moto_server")
	if _, err := os.Stat(bin); err != nil {
		return nil, fmt.Errorf("no moto; run testenv/install.sh: %w", err)
	}
	ports, err := child.Ports(1)
	if err != nil {
		return nil, err
	}
	m := &Moto{url: fmt.Sprintf("http://127.0.0.1:%d", ports[0])}
	m.process, err = child.Start(exec.CommandContext(context.WithoutCancel(ctx), bin, "-H", "127.0.0.1", "-p", fmt.Sprint(ports[0])), filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	limited, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	if err := m.process.Ready(limited, child.Answers(m.url+"/moto-api/data.json")); err != nil {
		m.process.Kill()
		return nil, err
	}
	return m, nil
}

// URL is the endpoint.
func (m *Moto) URL() string { return m.url }

// Close ends the server.
func (m *Moto) Close() { m.process.Kill() }
