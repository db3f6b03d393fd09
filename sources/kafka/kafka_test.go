package kafka

// Mutations seen red: what was broken -> the test that went red. "suite" is TestContractOnKfake, "rules" is
// TestEveryBroker. Both run on kfake here and on Apache Kafka in real_test.go, with both protocols of groups.
//
//	commit stores the position instead of the one after it   -> suite: resumes after the committed position, and ten others
//	OnPartitionsRevoked aborts instead of draining           -> suite: hands off only what is drained
//	OnPartitionsLost ends nothing                            -> suite: fences a worker ...; TestMemberThatWasKickedOutComesBack
//	a member's new generation is not looked at               -> TestMemberThatWasKickedOutBetweenTwoGenerationsBeginsAnew
//	nor are tenures that a commit found lost                 -> TestTenureThatACommitFoundLostIsReplacedInTheNextGeneration
//	a commit goes out as another member than the tenure's    -> TestMemberThatWasKickedOutBetweenTwoGenerationsBeginsAnew
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
//	an added partition begins where Start says               -> rules: an added partition ..., a partition added between two runs ...
//	binary notes are stored as they are                      -> TestMarkSurvivesTheMetadata
//	transactions are read uncommitted                        -> rules: only committed transactions are read
//	a stuck queue is never dropped; there is no bound        -> TestBlockedPartitionHoldsBoundedMemory
//	a dropped queue goes on one record late                  -> TestBlockedPartitionHoldsBoundedMemory
//	a group without offsets is an error                      -> suite: reports checkpoints without owning
//	protocol consumer does not leave when it stops           -> TestStopLeavesTheGroupAtOnce/consumer, /consumer by name
//	control records are not asked for, or settle stores none -> rules: control records at the end ..., an aborted transaction ...
//	begin ignores the gap                                    -> rules: an aborted transaction ..., control records ...
//	the checkpoint includes the gap                          -> TestMarkSurvivesTheMetadata; rules: control records ...
//	control records are delivered                            -> rules: only committed transactions are read
//	the end of the leader epoch is not asked for             -> TestLogThatWasCutAndRefilledIsAnError
//	the client's ErrDataLoss is a plain error                -> TestLogThatIsCutWhileItIsReadIsAnError
//	the group is not given the leader epoch                  -> rules: the leader epoch is stored with the offset
//	it is that of the record, not of the control record      -> TestControlRecordOfAnotherLeaderIsNoLoss
//	leader epochs are forgotten one record early             -> TestCommitKnowsTheLeaderEpochOfItsPosition
//	a batch mixes leader epochs                              -> TestBatchHasOneLeaderEpochAndNoControlRecords
//	new topics are not subscribed to                         -> rules: a pattern finds a new topic ..., a pattern that matches nothing waits
//	deleted topics are not looked for                        -> rules: a topic that is deleted ends the run
//	a topic that is found late begins where Start says       -> rules: a pattern finds a new topic ...
//	every topic of a pattern begins at its beginning         -> rules: a pattern starts where it is told ...
//	metadata is refreshed every 5 minutes                    -> rules: an added partition is found ..., classic
//	the group's protocol is not looked at                    -> TestBrokersWithoutProtocolConsumerEndTheRun
//	a late UNSUPPORTED_VERSION is tried for ever             -> TestBrokersWithoutProtocolConsumerEndTheRun
//	protocol consumer is not asked for                       -> rules, consumer: the group is of the configured protocol, and others
//	patterns match parts of names, or the brokers' topics    -> TestPatternsMatchWholeNamesOfTopicsThatAreNotTheBrokers
//	metadata of another version is somebody else's           -> TestMetadataThatIsNotOursIsNoNote
//	a topic that was just created is not looked for again    -> TestTopicMayBeUnknownForAMoment
//	a token is never kept, or to its last second             -> TestTokenIsUsedForMostOfItsLife
//	the client id is not escaped                             -> TestTokenIsUsedForMostOfItsLife
//	an answer without a token is one                         -> TestTokenEndpointThatRefusesIsNamed
//	bearer tokens go without tls                             -> TestSASLNamesEveryProblem
//	an answer is waited for longer than the session lives    -> TestConnectionsThatTheNetworkForgotCostNoPartition
//	what fails is not told, or stays when it succeeds again  -> suite: goes on when the answers are there again
//	the AWS session token is not sent                        -> TestMSKIAMSendsWhatTheAWSChainSigns
//
// Not seen: a commit that forgets the timed-out one before it (the client's own queue keeps their order as well), and a
// drain that does not wait for Deliver to return (the window is too small), and a static member of protocol consumer that
// leaves for good when it stops (it comes back all the same; only the others are disturbed), and a fetch's
// UNKNOWN_TOPIC_ID that is not looked into (the next looks at the topics say the same).

import (
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace-io/millrace/sources/sourcetest"
	"github.com/millrace-io/millrace/testenv/broker"
	"github.com/millrace-io/millrace/testenv/network"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, network.Leftovers()...) }

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

func TestContractOnKfake(t *testing.T) {
	b := start(t, broker.Options{})
	for _, protocol := range []string{classic, consumer} {
		t.Run(protocol, func(t *testing.T) { sourcetest.Run(t, backend(b.Addr, protocol, session)) })
	}
}
