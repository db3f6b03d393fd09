package kinesis

import (
	"bytes"
	"cmp"
	"crypto/md5"
	"fmt"
	"math/big"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/millrace-io/millrace/testenv/awsjson"
)

// stream is one stream. Its records and shards are guarded by mu; what a record holds is never written again.
type stream struct {
	name    string
	number  int // of all streams that this server ever had: what tells a new one from a deleted one of its name
	created time.Time
	arn     string
	mode    string // PROVISIONED or ON_DEMAND

	mu        sync.Mutex
	status    string    // ACTIVE after settled
	settled   time.Time // when it is ACTIVE, or gone
	retention time.Duration
	aged      time.Time // when age last looked
	last      uint64    // counter of the last sequence number given out
	shards    []*shard  // all that are listed, by id
	open      []*shard  // by hash key
	next      int       // index of the next new shard
}

// shard is one shard, its records the ones that are left.
type shard struct {
	index            int
	id               string
	parent, adjacent string // empty: none
	children         []*shard
	from, to         hashKey // both belong to it
	first            uint64  // counter of its first sequence number, below those of all its records
	ending           uint64  // of its last, above those of all its records; 0: it is open
	opened, closed   time.Time
	records          []record
	bytes            int // of the records
	trimmed          int // records that are gone
	limits           limits
}

type record struct {
	counter uint64
	at      int64 // arrival in milliseconds
	key     string
	data    []byte
}

func (r *record) size() int { return len(r.key) + len(r.data) }

// hashKey is a 128-bit number, big-endian.
type hashKey [md5.Size]byte

func (h hashKey) compare(o hashKey) int { return bytes.Compare(h[:], o[:]) }
func (h hashKey) big() *big.Int         { return new(big.Int).SetBytes(h[:]) }
func (h hashKey) String() string        { return h.big().String() }

// plus is h + n for a small n.
func (h hashKey) plus(n int64) hashKey { return hashOf(new(big.Int).Add(h.big(), big.NewInt(n))) }

func hashOf(n *big.Int) (h hashKey) {
	n.FillBytes(h[:])
	return h
}

func parseHashKey(s string) (hashKey, bool) {
	n, ok := new(big.Int).SetString(s, 10)
	if !ok || n.Sign() < 0 || n.BitLen() > 128 || strings.TrimLeft(s, "0123456789") != "" {
		return hashKey{}, false
	}
	return hashOf(n), true
}

// part is the i-th of n even parts of the hash keys.
func part(i, n int) (from, to hashKey) {
	bound := func(i int) *big.Int {
		b := new(big.Int).Lsh(big.NewInt(int64(i)), 128)
		return b.Div(b, big.NewInt(int64(n)))
	}
	end := bound(i + 1)
	return hashOf(bound(i)), hashOf(end.Sub(end, big.NewInt(1)))
}

// Sequence numbers have 56 digits: 49, the stream's creation in milliseconds (14 digits), a counter of the stream (20), the index
// of the shard (20). So they grow over the whole stream, those of a later stream of the name are larger, and, as with Amazon, a
// number tells the shard that it came from.
const (
	counterAt = 16
	indexAt   = 36
	digits    = 56
)

func (s *stream) sequence(counter uint64, index int) string {
	return string(s.appendSequence(make([]byte, 0, digits), counter, index))
}

func (s *stream) appendSequence(b []byte, counter uint64, index int) []byte {
	b = append(b, "49"...)
	b = appendPadded(b, uint64(s.created.UnixMilli()), counterAt-2)
	b = appendPadded(b, counter, indexAt-counterAt)
	return appendPadded(b, uint64(index), digits-indexAt)
}

func appendPadded(b []byte, n uint64, width int) []byte {
	b = append(b, "00000000000000000000"[:width]...)
	for i := len(b) - 1; n > 0; i-- {
		b[i] = byte('0' + n%10)
		n /= 10
	}
	return b
}

// parseSequence returns the counter and the shard of a sequence number.
func (s *stream) parseSequence(text string) (counter uint64, index int, ok bool) {
	if len(text) != digits || strings.TrimLeft(text, "0123456789") != "" {
		return 0, 0, false
	}
	counter, errCounter := strconv.ParseUint(text[counterAt:indexAt], 10, 64)
	n, errIndex := strconv.ParseUint(text[indexAt:], 10, 31)
	return counter, int(n), errCounter == nil && errIndex == nil && s.sequence(counter, int(n)) == text
}

// step keeps numbers apart, so that a reader that takes one plus one for the next number is found out.
const step = 3

func (s *stream) count() uint64 {
	s.last += step
	return s.last
}

func shardID(index int) string { return fmt.Sprintf("shardId-%012d", index) }

// add opens a shard.
func (s *stream) add(from, to hashKey, now time.Time, parents ...*shard) *shard {
	sh := &shard{index: s.next, id: shardID(s.next), from: from, to: to, first: s.count(), opened: now}
	s.next++
	for i, p := range parents {
		p.children = append(p.children, sh)
		if i == 0 {
			sh.parent = p.id
		} else {
			sh.adjacent = p.id
		}
	}
	s.shards = append(s.shards, sh)
	at, _ := slices.BinarySearchFunc(s.open, sh, func(a, b *shard) int { return a.from.compare(b.from) })
	s.open = slices.Insert(s.open, at, sh)
	return sh
}

