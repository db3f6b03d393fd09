package objects

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/millrace-io/millrace/stream"
)

const (
	staging = "_staging"
	growing = ".part" // ends the name of a staged file that is not sealed: no ticket can name it
)

// leftover is how long nobody has written to a staged file whose process is dead. Writers that live write or commit every
// few minutes; the rest is for clocks of network file systems.
const leftover = 24 * time.Hour

// folder is a Store in a file system with hard links and fsync. Other processes may use the same one.
type folder struct {
	root string // absolute
	o    Options
}

var _ Store = (*folder)(nil)

func openFolder(dir string, o Options) (*folder, error) {
	root, err := filepath.Abs(dir)
	if err != nil {
		return nil, stream.Fatal(err)
	}
	f := &folder{root: root, o: o}
	f.sweep(time.Now())
	return f, nil
}

func (f *folder) String() string { return "file://" + f.root }

func (f *folder) path(key string) string    { return filepath.Join(f.root, filepath.FromSlash(key)) }
func (f *folder) staged(name string) string { return filepath.Join(f.root, staging, name) }

// sweep removes what dead processes left unsealed, and tells of old sealed files: see Open. What cannot be read is of no
// concern here; Probe tells.
func (f *folder) sweep(now time.Time) {
	entries, _ := os.ReadDir(filepath.Join(f.root, staging))
	sealed, bytes := 0, int64(0)
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || now.Sub(info.ModTime()) < leftover {
			continue
		}
		if strings.HasSuffix(e.Name(), growing) {
			os.Remove(f.staged(e.Name()))
			continue
		}
		sealed, bytes = sealed+1, bytes+info.Size()
	}
	if sealed > 0 {
		f.o.Log.Info("old staged files that a commit may still name; remove them when every pipeline that writes here has run since",
			"folder", filepath.Join(f.root, staging), "files", sealed, "bytes", bytes)
	}
}

// explain says what an error means for the caller: whether somebody can mend it while we wait.
func (f *folder) explain(doing string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return stream.Fatal(fmt.Errorf("%s: %w; make room below %s and start again, nothing that was committed is lost", doing, err, f.root))
	case errors.Is(err, syscall.EROFS):
		return stream.Fatal(fmt.Errorf("%s: %w; mount it writable or choose another folder", doing, err))
	case errors.Is(err, fs.ErrPermission):
		return stream.Fatal(fmt.Errorf("%s: %w; the user %d needs to write below %s", doing, err, os.Geteuid(), f.root))
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.EISDIR), errors.Is(err, syscall.ENAMETOOLONG), errors.Is(err, syscall.EINVAL):
		return stream.Fatal(fmt.Errorf("%s: %w", doing, err))
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// Publish links the staged file to its key and removes its staged name. After a crash between two steps the same ticket
// finds what is left to do.
func (f *folder) Publish(ctx context.Context, t Ticket) error {
	if err := f.checkTicket(ctx, t); err != nil {
		return err
	}
	from, to := f.staged(t.Upload), f.path(t.Key)
	if err := f.makeFolders(filepath.Dir(to)); err != nil {
		return err
	}
	switch err := os.Link(from, to); {
	case err == nil:
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrExist):
		ours, err := f.ours(t)
		if err != nil {
			return err
		}
		if !ours {
			return f.unpublishable(t)
		}
	case errors.Is(err, syscall.ENOTSUP), errors.Is(err, syscall.EXDEV), errors.Is(err, syscall.EMLINK):
		return stream.Fatal(fmt.Errorf("publish %s: %w; the file system has no hard links, choose another", t.Key, err))
	default:
		return f.explain("publish "+t.Key, err)
	}
	if err := f.syncUp(filepath.Dir(to)); err != nil {
		return err
	}
	// The staged name may come back after a power failure. Then it is one more link to what is published.
	if err := os.Remove(from); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return f.explain("remove the staged name of "+t.Key, err)
	}
	return nil
}

