package files

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// info is a file as it was seen. Two equal ones are taken for the same, unchanged file.
type info struct {
	Size     int64     `json:"size"` // bytes, as stored
	Modified time.Time `json:"modified"`
	Identity string    `json:"identity,omitempty"` // inode and time of birth; empty in S3
	Version  string    `json:"version,omitempty"`  // the entity tag; empty but in S3
}

func (i info) equal(o info) bool {
	return i.Size == o.Size && i.Identity == o.Identity && i.Version == o.Version && i.Modified.Equal(o.Modified)
}

// file is one that the configured paths name.
type file struct {
	name string // as configured, cleaned, with forward slashes
	info
}

// remote says that the file is in S3.
func (f file) remote() bool { return isRemote(f.name) }

func isRemote(name string) bool { return strings.HasPrefix(name, "s3://") }

// errNoFile says that a path names nothing.
var errNoFile = errors.New("no such file")

// find lists the local files that one configured path names. errNoFile when the path has no wildcard and is not there.
func find(ctx context.Context, configured string) ([]file, error) {
	clean := filepath.Clean(configured)
	stat, err := os.Stat(clean)
	switch {
	case err == nil && stat.IsDir():
		return walk(ctx, clean, segments(filepath.ToSlash(clean)+"/**"))
	case err == nil && stat.Mode().IsRegular():
		return []file{{filepath.ToSlash(clean), infoOf(atPath, clean, stat)}}, nil
	case err == nil:
		return nil, fmt.Errorf("%s is not a regular file", clean)
	case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errNotDir):
		return nil, err
	case !hasWildcard(clean):
		return nil, fmt.Errorf("%s: %w", clean, errNoFile)
	}
	pattern := filepath.ToSlash(clean)
	files, err := walk(ctx, root(pattern), segments(pattern))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return files, err
}

func hasWildcard(s string) bool { return strings.ContainsAny(s, "*?[") }

// root is the longest folder before the first wildcard.
func root(pattern string) string {
	i := strings.IndexAny(pattern, "*?[")
	dir := pattern[:strings.LastIndexByte(pattern[:i], '/')+1]
	if dir == "" {
		return "."
	}
	return path.Clean(dir)
}

// segments splits a slashed path into its names.
func segments(p string) []string {
	if p == "." {
		return nil
	}
	return strings.Split(strings.TrimPrefix(p, "./"), "/")
}

// walk lists the regular files below dir whose path matches the pattern. Links to files are followed, links to folders not.
func walk(ctx context.Context, dir string, pattern []string) ([]file, error) {
	var files []file
	err := filepath.WalkDir(filepath.FromSlash(dir), func(p string, d fs.DirEntry, err error) error {
		gone := errors.Is(err, fs.ErrNotExist) && p != dir
		if gone || err == nil && ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return err
		}
		name := filepath.ToSlash(p)
		if d.IsDir() {
			if p != dir && !couldMatch(pattern, segments(name)) {
				return fs.SkipDir
			}
			return nil
		}
		if !match(pattern, segments(name)) {
			return nil
		}
		stat, err := os.Stat(p)
		if errors.Is(err, fs.ErrNotExist) || err == nil && !stat.Mode().IsRegular() {
			return nil // removed meanwhile, a dangling link, a pipe, a link to a folder
		}
		if err != nil {
			return err
		}
		files = append(files, file{name, infoOf(atPath, p, stat)})
		return nil
	})
	return files, err
}

// match says whether a path matches a pattern.
func match(pattern, names []string) bool {
	for i, p := range pattern {
		if p == "**" {
			for n := 0; ; n++ {
				if match(pattern[i+1:], names[i+n:]) {
					return true
				}
				if i+n == len(names) || hidden(names[i+n]) {
					return false
				}
			}
		}
		if i == len(names) || !matchName(p, names[i]) {
			return false
		}
	}
	return len(pattern) == len(names)
}

// couldMatch says whether something below a folder can match.
func couldMatch(pattern, folder []string) bool {
	for i, name := range folder {
		if i == len(pattern) {
			return false
		}
		if pattern[i] == "**" {
			return !slices.ContainsFunc(folder[i:], hidden) || len(pattern) > i+1 // what follows may spell it out
		}
		if !matchName(pattern[i], name) {
			return false
		}
	}
	return len(pattern) > len(folder)
}

func matchName(pattern, name string) bool {
	if pattern == name {
		return true
	}
	if hidden(name) && (pattern == "" || pattern[0] != name[0]) {
		return false
	}
	ok, err := path.Match(pattern, name)
	return ok && err == nil // Validate has checked the pattern
}

// hidden names are temporary or about other files, by convention of shells and of Hadoop.
func hidden(name string) bool {
	return name != "" && (name[0] == '.' || name[0] == '_') && name != ".."
}

// matches says whether the configured paths name a file, whether it is there or not.
func (c *Config) matches(name string) bool {
	for _, p := range c.Paths {
		if !isRemote(p) {
			p = filepath.ToSlash(filepath.Clean(p))
		}
		p = strings.TrimSuffix(p, "/")
		if p == name || p == "." || strings.HasPrefix(name, p+"/") || hasWildcard(p) && match(segments(p), segments(name)) {
			return true
		}
	}
	return false
}
