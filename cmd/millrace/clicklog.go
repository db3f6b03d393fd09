package main

import (
	"context"
	"fmt"
	"hash/fnv"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/millrace-io/millrace/sources/collect"
)

// clickPartitions of the log of millrace dev: subjects clicks.0, clicks.1 ...
const clickPartitions = 4

// clickLog is JetStream as collect's Log: an event's key chooses its subject, and Append returns when all are on disk.
type clickLog struct {
	conn *nats.Conn
	js   jetstream.JetStream
	next atomic.Uint32 // for events without a key
}

func openClickLog(ctx context.Context, url string) (*clickLog, error) {
	conn, err := nats.Connect(url, nats.MaxReconnects(-1))
	if err != nil {
		return nil, fmt.Errorf("connect to the log: %w", err)
	}
	js, err := jetstream.New(conn)
	if err != nil {
		conn.Close()
		return nil, err
	}
	subjects := make([]string, clickPartitions)
	for i := range subjects {
		subjects[i] = clickSubject(uint32(i))
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	_, err = js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{Name: "CLICKS", Subjects: subjects, Storage: jetstream.FileStorage, Duplicates: time.Hour})
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("create the log's stream: %w", err)
	}
	return &clickLog{conn: conn, js: js}, nil
}

func clickSubject(n uint32) string { return fmt.Sprintf("clicks.%d", n%clickPartitions) }

func (c *clickLog) close() { c.conn.Close() }

// Append publishes events, all at once, and waits for every acknowledgement.
func (c *clickLog) Append(ctx context.Context, events []collect.Event) error {
	messages := make([]*nats.Msg, len(events))
	for i, e := range events {
		messages[i] = &nats.Msg{Subject: c.subject(e.Key), Data: e.Value}
	}
	return c.publish(ctx, messages)
}

func (c *clickLog) publish(ctx context.Context, messages []*nats.Msg) error {
	acks := make([]jetstream.PubAckFuture, len(messages))
	for i, m := range messages {
		ack, err := c.js.PublishMsgAsync(m, jetstream.WithStallWait(5*time.Second))
		if err != nil {
			return err
		}
		acks[i] = ack
	}
	for _, ack := range acks {
		select {
		case <-ack.Ok():
		case err := <-ack.Err():
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (c *clickLog) subject(key string) string {
	if key == "" {
		return clickSubject(c.next.Add(1))
	}
	h := fnv.New32a()
	h.Write([]byte(key))
	return clickSubject(h.Sum32())
}
