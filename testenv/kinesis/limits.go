package kinesis

import "time"

// limits are Amazon's for one shard: 5 GetRecords and 2 MB a second out, 1 MB and 1,000 records a second in.
type limits struct {
	gets                              bucket
	readBytes, writeBytes, writeCount bucket
}

const (
	getRate        = 5
	readRate       = 2 << 20
	writeRate      = 1 << 20
	writeCountRate = 1000
)

// bucket is what was used of a rate and is not yet paid for by time.
type bucket struct {
	used  float64
	since time.Time
}

// owes is what is used at a time.
func (b *bucket) owes(rate float64, now time.Time) float64 {
	if passed := now.Sub(b.since).Seconds(); passed > 0 {
		b.used, b.since = max(0, b.used-passed*rate), now
	}
	return b.used
}

// get is false when a call of GetRecords comes too early.
func (l *limits) get(now time.Time) bool {
	if l.readBytes.owes(readRate, now) >= readRate || l.gets.owes(getRate, now)+1 > getRate {
		return false
	}
	l.gets.used++
	return true
}

// read says how many bytes a call returned: after 10 MB the shard is closed to readers for four seconds.
func (l *limits) read(n int, now time.Time) {
	l.readBytes.owes(readRate, now)
	l.readBytes.used += float64(n)
}

// put is false when a record comes too early.
func (l *limits) put(n int, now time.Time) bool {
	if l.writeBytes.owes(writeRate, now)+float64(n) > writeRate || l.writeCount.owes(writeCountRate, now)+1 > writeCountRate {
		return false
	}
	l.writeBytes.used += float64(n)
	l.writeCount.used++
	return true
}
