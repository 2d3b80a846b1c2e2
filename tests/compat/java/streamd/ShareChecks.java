package streamd;

import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.GroupListing;
import org.apache.kafka.clients.admin.ListGroupsOptions;
import org.apache.kafka.clients.admin.ListShareGroupOffsetsSpec;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.ShareGroupDescription;
import org.apache.kafka.clients.admin.SharePartitionOffsetInfo;
import org.apache.kafka.clients.consumer.AcknowledgeType;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.KafkaShareConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.GroupType;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/** Share groups, a check at a time, with topics and groups whose names begin with a stem. */
final class ShareChecks {
    private static final Duration TICK = Duration.ofMillis(300);
    private final String boot;
    private final Admin admin;

    private ShareChecks(String boot) {
        this.boot = boot;
        this.admin = Admin.create(Map.of("bootstrap.servers", boot));
    }

    static void run(String boot, String stem) throws Exception {
        ShareChecks checks = new ShareChecks(boot);
        checks.sharing(stem + "-share");
        checks.types(stem + "-types");
        checks.dead(stem + "-dead");
        checks.renewal(stem + "-renew");
        checks.committed(stem + "-txn");
        checks.operators(stem + "-ops");
        checks.admin.close();
    }

    private static void check(boolean good, String what) {
        if (!good) {
            throw new AssertionError(what);
        }
    }

    /** A topic of that name, and a group with these settings. */
    private void prepare(String name, int partitions, Map<String, String> settings) throws Exception {
        admin.createTopics(List.of(new NewTopic(name, partitions, (short) 1))).all().get();
        Map<String, String> all = new HashMap<>(settings);
        all.put("share.auto.offset.reset", "earliest");
        List<AlterConfigOp> ops = new ArrayList<>();
        all.forEach((k, v) -> ops.add(new AlterConfigOp(new ConfigEntry(k, v), AlterConfigOp.OpType.SET)));
        ConfigResource group = new ConfigResource(ConfigResource.Type.GROUP, name);
        admin.incrementalAlterConfigs(Map.of(group, ops)).all().get();
    }

    private void produce(String topic, int count) throws Exception {
        try (KafkaProducer<String, String> producer = new KafkaProducer<>(
                Map.of("bootstrap.servers", boot), new StringSerializer(), new StringSerializer())) {
            for (int i = 0; i < count; i++) {
                producer.send(new ProducerRecord<>(topic, 0, "k" + i, "v" + i)).get();
            }
        }
    }

    /** Polls until something came, or nothing did for a while. */
    private static List<ConsumerRecord<String, String>> poll(KafkaShareConsumer<String, String> consumer, int ticks) {
        List<ConsumerRecord<String, String>> all = new ArrayList<>();
        for (int i = 0; i < ticks && all.isEmpty(); i++) {
            consumer.poll(TICK).forEach(all::add);
        }
        return all;
    }

    private static void commit(KafkaShareConsumer<String, String> consumer) {
        consumer.commitSync(Duration.ofSeconds(10)).forEach((p, e) -> check(e.isEmpty(), p + ": " + e));
    }

    /** Two workers on one partition: each record to one of them. */
    private void sharing(String name) throws Exception {
        prepare(name, 1, Map.of());
        produce(name, 200);
        Map<Integer, Set<Long>> got = new TreeMap<>();
        Map<String, Object> few = Map.of("max.poll.records", 10, "share.acquire.mode", "record_limit");
        try (KafkaShareConsumer<String, String> a = Share.consumer(boot, name, few);
                KafkaShareConsumer<String, String> b = Share.consumer(boot, name, few)) {
            a.subscribe(List.of(name));
            b.subscribe(List.of(name));
            Set<Long> all = new TreeSet<>();
            for (int i = 0; i < 100 && all.size() < 200; i++) {
                int n = 0;
                for (KafkaShareConsumer<String, String> c : List.of(a, b)) {
                    for (ConsumerRecord<String, String> r : c.poll(TICK)) {
                        check(all.add(r.offset()), "offset " + r.offset() + " was given twice");
                        check(r.deliveryCount().orElseThrow() == 1, "delivered before");
                        got.computeIfAbsent(n, x -> new TreeSet<>()).add(r.offset());
                        c.acknowledge(r, AcknowledgeType.ACCEPT);
                    }
                    commit(c);
                    n++;
                }
            }
            check(all.size() == 200, "only " + all.size());
        }
        check(got.size() == 2, "one of them got everything");
    }

