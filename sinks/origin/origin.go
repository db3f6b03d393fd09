// Package origin is what a message of a log says about where it comes from, and how a reader drops by that what comes again.
// Sinks that append to a log share it: Kafka and NATS have headers for it.
package origin

import (
	"slices"
	"strings"
)

// Headers of every message.
const (
	PipelineHeader  = "millrace-pipeline"
	PartitionHeader = "millrace-partition" // of the source
	PositionHeader  = "millrace-position"  // stream.Place.Version: position and index; its text order is log order
)

// Disorder bounds how far a message comes late: of the messages of its partition of the source, fewer than so many later ones
// are before it in the log. A sink keeps this by the size of its requests, where its log does not keep the order by itself.
const Disorder = 1000

// Repeats tells which messages of one log, such as a partition of a topic, were there before. A reader has to see the log
// from some point on, in order, and each log has one sink. The zero value is ready to use by one goroutine; it holds the last
// Disorder positions of each partition of the source.
type Repeats struct{ seen map[string][]string }

// Repeated says that a message comes again, by the values of its headers. A message without a position never does.
func (r *Repeats) Repeated(pipeline, partition, position string) bool {
	if position == "" {
		return false
	}
	if r.seen == nil {
		r.seen = map[string][]string{}
	}
	name := pipeline + "\x00" + partition
	seen := r.seen[name]
	i, found := slices.BinarySearch(seen, position)
	if found || i == 0 && len(seen) == Disorder {
		return true
	}
	seen = slices.Insert(seen, i, strings.Clone(position))
	r.seen[name] = seen[max(0, len(seen)-Disorder):]
	return false
}
