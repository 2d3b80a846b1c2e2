package streamd;

import java.io.PrintStream;
import java.security.MessageDigest;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.function.Consumer;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.PartitionInfo;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.utils.Utils;

/** Reads whole topics by assign, from the beginning to the end offsets seen at the start. */
final class Dump {
    private static final long PATIENCE_MS = 60_000;

    private Dump() {}

    static KafkaConsumer<byte[], byte[]> consumer(String boot) {
        return new KafkaConsumer<>(Map.of("bootstrap.servers", boot, "enable.auto.commit", "false",
                "auto.offset.reset", "none", "check.crcs", "true"),
                new ByteArrayDeserializer(), new ByteArrayDeserializer());
    }

    static void run(String boot, String[] topics) throws Exception {
        try (PrintStream out = new PrintStream(new java.io.BufferedOutputStream(System.out, 1 << 16), false, "UTF-8")) {
            each(boot, topics, r -> out.println(Lines.line(r)));
        }
    }

    /** {@code partition offset seq murmur2-partition key sha256(value)} of every record; seq is a header. */
    static void flights(String boot, String topic) throws Exception {
        MessageDigest sha = MessageDigest.getInstance("SHA-256");
        int partitions;
        try (KafkaConsumer<byte[], byte[]> c = consumer(boot)) {
            partitions = c.partitionsFor(topic).size();
        }
        try (PrintStream out = new PrintStream(new java.io.BufferedOutputStream(System.out, 1 << 16), false, "UTF-8")) {
            each(boot, new String[] {topic}, r -> {
                String seq = new String(r.headers().lastHeader("seq").value());
                int choice = r.key() == null ? -1 : Utils.toPositive(Utils.murmur2(r.key())) % partitions;
                out.println(r.partition() + "\t" + r.offset() + "\t" + seq + "\t" + choice + "\t"
                        + Lines.text(r.key()) + "\t" + Lines.text(sha.digest(r.value())));
            });
        }
    }

    private static void each(String boot, String[] topics, Consumer<ConsumerRecord<byte[], byte[]>> sink) {
        try (KafkaConsumer<byte[], byte[]> consumer = consumer(boot)) {
            List<TopicPartition> all = new ArrayList<>();
            for (String topic : topics) {
                for (PartitionInfo p : consumer.partitionsFor(topic)) {
                    all.add(new TopicPartition(topic, p.partition()));
                }
            }
            consumer.assign(all);
            consumer.seekToBeginning(all);
            Map<TopicPartition, Long> ends = consumer.endOffsets(all);
            long deadline = System.currentTimeMillis() + PATIENCE_MS;
            while (!all.stream().allMatch(p -> consumer.position(p) >= ends.get(p))) {
                Lines.check(System.currentTimeMillis() < deadline, "reading stands still before the end offsets " + ends);
                consumer.poll(Duration.ofMillis(200)).forEach(sink);
            }
        }
    }
}
