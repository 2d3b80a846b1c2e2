package streamd;

import static streamd.Lines.check;
import static streamd.Lines.same;

import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.concurrent.ExecutionException;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.Config;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.DescribeConfigsOptions;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.admin.TopicDescription;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.KafkaFuture;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.InvalidConfigurationException;
import org.apache.kafka.common.errors.InvalidPartitionsException;
import org.apache.kafka.common.errors.InvalidReplicationFactorException;
import org.apache.kafka.common.errors.InvalidTopicException;
import org.apache.kafka.common.errors.OffsetOutOfRangeException;
import org.apache.kafka.common.errors.TopicExistsException;
import org.apache.kafka.common.errors.UnknownTopicOrPartitionException;

/** Topics, configs, offsets and the cluster through the AdminClient, with the errors it should raise. */
final class AdminChecks {
    private static final long T0 = System.currentTimeMillis() - 3_600_000; // retention spares it

    private AdminChecks() {}

    static void run(String boot, String prefix) throws Exception {
        try (Admin admin = Admin.create(Map.<String, Object>of("bootstrap.servers", boot))) {
            cluster(admin);
            topics(admin, prefix + "-topics");
            configs(admin, prefix + "-configs");
            offsets(admin, boot, prefix + "-offsets");
        }
    }

    private static void fails(KafkaFuture<?> future, Class<?> want, String what) throws Exception {
        try {
            future.get();
        } catch (ExecutionException e) {
            check(want.isInstance(e.getCause()), what + ": got " + e.getCause() + ", expected " + want.getSimpleName());
            return;
        }
        throw new AssertionError(what + " was accepted");
    }

    private static void cluster(Admin admin) throws Exception {
        var cluster = admin.describeCluster();
        same(cluster.nodes().get().size(), 1, "nodes");
        String id = cluster.clusterId().get();
        check(id != null && !id.isEmpty(), "cluster id is missing");
        same(cluster.controller().get().id(), cluster.nodes().get().iterator().next().id(), "controller");
    }

    private static void topics(Admin admin, String topic) throws Exception {
        NewTopic wanted = new NewTopic(topic, 3, (short) 1).configs(Map.of("segment.bytes", "1048576"));
        var created = admin.createTopics(List.of(wanted));
        created.all().get();
        same(created.numPartitions(topic).get(), 3, "partitions in the answer");
        same(created.config(topic).get().get("segment.bytes").value(), "1048576", "config in the answer");
        fails(admin.createTopics(List.of(wanted)).all(), TopicExistsException.class, "the same topic again");
        fails(create(admin, topic + "!", 1, 1), InvalidTopicException.class, "a bad name");
        fails(create(admin, topic + "-0p", 0, 1), InvalidPartitionsException.class, "no partitions");
        fails(create(admin, topic + "-9r", 1, 9), InvalidReplicationFactorException.class, "9 replicas on 1 node");
        check(admin.listTopics().names().get().contains(topic), "listTopics lacks " + topic);

        TopicDescription d = admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic);
        same(d.partitions().size(), 3, "described partitions");
        same(d.topicId(), created.topicId(topic).get(), "topic id");
        same(d.partitions().get(2).replicas().size(), 1, "replicas");
        same(d.partitions().get(2).isr().size(), 1, "in-sync replicas");
        check(!d.isInternal(), "topic is internal");

        admin.createPartitions(Map.of(topic, NewPartitions.increaseTo(5))).all().get();
        same(described(admin, topic), 5, "partitions after increaseTo(5)");
        fails(admin.createPartitions(Map.of(topic, NewPartitions.increaseTo(2))).all(),
                InvalidPartitionsException.class, "fewer partitions");

        var dirs = admin.describeLogDirs(List.of(d.partitions().get(0).leader().id())).allDescriptions().get();
        boolean listed = dirs.values().stream().flatMap(m -> m.values().stream())
                .anyMatch(dir -> dir.replicaInfos().containsKey(new TopicPartition(topic, 0)));
        check(listed, "describeLogDirs lacks " + topic + "-0");

