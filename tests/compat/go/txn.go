package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"time"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Ten transactions over two partitions of which every third is aborted, offsets in one, then a zombie.
const transactions = 10

func isAborted(number int) bool { return number%3 == 2 }

// committedValues is what a reader of all should find, sorted: each value once in each partition.
func committedValues() []string {
	var values []string
	for i := range transactions {
		if !isAborted(i) {
			values = append(values, fmt.Sprint("n", i), fmt.Sprint("n", i))
		}
	}
	sort.Strings(values)
	return values
}

func (f franz) txn(ctx context.Context, topic string) error {
	config := []kgo.Opt{
		kgo.TransactionalID(topic), kgo.TransactionTimeout(20 * time.Second),
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.DefaultProduceTopic(topic),
	}
	c, adm, err := f.open(config...)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := adm.CreateTopic(ctx, 2, -1, nil, topic); err != nil {
		return err
	}
	for i := range transactions {
		if err := f.write(ctx, c, fmt.Sprint("n", i)); err != nil {
			return err
		}
		if err := c.EndTransaction(ctx, kgo.TransactionEndTry(!isAborted(i))); err != nil {
			return fmt.Errorf("the end of transaction %d: %w", i, err)
		}
	}
	if err := f.readAndCommit(ctx, topic); err != nil {
		return err
	}
	return f.zombie(ctx, c, config)
}

func (f franz) write(ctx context.Context, c *kgo.Client, value string) error {
	if err := c.BeginTransaction(); err != nil {
		return err
	}
	one := &kgo.Record{Partition: 0, Value: []byte(value)}
	two := &kgo.Record{Partition: 1, Value: []byte(value)}
	return c.ProduceSync(ctx, one, two).FirstErr()
}

// readAndCommit reads all as a member of a group, and commits what it has read in a transaction of its own.
func (f franz) readAndCommit(ctx context.Context, topic string) error {
	session, err := kgo.NewGroupTransactSession(kgo.SeedBrokers(f.boot), kgo.TransactionalID(topic+"-reader"),
		kgo.ConsumerGroup(topic), kgo.ConsumeTopics(topic), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.RequireStableFetchOffsets())
	if err != nil {
		return err
	}
	defer session.Close()
	if err := session.Begin(); err != nil {
		return err
	}
	var values []string
	want := committedValues()
	for len(values) < len(want) {
		fetches := session.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return err
		}
		fetches.EachRecord(func(r *kgo.Record) { values = append(values, string(r.Value)) })
	}
	sort.Strings(values)
	if !slices.Equal(values, want) {
		return fmt.Errorf("read %v, expected %v", values, want)
	}
	session.Produce(ctx, &kgo.Record{Topic: topic + "-out", Value: []byte("done")}, nil)
	committed, err := session.End(ctx, kgo.TryCommit)
	if err != nil || !committed {
		return fmt.Errorf("the end with offsets: %v, %w", committed, err)
	}
	return until("the offset is behind the last record", func() (bool, error) {
		offsets, err := kadm.NewClient(session.Client()).FetchOffsets(ctx, topic)
		at, _ := offsets.Lookup(topic, 0)
		return at.At >= 18, err // a marker may follow
	})
}

func (f franz) zombie(ctx context.Context, c *kgo.Client, config []kgo.Opt) error {
	if err := f.write(ctx, c, "lost"); err != nil {
		return err
	}
	next, _, err := f.open(config...)
	if err != nil {
		return err
	}
	defer next.Close()
	if err := next.BeginTransaction(); err != nil {
		return err
	}
	if _, _, err := next.ProducerID(ctx); err != nil {
		return err
	}
	err = c.EndTransaction(ctx, kgo.TryCommit)
	if !errors.Is(err, kerr.InvalidProducerEpoch) && !errors.Is(err, kerr.ProducerFenced) {
		return fmt.Errorf("a zombie's commit: %v", err)
	}
	return next.EndTransaction(ctx, kgo.TryAbort)
}

