package sinktest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/millrace-io/millrace/sinks/objects"
	"github.com/millrace-io/millrace/stream"
)

// Place is one empty place of an object store.
type Place struct {
	// Open returns another process's view of the place.
	Open func(t *testing.T) objects.Store

	// Metadata: objects keep it. A folder's do not.
	Metadata bool
}

// RunStore checks an object store. open is called by each test, for a place of its own.
func RunStore(t *testing.T, open func(t *testing.T) Place) {
	rules := []struct {
		name string
		rule func(*storeSuite)
	}{
		{"AnUploadIsInvisibleBeforePublish", (*storeSuite).invisible},
		{"AnObjectHasTheBytesOfItsUpload", (*storeSuite).bytes},
		{"AnEmptyUploadIsAnEmptyObject", (*storeSuite).empty},
		{"PublishIsIdempotentAlsoInAnotherProcess", (*storeSuite).idempotent},
		{"ManyMayPublishOneTicketAtOnce", (*storeSuite).concurrent},
		{"PublishLeavesTheObjectOfSomebodyElseAlone", (*storeSuite).foreign},
		{"PublishOfAnExpiredUploadOverSomebodyElsesObjectFails", (*storeSuite).expiredForeign},
		{"PublishOfGoneDataIsExpired", (*storeSuite).expired},
		{"PublishedAndThenDeletedIsExpired", (*storeSuite).deletedAfterwards},
		{"DiscardLeavesNothing", (*storeSuite).discard},
		{"SealAgainReturnsTheSameTicket", (*storeSuite).sealAgain},
		{"WithdrawRemovesTheTicketsOwnOnly", (*storeSuite).withdraw},
		{"BadKeysAreFatal", (*storeSuite).badKeys},
		{"ListIsInOrderAndWithoutHiddenObjects", (*storeSuite).list},
		{"SmallObjects", (*storeSuite).small},
		{"ObjectsAreReadAtRandom", (*storeSuite).random},
		{"MetadataComesBack", (*storeSuite).metadata},
		{"OverflowIsHidden", (*storeSuite).overflow},
		{"ProbeLeavesNothing", (*storeSuite).probe},
		{"AnEndedContextDoesNothing", (*storeSuite).ended},
	}
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			p := open(t)
			r.rule(&storeSuite{t: t, ctx: t.Context(), p: p, store: p.Open(t)})
		})
	}
}

type storeSuite struct {
	t     *testing.T
	ctx   context.Context
	p     Place
	store objects.Store
}

func (s *storeSuite) check(err error, doing string) {
	s.t.Helper()
	if err != nil {
		s.t.Fatalf("%s: %v", doing, err)
	}
}

func (s *storeSuite) fatal(err error, doing string) {
	s.t.Helper()
	var fatal *stream.FatalError
	if !errors.As(err, &fatal) {
		s.t.Fatalf("%s returns %v; want a FatalError", doing, err)
	}
}

func (s *storeSuite) is(err, want error, doing string) {
	s.t.Helper()
	if !errors.Is(err, want) {
		s.t.Fatalf("%s returns %v; want %v", doing, err, want)
	}
}

// sealed uploads data up to its ticket, which goes through JSON as in a checkpoint.
func (s *storeSuite) sealed(key string, data []byte) objects.Ticket {
	s.t.Helper()
	u := s.store.Begin(key)
	for chunk := range slices.Chunk(data, 1<<20+17) {
		if n, err := u.Write(chunk); n != len(chunk) || err != nil {
			s.t.Fatalf("write returns %d, %v", n, err)
		}
		s.check(u.Send(s.ctx), "send")
	}
	t, err := u.Seal(s.ctx, nil)
	s.check(err, "seal")
	if n := u.Buffered(); n != 0 {
		s.t.Errorf("after Seal the upload holds %d bytes", n)
	}
	if t.Key != key || t.Size != int64(len(data)) {
		s.t.Errorf("ticket %+v; want key %s and size %d", t, key, len(data))
	}
	text, err := json.Marshal(t)
	s.check(err, "marshal the ticket")
	var copied objects.Ticket
	s.check(json.Unmarshal(text, &copied), "unmarshal the ticket")
	return copied
}

func (s *storeSuite) keys(prefix string) []string {
	s.t.Helper()
	keys := []string{}
	for o, err := range s.store.List(s.ctx, prefix) {
		s.check(err, "list")
		keys = append(keys, o.Key)
	}
	return keys
}

