package main

import (
	"bufio"
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// franz-go; its producer is idempotent unless told otherwise.
type franz struct{ boot string }

var franzCodecs = []kgo.CompressionCodec{
	kgo.NoCompression(), kgo.GzipCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression(),
}

func (f franz) open(opts ...kgo.Opt) (*kgo.Client, *kadm.Client, error) {
	c, err := kgo.NewClient(append(opts, kgo.SeedBrokers(f.boot))...)
	if err != nil {
		return nil, nil, err
	}
	return c, kadm.NewClient(c), nil
}

func (f franz) produce(ctx context.Context, records []record, topic, codec string, variant int) error {
	opts := []kgo.Opt{
		kgo.DefaultProduceTopic(topic), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchCompression(franzCodecs[codecNumber(codec)]),
	}
	if variant%2 == 1 {
		opts = append(opts, kgo.DisableIdempotentWrite(), kgo.RequiredAcks(kgo.LeaderAck()))
	}
	c, adm, err := f.open(opts...)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := adm.CreateTopic(ctx, partitions, -1, nil, topic); err != nil {
		return err
	}
	batch := make([]*kgo.Record, len(records))
	for i, r := range records {
		batch[i] = &kgo.Record{Partition: r.partition, Timestamp: r.timestamp, Key: r.key, Value: r.value}
		for _, h := range r.headers {
			batch[i].Headers = append(batch[i].Headers, kgo.RecordHeader{Key: h.name, Value: h.value})
		}
	}
	return c.ProduceSync(ctx, batch...).FirstErr()
}

func (f franz) dump(ctx context.Context, out *bufio.Writer, topic string) error {
	c, adm, err := f.open()
	if err != nil {
		return err
	}
	defer c.Close()
	starts, err := adm.ListStartOffsets(ctx, topic)
	if err != nil {
		return err
	}
	ends, err := adm.ListEndOffsets(ctx, topic)
	if err != nil {
		return errors.Join(err, ends.Error())
	}
	var left int64
	from := map[int32]kgo.Offset{}
	ends.Each(func(end kadm.ListedOffset) {
		start, _ := starts.Lookup(topic, end.Partition)
		left += end.Offset - start.Offset
		from[end.Partition] = kgo.NewOffset().At(start.Offset)
	})
	c.AddConsumePartitions(map[string]map[int32]kgo.Offset{topic: from})
	for left > 0 {
		fetches := c.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return err
		}
		fetches.EachRecord(func(r *kgo.Record) {
			line := record{partition: r.Partition, timestamp: r.Timestamp, key: r.Key, value: r.Value}
			for _, h := range r.Headers {
				line.headers = append(line.headers, header{h.Key, h.Value})
			}
			writeRecord(out, topic, r.Offset, line)
			left--
		})
	}
	return nil
}

func (f franz) admin(ctx context.Context, topic string) error {
	c, adm, err := f.open(kgo.MetadataMinAge(10*time.Millisecond))
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := adm.CreateTopic(ctx, 2, -1, map[string]*string{"segment.bytes": kadm.StringPtr("1048576")}, topic); err != nil {
		return err
	}
	if _, err := adm.CreateTopic(ctx, 2, -1, nil, topic); !errors.Is(err, kerr.TopicAlreadyExists) {
		return errors.Join(errors.New("the same topic again should fail"), err)
	}
	if err := c.ProduceSync(ctx, &kgo.Record{Topic: topic, Value: []byte("one")}).FirstErr(); err != nil {
		return err
	}
	grown, err := adm.UpdatePartitions(ctx, 4, topic)
	if err := errors.Join(err, grown.Error()); err != nil {
		return err
	}
	err = until("4 partitions", func() (bool, error) {
		listed, err := adm.ListTopics(ctx, topic)
		return len(listed[topic].Partitions) == 4, err
	})
	if err != nil {
		return err
	}
	configs, err := adm.DescribeTopicConfigs(ctx, topic)
	if err != nil {
		return err
	}
	for _, config := range configs[0].Configs {
		if config.Key == "segment.bytes" {
			if err := same("segment.bytes", config.MaybeValue(), "1048576"); err != nil {
				return err
			}
		}
	}
	brokers, err := adm.ListBrokers(ctx)
	if err := errors.Join(err, same("nodes", len(brokers), 1)); err != nil {
		return err
	}
	if _, err := adm.DeleteTopic(ctx, topic); err != nil {
		return err
	}
	return until("the deleted topic is gone", func() (bool, error) {
		listed, err := adm.ListTopics(ctx)
		return !listed.Has(topic), err
	})
}

func (f franz) group(ctx context.Context, topic, name string) error {
	owned := map[int32]bool{}
	change := func(owns bool) func(context.Context, *kgo.Client, map[string][]int32) {
		return func(_ context.Context, _ *kgo.Client, parts map[string][]int32) {
			for _, p := range parts[topic] {
				if owns {
					owned[p] = true
				} else {
					delete(owned, p)
				}
			}
			sayOwns(owned)
		}
	}
	c, _, err := f.open(kgo.ConsumerGroup(name), kgo.ConsumeTopics(topic), kgo.DisableAutoCommit(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.SessionTimeout(6*time.Second), kgo.HeartbeatInterval(300*time.Millisecond),
		kgo.OnPartitionsAssigned(change(true)), kgo.OnPartitionsRevoked(change(false)), kgo.OnPartitionsLost(change(false)))
	if err != nil {
		return err
	}
	defer c.Close()
	for ctx.Err() == nil {
		short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		fetches := c.PollFetches(short)
		cancel()
		fetches.EachRecord(func(r *kgo.Record) { sayRead(r.Partition, r.Offset) })
		if fetches.NumRecords() > 0 {
			// When it fails the group has moved on.
			_ = c.CommitUncommittedOffsets(ctx)
		}
	}
	return nil
}