func (s saramaClient) txn(ctx context.Context, topic string) error {
	if err := s.create(topic, 2); err != nil {
		return err
	}
	producer, err := s.transactional(topic)
	if err != nil {
		return err
	}
	defer producer.Close()
	for i := range transactions {
		if err := s.write(producer, topic, fmt.Sprint("n", i)); err != nil {
			return err
		}
		end := producer.CommitTxn
		if isAborted(i) {
			end = producer.AbortTxn
		}
		if err := end(); err != nil {
			return fmt.Errorf("the end of transaction %d: %w", i, err)
		}
	}
	if err := s.readCommitted(ctx, topic); err != nil {
		return err
	}
	for _, commit := range []bool{false, true} {
		if err := s.commitOffset(producer, topic, commit); err != nil {
			return err
		}
	}
	if err := s.write(producer, topic, "lost"); err != nil {
		return err
	}
	next, err := s.transactional(topic)
	if err != nil {
		return err
	}
	defer next.Close()
	if err := producer.CommitTxn(); err == nil {
		return errors.New("a zombie commits")
	}
	return nil
}

func (s saramaClient) transactional(id string) (sarama.SyncProducer, error) {
	c := s.config()
	c.Producer.Idempotent = true
	c.Producer.Transaction.ID = id
	c.Producer.Transaction.Timeout = 20 * time.Second
	c.Net.MaxOpenRequests = 1
	return sarama.NewSyncProducer([]string{s.boot}, c)
}

func (s saramaClient) write(producer sarama.SyncProducer, topic, value string) error {
	if err := producer.BeginTxn(); err != nil {
		return err
	}
	var messages []*sarama.ProducerMessage
	for partition := range int32(2) {
		message := &sarama.ProducerMessage{Topic: topic, Partition: partition, Value: sarama.StringEncoder(value)}
		messages = append(messages, message)
	}
	return producer.SendMessages(messages)
}

func (s saramaClient) readCommitted(ctx context.Context, topic string) error {
	c := s.config()
	c.Consumer.IsolationLevel = sarama.ReadCommitted
	consumer, err := sarama.NewConsumer([]string{s.boot}, c)
	if err != nil {
		return err
	}
	defer consumer.Close()
	want := committedValues()
	var values []string
	for partition := range int32(2) {
		pc, err := consumer.ConsumePartition(topic, partition, sarama.OffsetOldest)
		if err != nil {
			return err
		}
		for range len(want) / 2 {
			select {
			case m := <-pc.Messages():
				values = append(values, string(m.Value))
			case <-ctx.Done():
				return fmt.Errorf("only %v: %w", values, ctx.Err())
			}
		}
		if err := pc.Close(); err != nil {
			return err
		}
	}
	sort.Strings(values)
	if !slices.Equal(values, want) {
		return fmt.Errorf("read %v, expected %v", values, want)
	}
	return nil
}

// commitOffset takes 3 with a transaction that is aborted, 5 with one that is committed.
func (s saramaClient) commitOffset(producer sarama.SyncProducer, topic string, commit bool) error {
	offset, end, want := int64(3), producer.AbortTxn, int64(-1)
	if commit {
		offset, end, want = 5, producer.CommitTxn, 5
	}
	if err := producer.BeginTxn(); err != nil {
		return err
	}
	offsets := map[string][]*sarama.PartitionOffsetMetadata{topic: {{Partition: 0, Offset: offset}}}
	if err := producer.AddOffsetsToTxn(offsets, topic); err != nil {
		return err
	}
	if err := end(); err != nil {
		return fmt.Errorf("the end with offsets: %w", err)
	}
	adm, err := sarama.NewClusterAdmin([]string{s.boot}, s.config())
	if err != nil {
		return err
	}
	defer adm.Close()
	return until(fmt.Sprint("the offset is ", want), func() (bool, error) {
		found, err := adm.ListConsumerGroupOffsets(topic, map[string][]int32{topic: {0}})
		return err == nil && found.GetBlock(topic, 0).Offset == want, err
	})
}
