package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/millrace-io/millrace/stream"
)

// selection is Config.Topics.
type selection struct {
	names    []string
	patterns []*regexp.Regexp
}

// newSelection returns all problems of the texts.
func newSelection(texts []string) (selection, error) {
	var s selection
	var problems []error
	if len(texts) == 0 {
		problems = append(problems, errors.New("topics is empty; want at least one topic"))
	}
	for i, text := range texts {
		if slices.Contains(texts[:i], text) {
			problems = append(problems, fmt.Errorf("topics has %q twice", text))
		}
		if !strings.HasPrefix(text, "/") && !strings.HasSuffix(text, "/") {
			if !validTopic(text) {
				problems = append(problems, fmt.Errorf(`topics has %q; want 1 to 249 letters, digits, dots, underscores or hyphens, or a pattern between slashes like "/clicks-.*/"`, text))
			}
			s.names = append(s.names, text)
			continue
		}
		p, err := parsePattern(text)
		if err != nil {
			problems = append(problems, err)
		}
		s.patterns = append(s.patterns, p)
	}
	return s, errors.Join(problems...)
}

func parsePattern(text string) (*regexp.Regexp, error) {
	inner, front := strings.CutPrefix(text, "/")
	inner, back := strings.CutSuffix(inner, "/")
	if !front || !back || inner == "" {
		return nil, fmt.Errorf(`topics has %q; want a pattern between two slashes like "/clicks-.*/"`, text)
	}
	if _, err := regexp.Compile(inner); err != nil {
		return nil, fmt.Errorf("topics has %q: %w", text, err)
	}
	return regexp.MustCompile(`^(?:` + inner + `)$`), nil
}

func validTopic(name string) bool {
	if name == "" || name == "." || name == ".." || len(name) > 249 {
		return false
	}
	return !strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._-", r)
	})
}

func (s selection) has(topic string) bool { return slices.Contains(s.names, topic) || s.matches(topic) }

// matches says that the topic is there by a pattern.
func (s selection) matches(topic string) bool {
	return !slices.Contains(s.names, topic) && !strings.HasPrefix(topic, "__") && slices.ContainsFunc(s.patterns, func(p *regexp.Regexp) bool { return p.MatchString(topic) })
}

// list asks the brokers for the topics of s: every name, there or not, and what the patterns match.
func (s selection) list(ctx context.Context, admin *kadm.Client) (kadm.TopicDetails, error) {
	if len(s.patterns) == 0 {
		return admin.ListTopics(ctx, s.names...)
	}
	all, err := admin.ListTopics(ctx)
	if err != nil {
		return nil, err
	}
	maps.DeleteFunc(all, func(topic string, _ kadm.TopicDetail) bool { return !s.has(topic) })
	return all, nil
}

// follow looks for topics that a pattern matches now, and for topics that are not what they were.
func (r *run) follow() {
	tick := time.NewTicker(r.cfg.Refresh)
	defer tick.Stop()
	var odd error // what the last look found; one broker that is behind the others is not believed alone
	for {
		select {
		case <-tick.C:
		case <-r.ctx.Done():
			return
		}
		limited, cancel := context.WithTimeout(r.ctx, connectTimeout)
		found, err := r.topics.list(limited, r.conn.admin)
		cancel()
		if err != nil {
			r.log.Debug("topics cannot be listed", "error", err)
			continue
		}
		r.add(found)
		again := odd
		if odd = r.anyChanged(found); odd != nil && again != nil {
			r.fail(odd)
			return
		}
	}
}

// add subscribes to what is new. The group's next generation assigns it.
func (r *run) add(found kadm.TopicDetails) {
	var names []string
	r.mu.Lock()
	for name, topic := range found {
		if _, known := r.known[name]; !known && topic.Err == nil {
			r.known[name] = topic
			names = append(names, name)
		}
	}
	r.mu.Unlock()
	if len(names) == 0 {
		return
	}
	slices.Sort(names)
	r.log.Info("new topics", "topics", names)
	r.group.PauseFetchTopics(names...)
	r.group.AddConsumeTopics(names...)
}

// anyChanged is what changed says about the first topic that is not what it was; nil if all are.
func (r *run) anyChanged(found kadm.TopicDetails) error {
	r.mu.Lock()
	names := slices.Sorted(maps.Keys(r.known))
	r.mu.Unlock()
	for _, name := range names {
		if err := r.changed(name, found); err != nil {
			return err
		}
	}
	return nil
}

// changed is what found says about a topic that was deleted; nil if it was not. A topic that is created again is another one,
// and offsets of the old one mean nothing in it.
func (r *run) changed(name string, found kadm.TopicDetails) error {
	old := r.topic(name)
	now, there := found[name]
	var none kadm.TopicID
	switch {
	case !there || errors.Is(now.Err, kerr.UnknownTopicOrPartition):
		return stream.Fatal(fmt.Errorf("topic %q was deleted while it was read; what was not committed of it is lost", name))
	case now.Err == nil && now.ID != old.ID && now.ID != none && old.ID != none:
		return r.createdAgain(name)
	}
	return nil
}

// createdAgain says what to do about a topic that is not the one that the group's offsets are of.
func (s *Source) createdAgain(topic string) error {
	return stream.Fatal(fmt.Errorf("topic %q was deleted and created again, so the offsets of group %s mean nothing in it: its old records are gone, and positions would repeat. "+
		"To read the new topic, give the pipeline a new name (or group) and sinks of their own", topic, s.cfg.Group))
}

// topic is what is known of it.
func (r *run) topic(name string) kadm.TopicDetail {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.known[name]
}
