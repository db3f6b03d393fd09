package kafka

// Mutations seen red: what was broken -> the test that went red. "suite" is TestSourceKeepsTheContract.
//
//	commit stores the position instead of the one after it   -> suite: resumes after the committed position, and ten others
//	OnPartitionsRevoked aborts instead of draining           -> suite: hands off only what is drained
//	OnPartitionsLost ends nothing                            -> suite: fences a worker ...; TestMemberThatWasKickedOutComesBack
//	UNKNOWN_MEMBER_ID of a commit is a plain error           -> TestCommitErrorsSayWhatTheEngineDoes
//	commit does not look whether the tenure is gone          -> TestCommitErrorsSayWhatTheEngineDoes
//	OFFSET_METADATA_TOO_LARGE is retried                     -> TestCommitErrorsSayWhatTheEngineDoes
//	a finished commit answers for a later, equal one         -> TestMemberThatWasKickedOutComesBack
//	soft stop leaves without draining                        -> suite: keeps a partition while it drains
//	soft stop does not leave the group                       -> TestStopLeavesTheGroupAtOnce
//	an assignment's error is dropped                         -> suite: refused assignment ends the run
//	delivery goes on after an error                          -> suite: stops delivering after an error
//	reads from Committed instead of Start                    -> suite: starts where the consumer says
//	no look at the oldest offset                             -> suite: never passes a gap in silence
//	the client's default offset reset                        -> TestRetentionThatOvertakesTheReaderIsNoSilentJump
//	no look at the end offset                                -> TestCheckpointBeyondTheLogIsAnError
//	topic ids are not compared                               -> TestTopicThatWasCreatedAgainIsAnError
//	no claim at the begin of a tenure                        -> TestStartIsDecidedAtFirstSight, TestStaticMemberKeepsItsPartitionsOverARestart
//	claim with the epoch of the last owner                   -> TestStaticMemberKeepsItsPartitionsOverARestart
//	an added partition begins where Start says               -> TestPartitionThatWasAddedIsReadFromItsBeginning
//	binary notes are stored as they are                      -> TestMarkSurvivesTheMetadata
//	transactions are read uncommitted                        -> TestReadsOnlyWhatIsCommittedByTransactions
//	a stuck queue is never dropped; there is no bound        -> TestBlockedPartitionHoldsBoundedMemory
//	a dropped queue goes on one record late                  -> TestBlockedPartitionHoldsBoundedMemory
//	a group without offsets is an error                      -> suite: reports checkpoints without owning
//
// Not seen: a commit that forgets the timed-out one before it (the client's own queue keeps their order as well), and a
// drain that does not wait for Deliver to return (the window is too small).

import (
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace-io/millrace/sources/sourcetest"
	"github.com/millrace-io/millrace/testenv/broker"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	// session is the shortest that a loaded machine keeps.
	session = 3 * time.Second

	// rebalance is shorter than session because of what kfake does otherwise than Kafka: see testenv/broker.
	rebalance = 2 * time.Second

	// refresh lets tests find new topics and partitions soon.
	refresh = 200 * time.Millisecond
)

func start(t *testing.T, o broker.Options) *broker.Broker {
	t.Helper()
	b, err := broker.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

func TestSourceKeepsTheContract(t *testing.T) {
	b := start(t, broker.Options{})
	for _, protocol := range []string{classic, consumer} {
		t.Run(protocol, func(t *testing.T) { sourcetest.Run(t, backend(b.Addr, protocol, session)) })
	}
}