        admin.deleteTopics(List.of(topic)).all().get();
        for (int i = 0; i < 100 && admin.listTopics().names().get().contains(topic); i++) {
            Thread.sleep(50);
        }
        fails(admin.describeTopics(List.of(topic)).allTopicNames(), UnknownTopicOrPartitionException.class,
                "describing a deleted topic");
        fails(admin.deleteTopics(List.of(topic)).all(), UnknownTopicOrPartitionException.class, "deleting it again");
    }

    private static KafkaFuture<Void> create(Admin admin, String topic, int partitions, int replicas) {
        return admin.createTopics(List.of(new NewTopic(topic, partitions, (short) replicas))).all();
    }

    private static int described(Admin admin, String topic) throws Exception {
        for (int i = 0; ; i++) {
            int n = admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic).partitions().size();
            if (n != 3 || i == 100) {
                return n;
            }
            Thread.sleep(50);
        }
    }

    private static Config config(Admin admin, ConfigResource r) throws Exception {
        return admin.describeConfigs(List.of(r), new DescribeConfigsOptions().includeSynonyms(true)).all().get().get(r);
    }

    private static void alter(Admin admin, ConfigResource r, String name, String value, AlterConfigOp.OpType op)
            throws Exception {
        admin.incrementalAlterConfigs(Map.of(r, Set.of(new AlterConfigOp(new ConfigEntry(name, value), op)))).all().get();
    }

    /** Config changes may be applied a moment after they are answered. */
    private static void awaitConfig(Admin admin, ConfigResource r, String name, String want) throws Exception {
        for (int i = 0; i < 100 && !want.equals(config(admin, r).get(name).value()); i++) {
            Thread.sleep(50);
        }
        same(config(admin, r).get(name).value(), want, name);
    }

    /** A topic may be unknown for a moment after its creation was answered. */
    private static void awaitTopic(Admin admin, ConfigResource r) throws Exception {
        for (int i = 0; i < 100; i++) {
            try {
                config(admin, r);
                return;
            } catch (ExecutionException e) {
                check(e.getCause() instanceof UnknownTopicOrPartitionException, "describeConfigs: " + e.getCause());
                Thread.sleep(50);
            }
        }
        throw new AssertionError(r + " is unknown 5 s after its creation");
    }

    private static void configs(Admin admin, String topic) throws Exception {
        create(admin, topic, 1, 1).get();
        ConfigResource r = new ConfigResource(ConfigResource.Type.TOPIC, topic);
        awaitTopic(admin, r);
        Config c = config(admin, r);
        for (String name : List.of("cleanup.policy", "retention.ms", "retention.bytes", "segment.bytes",
                "max.message.bytes", "message.timestamp.type", "compression.type", "min.insync.replicas")) {
            check(c.get(name) != null, "describeConfigs lacks " + name);
            check(c.get(name).source() != ConfigEntry.ConfigSource.DYNAMIC_TOPIC_CONFIG, name + " is set");
            check(c.get(name).type() != ConfigEntry.ConfigType.UNKNOWN, name + " has no type");
        }
        same(c.get("retention.ms").value(), "604800000", "default retention.ms");
        alter(admin, r, "retention.ms", "1234567", AlterConfigOp.OpType.SET);
        awaitConfig(admin, r, "retention.ms", "1234567");
        same(config(admin, r).get("retention.ms").source(), ConfigEntry.ConfigSource.DYNAMIC_TOPIC_CONFIG, "source");
        alter(admin, r, "cleanup.policy", "compact", AlterConfigOp.OpType.APPEND);
        awaitConfig(admin, r, "cleanup.policy", "delete,compact");
        alter(admin, r, "cleanup.policy", "compact", AlterConfigOp.OpType.SUBTRACT);
        awaitConfig(admin, r, "cleanup.policy", "delete");
        alter(admin, r, "retention.ms", "", AlterConfigOp.OpType.DELETE);
        awaitConfig(admin, r, "retention.ms", "604800000");
        var bad = Set.of(new AlterConfigOp(new ConfigEntry("retention.ms", "soon"), AlterConfigOp.OpType.SET));
        fails(admin.incrementalAlterConfigs(Map.of(r, bad)).all(), InvalidConfigurationException.class, "a bad value");
        ConfigResource missing = new ConfigResource(ConfigResource.Type.TOPIC, topic + "-missing");
        fails(admin.describeConfigs(List.of(missing)).all(), UnknownTopicOrPartitionException.class, "missing topic");

        String node = Integer.toString(admin.describeCluster().nodes().get().iterator().next().id());
        Config broker = config(admin, new ConfigResource(ConfigResource.Type.BROKER, node));
        for (String name : List.of("num.partitions", "log.retention.ms", "auto.create.topics.enable", "node.id")) {
            check(broker.get(name) != null, "the broker's configs lack " + name);
        }
    }

    private static void offsets(Admin admin, String boot, String topic) throws Exception {
        create(admin, topic, 1, 1).get();
        List<ProducerRecord<byte[], byte[]>> records = new ArrayList<>();
        for (int i = 0; i < 50; i++) { // record 20 has the greatest timestamp
            long time = i == 20 ? T0 + 1_000_000 : T0 + i * 1000L;
            records.add(new ProducerRecord<>(topic, 0, time, null, new byte[100]));
        }
        Produce.send(boot, records, Map.of("batch.size", 400, "linger.ms", 0));
        TopicPartition p = new TopicPartition(topic, 0);
        same(offset(admin, p, OffsetSpec.earliest()), 0L, "earliest");
        same(offset(admin, p, OffsetSpec.latest()), 50L, "latest");
        same(offset(admin, p, OffsetSpec.maxTimestamp()), 20L, "max timestamp");
        same(offset(admin, p, OffsetSpec.forTimestamp(T0 + 10_500)), 11L, "by timestamp");
        same(offset(admin, p, OffsetSpec.forTimestamp(T0 + 2_000_000)), -1L, "by a timestamp after all records");

        var deleted = admin.deleteRecords(Map.of(p, RecordsToDelete.beforeOffset(15)));
        same(deleted.lowWatermarks().get(p).get().lowWatermark(), 15L, "low watermark after deleteRecords");
        same(offset(admin, p, OffsetSpec.earliest()), 15L, "earliest after deleteRecords");
        fails(admin.deleteRecords(Map.of(p, RecordsToDelete.beforeOffset(99))).all(), OffsetOutOfRangeException.class,
                "deleting records past the end");
        admin.deleteRecords(Map.of(p, RecordsToDelete.beforeOffset(-1))).all().get();
        same(offset(admin, p, OffsetSpec.earliest()), 50L, "earliest after deleting all");
        same(offset(admin, p, OffsetSpec.latest()), 50L, "latest after deleting all");
        Optional<Integer> epoch = admin.listOffsets(Map.of(p, OffsetSpec.latest())).all().get().get(p).leaderEpoch();
        check(epoch.isPresent() && epoch.get() >= 0, "listOffsets gives no leader epoch");
    }

    private static long offset(Admin admin, TopicPartition p, OffsetSpec spec) throws Exception {
        return admin.listOffsets(Map.of(p, spec)).all().get().get(p).offset();
    }
}
