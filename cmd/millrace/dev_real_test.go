//go:build real

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// devProcess is millrace dev as a process of its own.
type devProcess struct {
	t    *testing.T
	cmd  *exec.Cmd
	url  string
	took time.Duration // until ready
}

func startDev(t *testing.T, bin, dir string, args ...string) *devProcess {
	t.Helper()
	cmd := exec.Command(bin, append([]string{"dev", "--port", "0", "--dir", dir}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	d := &devProcess{t: t, cmd: cmd}
	t.Cleanup(d.kill)
	line, err := bufio.NewReader(out).ReadString('\n')
	url, ok := strings.CutPrefix(strings.TrimSpace(line), "ready ")
	if err != nil || !ok {
		t.Fatalf("dev said %q: %v", line, err)
	}
	d.url, d.took = url, time.Since(began)
	return d
}

func (d *devProcess) kill() {
	_ = d.cmd.Process.Kill()
	_ = d.cmd.Wait()
}

// post sends a body to the door and returns status and answer.
func (d *devProcess) post(body string) (int, string) {
	d.t.Helper()
	response, err := http.Post(d.url+"/v1/events", "application/json", strings.NewReader(body))
	if err != nil {
		d.t.Fatal(err)
	}
	defer response.Body.Close()
	var answer json.RawMessage
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		d.t.Fatal(err)
	}
	return response.StatusCode, string(answer)
}

// browser opens the page in a headless Chromium.
func (d *devProcess) browser() context.Context {
	d.t.Helper()
	tab := chromium(d.t, chromedp.WindowSize(1360, 1100))
	if _, err := chromedp.Run(tab, chromedp.Navigate(d.url)); err != nil {
		d.t.Fatalf("open the page: %v (testenv/install.sh installs chromium)", err)
	}
	return tab
}

// see waits until a JavaScript condition holds on the page.
func (d *devProcess) see(tab context.Context, condition string) {
	d.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; {
		yes, err := chromedp.Run(tab, chromedp.Evaluate[bool](condition))
		if err == nil && yes {
			return
		}
		if time.Now().After(deadline) {
			page, _ := chromedp.Run(tab, chromedp.Evaluate[string]("document.body.innerText"))
			d.t.Fatalf("the page never showed %s: %v\n%s", condition, err, page)
		}
		<-time.After(200 * time.Millisecond)
	}
}

const number = `(id => +document.getElementById(id).textContent.replace(/[^0-9]/g, ''))`

// TestRealDevInABrowser is a new user's first minutes: the page moves, a good and a bad event are posted, the process is
// killed with -9 and started again, and nothing is lost or there twice.
func TestRealDevInABrowser(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "millrace")
	if text, err := exec.CommandContext(t.Context(), "go", "build", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, text)
	}
	dir := filepath.Join(t.TempDir(), "data")
	d := startDev(t, bin, dir, "--speed", "1500")
	t.Logf("ready after %s", d.took.Round(time.Millisecond))
	tab := d.browser()
	d.see(tab, number+`('rate') > 0`)
	d.see(tab, number+`('rows') > 0 && document.querySelectorAll('#files tr').length > 0 && document.querySelectorAll('#events tr').length > 0`)

	if status, answer := d.post(`{"event_type":"click","event_time":"2026-01-02T03:04:05Z","user_id":"browser-test"}`); status != 200 {
		t.Errorf("a good event: %d %s", status, answer)
	}
	status, answer := d.post(`[{"event_type":"click","user_id":"browser-test"},{"event_type":"click","event_time":"yesterday"}]`)
	if status != 207 || !strings.Contains(answer, `"accepted":1`) || !strings.Contains(answer, "yesterday") {
		t.Errorf("a good and a bad event: %d %s; want 207 with the reason", status, answer)
	}
	if status, answer := d.post(`{"event_type":`); status != 400 {
		t.Errorf("no JSON: %d %s; want 400", status, answer)
	}

	d.kill()
	d = startDev(t, bin, dir, "--speed", "1500")
	tab = d.browser()
	const total = 7853 + 2
	d.see(tab, fmt.Sprintf(number+`('rows') >= %d`, total))
	shot, err := chromedp.Run(tab, chromedp.FullScreenshot(100))
	if err != nil {
		t.Error(err)
	}
	if name := os.Getenv("MILLRACE_SCREENSHOT"); name != "" {
		if err := os.WriteFile(name, shot, 0o666); err != nil {
			t.Error(err)
		}
	}
	if rows, err := chromedp.Run(tab, chromedp.Evaluate[int](number+`('rows')`)); err != nil || rows != total {
		t.Errorf("%d rows in the lake, %v; want %d", rows, err, total)
	}
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := d.cmd.Wait(); err != nil {
		t.Errorf("soft stop: %v", err)
	}
}