func (s *storeSuite) lists(prefix string, want ...string) {
	s.t.Helper()
	if got := s.keys(prefix); !slices.Equal(got, want) {
		s.t.Fatalf("list of %q is %q; want %q", prefix, got, want)
	}
}

func (s *storeSuite) holds(key string, want []byte) {
	s.t.Helper()
	got, err := s.p.Open(s.t).Get(s.ctx, key)
	s.check(err, "get")
	if !bytes.Equal(got, want) {
		s.t.Fatalf("%s has %d bytes; want %d, and the same ones", key, len(got), len(want))
	}
}

// noise is n bytes, the same for one seed.
func noise(n int, seed byte) []byte {
	data := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(data)
	return data
}

func (s *storeSuite) invisible() {
	u := s.store.Begin("a/b.bin")
	s.lists("")
	u.Write(noise(20<<20, 1))
	s.check(u.Send(s.ctx), "send")
	s.lists("")
	t, err := u.Seal(s.ctx, nil)
	s.check(err, "seal")
	s.lists("")
	_, err = s.store.Get(s.ctx, "a/b.bin")
	s.is(err, objects.ErrNotFound, "get")
	_, err = s.store.Open(s.ctx, "a/b.bin")
	s.is(err, objects.ErrNotFound, "open")
	s.check(s.store.Publish(s.ctx, t), "publish")
	s.lists("", "a/b.bin")
}

func (s *storeSuite) bytes() {
	for i, n := range []int{1, 1 << 20, 8 << 20, 8<<20 + 1, 21 << 20} {
		key := fmt.Sprintf("n=%d/data.bin", n)
		data := noise(n, byte(i))
		s.check(s.store.Publish(s.ctx, s.sealed(key, data)), "publish")
		s.holds(key, data)
	}
}

func (s *storeSuite) empty() {
	t := s.sealed("empty", nil)
	s.lists("")
	s.check(s.store.Publish(s.ctx, t), "publish")
	s.check(s.store.Publish(s.ctx, t), "publish again")
	s.holds("empty", nil)
	s.check(s.store.Withdraw(s.ctx, t), "withdraw")
	s.lists("")
}

func (s *storeSuite) idempotent() {
	t := s.sealed("x", noise(100, 1))
	other := s.p.Open(s.t)
	s.check(other.Publish(s.ctx, t), "publish by another process")
	s.check(other.Publish(s.ctx, t), "publish again")
	s.check(s.store.Publish(s.ctx, t), "publish by the first")
	s.holds("x", noise(100, 1))
}

// concurrent: an owner that was thought dead, and the new one.
func (s *storeSuite) concurrent() {
	t := s.sealed("x", noise(6<<20, 1))
	other := s.p.Open(s.t)
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		wg.Go(func() {
			store := s.store
			if i%2 == 1 {
				store = other
			}
			for range 20 { // the engine repeats what is neither fatal nor expired
				if errs[i] = store.Publish(s.ctx, t); errs[i] == nil {
					return
				}
				var fatal *stream.FatalError
				if errors.As(errs[i], &fatal) || errors.Is(errs[i], stream.ErrExpired) {
					return
				}
			}
		})
	}
	wg.Wait()
	s.check(errors.Join(errs...), "publish")
	s.lists("", "x")
	s.holds("x", noise(6<<20, 1))
}

func (s *storeSuite) foreign() {
	theirs := s.sealed("x", noise(100, 1))
	own := s.sealed("x", noise(100, 2))
	s.check(s.store.Publish(s.ctx, theirs), "publish theirs")
	s.fatal(s.store.Publish(s.ctx, own), "publish over somebody else's object")
	s.holds("x", noise(100, 1))

	own = s.sealed("put", noise(100, 2))
	s.check(s.store.Put(s.ctx, "put", noise(7, 3)), "put")
	s.fatal(s.store.Publish(s.ctx, own), "publish over a put object")
	s.holds("put", noise(7, 3))
}

func (s *storeSuite) expiredForeign() {
	own := s.sealed("x", noise(100, 2))
	s.check(s.store.Withdraw(s.ctx, own), "withdraw")
	s.check(s.store.Put(s.ctx, "x", noise(100, 1)), "put")
	s.fatal(s.store.Publish(s.ctx, own), "publish of gone data over somebody else's object")
	s.holds("x", noise(100, 1))
}

func (s *storeSuite) expired() {
	t := s.sealed("x", noise(100, 1))
	s.check(s.p.Open(s.t).Withdraw(s.ctx, t), "withdraw")
	s.is(s.store.Publish(s.ctx, t), stream.ErrExpired, "publish")
	s.lists("")
}