// unpublishable is why a ticket whose object is not there cannot be published.
func (f *folder) unpublishable(t Ticket) error {
	if _, err := os.Lstat(f.path(t.Key)); err == nil {
		return stream.Fatal(fmt.Errorf("publish %s: a file that is not ours is at %s; move it away", t.Key, f.path(t.Key)))
	}
	if _, err := os.Lstat(f.staged(t.Upload)); err == nil {
		return fmt.Errorf("publish %s: its folder was removed while we linked it", t.Key) // the next attempt makes it
	}
	return fmt.Errorf("publish %s: the staged file %s: %w", t.Key, f.staged(t.Upload), stream.ErrExpired)
}

// ours says that the file at the ticket's key is what the ticket stands for: the same file while the staged name exists,
// else by size and checksum.
func (f *folder) ours(t Ticket) (bool, error) {
	published, err := os.Lstat(f.path(t.Key))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, f.explain("look at "+t.Key, err)
	}
	if from, err := os.Lstat(f.staged(t.Upload)); err == nil && os.SameFile(from, published) {
		return true, nil
	}
	if !published.Mode().IsRegular() || published.Size() != t.Size {
		return false, nil
	}
	file, err := os.Open(f.path(t.Key))
	if err != nil {
		return false, f.explain("read "+t.Key, err)
	}
	defer file.Close()
	sum := crc32.New(castagnoli())
	if _, err := io.Copy(sum, file); err != nil {
		return false, f.explain("read "+t.Key, err)
	}
	return token(sum.Sum32()) == t.Token, nil
}

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) } // made once, by the library

func token(crc uint32) string { return fmt.Sprintf("%08x", crc) }

func (f *folder) Withdraw(ctx context.Context, t Ticket) error {
	if err := f.checkTicket(ctx, t); err != nil {
		return err
	}
	ours, err := f.ours(t)
	if err != nil {
		return err
	}
	// The object goes first: as long as the staged name is there, ours is told from others without reading.
	if ours {
		if err := f.remove(f.path(t.Key)); err != nil {
			return err
		}
	}
	return f.remove(f.staged(t.Upload))
}

func (f *folder) checkTicket(ctx context.Context, t Ticket) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if t.Upload == "" || strings.ContainsAny(t.Upload, "/\\") || strings.HasSuffix(t.Upload, growing) {
		return stream.Fatal(fmt.Errorf("%q is no staged file of %s; was the sink's url changed since the last commit?", t.Upload, f))
	}
	return checkKey(t.Key)
}

// remove removes a file for good; not there is success.
func (f *folder) remove(name string) error {
	err := os.Remove(name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil
	}
	if err != nil {
		return f.explain("remove", err)
	}
	return f.sync(filepath.Dir(name))
}

// makeFolders makes dir and what is missing above it, each durable in its parent.
func (f *folder) makeFolders(dir string) error {
	err := os.Mkdir(dir, 0o777)
	switch {
	case err == nil:
		return f.sync(filepath.Dir(dir))
	case errors.Is(err, fs.ErrExist):
		if info, err := os.Stat(dir); err == nil && !info.IsDir() {
			return stream.Fatal(fmt.Errorf("%s is a file; want a folder", dir))
		}
		return nil
	case errors.Is(err, fs.ErrNotExist) && filepath.Dir(dir) != dir:
		if err := f.makeFolders(filepath.Dir(dir)); err != nil {
			return err
		}
		return f.makeFolders(dir)
	}
	return f.explain("make the folder", err)
}

// sync makes the entries of a folder durable.
func (f *folder) sync(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return f.explain("sync the folder", err)
	}
	defer d.Close()
	return f.explain("sync the folder "+dir, d.Sync())
}

// syncUp syncs dir and the folders above it up to the root: another process may have made one of them a moment ago and not
// have synced it yet. It costs little for those that did not change.
func (f *folder) syncUp(dir string) error {
	for {
		if err := f.sync(dir); err != nil || dir == f.root || filepath.Dir(dir) == dir {
			return err
		}
		dir = filepath.Dir(dir)
	}
}

