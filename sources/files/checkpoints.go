package files

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/millrace-io/millrace/stream"
)

// saved is the checkpoint of one partition: one generation of one file.
type saved struct {
	Partition  string `json:"partition"`
	Name       string `json:"name"`       // of the file; without the generation
	Generation int    `json:"generation"` // from 1
	Epoch      uint64 `json:"epoch"`      // of the last owner

	Path string `json:"path"` // where the file was last; another than Name after it was renamed
	Seen info   `json:"seen"` // the file as it was then

	Committed  bool            `json:"committed"` // there is a checkpoint; else the rest is empty
	Position   stream.Position `json:"position"`
	Note       string          `json:"note,omitempty"` // if it is UTF-8
	NoteBase64 []byte          `json:"note_base64,omitempty"`
	Mark       mark            `json:"mark"` // what was read; at or before the record after Position

	// Complete says that all that the file had when it was Seen is committed, but for a last line that had no line break yet
	// if Partial; Ended, that the partition has no more.
	Complete bool `json:"complete,omitempty"`
	Partial  bool `json:"partial,omitempty"`
	Ended    bool `json:"ended,omitempty"`
	Replaced bool `json:"replaced,omitempty"` // Ended because the file got other content, with on_change: restart
}

func (s *saved) checkpoint() (stream.Checkpoint, bool) {
	c := stream.Checkpoint{Pos: s.Position, Note: s.NoteBase64}
	if s.Note != "" {
		c.Note = []byte(s.Note)
	}
	return c, s.Committed
}

func (s *saved) setCheckpoint(c stream.Checkpoint) {
	s.Committed, s.Position, s.Note, s.NoteBase64 = true, c.Pos, "", nil
	if utf8.Valid(c.Note) {
		s.Note = string(c.Note)
	} else {
		s.NoteBase64 = c.Note
	}
}

// partitionName is the name of one generation of a file: the file's own, and from the second on with a suffix. A name that
// looks like one with a suffix always gets one.
func partitionName(name string, generation int) string {
	if generation == 1 && !looksGenerated(name) {
		return name
	}
	return fmt.Sprintf("%s#%d", name, generation)
}

func looksGenerated(name string) bool {
	i := strings.LastIndexByte(name, '#')
	return i >= 0 && i+1 < len(name) && strings.Trim(name[i+1:], "0123456789") == ""
}

// folder keeps the checkpoints of one pipeline: for each partition <hash>.json, and <hash>.lock while it is owned.
type folder struct{ dir string }

func (f folder) path(partition, suffix string) string {
	digest := sha256.Sum256([]byte(partition))
	return filepath.Join(f.dir, hex.EncodeToString(digest[:12])+suffix)
}

// ensure makes the folder and tries to write there.
func (f folder) ensure() error {
	err := os.MkdirAll(f.dir, 0o777)
	if err == nil {
		var probe *os.File
		if probe, err = os.CreateTemp(f.dir, ".probe-*"); err == nil {
			err = errors.Join(probe.Close(), os.Remove(probe.Name()))
		}
	}
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, fs.ErrExist) {
		return stream.Fatal(fmt.Errorf("checkpoint folder %s cannot be written: %w; set checkpoints to a folder of your own", f.dir, err))
	}
	if err != nil {
		return fmt.Errorf("checkpoint folder %s: %w", f.dir, err)
	}
	return nil
}

// load returns nil when the partition has no checkpoint.
func (f folder) load(partition string) (*saved, error) {
	s, err := readSaved(f.path(partition, ".json"))
	if err != nil {
		return nil, err
	}
	if s != nil && s.Partition != partition {
		return nil, stream.Fatal(fmt.Errorf("checkpoint %s is of %q; want that of %q", f.path(partition, ".json"), s.Partition, partition))
	}
	return s, nil
}

func readSaved(path string) (*saved, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read checkpoint: %w", err)
	}
	s := new(saved)
	if err := json.Unmarshal(text, s); err != nil {
		return nil, stream.Fatal(fmt.Errorf("checkpoint %s is damaged: %w; restore it, or remove it to read its file from the beginning", path, err))
	}
	return s, nil
}

