package streamd;

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.TreeMap;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.Config;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.serialization.Deserializer;
import org.apache.kafka.common.serialization.LongDeserializer;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;

/**
 * The word count that every book on Kafka Streams begins with, exactly once, and what a test of it needs: {@code feed}
 * writes lines, {@code count} counts their words until it is killed, {@code topics} lists what it made, {@code
 * numbers} and {@code texts} print a topic that has such values.
 */
final class WordCount {
    private WordCount() {}

    public static void main(String[] args) throws Exception {
        switch (args[0]) {
            case "feed" -> feed(args[1], args[2]);
            case "count" -> count(args[1], args[2]);
            case "topics" -> topics(args[1]);
            case "numbers" -> read(args[1], args[2], new LongDeserializer());
            case "texts" -> read(args[1], args[2], new StringDeserializer());
            default -> throw new IllegalArgumentException("unknown command " + args[0]);
        }
    }

    /** Writes the lines of its input, each to be acknowledged: an idempotent producer does not write one twice. */
    private static void feed(String boot, String topic) throws Exception {
        Map<String, Object> config = Map.of("bootstrap.servers", boot, "delivery.timeout.ms", 60_000,
                "request.timeout.ms", 5_000);
        Future<RecordMetadata> last = null;
        try (var p = new KafkaProducer<>(config, new StringSerializer(), new StringSerializer());
                var in = new BufferedReader(new InputStreamReader(System.in))) {
            for (String line = in.readLine(); line != null; line = in.readLine()) {
                if (last != null && last.isDone()) {
                    last.get();
                }
                last = p.send(new ProducerRecord<>(topic, line), (done, e) -> {
                    if (e != null) {
                        e.printStackTrace();
                        Runtime.getRuntime().halt(1);
                    }
                });
            }
        }
    }

    private static void count(String boot, String state) throws Exception {
        AtomicLong counted = new AtomicLong();
        StreamsBuilder builder = new StreamsBuilder();
        builder.stream("lines", Consumed.with(Serdes.String(), Serdes.String()))
                .flatMapValues(line -> Arrays.asList(line.split(" ")))
                .groupBy((key, word) -> word, Grouped.with("by-word", Serdes.String(), Serdes.String()))
                .count(Materialized.as("counts"))
                .toStream().peek((word, n) -> {
                    if (counted.incrementAndGet() % 50 == 0) {
                        System.out.println("counted " + counted);
                    }
                }).to("counts", Produced.with(Serdes.String(), Serdes.Long()));
        Properties config = new Properties();
        config.putAll(Map.of(StreamsConfig.APPLICATION_ID_CONFIG, "wc", StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, boot,
                StreamsConfig.STATE_DIR_CONFIG, state,
                StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2,
                StreamsConfig.NUM_STREAM_THREADS_CONFIG, 2,
                // Every count is written, not just the last one of an interval: the check is sharper.
                StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, 0,
                StreamsConfig.REPARTITION_PURGE_INTERVAL_MS_CONFIG, 1_000));
        // A killed instance is missed after six seconds, and what it left open is aborted as soon.
        config.put(StreamsConfig.consumerPrefix(ConsumerConfig.SESSION_TIMEOUT_MS_CONFIG), 6_000);
        config.put(StreamsConfig.consumerPrefix(ConsumerConfig.HEARTBEAT_INTERVAL_MS_CONFIG), 1_000);
        config.put(StreamsConfig.producerPrefix("transaction.timeout.ms"), 6_000);
        config.put(StreamsConfig.producerPrefix("delivery.timeout.ms"), 10_000);
        config.put(StreamsConfig.producerPrefix("request.timeout.ms"), 5_000);
        // So that the changelog is compacted while this runs.
        config.put(StreamsConfig.topicPrefix("segment.ms"), "1000");
        config.put(StreamsConfig.topicPrefix("min.cleanable.dirty.ratio"), "0.01");
        KafkaStreams streams = new KafkaStreams(builder.build(), config);
        streams.setUncaughtExceptionHandler(e -> {
            System.err.println("a stream thread ended: " + e);
            return org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse.REPLACE_THREAD;
        });
        streams.setStateListener((now, before) -> System.out.println(now));
        streams.start();
        while (System.in.read() >= 0) {
            // until the test ends it
        }
        streams.close();
    }

    /** Each topic with its policy, its retention, and the sum of the starts and of the ends of its partitions. */
    private static void topics(String boot) throws Exception {
        try (Admin admin = Admin.create(Map.<String, Object>of("bootstrap.servers", boot))) {
            var described = admin.describeTopics(admin.listTopics().names().get()).allTopicNames().get();
            for (String name : new TreeMap<>(described).keySet()) {
                var resource = new ConfigResource(ConfigResource.Type.TOPIC, name);
                Config config = admin.describeConfigs(List.of(resource)).all().get().get(resource);
                Map<TopicPartition, OffsetSpec> starts = new HashMap<>();
                Map<TopicPartition, OffsetSpec> ends = new HashMap<>();
                for (var p : described.get(name).partitions()) {
                    starts.put(new TopicPartition(name, p.partition()), OffsetSpec.earliest());
                    ends.put(new TopicPartition(name, p.partition()), OffsetSpec.latest());
                }
                System.out.println(String.join("\t", name, config.get("cleanup.policy").value(),
                        config.get("retention.ms").value(), sum(admin, starts), sum(admin, ends)));
            }
        }
    }

    private static String sum(Admin admin, Map<TopicPartition, OffsetSpec> wanted) throws Exception {
        return Long.toString(admin.listOffsets(wanted).all().get().values().stream().mapToLong(o -> o.offset()).sum());
    }

    /** Partition, key and value of each record that is committed. */
    private static <V> void read(String boot, String topic, Deserializer<V> values) throws Exception {
        Map<String, Object> config = Map.of("bootstrap.servers", boot, "isolation.level", "read_committed",
                "auto.offset.reset", "none", "enable.auto.commit", false);
        StringBuilder out = new StringBuilder();
        try (var c = new KafkaConsumer<>(config, new StringDeserializer(), values)) {
            List<TopicPartition> all = c.partitionsFor(topic).stream()
                    .map(p -> new TopicPartition(topic, p.partition())).toList();
            c.assign(all);
            c.seekToBeginning(all);
            Map<TopicPartition, Long> ends = c.endOffsets(all);
            long deadline = System.currentTimeMillis() + 30_000;
            while (all.stream().anyMatch(p -> c.position(p) < ends.get(p))) {
                Lines.check(System.currentTimeMillis() < deadline, "the reader of " + topic + " is stuck");
                for (ConsumerRecord<String, V> r : c.poll(java.time.Duration.ofMillis(100))) {
                    out.append(r.partition()).append('\t').append(r.key()).append('\t').append(r.value()).append('\n');
                }
            }
        }
        System.out.print(out);
    }
}
