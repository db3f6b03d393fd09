package files

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace-io/millrace/sources/sourcetest"
	"github.com/millrace-io/millrace/testenv/s3"
)

// Mutations seen red, by the line that was broken:
//
//	reader.verify takes any mark                      TestReplacedFileFailsTheRun
//	reader.ended takes a last line that went on       TestLastLineThatWentOnIsAnError
//	reading.start goes to Committed, not to Start     suite: starts where the consumer says
//	a record at or before Start is delivered          suite: starts where the consumer says
//	Commit stores the newest mark, whatever the Pos   TestRenamedFileIsTheSamePartition
//	Commit does not look at the stored epoch          TestOvertakenCheckpointEndsTheTenure
//	Commit does not look at the lock                  TestRemovedCheckpointsEndTheTenure
//	the lock is shared                                suite: fences a worker that was paused past its ownership
//	a lock file that its owner removed counts         TestLockHasOneHolder
//	the epoch does not grow                           TestGrownFileIsReadOnAfterItsEnd
//	a renamed file ends at once                       TestRotatedFileIsReadToItsEndFirst
//	a file's next generation does not wait            TestRotatedFileIsReadToItsEndFirst
//	an end before the last known size is the end      TestTruncationOfUnreadBytesIsALoss
//	the bytes before a grown end are not compared     TestTruncatedFileIsANewGeneration
//	files are not known by their inode                TestRenamedFileIsTheSamePartition
//	files are known by their inode alone              TestNewFileWithAnOldInodeIsNotTheOldFile
//	copies and compressed files are not recognised    TestCopyAndTruncateReadsNothingTwice
//	files that are gone are not missed                TestFileThatVanishedUnreadIsALoss
//	a second name of a file counts                    TestFileWithTwoNamesIsReadOnce
//	the entity tag is not compared                    TestChangesOfObjectsAreNoticed
//	a deleted object is asked for again and again     TestObjectThatIsReplacedOrDeletedWhileItIsReadIsAnError
//	no file gives its place up                        TestFollowedFilesShareFewPlaces
//	a mark within a long record counts                TestLongRecordIsPassedOverWhole
//	bytes that are let go are not summed              TestLongRecordIsPassedOverWhole
//	a quote at the end of what is read closes         TestRecordsAreLines
//	torn data is not read from its beginning again    TestCompressedFileThatIsBeingWrittenIsFollowed (not on every run)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childOf); dir != "" {
		if err := child(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	var ignored []goleak.Option
	for _, name := range s3.Leftovers() {
		ignored = append(ignored, goleak.IgnoreAnyFunction(name))
	}
	goleak.VerifyTestMain(m, ignored...)
}

// folderLog is the log of the suite: one file per partition.
type folderLog struct {
	dir    string
	follow bool
}

func (l *folderLog) Partition(i int) string {
	return filepath.ToSlash(filepath.Join(l.dir, "logs", fmt.Sprintf("part-%d.jsonl", i)))
}

func (l *folderLog) Append(t *testing.T, i int, ms ...sourcetest.Message) {
	t.Helper()
	var b bytes.Buffer
	for _, m := range ms {
		b.Write(m.Value)
		b.WriteByte('\n')
	}
	appendTo(t, l.Partition(i), b.String())
}

func (l *folderLog) Trim(t *testing.T, _, _ int) { t.Fatal("a file is not trimmed") }

func (l *folderLog) Open(*testing.T) *sourcetest.Worker {
	s := New(Config{Paths: []string{filepath.Join(l.dir, "logs")}, Follow: l.follow, Checkpoints: filepath.Join(l.dir, "checkpoints"), Poll: 5 * time.Millisecond}, "test", nil)
	loose := make(chan struct{}, 1)
	s.hooks.stored = func() error {
		select {
		case <-loose:
			return fmt.Errorf("the disk answered with an error after it wrote")
		default:
			return nil
		}
	}
	return &sourcetest.Worker{Source: s, LoseReply: func() { loose <- struct{}{} }}
}

func appendTo(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o666)
	if err == nil {
		_, err = f.WriteString(text)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func newFolderLog(follow bool) func(t *testing.T, partitions int) sourcetest.Log {
	return func(t *testing.T, partitions int) sourcetest.Log {
		l := &folderLog{t.TempDir(), follow}
		if err := os.Mkdir(filepath.Join(l.dir, "logs"), 0o777); err != nil {
			t.Fatal(err)
		}
		for i := range partitions {
			appendTo(t, l.Partition(i), "")
		}
		return l
	}
}

func TestContractOnFinishedFiles(t *testing.T) {
	sourcetest.Run(t, sourcetest.Backend{Features: sourcetest.Features{Finite: true, Sharing: sourcetest.Exclusive}, New: newFolderLog(false)})
}

func TestContractOnFollowedFiles(t *testing.T) {
	sourcetest.Run(t, sourcetest.Backend{Features: sourcetest.Features{Sharing: sourcetest.TakeOver}, New: newFolderLog(true)})
}
