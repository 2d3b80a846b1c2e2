package streamd;

import java.time.Duration;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeSet;
import java.util.concurrent.atomic.AtomicBoolean;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.SubscriptionPattern;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/**
 * A member of a group: says what it owns and what it reads, commits as it goes, until a line comes in.
 * Arguments: topic (or {@code ^} and a regular expression), group, instance (or {@code -}), protocol.
 */
final class Group implements ConsumerRebalanceListener {
    private final TreeSet<Integer> owned = new TreeSet<>();

    private Group() {}

    static void run(String boot, String[] args) throws Exception {
        String protocol = args.length > 3 ? args[3] : "classic";
        Map<String, Object> config = new HashMap<>(Map.of(
                "bootstrap.servers", boot, "group.id", args[1], "group.protocol", protocol,
                "auto.offset.reset", "earliest", "enable.auto.commit", false,
                "metadata.max.age.ms", 1000,
                "key.deserializer", ByteArrayDeserializer.class, "value.deserializer", ByteArrayDeserializer.class));
        boolean fixed = args.length > 2 && !args[2].equals("-");
        if (fixed) {
            config.put("group.instance.id", args[2]);
        }
        if (protocol.equals("classic")) {
            // Who has a name comes back within its session, however long its process takes to start.
            config.putAll(Map.of("session.timeout.ms", fixed ? 30_000 : 6000, "heartbeat.interval.ms", 300));
        }
        AtomicBoolean stop = new AtomicBoolean();
        Thread input = new Thread(() -> {
            try {
                System.in.read();
            } catch (java.io.IOException e) {
                // As if a line had come.
            }
            stop.set(true);
        });
        input.setDaemon(true);
        input.start();
        try (KafkaConsumer<byte[], byte[]> consumer = new KafkaConsumer<>(config)) {
            if (args[0].startsWith("^")) {
                consumer.subscribe(new SubscriptionPattern(args[0].substring(1)), new Group());
            } else {
                consumer.subscribe(List.of(args[0]), new Group());
            }
            while (!stop.get()) {
                poll(consumer);
            }
        }
    }

    private static void poll(KafkaConsumer<byte[], byte[]> consumer) {
        ConsumerRecords<byte[], byte[]> records = consumer.poll(Duration.ofMillis(100));
        for (ConsumerRecord<byte[], byte[]> r : records) {
            System.out.println("read " + r.partition() + " " + r.offset());
        }
        try {
            if (!records.isEmpty()) {
                consumer.commitSync(Duration.ofSeconds(5));
            }
        } catch (KafkaException e) {
            // The group has moved on: whoever has the partition now reads the records again.
            System.err.println("commit: " + e);
        }
    }

    private void say() {
        StringBuilder line = new StringBuilder("owns");
        owned.forEach(p -> line.append(' ').append(p));
        System.out.println(line);
    }

    @Override
    public void onPartitionsAssigned(Collection<TopicPartition> parts) {
        parts.forEach(p -> owned.add(p.partition()));
        say();
    }

    @Override
    public void onPartitionsRevoked(Collection<TopicPartition> parts) {
        parts.forEach(p -> owned.remove(p.partition()));
        say();
    }
}
