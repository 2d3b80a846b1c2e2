package streamd;

import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.Metric;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/**
 * Reads partition 0 of a topic from its beginning as a client of a rack, and says from which broker
 * whenever that changes. Arguments: topic, rack, offset before which it ends.
 */
final class Nearest {
    private Nearest() {}

    static void run(String boot, String[] args) throws Exception {
        Map<String, Object> config = new HashMap<>(Map.of(
                "bootstrap.servers", boot, "client.rack", args[1], "enable.auto.commit", false,
                "auto.offset.reset", "none", "metadata.max.age.ms", 2000, "max.poll.records", 50,
                "max.partition.fetch.bytes", 20000,
                "key.deserializer", ByteArrayDeserializer.class, "value.deserializer", ByteArrayDeserializer.class));
        long end = Long.parseLong(args[2]);
        TopicPartition partition = new TopicPartition(args[0], 0);
        try (KafkaConsumer<byte[], byte[]> consumer = new KafkaConsumer<>(config)) {
            consumer.assign(List.of(partition));
            consumer.seek(partition, 0);
            long next = 0;
            long from = -2;
            while (next < end) {
                for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofMillis(200))) {
                    if (record.offset() != next) {
                        throw new IllegalStateException(record.offset() + " instead of " + next);
                    }
                    next++;
                }
                long now = preferred(consumer);
                if (now != from) {
                    from = now;
                    System.out.println("from " + from + " at " + next);
                }
            }
            System.out.println("read all " + next);
        }
    }

    private static long preferred(KafkaConsumer<byte[], byte[]> consumer) {
        for (Metric metric : consumer.metrics().values()) {
            if (metric.metricName().name().equals("preferred-read-replica")) {
                return ((Number) metric.metricValue()).longValue();
            }
        }
        return -1;
    }
}