    /** Accept, release, reject; the limit of deliveries. */
    private void types(String name) throws Exception {
        prepare(name, 1, Map.of("share.delivery.count.limit", "3"));
        produce(name, 3);
        try (KafkaShareConsumer<String, String> c = Share.consumer(boot, name, Map.of())) {
            c.subscribe(List.of(name));
            List<Long> released = new ArrayList<>();
            int records = 0;
            for (int i = 0; i < 60 && (records < 5 || i < 5); i++) {
                for (ConsumerRecord<String, String> r : c.poll(TICK)) {
                    records++;
                    if (r.offset() == 0) {
                        c.acknowledge(r, AcknowledgeType.ACCEPT);
                    } else if (r.offset() == 1) {
                        released.add((long) r.deliveryCount().orElseThrow());
                        c.acknowledge(r, AcknowledgeType.RELEASE);
                    } else {
                        c.acknowledge(r, AcknowledgeType.REJECT);
                    }
                }
                commit(c);
            }
            check(released.equals(List.of(1L, 2L, 3L)), "released: " + released);
            check(records == 5, records + " deliveries");
            check(poll(c, 4).isEmpty(), "something came back");
        }
        // Nothing of it comes back to anybody later.
        try (KafkaShareConsumer<String, String> c = Share.consumer(boot, name, Map.of())) {
            c.subscribe(List.of(name));
            check(poll(c, 6).isEmpty(), "something came back to another");
        }
    }

    /** A rejected record and one that was delivered too often go to the dead-letter topic. */
    private void dead(String name) throws Exception {
        String topic = name + "-letters";
        prepare(name, 1, Map.of(
                "share.delivery.count.limit", "2",
                "share.redelivery.delay.ms", "500",
                "errors.deadletterqueue.topic.name", topic,
                "errors.deadletterqueue.copy.record.enable", "true"));
        produce(name, 3);
        long rested = 0;
        try (KafkaShareConsumer<String, String> c = Share.consumer(boot, name, Map.of())) {
            c.subscribe(List.of(name));
            long released = 0;
            int records = 0;
            for (int i = 0; i < 60 && records < 4; i++) {
                for (ConsumerRecord<String, String> r : c.poll(TICK)) {
                    records++;
                    if (r.offset() == 0) {
                        if (r.deliveryCount().orElseThrow() == 2) {
                            rested = System.nanoTime() - released;
                        }
                        released = System.nanoTime();
                        c.acknowledge(r, AcknowledgeType.RELEASE);
                    } else {
                        c.acknowledge(r, r.offset() == 1 ? AcknowledgeType.REJECT : AcknowledgeType.ACCEPT);
                    }
                }
                commit(c);
            }
            check(records == 4, records + " deliveries");
        }
        check(rested >= 450_000_000L, "it rested " + rested / 1_000_000 + " ms");
        Map<String, String> letters = new TreeMap<>();
        try (KafkaConsumer<String, String> c = new KafkaConsumer<>(
                Map.of("bootstrap.servers", boot), new StringDeserializer(), new StringDeserializer())) {
            TopicPartition p = new TopicPartition(topic, 0);
            c.assign(List.of(p));
            c.seekToBeginning(List.of(p));
            for (int i = 0; i < 60 && letters.size() < 2; i++) {
                for (ConsumerRecord<String, String> r : c.poll(TICK)) {
                    Map<String, String> h = new HashMap<>();
                    for (Header header : r.headers()) {
                        h.put(header.key(), new String(header.value(), StandardCharsets.UTF_8));
                    }
                    check(h.get("__dlq.errors.topic").equals(name), "topic: " + h);
                    check(h.get("__dlq.errors.group").equals(name), "group: " + h);
                    check(h.get("__dlq.errors.partition").equals("0"), "partition: " + h);
                    check(r.value().equals("v" + h.get("__dlq.errors.offset")), "value: " + r.value() + h);
                    letters.put(r.key(), h.get("__dlq.errors.delivery.count"));
                }
            }
        }
        check(letters.equals(Map.of("k0", "2", "k1", "1")), "letters: " + letters);
    }

    /** A lock that is renewed lasts; one that is not ends. */
    private void renewal(String name) throws Exception {
        prepare(name, 1, Map.of("share.record.lock.duration.ms", "2000"));
        produce(name, 2);
        try (KafkaShareConsumer<String, String> a = Share.consumer(boot, name, Map.of());
                KafkaShareConsumer<String, String> b = Share.consumer(boot, name, Map.of())) {
            a.subscribe(List.of(name));
            b.subscribe(List.of(name));
            List<ConsumerRecord<String, String>> held = poll(a, 40);
            check(held.size() == 2, "got " + held.size());
            ConsumerRecord<String, String> one = held.get(0);
            a.acknowledge(held.get(1), AcknowledgeType.RELEASE);
            commit(a);
            Set<Long> others = new TreeSet<>();
            for (int i = 0; i < 14; i++) {
                // A record that is renewed is there again with the next poll.
                a.acknowledge(one, AcknowledgeType.RENEW);
                commit(a);
                for (ConsumerRecord<String, String> r : a.poll(Duration.ofMillis(10))) {
                    check(r.offset() == one.offset(), "another one: " + r.offset());
                    one = r;
                }
                for (ConsumerRecord<String, String> r : b.poll(TICK)) {
                    others.add(r.offset());
                    b.acknowledge(r, AcknowledgeType.ACCEPT);
                }
                commit(b);
            }
            check(others.equals(Set.of(1L)), "the other got " + others);
            a.acknowledge(one, AcknowledgeType.ACCEPT);
            commit(a);
        }
    }

