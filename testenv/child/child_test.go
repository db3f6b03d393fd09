package child

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, script string) (p *Process, dir string) {
	t.Helper()
	dir = t.TempDir()
	cmd := exec.Command("sh", "-c", script)
	cmd.Dir = dir
	p, err := Start(cmd, filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	return p, dir
}

// written answers when the process has made the file.
func written(dir string) func(context.Context) error {
	return func(context.Context) error {
		_, err := os.Stat(filepath.Join(dir, "up"))
		return err
	}
}

func ready(t *testing.T, p *Process, dir string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := p.Ready(ctx, written(dir)); err != nil {
		t.Fatal(err)
	}
}

func TestStopIsSoft(t *testing.T) {
	p, dir := start(t, `trap 'echo bye > down; exit 0' TERM; touch up; while :; do sleep 0.05; done`)
	ready(t, p, dir)
	p.Stop()
	p.Stop()
	if _, err := os.Stat(filepath.Join(dir, "down")); err != nil {
		t.Errorf("the process did not hear TERM: %v", err)
	}
}

func TestKillNeedsNoConsent(t *testing.T) {
	p, dir := start(t, `trap 'echo bye > down' TERM; touch up; while :; do sleep 0.05; done`)
	ready(t, p, dir)
	p.Kill()
	p.Kill()
	if _, err := os.Stat(filepath.Join(dir, "down")); err == nil {
		t.Error("the process was asked")
	}
}

func TestProcessThatEndsIsNotWaitedFor(t *testing.T) {
	p, dir := start(t, `echo no such setting >&2; exit 3`)
	if err := p.Ready(t.Context(), written(dir)); err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "no such setting") {
		t.Errorf("%v; want the status and the words of the process", err)
	}
}

func TestProcessThatIsNeverReadyIsGivenUp(t *testing.T) {
	p, _ := start(t, `echo thinking; while :; do sleep 0.05; done`)
	ctx, cancel := context.WithCancel(t.Context())
	err := p.Ready(ctx, func(context.Context) error {
		cancel()
		return errors.New("not yet")
	})
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "not yet") {
		t.Errorf("%v; want why it is not ready", err)
	}
}

func TestPortsAreDifferentAndOutOfReachOfClients(t *testing.T) {
	ports, err := Ports(8)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[int]bool{}
	for _, p := range ports {
		if seen[p] || p < 1024 || p >= 32768 {
			t.Errorf("ports %v", ports)
		}
		seen[p] = true
	}
}