func (s *storeSuite) deletedAfterwards() {
	t := s.sealed("x", noise(100, 1))
	s.check(s.store.Publish(s.ctx, t), "publish")
	s.check(s.store.Delete(s.ctx, "x"), "delete")
	s.is(s.store.Publish(s.ctx, t), stream.ErrExpired, "publish")
	s.lists("")
}

func (s *storeSuite) discard() {
	s.store.Begin("never").Discard(s.ctx)

	u := s.store.Begin("unsent")
	u.Write(noise(100, 1))
	u.Discard(s.ctx)

	u = s.store.Begin("sent")
	u.Write(noise(30<<20, 1))
	s.check(u.Send(s.ctx), "send")
	u.Discard(s.ctx)
	u.Discard(s.ctx)
	if _, err := u.Seal(s.ctx, nil); err == nil {
		s.t.Error("seal of a discarded upload succeeds")
	}

	u = s.store.Begin("sealed")
	u.Write(noise(100, 1))
	t, err := u.Seal(s.ctx, nil)
	s.check(err, "seal")
	u.Discard(s.ctx)
	s.is(s.store.Publish(s.ctx, t), stream.ErrExpired, "publish of a discarded upload")
	s.lists("")
}

func (s *storeSuite) sealAgain() {
	u := s.store.Begin("x")
	u.Write(noise(100, 1))
	t, err := u.Seal(s.ctx, nil)
	s.check(err, "seal")
	again, err := u.Seal(s.ctx, nil)
	s.check(err, "seal again")
	if fmt.Sprint(t) != fmt.Sprint(again) {
		s.t.Errorf("the second ticket is %+v; want %+v", again, t)
	}
}

func (s *storeSuite) withdraw() {
	published, staged := s.sealed("a", noise(100, 1)), s.sealed("b", noise(100, 2))
	s.check(s.store.Publish(s.ctx, published), "publish")
	other := s.p.Open(s.t)
	for range 2 {
		s.check(other.Withdraw(s.ctx, published), "withdraw")
		s.check(other.Withdraw(s.ctx, staged), "withdraw")
	}
	s.lists("")

	mine, theirs := s.sealed("c", noise(100, 3)), s.sealed("c", noise(100, 4))
	s.check(s.store.Publish(s.ctx, theirs), "publish theirs")
	s.check(s.store.Withdraw(s.ctx, mine), "withdraw mine")
	s.holds("c", noise(100, 4))
}

func (s *storeSuite) badKeys() {
	for _, key := range []string{"", "/x", "x/", "a//b", "../x", "a/../b", ".", "a\x00b", `a\b`} {
		u := s.store.Begin(key)
		u.Write([]byte("x"))
		_, err := u.Seal(s.ctx, nil)
		s.fatal(err, fmt.Sprintf("seal of key %q", key))
		u.Discard(s.ctx)
		s.fatal(s.store.Put(s.ctx, key, nil), fmt.Sprintf("put of key %q", key))
	}
	s.lists("")
}

func (s *storeSuite) list() {
	for _, key := range []string{"a/b", "a.b", "a/b.c/d", "a-b", "z/date=2010-12-01/x", "_hidden/x", "z/_temporary/x", "z/.crc", "ä/ß"} {
		s.check(s.store.Put(s.ctx, key, []byte(key)), "put")
	}
	s.lists("", "a-b", "a.b", "a/b", "a/b.c/d", "z/date=2010-12-01/x", "ä/ß")
	s.lists("a/", "a/b", "a/b.c/d")
	s.lists("a/b", "a/b", "a/b.c/d")
	s.lists("z", "z/date=2010-12-01/x")
	s.lists("z/_", "z/_temporary/x")
	s.lists("_hidden/", "_hidden/x")
	s.lists("_hid", "_hidden/x")
	s.lists("nothing/here")
	n := 0
	for o, err := range s.store.List(s.ctx, "") {
		s.check(err, "list")
		if o.Size != int64(len(o.Key)) || o.Modified.IsZero() {
			s.t.Errorf("listed as %+v; want its size and time", o)
		}
		if n++; n == 2 {
			break
		}
	}
}