func (f *folder) Put(ctx context.Context, key string, data []byte) error {
	if err := errors.Join(ctx.Err(), checkKey(key)); err != nil {
		return err
	}
	u := f.begin(key)
	u.Write(data)
	if err := u.finish(); err != nil {
		u.Discard(ctx)
		return err
	}
	if err := f.makeFolders(filepath.Dir(f.path(key))); err != nil {
		u.Discard(ctx)
		return err
	}
	if err := os.Rename(f.staged(u.name+growing), f.path(key)); err != nil {
		u.Discard(ctx)
		return f.explain("put "+key, err)
	}
	return f.syncUp(filepath.Dir(f.path(key)))
}

func (f *folder) Get(ctx context.Context, key string) ([]byte, error) {
	if err := errors.Join(ctx.Err(), checkKey(key)); err != nil {
		return nil, err
	}
	data, err := os.ReadFile(f.path(key))
	return data, f.notFound("get", key, err)
}

func (f *folder) notFound(doing, key string, err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.EISDIR) {
		return fmt.Errorf("%s %s: %w", doing, f.path(key), ErrNotFound)
	}
	return f.explain(doing+" "+key, err)
}

func (f *folder) Delete(ctx context.Context, key string) error {
	if err := errors.Join(ctx.Err(), checkKey(key)); err != nil {
		return err
	}
	return f.remove(f.path(key))
}

func (f *folder) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		f.walk(ctx, "", prefix, yield)
	}
}

