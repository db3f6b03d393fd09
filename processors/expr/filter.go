package expr

import (
	"context"

	"github.com/millrace-io/millrace/stream"
)

// Filter compiles a condition and returns what makes the processor of one tenure. It keeps the events for which the
// condition is true and drops the others. Stage names the step in dead letters: "process.2.filter".
func Filter(stage, condition string, schema *stream.Schema) (func() stream.Processor, error) {
	_, code, err := compile(condition, schema)
	if err == nil {
		err = code.wantCondition(condition)
	}
	if err != nil {
		return nil, err
	}
	return func() stream.Processor {
		return &filter{stage: stage, test: code.test, machine: machine{arena: stream.NewBatch(schema)}}
	}, nil
}

type filter struct {
	stage   string
	test    testFn
	machine machine // its texts are gone after a batch
}

var _ stream.Processor = (*filter)(nil)

func (f *filter) Process(_ context.Context, b *stream.Batch) error {
	for i := range b.Events {
		e := &b.Events[i]
		if !e.Alive() {
			continue
		}
		switch keep, err := f.judge(e); {
		case err != nil:
			e.Fail(f.stage, err)
		case !keep:
			e.Drop()
		}
	}
	f.machine.arena.Reset()
	return nil
}

func (f *filter) judge(e *stream.Event) (keep bool, err error) {
	keep = f.test(e, &f.machine) == yes
	return keep, f.machine.take()
}
