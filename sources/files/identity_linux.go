package files

import (
	"fmt"
	"io/fs"
	"syscall"

	"golang.org/x/sys/unix"
)

// atPath is the descriptor for infoOf where only the path is known.
const atPath = unix.AT_FDCWD

// infoOf is what stat says about the file at path, or with an empty path about an open one. The time of birth tells a file from a later one with its inode.
func infoOf(descriptor int, path string, stat fs.FileInfo) info {
	i := info{Size: stat.Size(), Modified: stat.ModTime()}
	if s, ok := stat.Sys().(*syscall.Stat_t); ok {
		i.Identity = fmt.Sprintf("%d", s.Ino)
		var x unix.Statx_t
		err := unix.Statx(descriptor, path, unix.AT_EMPTY_PATH, unix.STATX_BTIME|unix.STATX_INO, &x)
		if err == nil && x.Mask&unix.STATX_BTIME != 0 && x.Ino == s.Ino {
			i.Identity += fmt.Sprintf("-%d.%09d", x.Btime.Sec, x.Btime.Nsec)
		}
	}
	return i
}
