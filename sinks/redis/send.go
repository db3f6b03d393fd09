package redis

import (
	"cmp"
	"context"
	"crypto/sha1" //nolint:gosec // the name that Redis gives to a script
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/redis/rueidis"

	"github.com/millrace-io/millrace/sinks/bulk"
	"github.com/millrace-io/millrace/stream"
)

//go:embed script.lua
var script string

// nameOf is a script's name on the server.
func nameOf(script string) string {
	sum := sha1.Sum([]byte(script))
	return hex.EncodeToString(sum[:])
}

// Send runs the script once for each item, in one pipeline. Where the server does not know it, as after a restart, it gets it.
func (s *Sink) Send(ctx context.Context, items []*bulk.Item) error {
	l, err := s.connected(ctx)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { l.giveUp(ctx) })()
	unknown, stale := s.run(ctx, l, items, false)
	if len(unknown) > 0 {
		_, again := s.run(ctx, l, unknown, true)
		stale = stale || again
	}
	if stale || l.overdue(ctx) || ctx.Err() != nil {
		s.drop(l)
	}
	return nil
}

// run sets Err of items. It returns those for which the server lacks the script, and whether another connection is worth a try.
func (s *Sink) run(ctx context.Context, l *link, items []*bulk.Item, whole bool) (unknown []*bulk.Item, stale bool) {
	calls := make(rueidis.Commands, 0, len(items))
	called := make([]*bulk.Item, 0, len(items))
	for _, it := range items {
		args, err := s.arguments(it)
		if err != nil {
			it.Err = bulk.Refused(err)
			continue
		}
		called = append(called, it)
		if whole {
			calls = append(calls, l.B().Eval().Script(script).Numkeys(1).Key(string(it.Key)).Arg(args...).Build())
		} else {
			calls = append(calls, l.B().Evalsha().Sha1(s.script).Numkeys(1).Key(string(it.Key)).Arg(args...).Build())
		}
	}
	for i, answer := range l.DoMulti(ctx, calls...) {
		it, err := called[i], answer.Error()
		if _, answered := rueidis.IsRedisErr(err); err != nil && !answered && l.late.Load() {
			err = cmp.Or(ctx.Err(), bulk.ErrLate)
		}
		if known, ok := rueidis.IsRedisErr(err); ok && known.IsNoScript() && !whole {
			unknown = append(unknown, it)
			continue
		}
		stale = stale || isStale(err)
		if it.Err = s.meaning(err); bulk.IsRefused(it.Err) {
			it.Err = bulk.Refused(fmt.Errorf("key %s: %w", it.Key, it.Err))
		}
	}
	return unknown, stale
}

// isStale says that the server cannot take writes, and that another one has perhaps got its name.
func isStale(err error) bool {
	known, ok := rueidis.IsRedisErr(err)
	return ok && strings.HasPrefix(known.Error(), "READONLY")
}

// arguments are the script's.
func (s *Sink) arguments(it *bulk.Item) ([]string, error) {
	place := stream.Place{Partition: it.Partition, Pos: it.Record.Pos, Index: it.Index, Time: it.Record.Time}
	rule, micros := "position", ""
	if s.o.Ordering == stream.ByTime {
		rule, micros = "time", strconv.FormatInt(place.Micros(), 10)
	}
	mend := ""
	if s.o.Mend {
		mend = "1"
	}
	args := make([]string, 0, 9+2*(len(s.layout.columns)+1))
	args = append(args, rule, place.Version(), it.Partition, micros, strconv.FormatInt(s.cfg.Tombstones.Milliseconds(), 10), mend)
	return arguments(args, it.Body)
}

// meaning is what an answer says about a write: nil, refused, fatal, or to be sent again.
func (s *Sink) meaning(err error) error {
	if err == nil {
		return nil
	}
	known, ok := errors.AsType[*rueidis.RedisError](err)
	if !ok {
		return err
	}
	text := known.Error()
	code, _, _ := strings.Cut(text, " ")
	says := func(some ...string) bool {
		for _, one := range some {
			if strings.Contains(text, one) {
				return true
			}
		}
		return false
	}
	fatal := func(todo string) error { return stream.Fatal(fmt.Errorf("%s: %w; %s", s, err, todo)) }
	switch {
	case code == "WRONGTYPE":
		return bulk.Refused(err)
	case code == "NOAUTH", code == "WRONGPASS", says("invalid password", "AUTH <password> called without", "Client sent AUTH"):
		return fatal("check username and password")
	case code == "NOPERM", says("NOPERM", "ACL failure", "user executing the script"):
		return fatal(fmt.Sprintf("allow it: ACL SETUSER %s ~%s* +@connection +eval +evalsha +@hash +time +pexpire +pexpireat +persist, and for verify +scan", s.user(), s.cfg.Prefix))
	case says("DB index", "SELECT is not allowed"):
		return fatal(fmt.Sprintf("the server has no database %d; correct database", s.cfg.Database))
	case says("cluster support disabled"):
		return fatal("several addresses are those of one cluster, and this server is none; want one address")
	case says("unknown command"):
		return fatal("it needs a server with Lua, of Redis 5 or newer, whose commands have their own names")
	}
	return err // OOM, LOADING, READONLY, CLUSTERDOWN, MISCONF, BUSY, TRYAGAIN: they pass
}

func (s *Sink) user() string {
	if s.cfg.Username == "" {
		return "default"
	}
	return s.cfg.Username
}

// Probe says why the server cannot be written; a FatalError if waiting does not help.
func (s *Sink) Probe(ctx context.Context) error {
	l, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer l.close()
	defer context.AfterFunc(ctx, l.cut)()
	// A script that only names a key of ours wants the rights to connect, to run scripts and to these keys.
	ask := l.B().Eval().Script("return 1").Numkeys(1).Key(s.cfg.Prefix + "probe").Build()
	if err := l.Do(ctx, ask).Error(); err != nil {
		return s.meaning(fmt.Errorf("ask %s: %w", s, err))
	}
	return nil
}