// close ends a shard; its children come after.
func (s *stream) close(sh *shard, now time.Time) {
	sh.ending, sh.closed = s.count(), now
	s.open = slices.DeleteFunc(s.open, func(o *shard) bool { return o == sh })
}

// split closes sh; the second child begins with key.
func (s *stream) split(sh *shard, key hashKey, now time.Time) (lower, upper *shard) {
	s.close(sh, now)
	return s.add(sh.from, key.plus(-1), now, sh), s.add(key, sh.to, now, sh)
}

// merge closes two neighbours.
func (s *stream) merge(a, b *shard, now time.Time) *shard {
	s.close(a, now)
	s.close(b, now)
	from, to := a.from, b.to
	if b.from.compare(a.from) < 0 {
		from, to = b.from, a.to
	}
	return s.add(from, to, now, a, b)
}

func (a *shard) touches(b *shard) bool {
	if b.from.compare(a.from) < 0 {
		a, b = b, a
	}
	return a != b && a.to.plus(1) == b.from
}

// scale makes n even shards of the open ones as Amazon does: it splits at the new bounds, then merges what is between two of them.
func (s *stream) scale(n int, now time.Time) {
	for i := range n {
		from, _ := part(i, n)
		if sh := s.route(from); sh.from != from {
			s.split(sh, from, now)
		}
	}
	for i := range n {
		from, to := part(i, n)
		for sh := s.route(from); sh.to != to; {
			sh = s.merge(sh, s.route(sh.to.plus(1)), now)
		}
	}
}

// route is the open shard that a hash key belongs to.
func (s *stream) route(h hashKey) *shard {
	return s.open[sort.Search(len(s.open), func(i int) bool { return s.open[i].to.compare(h) >= 0 })]
}

// find is the listed shard of an id, or nil.
func (s *stream) find(id string) *shard {
	at, ok := slices.BinarySearchFunc(s.shards, id, func(sh *shard, id string) int { return cmp.Compare(sh.id, id) })
	if !ok {
		return nil
	}
	return s.shards[at]
}

// put appends a record and returns its counter. Arrival times of a shard never go back, whatever the clock does.
func (s *stream) put(sh *shard, key string, data []byte, now time.Time, most int) uint64 {
	at := now.UnixMilli()
	if n := len(sh.records); n > 0 {
		at = max(at, sh.records[n-1].at)
	}
	r := record{s.count(), at, key, data}
	sh.records = append(sh.records, r)
	sh.bytes += r.size()
	if most > 0 && sh.bytes > most {
		gone, left := 0, sh.bytes
		for left > most/2 { // half, so that not every record trims
			left -= sh.records[gone].size()
			gone++
		}
		sh.drop(gone)
	}
	return r.counter
}

// drop forgets the n oldest records that are left.
func (sh *shard) drop(n int) {
	for i := range sh.records[:n] {
		sh.bytes -= sh.records[i].size()
	}
	sh.records = slices.Clone(sh.records[n:]) // readers may hold the old array
	sh.trimmed += n
}

// agePause is how often age looks: not at each call, which a poll of many shards would feel.
const agePause = 100 * time.Millisecond

// age drops what is older than the retention: records, and closed shards.
func (s *stream) age(now time.Time) {
	if passed := now.Sub(s.aged); passed >= 0 && passed < agePause {
		return
	}
	s.aged = now
	horizon := now.Add(-s.retention)
	for _, sh := range s.shards {
		if n := sh.since(horizon.UnixMilli()); n > 0 {
			sh.drop(n)
		}
	}
	s.shards = slices.DeleteFunc(s.shards, func(sh *shard) bool { return sh.ending > 0 && sh.closed.Before(horizon) })
}

// since is the index of the first record that arrived at a time or later.
func (sh *shard) since(ms int64) int {
	if len(sh.records) == 0 || sh.records[0].at >= ms {
		return 0
	}
	return sort.Search(len(sh.records), func(i int) bool { return sh.records[i].at >= ms })
}

// at is the index of the first record with a counter or a larger one.
func (sh *shard) at(counter uint64) int {
	return sort.Search(len(sh.records), func(i int) bool { return sh.records[i].counter >= counter })
}

// most bytes and records of one answer of GetRecords.
const (
	mostBytes   = 10 << 20
	mostRecords = 10_000
)

// read returns records from a counter on, the counter after them, and whether the shard goes on.
func (sh *shard) read(from uint64, limit int) (rs []record, next uint64, more bool) {
	left := sh.records[sh.at(from):]
	n, size := 0, 0
	for n < min(limit, len(left)) && (n == 0 || size+left[n].size() <= mostBytes) {
		size += left[n].size()
		n++
	}
	rs, next = left[:n:n], from
	if n > 0 {
		next = rs[n-1].counter + 1
	}
	return rs, next, sh.ending == 0 || n < len(left)
}

// behind is how old the oldest record from a counter on is; 0 without one.
func (sh *shard) behind(from uint64, now time.Time) int64 {
	if i := sh.at(from); i < len(sh.records) {
		return max(1, now.UnixMilli()-sh.records[i].at)
	}
	return 0
}

func notFound(name string) error {
	return awsjson.Errorf("ResourceNotFoundException", "Stream %s under account %s not found.", name, account)
}

func noShard(id, stream string) error {
	return awsjson.Errorf("ResourceNotFoundException", "Shard %s in stream %s under account %s does not exist", id, stream, account)
}
