// Package objects keeps objects in an S3 bucket or in a folder, in two phases: an upload's bytes are durable but invisible
// until its ticket is published.
//
// On S3 the phases are multipart upload and CompleteMultipartUpload; in a folder, a file under _staging/ and a link with
// fsync of file and folder. Names that begin with an underscore are hidden from Spark, Athena and DuckDB's hive readers.
//
// Staged data that nobody publishes stays invisible, and somebody has to remove it: see Open for a folder. In a bucket it
// is an unfinished multipart upload: set a lifecycle rule that aborts those after 7 days. Longer than the pipeline may be
// down, because what a commit refers to is read again from the source once it is gone.
package objects

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"log/slog"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/millrace-io/millrace/stream"
)

// ErrNotFound says that there is no such object.
var ErrNotFound = errors.New("no such object")

// Store is a place for objects. Keys are relative to it, with forward slashes. Methods are safe for concurrent use.
//
// Errors that no retry mends (access denied, no such bucket, read-only folder, full disk) are stream.FatalError.
type Store interface {
	// Begin starts an upload to key. Nothing outside is touched until Upload.Send or Upload.Seal.
	Begin(key string) Upload

	// Publish makes a sealed upload visible under its key. Published already is success; an object of somebody else under
	// the key is a FatalError and is left alone; stream.ErrExpired when neither upload nor object is there.
	Publish(ctx context.Context, t Ticket) error

	// Withdraw removes what a ticket stands for, published or not. Nothing there is success.
	Withdraw(ctx context.Context, t Ticket) error

	// Put writes a small object at once, visible, replacing what was there.
	Put(ctx context.Context, key string, data []byte) error

	// Get reads a small object whole; ErrNotFound.
	Get(ctx context.Context, key string) ([]byte, error)

	// Delete removes an object; not there is success.
	Delete(ctx context.Context, key string) error

	// List yields the published objects whose key begins with prefix, in key order. Hidden ones (a path element that begins
	// with an underscore or a dot) are yielded only if prefix names them.
	List(ctx context.Context, prefix string) iter.Seq2[Info, error]

	// Open reads an object at random; ErrNotFound.
	Open(ctx context.Context, key string) (Object, error)

	// Probe checks that the place exists and may be written, without leaving anything there.
	Probe(ctx context.Context) error

	// String is the place as a URL, without credentials.
	String() string
}

// Info is one line of a listing.
type Info struct {
	Key      string
	Size     int64 // bytes
	Modified time.Time
	Version  string // another one after the object was replaced: S3's entity tag; empty in a folder
}

// Object is an open object.
type Object interface {
	io.ReaderAt
	io.Closer
	Size() int64
	Metadata() map[string]string // what Seal was given, as far as it fitted; nil in a folder
}

// Upload collects one object. It is used by one goroutine, and ended by Seal or Discard: until then it may have goroutines
// that send parts in the background.
type Upload interface {
	// Write takes bytes into memory; it does not fail.
	io.Writer

	// Send moves full parts out of memory. It returns while the last of them are still under way, and then the next call tells
	// how they ended; it waits only when too many are. After an error it is called again and goes on where it was. An error
	// that wraps stream.ErrExpired says that what was sent before is gone: the upload cannot be sealed any more.
	Send(ctx context.Context) error

	// Buffered is the bytes in memory, those under way included.
	Buffered() int64

	// Seal makes all bytes durable and returns the ticket. meta becomes the object's metadata where nothing was sent yet (an
	// upload's metadata is fixed when its first part leaves), as far as it fits into 2 KB. After an error it is called again
	// and goes on where it was; after success it returns the same ticket. No Write after the first Seal.
	Seal(ctx context.Context, meta map[string]string) (Ticket, error)

	// Discard removes an upload that will not be published, sealed or not, as far as it can in the context's time, and waits
	// for its goroutines. Do not call it when the ticket may be stored in a commit.
	Discard(ctx context.Context)
}

// Ticket is a sealed upload's claim: small, and all that another process needs to publish it.
type Ticket struct {
	Key    string   `json:"k"`
	Upload string   `json:"u"`           // S3's upload id, or the name under _staging/
	Parts  []string `json:"p,omitempty"` // entity tags of the parts, in order; none in a folder
	Size   int64    `json:"n"`           // bytes
	Token  string   `json:"t"`           // tells our object from somebody else's: random and in the metadata; in a folder the CRC-32C
}

