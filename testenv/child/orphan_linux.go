package child

import (
	"os/exec"
	"syscall"
)

// orphaned says what becomes of the process when this one dies without a word, as a test does that ran too long.
func orphaned(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
