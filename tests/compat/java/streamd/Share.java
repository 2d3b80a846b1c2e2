package streamd;

import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.TreeMap;
import java.util.concurrent.atomic.AtomicBoolean;
import org.apache.kafka.clients.consumer.AcknowledgeType;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaShareConsumer;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicIdPartition;
import org.apache.kafka.common.serialization.StringDeserializer;

/** Members of share groups: a worker that runs until a line comes in. Arguments: topic, group. */
final class Share {
    private Share() {}

    static KafkaShareConsumer<String, String> consumer(String boot, String group, Map<String, Object> more) {
        Map<String, Object> config = new HashMap<>(Map.of(
                "bootstrap.servers", boot, "group.id", group, "share.acknowledgement.mode", "explicit",
                "key.deserializer", StringDeserializer.class, "value.deserializer", StringDeserializer.class));
        config.putAll(more);
        return new KafkaShareConsumer<>(config);
    }

    static void run(String boot, String[] args) throws Exception {
        if (args[0].equals("checks")) {
            ShareChecks.run(boot, args[1]);
            return;
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
        try (KafkaShareConsumer<String, String> consumer = consumer(boot, args[2], Map.of("max.poll.records", 5))) {
            consumer.subscribe(List.of(args[1]));
            while (!stop.get()) {
                work(consumer);
            }
        }
    }

    /** Accepts what a poll gives, and says which of it the broker has confirmed. */
    private static void work(KafkaShareConsumer<String, String> consumer) {
        ConsumerRecords<String, String> records = consumer.poll(Duration.ofMillis(200));
        Map<Integer, List<Long>> seen = new TreeMap<>();
        for (ConsumerRecord<String, String> r : records) {
            System.out.println("seen " + r.partition() + " " + r.offset());
            consumer.acknowledge(r, AcknowledgeType.ACCEPT);
            seen.computeIfAbsent(r.partition(), p -> new ArrayList<>()).add(r.offset());
        }
        if (seen.isEmpty()) {
            return;
        }
        try {
            Map<TopicIdPartition, Optional<KafkaException>> done = consumer.commitSync(Duration.ofSeconds(10));
            done.forEach((p, error) -> {
                if (error.isEmpty()) {
                    seen.get(p.partition()).forEach(o -> System.out.println("accepted " + p.partition() + " " + o));
                } else {
                    System.err.println("refused " + p + ": " + error.get());
                }
            });
        } catch (KafkaException e) {
            // Nobody knows: whoever gets them again works on them again.
            System.err.println("commit: " + e);
        }
    }
}