// Options are for Open. The zero value is ready to use.
type Options struct {
	// PartSize is the size of one part of an S3 upload, in bytes: default 8 MiB, at least 5 MiB. An object has at most 10,000
	// parts, so it bounds the size of a file too. In a folder it is how much is written at once.
	PartSize int64

	// InFlight is how many parts of one upload are under way at once: default 2. An upload holds up to InFlight+1 parts in
	// memory.
	InFlight int

	// PartTimeout is how long a part that is sent in the background may stand still, until it is sent again: default 60 s.
	PartTimeout time.Duration

	// Attempts of one request to S3, with the SDK's back-off between them. Default: one, for the engine repeats calls itself.
	// Readers that no engine stands behind, such as verify, want more.
	Attempts int

	Log *slog.Logger // default: none
}

const (
	minPartSize = 5 << 20 // of S3, for all but the last part
	maxParts    = 10_000  // of S3
)

// EnsureDefaults sets what is zero.
func (o *Options) EnsureDefaults() {
	if o.PartSize == 0 {
		o.PartSize = 8 << 20
	}
	if o.InFlight == 0 {
		o.InFlight = 2
	}
	if o.PartTimeout == 0 {
		o.PartTimeout = time.Minute
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
}

// Validate lists every problem.
func (o *Options) Validate() error {
	o.EnsureDefaults()
	var problems []error
	if o.PartSize < minPartSize {
		problems = append(problems, fmt.Errorf("part_size is %d bytes; want at least 5 MiB", o.PartSize))
	}
	if o.InFlight < 1 {
		problems = append(problems, fmt.Errorf("in_flight is %d; want at least 1", o.InFlight))
	}
	if o.PartTimeout < 0 {
		problems = append(problems, fmt.Errorf("part_timeout is %s; want more than 0", o.PartTimeout))
	}
	return errors.Join(problems...)
}

// Open returns the store at s3://bucket/prefix, file:///dir, or a path. Of the outside it touches only the credentials (S3)
// and leftovers (a folder); Probe tells whether the place is fit for use.
//
// S3's endpoint, region and credentials come from the SDK's environment. A folder is created by the first write.
// Staged files of processes that died before they sealed them are removed by Open after 24 hours. Sealed ones are never
// removed: a commit may name them, however long its pipeline is down. Open tells of old ones in the log, for an operator to
// remove when all pipelines that write there have run since.
func Open(ctx context.Context, location string, o Options) (Store, error) {
	if err := o.Validate(); err != nil {
		return nil, stream.Fatal(err)
	}
	p, err := parse(location)
	if err != nil {
		return nil, stream.Fatal(err)
	}
	if p.bucket != "" {
		return openBucket(ctx, p, o)
	}
	return openFolder(p.dir, o)
}

// CheckURL says what is wrong with the spelling of a location, without touching it.
func CheckURL(location string) error {
	_, err := parse(location)
	return err
}

// place is a parsed location: either bucket and prefix, or dir.
type place struct {
	bucket, prefix, dir string // prefix is empty or ends with a slash
}

func parse(location string) (place, error) {
	scheme, rest, ok := strings.Cut(location, "://")
	if !ok {
		if location == "" {
			return place{}, errors.New("the location is empty; want s3://bucket/prefix, file:///folder or a path")
		}
		return place{dir: filepath.Clean(location)}, nil
	}
	switch scheme {
	case "s3":
		bucket, prefix, _ := strings.Cut(rest, "/")
		prefix = strings.TrimSuffix(prefix, "/")
		if bucket == "" || strings.ContainsAny(bucket, "?#@: ") || prefix != "" && checkKey(prefix) != nil {
			return place{}, fmt.Errorf("%q is no S3 location; want s3://bucket/prefix", location)
		}
		if prefix != "" {
			prefix += "/"
		}
		return place{bucket: bucket, prefix: prefix}, nil
	case "file":
		u, err := url.Parse(location)
		if err != nil || u.Host != "" || !filepath.IsAbs(u.Path) {
			return place{}, fmt.Errorf("%q is no folder; want file:/// and an absolute path, or just a path", location)
		}
		return place{dir: filepath.Clean(u.Path)}, nil
	}
	return place{}, fmt.Errorf("%q is of an unknown kind; want s3://bucket/prefix, file:///folder or a path", location)
}

// checkKey refuses keys that a folder would resolve to somewhere else, and that would list in a bucket as another key.
func checkKey(key string) error {
	if !fs.ValidPath(key) || key == "." || strings.ContainsAny(key, "\x00\\") {
		return stream.Fatal(fmt.Errorf("%q is no key; want elements other than . and .. with single slashes between", key))
	}
	return nil
}

// hidden says that an element of key that begins after the prefix, begins with an underscore or a dot.
func hidden(key string, prefix int) bool {
	for i := prefix; i < len(key); i++ {
		if (i == 0 || key[i-1] == '/') && (key[i] == '_' || key[i] == '.') {
			return true
		}
	}
	return false
}
