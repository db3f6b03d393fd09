// Package s3 is an S3 server in this process over a local folder: versitygw's gateway. It serves `millrace dev` and the
// tests. Objects are plain files below <dir>/objects/<bucket>.
//
// What it does not do: fsync. Objects survive the death of the process, not that of the machine.
package s3

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/versity/versitygw/auth"
	"github.com/versity/versitygw/backend/meta"
	"github.com/versity/versitygw/backend/posix"
	"github.com/versity/versitygw/embedgw"
	"github.com/versity/versitygw/s3api"
)

// Options are for Start. The zero value is ready to use.
type Options struct {
	Addr      string       // host:port to listen on; default 127.0.0.1:0, a free port
	Bucket    string       // made if it is not there; default "lake"
	AccessKey string       // default "local"
	SecretKey string       // default "localsecret"
	Log       *slog.Logger // default: none
}

// EnsureDefaults sets what is empty.
func (o *Options) EnsureDefaults() {
	if o.Bucket == "" {
		o.Bucket = "lake"
	}
	if o.AccessKey == "" {
		o.AccessKey = "local"
	}
	if o.SecretKey == "" {
		o.SecretKey = "localsecret"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
}

// Region is the only one that the server answers to.
const Region = "us-east-1"

// Server is a running server.
type Server struct {
	Addr string // host:port

	o      Options
	cwd    string
	door   *door
	cancel context.CancelFunc
	done   chan struct{} // closed when the gateway has returned
	err    error         // why; read after done
	once   sync.Once
}

// Start serves dir, which it makes if need be, until Close.
//
// The gateway is made for a process of its own: one may run in a process at a time, and from Start until Close the working
// directory is <dir>/objects. Make paths absolute before.
func Start(ctx context.Context, dir string, o Options) (*Server, error) {
	o.EnsureDefaults()
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	root, sidecar := filepath.Join(dir, "objects"), filepath.Join(dir, "metadata")
	if err := os.MkdirAll(root, 0o777); err != nil {
		return nil, fmt.Errorf("s3 server: %w", err)
	}
	if err := errors.Join(resume(root), resume(sidecar)); err != nil {
		return nil, fmt.Errorf("s3 server: %w", err)
	}
	metadata, err := storeMetadata(root, sidecar, o.Log)
	if err != nil {
		return nil, fmt.Errorf("s3 server: %w", err)
	}
	cwd, err := os.Getwd()
	if err != nil {
		return nil, fmt.Errorf("s3 server: %w", err)
	}
	if o.Addr == "" {
		o.Addr = "127.0.0.1:0"
	}
	s := &Server{o: o, cwd: cwd, done: make(chan struct{})}
	if s.door, err = openDoor(o.Addr); err != nil {
		return nil, fmt.Errorf("s3 server: %w", err)
	}
	s.Addr = s.door.listener.Addr().String()
	if err := s.serve(ctx, root, metadata); err != nil {
		return nil, fmt.Errorf("s3 server: %w", errors.Join(err, s.Close()))
	}
	return s, nil
}

// storeMetadata keeps it in extended attributes, which are put on a file before it becomes visible. Where the file system
// has none (a tmpfs before Linux 6.6, some network file systems) it is in files beside, and a kill at the wrong moment may
// leave an object without.
func storeMetadata(root, sidecar string, log *slog.Logger) (meta.MetadataStorer, error) {
	if err := (meta.XattrMeta{}).Test(root); err == nil {
		return meta.XattrMeta{}, nil
	}
	log.Debug("no extended attributes; metadata is in files", "folder", sidecar)
	if err := os.MkdirAll(sidecar, 0o777); err != nil {
		return nil, err
	}
	return meta.NewSideCar(sidecar)
}

var inProgress = regexp.MustCompile(`\.[0-9a-f]{32}-\d+\.inprogress$`)

// resume gives back their names to uploads that were being completed when the process was killed. The gateway renames them
// while it works, and would answer for ever that they are complete.
func resume(root string) error {
	names, err := filepath.Glob(filepath.Join(root, "*", ".sgwtmp", "multipart", "*", "*.inprogress"))
	for _, name := range names {
		err = errors.Join(err, os.Rename(name, inProgress.ReplaceAllString(name, "")))
	}
	return err
}

// serve starts the gateway and makes the bucket.
func (s *Server) serve(ctx context.Context, root string, metadata meta.MetadataStorer) error {
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel = cancel
	files, err := posix.New(root, metadata, posix.PosixOpts{})
	if err != nil {
		close(s.done)
		return err
	}
	listening := make(chan struct{})
	cfg := &embedgw.Config{
		IAMService:     auth.NewIAMServiceSingle(auth.Account{Access: s.o.AccessKey, Secret: s.o.SecretKey, Role: auth.RoleAdmin}),
		RootUserAccess: s.o.AccessKey, RootUserSecret: s.o.SecretKey, Region: Region, Ports: []string{s.door.socket},
		MaxConnections: 4096, MaxRequests: 1024, MultipartMaxParts: 10_000, Quiet: true, KeepAlive: true, DisableStrictBucketNames: true,
		S3Options: []s3api.Option{s3api.WithOnListen(sync.OnceFunc(func() { close(listening) }))},
	}
	go func() {
		defer close(s.done)
		s.err = embedgw.RunVersityGW(running, files, cfg)
	}()
	select {
	case <-listening:
	case <-s.done:
		return s.err
	case <-ctx.Done():
		return ctx.Err()
	}
	return s.makeBucket(ctx)
}

func (s *Server) makeBucket(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	_, err := s.Client().CreateBucket(ctx, &s3.CreateBucketInput{Bucket: &s.o.Bucket})
	var exists *types.BucketAlreadyOwnedByYou
	if errors.As(err, &exists) {
		return nil
	}
	return err
}

// Client is one with the server's keys.
func (s *Server) Client() *s3.Client {
	return s3.New(s3.Options{
		BaseEndpoint: aws.String(s.URL()), UsePathStyle: true, Region: Region,
		Credentials: credentials.NewStaticCredentialsProvider(s.o.AccessKey, s.o.SecretKey, ""),
	})
}

// URL is the server's endpoint.
func (s *Server) URL() string { return "http://" + s.Addr }

// Env is the environment that makes the AWS SDKs use this server, at url: its own URL, or that of a proxy before it.
func (s *Server) Env(url string) map[string]string {
	return map[string]string{
		"AWS_ENDPOINT_URL_S3": url, "AWS_REGION": Region, "AWS_ACCESS_KEY_ID": s.o.AccessKey, "AWS_SECRET_ACCESS_KEY": s.o.SecretKey,
		"AWS_SESSION_TOKEN": "", "AWS_PROFILE": "", "AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull,
		"AWS_EC2_METADATA_DISABLED": "true",
	}
}

// Close stops the server and returns to the working directory from before Start.
func (s *Server) Close() error {
	s.once.Do(func() {
		err := s.door.close()
		s.cancel()
		<-s.done
		s.err = errors.Join(s.err, err, os.Chdir(s.cwd))
	})
	return s.err
}

// Leftovers names the functions of goroutines that the gateway leaves behind for the life of the process, for
// goleak.IgnoreAnyFunction.
func Leftovers() []string {
	return []string{"github.com/valyala/fasthttp.(*workerPool).Start.func2", "github.com/valyala/fasthttp.updateServerDate.func1"}
}
