package streamd;

import static streamd.Lines.check;
import static streamd.Lines.same;

import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.concurrent.ExecutionException;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.NoOffsetForPartitionException;
import org.apache.kafka.clients.consumer.OffsetAndTimestamp;
import org.apache.kafka.clients.consumer.OffsetOutOfRangeException;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.RecordTooLargeException;

/** What the producer and the consumer do besides plain write and read. */
final class ClientChecks {
    private static final long T0 = System.currentTimeMillis() - 3_600_000; // retention spares it

    private ClientChecks() {}

    static void run(String boot, String prefix) throws Exception {
        acks(boot, prefix + "-acks");
        positions(boot, prefix + "-positions");
        largeBatches(boot, prefix + "-large");
        tooLarge(boot, prefix + "-toolarge");
        waitingFetch(boot, prefix + "-waiting");
    }

    private static ProducerRecord<byte[], byte[]> record(String topic, int partition, int i, int size) {
        return new ProducerRecord<>(topic, partition, T0 + i * 1000L, ("k" + i).getBytes(), new byte[size]);
    }

    private static List<ProducerRecord<byte[], byte[]>> records(String topic, int partition, int count, int size) {
        List<ProducerRecord<byte[], byte[]>> out = new ArrayList<>();
        for (int i = 0; i < count; i++) {
            out.add(record(topic, partition, i, size));
        }
        return out;
    }

    private static void acks(String boot, String topic) throws Exception {
        Produce.create(boot, topic, 3);
        String[] levels = {"0", "1", "all"};
        for (int p = 0; p < 3; p++) {
            List<RecordMetadata> acks = Produce.send(boot, records(topic, p, 50, 20),
                    Map.of("acks", levels[p], "enable.idempotence", levels[p].equals("all")));
            same(acks.get(49).hasOffset(), p > 0, "acks=" + levels[p] + " gives an offset");
            if (p > 0) {
                same(acks.get(49).offset(), 49L, "offset of the last record with acks=" + levels[p]);
            }
        }
        try (KafkaConsumer<byte[], byte[]> c = Dump.consumer(boot)) {
            List<TopicPartition> all = List.of(tp(topic, 0), tp(topic, 1), tp(topic, 2));
            long deadline = System.currentTimeMillis() + 10_000; // acks=0 may land a little later
            while (c.endOffsets(List.of(tp(topic, 0))).get(tp(topic, 0)) < 50 && System.currentTimeMillis() < deadline) {
                Thread.sleep(20);
            }
            same(c.endOffsets(all), Map.of(all.get(0), 50L, all.get(1), 50L, all.get(2), 50L), "end offsets");
            same(c.beginningOffsets(all), Map.of(all.get(0), 0L, all.get(1), 0L, all.get(2), 0L), "beginning offsets");
        }
    }

    private static TopicPartition tp(String topic, int partition) {
        return new TopicPartition(topic, partition);
    }

    private static ConsumerRecord<byte[], byte[]> next(KafkaConsumer<byte[], byte[]> c) {
        for (int i = 0; i < 100; i++) {
            var records = c.poll(Duration.ofMillis(100));
            if (!records.isEmpty()) {
                return records.iterator().next();
            }
        }
        throw new AssertionError("no record within 10 s");
    }

    private static void positions(String boot, String topic) throws Exception {
        Produce.create(boot, topic, 1);
        Produce.send(boot, records(topic, 0, 100, 20), Map.of("batch.size", 400, "linger.ms", 0));
        TopicPartition p = tp(topic, 0);
        try (KafkaConsumer<byte[], byte[]> c = Dump.consumer(boot)) {
            c.assign(List.of(p));
            for (long at : new long[] {0, 37, 99, 12}) {
                c.seek(p, at);
                same(next(c).offset(), at, "first record after seek");
            }
            c.seekToEnd(List.of(p));
            same(c.position(p), 100L, "position after seekToEnd");
            c.seekToBeginning(List.of(p));
            same(next(c).offset(), 0L, "first record after seekToBeginning");
            same(offsetAt(c, p, T0), Optional.of(0L), "offsetsForTimes of the first record");
            same(offsetAt(c, p, T0 - 5), Optional.of(0L), "offsetsForTimes before the first record");
            same(offsetAt(c, p, T0 + 41_500), Optional.of(42L), "offsetsForTimes between two records");
            same(offsetAt(c, p, T0 + 99_000), Optional.of(99L), "offsetsForTimes of the last record");
            same(offsetAt(c, p, T0 + 99_001), Optional.empty(), "offsetsForTimes after the last record");
            outOfRange(c, p);
        }
    }

    private static void outOfRange(KafkaConsumer<byte[], byte[]> c, TopicPartition p) {
        c.seek(p, 5000);
        try {
            for (int i = 0; i < 50; i++) {
                c.poll(Duration.ofMillis(100));
            }
            throw new AssertionError("offset 5000 of 100 was accepted");
        } catch (OffsetOutOfRangeException | NoOffsetForPartitionException expected) {
            c.seek(p, 0);
        }
    }

    private static Optional<Long> offsetAt(KafkaConsumer<byte[], byte[]> c, TopicPartition p, long time) {
        return Optional.ofNullable(c.offsetsForTimes(Map.of(p, time)).get(p)).map(OffsetAndTimestamp::offset);
    }

    /** Batches near the limit, more of them than one fetch response holds. */
    private static void largeBatches(String boot, String topic) throws Exception {
        Produce.create(boot, topic, 1);
        Produce.send(boot, records(topic, 0, 12, 900_000), Map.of("batch.size", 1_000_000, "linger.ms", 5));
        try (KafkaConsumer<byte[], byte[]> c = Dump.consumer(boot)) {
            c.assign(List.of(tp(topic, 0)));
            c.seek(tp(topic, 0), 0);
            for (long want = 0; want < 12; ) {
                for (ConsumerRecord<byte[], byte[]> r : c.poll(Duration.ofSeconds(10))) {
                    same(r.offset(), want++, "offset of a large record");
                    same(r.value().length, 900_000, "size of a large record");
                }
            }
        }
    }

    private static void tooLarge(String boot, String topic) throws Exception {
        Produce.create(boot, topic, 1);
        try (KafkaProducer<byte[], byte[]> p = Produce.producer(boot, Map.of("max.request.size", 8_000_000))) {
            try {
                p.send(record(topic, 0, 0, 2_000_000)).get();
                throw new AssertionError("a record above max.message.bytes was accepted");
            } catch (ExecutionException e) {
                check(e.getCause() instanceof RecordTooLargeException, "too large a record gives " + e.getCause());
            }
            same(p.send(record(topic, 0, 1, 10)).get().offset(), 0L, "offset of the record after the refused one");
        }
    }

    /** A fetch that waits at the end of the log is woken by the next record. */
    private static void waitingFetch(String boot, String topic) throws Exception {
        Produce.create(boot, topic, 1);
        try (KafkaConsumer<byte[], byte[]> c = Dump.consumer(boot);
                KafkaProducer<byte[], byte[]> p = Produce.producer(boot, Map.of("linger.ms", 0))) {
            c.assign(List.of(tp(topic, 0)));
            c.seek(tp(topic, 0), 0);
            c.poll(Duration.ofMillis(100));
            for (int i = 0; i < 20; i++) {
                p.send(record(topic, 0, i, 10)).get();
                same(next(c).offset(), (long) i, "record seen at the tail");
            }
        }
    }
}
