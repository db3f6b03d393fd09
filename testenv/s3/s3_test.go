package s3_test

import (
	"bytes"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"go.uber.org/goleak"

	"github.com/millrace-io/millrace/testenv/s3"
)

// Mutations seen red (line broken -> test):
//
//	resume is not called -> AnUploadThatWasBeingCompletedAtAKillCanBeCompleted
//	Close stays in the server's folder -> CloseReturnsToTheWorkingDirectory
//	the door leaves connections open -> CloseReturnsToTheWorkingDirectory (runs into the test's timeout)

func TestMain(m *testing.M) {
	var ignored []goleak.Option
	for _, name := range s3.Leftovers() {
		ignored = append(ignored, goleak.IgnoreAnyFunction(name))
	}
	goleak.VerifyTestMain(m, ignored...)
}

func start(t *testing.T, dir string, o s3.Options) *s3.Server {
	t.Helper()
	s, err := s3.Start(t.Context(), dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// begun is an upload of one part.
func begun(t *testing.T, s *s3.Server, key, data string) *awss3.CompleteMultipartUploadInput {
	t.Helper()
	bucket := "lake"
	u, err := s.Client().CreateMultipartUpload(t.Context(), &awss3.CreateMultipartUploadInput{Bucket: &bucket, Key: &key, Metadata: map[string]string{"m": "v"}})
	if err != nil {
		t.Fatal(err)
	}
	p, err := s.Client().UploadPart(t.Context(), &awss3.UploadPartInput{
		Bucket: &bucket, Key: &key, UploadId: u.UploadId, PartNumber: aws.Int32(1), Body: bytes.NewReader([]byte(data)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return &awss3.CompleteMultipartUploadInput{
		Bucket: &bucket, Key: &key, UploadId: u.UploadId,
		MultipartUpload: &types.CompletedMultipartUpload{Parts: []types.CompletedPart{{ETag: p.ETag, PartNumber: aws.Int32(1)}}},
	}
}

func get(t *testing.T, s *s3.Server, key string) (string, map[string]string) {
	t.Helper()
	out, err := s.Client().GetObject(t.Context(), &awss3.GetObjectInput{Bucket: aws.String("lake"), Key: &key})
	if err != nil {
		t.Fatal(err)
	}
	defer out.Body.Close()
	data, err := io.ReadAll(out.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(data), out.Metadata
}

func TestObjectsAndUploadsOutliveTheServer(t *testing.T) {
	dir := t.TempDir()
	first := start(t, dir, s3.Options{})
	done, open := begun(t, first, "a/done", "1"), begun(t, first, "a/open", "2")
	if _, err := first.Client().CompleteMultipartUpload(t.Context(), done); err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second := start(t, dir, s3.Options{})
	if _, err := second.Client().CompleteMultipartUpload(t.Context(), open); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{"a/done": "1", "a/open": "2"} {
		if got, meta := get(t, second, key); got != want || meta["m"] != "v" {
			t.Errorf("%s is %q with %v; want %q with its metadata", key, got, meta, want)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "objects", "lake", "a", "done")); err != nil {
		t.Error("an object is no plain file:", err)
	}
}

// The gateway renames an upload's folder while it completes it. Killed there, it would answer 200 to every later complete
// and never show the object.
func TestAnUploadThatWasBeingCompletedAtAKillCanBeCompleted(t *testing.T) {
	dir := t.TempDir()
	first := start(t, dir, s3.Options{})
	in := begun(t, first, "k", "bytes")
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	folders, err := filepath.Glob(filepath.Join(dir, "objects", "lake", ".sgwtmp", "multipart", "*", *in.UploadId))
	if err != nil || len(folders) != 1 {
		t.Fatal("the gateway keeps uploads elsewhere:", folders, err)
	}
	if err := os.Rename(folders[0], folders[0]+"."+strings.Repeat("0f", 16)+"-1.inprogress"); err != nil {
		t.Fatal(err)
	}
	second := start(t, dir, s3.Options{})
	if _, err := second.Client().CompleteMultipartUpload(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	if got, _ := get(t, second, "k"); got != "bytes" {
		t.Errorf("the object is %q", got)
	}
}

func TestCloseReturnsToTheWorkingDirectory(t *testing.T) {
	before, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, t.TempDir(), s3.Options{})
	idle, err := net.Dial("tcp", s.Addr) // and does not wait for a connection without a request
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if now, err := os.Getwd(); err != nil || now != before {
		t.Errorf("the working directory is %s (error %v); want %s", now, err, before)
	}
}

func TestStartSaysWhyItCannot(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	if _, err := s3.Start(t.Context(), t.TempDir(), s3.Options{Addr: taken.Addr().String()}); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("start at a taken address returns %v", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := s3.Start(t.Context(), file, s3.Options{}); err == nil {
		t.Error("start over a file succeeds")
	}
	start(t, t.TempDir(), s3.Options{})
	if _, err := s3.Start(t.Context(), t.TempDir(), s3.Options{}); err == nil || !strings.Contains(err.Error(), "one") {
		t.Errorf("a second start returns %v; want that there is one already", err)
	}
}
