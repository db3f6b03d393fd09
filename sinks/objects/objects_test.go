package objects_test

import (
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"github.com/millrace-io/millrace/sinks/objects"
	"github.com/millrace-io/millrace/sinks/sinktest"
	"github.com/millrace-io/millrace/testenv/network"
	"github.com/millrace-io/millrace/testenv/s3"
)

// Mutations seen red (line broken -> test):
//
//	Publish: the object that is there is not asked for our token -> Rules/PublishLeavesTheObjectOfSomebodyElseAlone
//	Publish: ours counts as missing -> Rules/AnUploadIsInvisibleBeforePublish
//	Publish: no look before the complete on other servers than Amazon's -> PublishByWhatIsThere/..._without_asking
//	Publish: 200 is believed on such servers -> PublishByWhatIsThere/custom:_200_without_an_object
//	Publish: no If-None-Match -> PublishByWhatIsThere/amazon:_first_complete
//	Publish: no way on without If-None-Match -> PublishByWhatIsThere/custom:_no_condition_on_complete
//	Publish: InvalidPart is repeated for ever -> PublishByWhatIsThere/amazon:_parts_are_gone
//	Withdraw: somebody else's object is deleted -> Rules/WithdrawRemovesTheTicketsOwnOnly, and in a folder FolderTellsItsFile
//	Withdraw: the upload is left -> Rules/PublishOfGoneDataIsExpired
//	sendPart: NoSuchUpload is repeated for ever -> AnUploadThatTheLifecycleRemoved
//	start: no timeout in the background -> APartThatHangsIsSentAgain, APartThatIsCutInItsMiddle (run into the test's timeout)
//	moving: what is read is not told -> APartThatTakesLongAndMovesIsNotGivenUp
//	start: parts end with Send's context -> EveryCallSurvivesEveryFault/UploadPart
//	back: a failed part counts as sent -> EveryCallSurvivesEveryFault/UploadPart
//	send: one place fewer than InFlight -> SendDoesNotWaitForTheNetwork (timeout)
//	Seal: no part for an empty object -> Rules/AnEmptyUploadIsAnEmptyObject
//	Discard: goroutines are not stopped -> SendDoesNotWaitForTheNetwork (timeout); no abort -> Rules/DiscardLeavesNothing
//	encodeMetadata: no limit -> Rules/MetadataComesBack
//	fetch: no If-Match -> AnObjectThatIsReplacedWhileItIsReadIsNotMixed
//	remedy: NoSuchBucket, status 403 are repeated for ever -> ErrorsThatNoRetryMendsSayWhatToDo
//	folder: Rename for Link -> Rules/PublishLeavesTheObjectOfSomebodyElseAlone
//	folder: the checksum is not compared -> FolderTellsItsFileFromOneOfTheSameSize
//	folder: sealed leftovers are swept -> LeftoversAreSweptButNeverWhatACommitMayName
//	folder: a half-way write is not written over; a full disk is not said to be one -> AFullDiskEndsTheRunAndSpoilsNothing
//	hidden: elements that the prefix names; underscores -> Rules/ListIsInOrderAndWithoutHiddenObjects
//	openBucket: no pings -> AConnectionThatTheNetworkForgotIsNotUsedForEver
//	Overflow: a receipt that is gone is asked for for ever -> Rules/OverflowIsHidden

func TestMain(m *testing.M) {
	ignored := network.Leftovers()
	for _, name := range s3.Leftovers() {
		ignored = append(ignored, goleak.IgnoreAnyFunction(name))
	}
	goleak.VerifyTestMain(m, ignored...)
}

// open returns the store at a location.
func open(t *testing.T, location string) objects.Store {
	t.Helper()
	s, err := objects.Open(t.Context(), location, objects.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestFolderKeepsTheRulesOfAStore(t *testing.T) {
	sinktest.RunStore(t, func(t *testing.T) sinktest.Place {
		dir := filepath.Join(t.TempDir(), "not", "there yet")
		return sinktest.Place{Open: func(t *testing.T) objects.Store { return open(t, dir) }}
	})
}

// server starts an S3 server and points the AWS SDK to it.
func server(t *testing.T) *s3.Server {
	t.Helper()
	srv, err := s3.Start(t.Context(), t.TempDir(), s3.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
	})
	setenv(t, srv.Env(srv.URL()))
	return srv
}

func setenv(t *testing.T, env map[string]string) {
	for k, v := range env {
		t.Setenv(k, v)
	}
}

func TestBucketKeepsTheRulesOfAStore(t *testing.T) {
	server(t)
	n := new(atomic.Int64)
	sinktest.RunStore(t, func(t *testing.T) sinktest.Place {
		url := fmt.Sprintf("s3://lake/place %d/x", n.Add(1))
		return sinktest.Place{Open: func(t *testing.T) objects.Store { return open(t, url) }, Metadata: true}
	})
}
