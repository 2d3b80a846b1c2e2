package main

import (
	"bufio"
	"context"
	"errors"
	"time"

	"github.com/IBM/sarama"
)

// sarama, with the newest protocol that it knows.
type saramaClient struct{ boot string }

func (s saramaClient) config() *sarama.Config {
	c := sarama.NewConfig()
	c.Version = sarama.MaxVersion
	c.Producer.Return.Successes = true
	c.Producer.RequiredAcks = sarama.WaitForAll
	c.Producer.Partitioner = sarama.NewManualPartitioner
	return c
}

func bytesOrNil(b []byte) sarama.Encoder {
	if b == nil {
		return nil
	}
	return sarama.ByteEncoder(b)
}

func (s saramaClient) create(topic string, count int32) error {
	adm, err := sarama.NewClusterAdmin([]string{s.boot}, s.config())
	if err != nil {
		return err
	}
	defer adm.Close()
	return adm.CreateTopic(topic, &sarama.TopicDetail{NumPartitions: count, ReplicationFactor: 1}, false)
}

func (s saramaClient) produce(_ context.Context, records []record, topic, codec string, variant int) error {
	if err := s.create(topic, partitions); err != nil {
		return err
	}
	c := s.config()
	c.Producer.Compression = sarama.CompressionCodec(codecNumber(codec))
	if variant%2 == 0 {
		c.Producer.Idempotent = true
		c.Net.MaxOpenRequests = 1
	}
	producer, err := sarama.NewSyncProducer([]string{s.boot}, c)
	if err != nil {
		return err
	}
	messages := make([]*sarama.ProducerMessage, len(records))
	for i, r := range records {
		m := &sarama.ProducerMessage{
			Topic: topic, Partition: r.partition, Timestamp: r.timestamp, Key: bytesOrNil(r.key), Value: bytesOrNil(r.value),
		}
		for _, h := range r.headers {
			m.Headers = append(m.Headers, sarama.RecordHeader{Key: []byte(h.name), Value: h.value})
		}
		messages[i] = m
	}
	return errors.Join(producer.SendMessages(messages), producer.Close())
}

func (s saramaClient) dump(ctx context.Context, out *bufio.Writer, topic string) error {
	client, err := sarama.NewClient([]string{s.boot}, s.config())
	if err != nil {
		return err
	}
	defer client.Close()
	consumer, err := sarama.NewConsumerFromClient(client)
	if err != nil {
		return err
	}
	defer consumer.Close()
	all, err := client.Partitions(topic)
	if err != nil {
		return err
	}
	for _, partition := range all {
		if err := s.dumpPartition(ctx, out, client, consumer, topic, partition); err != nil {
			return err
		}
	}
	return nil
}

func (s saramaClient) dumpPartition(ctx context.Context, out *bufio.Writer, client sarama.Client,
	consumer sarama.Consumer, topic string, partition int32) error {
	next, err := client.GetOffset(topic, partition, sarama.OffsetOldest)
	if err != nil {
		return err
	}
	end, err := client.GetOffset(topic, partition, sarama.OffsetNewest)
	if err != nil || next == end {
		return err
	}
	pc, err := consumer.ConsumePartition(topic, partition, next)
	if err != nil {
		return err
	}
	defer pc.Close()
	for next < end {
		select {
		case m := <-pc.Messages():
			r := record{partition: m.Partition, timestamp: m.Timestamp, key: m.Key, value: m.Value}
			for _, h := range m.Headers {
				r.headers = append(r.headers, header{string(h.Key), h.Value})
			}
			writeRecord(out, topic, m.Offset, r)
			next = m.Offset + 1
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (s saramaClient) admin(_ context.Context, topic string) error {
	if err := s.create(topic, 2); err != nil {
		return err
	}
	if err := s.create(topic, 2); !errors.Is(err, sarama.ErrTopicAlreadyExists) {
		return errors.Join(errors.New("the same topic again should fail"), err)
	}
	adm, err := sarama.NewClusterAdmin([]string{s.boot}, s.config())
	if err != nil {
		return err
	}
	defer adm.Close()
	if err := adm.CreatePartitions(topic, 4, nil, false); err != nil {
		return err
	}
	err = until("4 partitions", func() (bool, error) {
		described, err := adm.DescribeTopics([]string{topic})
		return err == nil && len(described[0].Partitions) == 4, err
	})
	if err != nil {
		return err
	}
	value := "54321"
	entries := map[string]sarama.IncrementalAlterConfigsEntry{
		"max.message.bytes": {Operation: sarama.IncrementalAlterConfigsOperationSet, Value: &value},
	}
	if err := adm.IncrementalAlterConfig(sarama.TopicResource, topic, entries, false); err != nil {
		return err
	}
	err = until("max.message.bytes is set", func() (bool, error) {
		resource := sarama.ConfigResource{Type: sarama.TopicResource, Name: topic, ConfigNames: []string{"max.message.bytes"}}
		got, err := adm.DescribeConfig(resource)
		return err == nil && len(got) == 1 && got[0].Value == value, err
	})
	if err != nil {
		return err
	}
	if err := adm.DeleteTopic(topic); err != nil {
		return err
	}
	return until("the deleted topic is gone", func() (bool, error) {
		listed, err := adm.ListTopics()
		_, there := listed[topic]
		return !there, err
	})
}

type saramaMember struct{ topic string }

func (m saramaMember) Setup(session sarama.ConsumerGroupSession) error {
	owned := map[int32]bool{}
	for _, p := range session.Claims()[m.topic] {
		owned[p] = true
	}
	sayOwns(owned)
	return nil
}

func (m saramaMember) Cleanup(sarama.ConsumerGroupSession) error {
	sayOwns(nil)
	return nil
}

func (m saramaMember) ConsumeClaim(session sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for message := range claim.Messages() {
		sayRead(message.Partition, message.Offset)
		session.MarkMessage(message, "")
		session.Commit()
	}
	return nil
}

func (s saramaClient) group(ctx context.Context, topic, name string) error {
	c := s.config()
	c.Consumer.Offsets.Initial = sarama.OffsetOldest
	c.Consumer.Offsets.AutoCommit.Enable = false
	c.Consumer.Group.Session.Timeout = 6 * time.Second
	c.Consumer.Group.Heartbeat.Interval = 300 * time.Millisecond
	// A commit waits behind a fetch on the same connection.
	c.Consumer.MaxWaitTime = 20 * time.Millisecond
	// A broker that comes back is looked for often.
	c.Metadata.Retry.Backoff = 50 * time.Millisecond
	c.Consumer.Retry.Backoff = 50 * time.Millisecond
	c.Consumer.Group.Rebalance.Retry.Backoff = 50 * time.Millisecond
	group, err := sarama.NewConsumerGroup([]string{s.boot}, name, c)
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		// It ends with each rebalance, and when the broker is away.
		if err := group.Consume(ctx, []string{topic}, saramaMember{topic}); err != nil {
			time.Sleep(50 * time.Millisecond)
		}
	}
	return group.Close()
}
