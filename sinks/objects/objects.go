// Package objects keeps objects in an S3 bucket or in a folder, in two phases: an upload's bytes are durable but invisible
// until its ticket is published.
//
// On S3 the phases are multipart upload and CompleteMultipartUpload; in a folder, a file under _staging/ and a link with
// fsync of file and folder. Names that begin with an underscore are hidden from Spark, Athena and DuckDB's hive readers.
package objects

import (
	"context"
	"errors"
	"io"
	"iter"
	"time"
)

// ErrNotFound says that there is no such object.
var ErrNotFound = errors.New("no such object")

// Store is a place for objects. Keys are relative to it, with forward slashes. Methods are safe for concurrent use.
//
// Errors that no retry mends (access denied, no such bucket, read-only folder) are stream.FatalError; a full disk is not:
// somebody makes room.
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
}

// Object is an open object.
type Object interface {
	io.ReaderAt
	io.Closer
	Size() int64
	Metadata() map[string]string // what Seal was given; nil in a folder
}

// Upload collects one object. It is used by one goroutine.
type Upload interface {
	// Write takes bytes into memory; it does not fail.
	io.Writer

	// Send moves full parts out of memory. After an error it is called again and goes on where it was.
	Send(ctx context.Context) error

	// Buffered is the bytes in memory.
	Buffered() int64

	// Seal makes all bytes durable and returns the ticket. meta becomes the object's metadata where nothing was sent yet (an
	// upload's metadata is fixed when its first part leaves). After an error it is called again and goes on where it was.
	Seal(ctx context.Context, meta map[string]string) (Ticket, error)

	// Discard removes an upload that will not be published, as far as it can in the context's time.
	Discard(ctx context.Context)
}

// Ticket is a sealed upload's claim: small, and all that another process needs to publish it.
type Ticket struct {
	Key    string   `json:"k"`
	Upload string   `json:"u"`           // S3's upload id, or the name under _staging/
	Parts  []string `json:"p,omitempty"` // entity tags of the parts, in order; none in a folder
	Size   int64    `json:"n"`           // bytes
}
