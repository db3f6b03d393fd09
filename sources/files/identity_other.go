//go:build unix && !linux

package files

import (
	"fmt"
	"io/fs"
	"syscall"
)

// atPath is the descriptor for infoOf where only the path is known.
const atPath = -1

// infoOf is what stat says about the file at path, or with an empty path about an open one.
func infoOf(_ int, _ string, stat fs.FileInfo) info {
	i := info{Size: stat.Size(), Modified: stat.ModTime()}
	if s, ok := stat.Sys().(*syscall.Stat_t); ok {
		i.Identity = fmt.Sprintf("%d", s.Ino)
	}
	return i
}
