package nats

import (
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace-io/millrace/sources/sourcetest"
	server "github.com/millrace-io/millrace/testenv/nats"
	"github.com/millrace-io/millrace/testenv/network"
)

// Mutations seen red (line broken -> test that went red):
//
//	a message with the wrong number, or an old sequence, is taken    -> ReaderNoticesWhatGotLostOnTheWay
//	a new cursor begins one too early, or one too late               -> ServerRestart..., BrokenConnections..., CursorThatSomebodyDeletes...
//	a message larger than the request is not asked for alone         -> MessageLargerThanTheBoundPasses
//	the stream's first sequence is not looked at when a tenure begins -> ResetGoesOnAfterALoss, the suite's "never passes a gap in silence"
//	a commit does not look at it                                     -> CommitDoesNotPassALoss
//	the look of a run does not                                       -> BlockedPartitionHolds...
//	a quiet partition is not remembered, in the run or in the row    -> QuietPartitionIsNotTakenForALoss
//	the mark counts for any checkpoint                               -> ReceivedIsNotCommitted, MarkOfAnotherCheckpointSaysNothing
//	a drain that failed is followed by a release                     -> ReceivedIsNotCommitted
//	the start is looked up again after a restart                     -> StartIsStoredAtFirstSight
//	a stream that was made anew is read on                           -> StreamMadeAnewIsNotReadAtOldSequences
//	work-queue and interest streams, buckets with a TTL are taken    -> WhatCannotWorkEndsWithAWordOnWhatToDo
//	changes of the bucket are not heard; nothing is released         -> ShutdownAndArrivalMovePartitionsAtOnce
//	a key is there without the header; a conflict is any error       -> the suite
//	a lease that is lost at once fails the run                       -> TwoWorkersOfOneNameEnd
//	"no responders" is a plain error                                 -> TestRealServerWithoutJetStreamIsNamed
//
// Not seen red, because another line does the same: that a reader hears of a new connection (the cursor's missing
// heartbeat tells it 5 s later).

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, network.Leftovers()...) }

func start(t *testing.T, o server.Options) *server.Server {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	s, err := server.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func TestContractOnEmbeddedNATS(t *testing.T) {
	sourcetest.Run(t, backend(start(t, server.Options{Sync: server.SyncLater}).URL(), 4*time.Second, nil)) // a busy machine keeps the lease
}
