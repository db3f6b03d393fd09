package kinesis

import (
	"flag"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace-io/millrace/sources/sourcetest"
	"github.com/millrace-io/millrace/testenv/dynamodb"
	"github.com/millrace-io/millrace/testenv/kinesis"
	"github.com/millrace-io/millrace/testenv/network"
)

// Mutations seen red (line broken -> test that went red):
//
//	a row is written without the condition                      -> WriteOverWhatIsNotKnownIsRefused
//	the second parent of a merge is not waited for              -> the suite's "a merged partition waits for the second of its parents"
//	no parent is waited for                                     -> the suite's "reads a split and a merge that nobody saw", ShardThatIsGone...
//	the end of a shard is not recorded                          -> the suite's "reads what follows a split and a merge"
//	a lost lease does not end the tenure                        -> the suite's "fences a worker that was paused past its ownership"
//	an error of a read ends the reader                          -> ErrorsOfReadingAreRepeated
//	an iterator that expired is used again                      -> IteratorsThatExpireUnderABlockedConsumerAreMadeAnew
//	records of an aggregate share a position                    -> RecordsOfAnAggregateHaveKeysAndPositionsOfTheirOwn
//	what follows in the checkpoint's aggregate is passed over   -> CheckpointInsideAnAggregateGoesOnInside
//	a broken aggregate is dropped                               -> BrokenAggregateIsOneDeadLetterAndItsNeighboursLive
//	the start is the one configured now, not the stored one     -> StartIsStoredAtFirstSight
//	that the checkpoint's record is gone is not looked at       -> ResetGoesOnAfterALoss, LossInTheRunIsNoticed
//	the row's mark is not used; it counts for any record        -> QuietShardIsNotTakenForALoss; MarkOfAnotherRecordSaysNothing
//	a reader near the end of the retention does not look again  -> LossInTheRunIsNoticed
//	a table of another stream, or of the one before, is used    -> WhatCannotWorkEndsWithAWordOnWhatToDo
//	a panic is not caught                                       -> PanicWhileReadingIsAnError
//	the library's renewal is refused; that it stops is not seen -> ReaderThatTheLibraryGivesUpFailsTheRun
func TestMain(m *testing.M) {
	// Every client would read all of its certificates, for servers that speak plain HTTP.
	os.Unsetenv("AWS_CA_BUNDLE")
	if err := flag.Set("test.parallel", "6"); err != nil { // most of them wait for leases and polls
		panic(err)
	}
	goleak.VerifyTestMain(m, network.Leftovers()...)
}

// inProcess is the servers of testenv.
func inProcess(t *testing.T) (service, *kinesis.Server, *dynamodb.Server) {
	t.Helper()
	return inProcessWith(t, kinesis.Options{ShardPage: 3})
}

func inProcessWith(t *testing.T, o kinesis.Options) (service, *kinesis.Server, *dynamodb.Server) {
	t.Helper()
	streams, err := kinesis.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { streams.Close() })
	tables, err := dynamodb.Start(dynamodb.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tables.Close() })
	return service{kinesis: streams.URL(), dynamodb: tables.URL(), trim: func(t *testing.T, l *log, i, n int) {
		streams.Trim(l.name, l.Partition(i), n)
		l.age(t)
	}}, streams, tables
}

func TestContractOnInProcessKinesis(t *testing.T) {
	s, _, _ := inProcess(t)
	sourcetest.Run(t, s.backend(3*time.Second))
}
