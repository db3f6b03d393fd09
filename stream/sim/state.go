package sim

import (
	"context"

	"github.com/millrace-io/millrace/stream"
)

// remote makes the calls with which a processor keeps its state go wrong like all others.
func (p *process) remote(step stream.ProcessorConfig) stream.ProcessorConfig {
	inner := step.New
	step.New = func() stream.Processor {
		processor := inner()
		if s, ok := processor.(stream.State); ok {
			return &stateful{processor, s, p, step.Name, 0}
		}
		return processor
	}
	return step
}

type stateful struct {
	stream.Processor
	state stream.State
	p     *process
	name  string
	shard int
}

func (s *stateful) Restore(ctx context.Context, t stream.Tenure, reference []byte) error {
	s.shard = s.p.world.find(t.Partition).number
	if err := s.p.call(ctx, Call{Shard: s.shard, Name: s.name + ".restore"}, func() error { return nil }); err != nil {
		return err
	}
	return s.state.Restore(ctx, t, reference)
}

// Snapshot makes the state durable, and may not learn that it has.
func (s *stateful) Snapshot(ctx context.Context) ([]byte, error) {
	reference, err := s.state.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.p.call(ctx, Call{Shard: s.shard, Name: s.name + ".snapshot"}, func() error { return nil }); err != nil {
		return nil, err
	}
	return reference, nil
}
