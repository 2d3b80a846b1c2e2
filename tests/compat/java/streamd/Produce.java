package streamd;

import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.concurrent.Future;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/** Creates {@code prefix-codec} for every codec and writes the file's records there, idempotent as by default. */
final class Produce {
    private Produce() {}

    static void run(String boot, String file, String prefix, String[] codecs) throws Exception {
        for (String codec : codecs) {
            String topic = prefix + "-" + codec;
            create(boot, topic, 3);
            send(boot, Lines.read(file, topic), Map.of("compression.type", codec, "linger.ms", 20));
        }
    }

    static void create(String boot, String topic, int partitions) throws Exception {
        try (Admin admin = Admin.create(Map.<String, Object>of("bootstrap.servers", boot))) {
            admin.createTopics(List.of(new NewTopic(topic, Optional.of(partitions), Optional.empty()))).all().get();
        }
    }

    static KafkaProducer<byte[], byte[]> producer(String boot, Map<String, Object> more) {
        Map<String, Object> config = new java.util.HashMap<>(more);
        config.put("bootstrap.servers", boot);
        return new KafkaProducer<>(config, new ByteArraySerializer(), new ByteArraySerializer());
    }

    /** Sends all, waits for all, and checks that each record went where it was meant to. */
    static List<RecordMetadata> send(String boot, List<ProducerRecord<byte[], byte[]>> records, Map<String, Object> more)
            throws Exception {
        List<RecordMetadata> out = new ArrayList<>();
        try (KafkaProducer<byte[], byte[]> producer = producer(boot, more)) {
            List<Future<RecordMetadata>> pending = new ArrayList<>();
            for (ProducerRecord<byte[], byte[]> r : records) {
                pending.add(producer.send(r));
            }
            for (int i = 0; i < pending.size(); i++) {
                RecordMetadata m = pending.get(i).get();
                Lines.same(m.partition(), records.get(i).partition(), "partition of the acknowledgement");
                out.add(m);
            }
        }
        return out;
    }
}