    /** With read_committed nothing that was aborted is delivered. */
    private void committed(String name) throws Exception {
        prepare(name, 1, Map.of("share.isolation.level", "read_committed"));
        Map<String, Object> config = Map.of("bootstrap.servers", boot, "transactional.id", name);
        try (KafkaProducer<String, String> p = new KafkaProducer<>(config, new StringSerializer(), new StringSerializer())) {
            p.initTransactions();
            for (String value : List.of("yes1", "no1", "yes2", "no2")) {
                p.beginTransaction();
                p.send(new ProducerRecord<>(name, 0, value, value)).get();
                if (value.startsWith("yes")) {
                    p.commitTransaction();
                } else {
                    p.abortTransaction();
                }
            }
        }
        List<String> values = new ArrayList<>();
        try (KafkaShareConsumer<String, String> c = Share.consumer(boot, name, Map.of())) {
            c.subscribe(List.of(name));
            for (int i = 0; i < 40 && (values.size() < 2 || i < 8); i++) {
                for (ConsumerRecord<String, String> r : c.poll(TICK)) {
                    values.add(r.value());
                    c.acknowledge(r, AcknowledgeType.ACCEPT);
                }
                commit(c);
            }
        }
        check(values.equals(List.of("yes1", "yes2")), "values: " + values);
    }

    /** What operators see and do. */
    private void operators(String name) throws Exception {
        prepare(name, 2, Map.of());
        produce(name, 10);
        TopicPartition p = new TopicPartition(name, 0);
        try (KafkaShareConsumer<String, String> c = Share.consumer(boot, name, Map.of("client.id", "worker"))) {
            c.subscribe(List.of(name));
            int count = 0;
            for (int i = 0; i < 40 && count < 10; i++) {
                for (ConsumerRecord<String, String> r : c.poll(TICK)) {
                    count++;
                    c.acknowledge(r, r.offset() == 4 ? AcknowledgeType.RENEW : AcknowledgeType.ACCEPT);
                }
                commit(c);
            }
            ShareGroupDescription d = admin.describeShareGroups(List.of(name)).all().get().get(name);
            check(d.groupState().toString().equals("Stable") && d.members().size() == 1, "described: " + d);
            check(d.members().iterator().next().assignment().topicPartitions().size() == 2, "assigned: " + d);
            SharePartitionOffsetInfo info = offsets(name).get(p);
            check(info.startOffset() == 4 && info.lag().orElseThrow() == 1, "offsets: " + info);
        }
        GroupListing listed = admin.listGroups(ListGroupsOptions.forShareGroups()).all().get().stream()
                .filter(g -> g.groupId().equals(name)).findFirst().orElseThrow();
        check(listed.type().orElseThrow() == GroupType.SHARE, "listed: " + listed);
        admin.alterShareGroupOffsets(name, Map.of(p, 8L)).all().get();
        check(offsets(name).get(p).startOffset() == 8, "altered: " + offsets(name));
        try (KafkaShareConsumer<String, String> c = Share.consumer(boot, name, Map.of())) {
            c.subscribe(List.of(name));
            List<ConsumerRecord<String, String>> rest = poll(c, 40);
            check(rest.size() == 2 && rest.get(0).offset() == 8, "after the alteration: " + rest.size());
        }
        admin.deleteShareGroupOffsets(name, Set.of(name)).all().get();
        check(offsets(name).isEmpty(), "deleted: " + offsets(name));
        admin.deleteShareGroups(List.of(name)).all().get();
        check(admin.listGroups(ListGroupsOptions.forShareGroups()).all().get().stream()
                .noneMatch(g -> g.groupId().equals(name)), "it is still there");
    }

    private Map<TopicPartition, SharePartitionOffsetInfo> offsets(String group) throws Exception {
        return admin.listShareGroupOffsets(Map.of(group, new ListShareGroupOffsetsSpec()))
                .partitionsToOffsetInfo(group).get();
    }
}