func (s *storeSuite) small() {
	_, err := s.store.Get(s.ctx, "a/b")
	s.is(err, objects.ErrNotFound, "get")
	s.check(s.store.Delete(s.ctx, "a/b"), "delete of nothing")
	s.check(s.store.Put(s.ctx, "a/b", []byte("one")), "put")
	s.check(s.store.Put(s.ctx, "a/b", []byte("second")), "put again")
	s.holds("a/b", []byte("second"))
	s.check(s.store.Put(s.ctx, "a/b", nil), "put nothing")
	s.holds("a/b", nil)
	_, err = s.store.Get(s.ctx, "a")
	s.is(err, objects.ErrNotFound, "get of a folder")
	s.check(s.store.Delete(s.ctx, "a/b"), "delete")
	s.check(s.store.Delete(s.ctx, "a/b"), "delete again")
	s.lists("")
}

func (s *storeSuite) random() {
	for _, n := range []int{0, 1, 1000, 1 << 20, 3<<20 + 5} {
		key, data := fmt.Sprintf("n%d", n), noise(n, 1)
		s.check(s.store.Put(s.ctx, key, data), "put")
		o, err := s.store.Open(s.ctx, key)
		s.check(err, "open")
		if o.Size() != int64(n) {
			s.t.Fatalf("size is %d; want %d", o.Size(), n)
		}
		r := rand.New(rand.NewPCG(1, uint64(n)))
		spans := [][2]int{{0, n}, {max(0, n-8), 8}, {0, 4}, {n, 1}, {max(0, n-1), 5}}
		for range 30 {
			spans = append(spans, [2]int{r.IntN(n + 1), r.IntN(min(n, 2<<20) + 1)})
		}
		want := bytes.NewReader(data)
		for _, span := range spans {
			got, expected := make([]byte, span[1]), make([]byte, span[1])
			gotN, gotErr := o.ReadAt(got, int64(span[0]))
			wantN, wantErr := want.ReadAt(expected, int64(span[0]))
			if gotN != wantN || !bytes.Equal(got, expected) || (gotErr == io.EOF) != (wantErr == io.EOF) || gotErr != nil && gotErr != io.EOF {
				if span[1] == 0 {
					continue // readers differ in what they say about nothing
				}
				s.t.Fatalf("read of %d at %d of %d returns %d, %v; want %d, %v", span[1], span[0], n, gotN, gotErr, wantN, wantErr)
			}
		}
		s.check(o.Close(), "close")
	}
}

func (s *storeSuite) metadata() {
	meta := map[string]string{"provenance": `{"partition":"clicks/α 3","to":"00ff%"}`, "pipeline": " padded ", "zz-too-long": strings.Repeat("x", 3000)}
	u := s.store.Begin("x")
	t, err := u.Seal(s.ctx, meta)
	s.check(err, "seal")
	s.check(s.store.Publish(s.ctx, t), "publish")
	o, err := s.store.Open(s.ctx, "x")
	s.check(err, "open")
	defer o.Close()
	delete(meta, "zz-too-long")
	if !s.p.Metadata {
		meta = nil
	}
	if fmt.Sprint(o.Metadata()) != fmt.Sprint(meta) {
		s.t.Errorf("metadata is %v; want %v", o.Metadata(), meta)
	}
}

func (s *storeSuite) overflow() {
	o := objects.Overflow(s.store, "")
	s.check(o.Put(s.ctx, "n.json", []byte("[1]")), "put")
	s.lists("")
	data, err := objects.Overflow(s.p.Open(s.t), "").Get(s.ctx, "n.json")
	s.check(err, "get")
	if string(data) != "[1]" {
		s.t.Errorf("get returns %q", data)
	}
	s.check(o.Delete(s.ctx, "n.json"), "delete")
	s.check(o.Delete(s.ctx, "n.json"), "delete again")
	_, err = o.Get(s.ctx, "n.json")
	s.fatal(err, "get of what a commit names and is gone")
}

func (s *storeSuite) probe() {
	s.check(s.store.Probe(s.ctx), "probe")
	s.lists("")
	s.lists("_")
	s.lists(".")
	s.lists("_millrace/")
}

func (s *storeSuite) ended() {
	t := s.sealed("x", noise(100, 1))
	ctx, cancel := context.WithCancel(s.ctx)
	cancel()
	u := s.store.Begin("y")
	u.Write([]byte("y"))
	_, err := u.Seal(ctx, nil)
	s.is(err, context.Canceled, "seal")
	u.Discard(s.ctx)
	s.is(s.store.Publish(ctx, t), context.Canceled, "publish")
	s.is(s.store.Withdraw(ctx, t), context.Canceled, "withdraw")
	s.is(s.store.Put(ctx, "z", nil), context.Canceled, "put")
	s.is(s.store.Probe(ctx), context.Canceled, "probe")
	s.lists("")
	s.check(s.store.Publish(s.ctx, t), "publish")
	s.lists("", "x")
}
