package files

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

var errNotDir error = syscall.ENOTDIR

// handle is an open file. A local one stays what it is after it was renamed or removed.
type handle interface {
	io.ReaderAt
	io.Closer

	// sequential reads on from off. Close it before the handle.
	sequential(off int64) io.ReadCloser

	// stat is about the open file, whatever is at its path by now.
	stat() (info, error)
}

type localFile struct{ *os.File }

func openLocal(name string) (handle, error) {
	f, err := os.Open(filepath.FromSlash(name))
	if err != nil {
		return nil, err
	}
	return localFile{f}, nil
}

func (f localFile) stat() (info, error) {
	stat, err := f.File.Stat()
	if err != nil {
		return info{}, err
	}
	return infoOf(int(f.Fd()), "", stat), nil
}

func (f localFile) sequential(off int64) io.ReadCloser { return &cursor{f, off} }

// cursor reads on after an end of file if the file has grown.
type cursor struct {
	io.ReaderAt
	off int64
}

func (c *cursor) Read(p []byte) (int, error) {
	n, err := c.ReadAt(p, c.off)
	c.off += int64(n)
	if n > 0 && err == io.EOF {
		err = nil
	}
	return n, err
}

func (c *cursor) Close() error { return nil }

// statPath is about what is at the path now.
func statPath(_ context.Context, name string) (info, error) {
	stat, err := os.Stat(filepath.FromSlash(name))
	if err != nil {
		return info{}, err
	}
	return infoOf(atPath, name, stat), nil
}