// store replaces the partition's checkpoint, atomically and durably. The caller owns the partition.
func (f folder) store(s *saved) error {
	text, err := json.MarshalIndent(s, "", " ")
	if err != nil {
		return err
	}
	err = f.replace(f.path(s.Partition, ".json"), append(text, '\n'))
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return stream.Fatal(fmt.Errorf("store checkpoint of %s: %w; make room below %s and start again, nothing that was committed is lost", s.Partition, err, f.dir))
	}
	if err != nil {
		return fmt.Errorf("store checkpoint of %s: %w", s.Partition, err)
	}
	return nil
}

func (f folder) replace(path string, data []byte) error {
	temporary := path + ".new"
	if err := writeSynced(temporary, data); err != nil {
		os.Remove(temporary) // a full disk gets its room back
		return err
	}
	if err := os.Rename(temporary, path); err != nil {
		return err
	}
	return f.sync()
}

func writeSynced(path string, data []byte) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o666)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	if err == nil {
		err = file.Sync()
	}
	return errors.Join(err, file.Close())
}

// sync makes the folder's names durable.
func (f folder) sync() error {
	dir, err := os.Open(f.dir)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// cached is a checkpoint as it was read from its file.
type cached struct {
	size     int64
	modified time.Time
	saved    *saved
}

// all returns every checkpoint in the folder by partition. cache, by file name, saves reading what did not change.
func (f folder) all(cache map[string]cached) (map[string]*saved, error) {
	found := map[string]*saved{}
	entries, err := os.ReadDir(f.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return found, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the checkpoint folder: %w", err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".json") || e.Name() == aboutFile {
			continue
		}
		stat, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read the checkpoint folder: %w", err)
		}
		c, ok := cache[e.Name()]
		if !ok || c.size != stat.Size() || !c.modified.Equal(stat.ModTime()) {
			c = cached{size: stat.Size(), modified: stat.ModTime()}
			if c.saved, err = readSaved(filepath.Join(f.dir, e.Name())); err != nil {
				return nil, err
			}
			cache[e.Name()] = c
		}
		if c.saved != nil {
			found[c.saved.Partition] = c.saved
		}
	}
	return found, nil
}

// errHeld says that another process, or another source in this one, owns the partition.
var errHeld = errors.New("partition is held by another process")

// lock is the ownership of one partition. The kernel gives it back when the process dies.
type lock struct {
	file *os.File
	path string
}

// lock takes the partition or fails with errHeld.
func (f folder) lock(partition string) (*lock, error) {
	for {
		l, err := f.tryLock(partition)
		if err != nil || l.held() {
			return l, err
		}
		l.file.Close() // its last owner removed it between our open and our flock
	}
}

func (f folder) tryLock(partition string) (*lock, error) {
	path := f.path(partition, ".lock")
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", partition, err)
	}
	err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return &lock{file, path}, nil
	}
	file.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, errHeld
	}
	return nil, fmt.Errorf("lock %s: %w", partition, err)
}

// held says that the lock file is still the one that others would try.
func (l *lock) held() bool {
	ours, err := l.file.Stat()
	if err != nil {
		return false
	}
	theirs, err := os.Stat(l.path)
	return err == nil && os.SameFile(ours, theirs)
}

func (l *lock) release() {
	if l.held() {
		os.Remove(l.path)
	}
	l.file.Close()
}

// aboutFile says whose folder it is.
const aboutFile = "about.json"

// about is for the reader of the folder, and tells a second pipeline of the same name apart.
type about struct {
	Pipeline string   `json:"pipeline"`
	Paths    []string `json:"paths"`
}

// sign writes aboutFile and returns what it said before; nil for the first time and when nothing changed.
func (f folder) sign(a about) (*about, error) {
	lock, err := f.lock(aboutFile)
	if errors.Is(err, errHeld) {
		return nil, nil // another process starts too
	}
	if err != nil {
		return nil, err
	}
	defer lock.release()
	text, err := json.MarshalIndent(a, "", " ")
	if err != nil {
		return nil, err
	}
	path := filepath.Join(f.dir, aboutFile)
	old, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, f.replace(path, text)
	}
	if err != nil || bytes.Equal(old, text) {
		return nil, err
	}
	before := new(about)
	if err := json.Unmarshal(old, before); err != nil {
		return nil, fmt.Errorf("%s: %w", aboutFile, err)
	}
	return before, f.replace(path, text)
}
