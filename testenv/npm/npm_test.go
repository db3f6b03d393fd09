// npm.go: the error does not name install.sh  ->  TestAProgramThatIsNotInstalledSaysWhatInstallsIt (broken once, and red)
package npm

import (
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestAProgramThatIsNotInstalledSaysWhatInstallsIt(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	_, err := Start(Program{Module: "dynalite", Ports: 1})
	if err == nil || !strings.Contains(err.Error(), "testenv/install.sh") {
		t.Errorf("error %v", err)
	}
}