// walk yields what is below the folder dir (empty, or ending with a slash) in key order. False: the caller has enough.
func (f *folder) walk(ctx context.Context, dir, prefix string, yield func(Info, error) bool) bool {
	entries, err := os.ReadDir(f.path(dir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return yield(Info{}, f.explain("list "+f.path(dir), err))
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		name := dir + e.Name()
		if e.IsDir() {
			name += "/" // sorts as its keys do
		} else if !e.Type().IsRegular() {
			continue
		}
		if strings.HasPrefix(name, prefix) && !hidden(name, len(prefix)) || e.IsDir() && strings.HasPrefix(prefix, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return yield(Info{}, err)
		}
		if strings.HasSuffix(name, "/") {
			if !f.walk(ctx, name, prefix, yield) {
				return false
			}
			continue
		}
		info, err := os.Lstat(f.path(name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed while we list
		}
		if err != nil {
			return yield(Info{}, f.explain("list", err))
		}
		if !yield(Info{Key: name, Size: info.Size(), Modified: info.ModTime()}, nil) {
			return false
		}
	}
	return true
}

// fileObject is an open file.
type fileObject struct {
	*os.File
	size int64
}

func (o fileObject) Size() int64                 { return o.size }
func (o fileObject) Metadata() map[string]string { return nil }

func (f *folder) Open(ctx context.Context, key string) (Object, error) {
	if err := errors.Join(ctx.Err(), checkKey(key)); err != nil {
		return nil, err
	}
	file, err := os.Open(f.path(key))
	if err != nil {
		return nil, f.notFound("open", key, err)
	}
	info, err := file.Stat()
	if err == nil && info.IsDir() {
		err = fs.ErrNotExist
	}
	if err != nil {
		file.Close()
		return nil, f.notFound("open", key, err)
	}
	return fileObject{file, info.Size()}, nil
}

// Probe writes, links and removes a file in the folder, or in the nearest one above it that is there.
func (f *folder) Probe(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	dir := f.root
	for {
		info, err := os.Stat(dir)
		if err == nil && !info.IsDir() {
			return stream.Fatal(fmt.Errorf("%s is a file; want a folder", dir))
		}
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) || filepath.Dir(dir) == dir {
			return f.explain("probe", err)
		}
		dir = filepath.Dir(dir)
	}
	name := filepath.Join(dir, ".millrace-probe-"+rand.Text())
	defer os.Remove(name)
	if err := os.WriteFile(name, []byte("probe"), 0o666); err != nil {
		return f.explain("probe", err)
	}
	defer os.Remove(name + "-link")
	if err := os.Link(name, name+"-link"); err != nil {
		return stream.Fatal(fmt.Errorf("probe: %w; want a file system with hard links", err))
	}
	return nil
}

func (f *folder) Begin(key string) Upload { return f.begin(key) }

func (f *folder) begin(key string) *folderUpload {
	return &folderUpload{folder: f, key: key, name: rand.Text()}
}

// folderUpload is one file under _staging/.
type folderUpload struct {
	folder *folder
	key    string
	name   string // under _staging/, with growing behind it until it is sealed

	file    *os.File // nil before the first bytes leave, and after Seal
	written int64    // bytes of the file that are right; what is behind them is a failed attempt's
	crc     uint32
	buf     []byte
	broken  error // the file's bytes cannot be trusted any more
	ticket  *Ticket
}

func (u *folderUpload) Write(p []byte) (int, error) {
	u.buf = append(u.buf, p...)
	return len(p), nil
}

func (u *folderUpload) Buffered() int64 { return int64(cap(u.buf)) }

// folderPart is how much Send leaves in memory, in bytes: enough to make few and large writes.
const folderPart = 1 << 20

func (u *folderUpload) Send(ctx context.Context) error {
	if err := ctx.Err(); err != nil || len(u.buf) < folderPart {
		return err
	}
	return u.flush()
}

// flush writes the buffer behind what is written. An attempt that fails half-way is written over by the next.
func (u *folderUpload) flush() error {
	if err := u.create(); err != nil {
		return err
	}
	if _, err := u.file.WriteAt(u.buf, u.written); err != nil {
		return u.folder.explain("write "+u.key, err)
	}
	u.written += int64(len(u.buf))
	u.crc = crc32.Update(u.crc, castagnoli(), u.buf)
	u.buf = nil
	return nil
}

func (u *folderUpload) create() error {
	if u.broken != nil || u.file != nil {
		return u.broken
	}
	if err := checkKey(u.key); err != nil {
		return err
	}
	if err := u.folder.makeFolders(filepath.Join(u.folder.root, staging)); err != nil {
		return err
	}
	file, err := os.OpenFile(u.folder.staged(u.name+growing), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o666)
	if err != nil {
		return u.folder.explain("stage "+u.key, err)
	}
	u.file = file
	return nil
}

// finish makes the bytes durable.
func (u *folderUpload) finish() error {
	if err := u.flush(); err != nil {
		return err
	}
	if err := u.file.Truncate(u.written); err != nil {
		return u.folder.explain("stage "+u.key, err)
	}
	if err := u.file.Sync(); err != nil {
		// The kernel may have dropped the pages that it could not write, and a second fsync would not say so.
		u.broken = fmt.Errorf("sync the staged file of %s: %w (%w)", u.key, err, stream.ErrExpired)
		return u.broken
	}
	return nil
}

func (u *folderUpload) Seal(ctx context.Context, _ map[string]string) (Ticket, error) {
	if u.ticket != nil {
		return *u.ticket, nil
	}
	if err := ctx.Err(); err != nil {
		return Ticket{}, err
	}
	if err := u.finish(); err != nil {
		return Ticket{}, err
	}
	f := u.folder
	err := os.Rename(f.staged(u.name+growing), f.staged(u.name))
	if _, gone := os.Lstat(f.staged(u.name)); err != nil && gone != nil {
		if errors.Is(err, fs.ErrNotExist) {
			u.broken = fmt.Errorf("the staged file of %s was removed behind our back: %w", u.key, stream.ErrExpired)
			return Ticket{}, u.broken
		}
		return Ticket{}, f.explain("stage "+u.key, err)
	}
	if err := f.sync(filepath.Join(f.root, staging)); err != nil {
		return Ticket{}, err
	}
	u.close()
	u.ticket = &Ticket{Key: u.key, Upload: u.name, Size: u.written, Token: token(u.crc)}
	return *u.ticket, nil
}

func (u *folderUpload) close() {
	if u.file != nil {
		if err := u.file.Close(); err != nil {
			u.folder.o.Log.Debug("close staged file", "error", err)
		}
		u.file = nil
	}
	u.buf = nil
}

func (u *folderUpload) Discard(context.Context) {
	u.close()
	u.broken = errors.New("the upload was discarded")
	os.Remove(u.folder.staged(u.name + growing))
	os.Remove(u.folder.staged(u.name))
}
