package streamd;

import static streamd.Lines.check;
import static streamd.Lines.same;

import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ExecutionException;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.TransactionDescription;
import org.apache.kafka.clients.admin.TransactionState;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.IsolationLevel;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.InvalidProducerEpochException;
import org.apache.kafka.common.errors.ProducerFencedException;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/** Transactions: what is committed is read, what is aborted is not, offsets go with them, zombies are fenced. */
final class Txn {
    private Txn() {}

    static void run(String boot, String[] args) throws Exception {
        switch (args[0]) {
            case "checks" -> checks(boot, args[1]);
            case "pump" -> pump(boot, args[1], args[2]);
            case "move" -> move(boot, args[1], args[2], Integer.parseInt(args[3]));
            case "read" -> read(boot, args[1]).forEach(System.out::println);
            case "open" -> open(boot, args[1], args[2]);
            default -> throw new IllegalArgumentException("unknown command " + args[0]);
        }
    }

    private static void checks(String boot, String prefix) throws Exception {
        commits(boot, prefix + "-commits");
        offsets(boot, prefix + "-offsets");
        zombies(boot, prefix + "-zombies");
        timeouts(boot, prefix + "-timeouts");
    }

    private static KafkaProducer<String, String> producer(String boot, String id, Map<String, Object> more) {
        Map<String, Object> config = new HashMap<>(Map.of("bootstrap.servers", boot, "transactional.id", id,
                "max.block.ms", 20_000, "delivery.timeout.ms", 20_000, "request.timeout.ms", 5_000));
        config.putAll(more);
        return new KafkaProducer<>(config, new StringSerializer(), new StringSerializer());
    }

    private static KafkaConsumer<String, String> consumer(String boot, String level, Map<String, Object> more) {
        Map<String, Object> config = new HashMap<>(Map.of("bootstrap.servers", boot, "isolation.level", level,
                "auto.offset.reset", "earliest", "enable.auto.commit", false));
        config.putAll(more);
        return new KafkaConsumer<>(config, new StringDeserializer(), new StringDeserializer());
    }

    private static TopicPartition tp(String topic, int partition) {
        return new TopicPartition(topic, partition);
    }

    /** All values of partition 0 and 1, to their ends as the isolation level has them. */
    private static List<String> read(String boot, String topic, String level) {
        List<String> found = new ArrayList<>();
        try (KafkaConsumer<String, String> c = consumer(boot, level, Map.of())) {
            List<TopicPartition> all = List.of(tp(topic, 0), tp(topic, 1));
            c.assign(all);
            c.seekToBeginning(all);
            Map<TopicPartition, Long> ends = c.endOffsets(all);
            long deadline = System.currentTimeMillis() + 30_000;
            while (all.stream().anyMatch(p -> c.position(p) < ends.get(p))) {
                check(System.currentTimeMillis() < deadline, level + " reader of " + topic + " is stuck");
                for (ConsumerRecord<String, String> r : c.poll(Duration.ofMillis(100))) {
                    found.add(r.value());
                }
            }
        }
        found.sort(null);
        return found;
    }

    private static List<String> read(String boot, String topic) {
        return read(boot, topic, "read_committed");
    }

    private static void send(KafkaProducer<String, String> p, String topic, String value) {
        p.send(new ProducerRecord<>(topic, 0, null, value));
        p.send(new ProducerRecord<>(topic, 1, null, value));
    }

    private static void commits(String boot, String topic) throws Exception {
        Produce.create(boot, topic, 2);
        try (KafkaProducer<String, String> p = producer(boot, topic, Map.of());
                KafkaProducer<String, String> other = producer(boot, topic + "-other", Map.of());
                Admin admin = Admin.create(Map.<String, Object>of("bootstrap.servers", boot))) {
            p.initTransactions();
            other.initTransactions();
            List<String> want = new ArrayList<>();
            for (int i = 0; i < 20; i++) {
                p.beginTransaction();
                send(p, topic, "v" + i);
                if (i % 3 == 2) {
                    p.flush();
                    p.abortTransaction();
                } else {
                    p.commitTransaction();
                    want.add("v" + i);
                    want.add("v" + i);
                }
            }
            want.sort(null);
            same(read(boot, topic), want, "what was committed");
            same(read(boot, topic, "read_uncommitted").size(), 40, "records with read_uncommitted");

            // One that stays open holds everything back that comes after it.
            other.beginTransaction();
            send(other, topic, "w");
            other.flush();
            p.beginTransaction();
            send(p, topic, "x");
            p.commitTransaction();
            same(read(boot, topic), want, "while a transaction is open");
            long stable = end(admin, tp(topic, 0), IsolationLevel.READ_COMMITTED);
            long high = end(admin, tp(topic, 0), IsolationLevel.READ_UNCOMMITTED);
            same(high - stable, 3L, "a record, another one and its marker");
            TransactionDescription d = admin.describeTransactions(Set.of(topic + "-other")).all().get()
                    .get(topic + "-other");
            same(d.state(), TransactionState.ONGOING, "the state of an open transaction");
            same(d.topicPartitions(), Set.of(tp(topic, 0), tp(topic, 1)), "its partitions");
            var active = admin.describeProducers(Set.of(tp(topic, 0))).partitionResult(tp(topic, 0)).get();
            check(active.activeProducers().stream().anyMatch(s -> s.producerId() == d.producerId()
                    && s.currentTransactionStartOffset().orElse(-1) == stable), "describeProducers: " + active);
            check(admin.listTransactions().all().get().stream().anyMatch(t ->
                    t.transactionalId().equals(topic) && t.state() == TransactionState.COMPLETE_COMMIT), "the list");
            other.abortTransaction();
            want.addAll(List.of("x", "x"));
            same(read(boot, topic), want, "after the abort");
        }
    }

    private static long end(Admin admin, TopicPartition tp, IsolationLevel level) throws Exception {
        var options = new org.apache.kafka.clients.admin.ListOffsetsOptions(level);
        return admin.listOffsets(Map.of(tp, OffsetSpec.latest()), options).partitionResult(tp).get().offset();
    }

    private static void offsets(String boot, String topic) throws Exception {
        Produce.create(boot, topic, 2);
        try (KafkaProducer<String, String> p = producer(boot, topic, Map.of());
                KafkaConsumer<String, String> c = consumer(boot, "read_committed", Map.of("group.id", topic));
                Admin admin = Admin.create(Map.<String, Object>of("bootstrap.servers", boot))) {
            p.initTransactions();
            p.beginTransaction();
            for (int i = 0; i < 10; i++) {
                send(p, topic, "v" + i);
            }
            p.commitTransaction();
            c.subscribe(Set.of(topic));
            while (c.poll(Duration.ofMillis(100)).isEmpty()) {
                // until there is an assignment
            }
            commitInTxn(p, c, topic, 5, false);
            same(committed(admin, topic, tp(topic, 0)), null, "an offset of an aborted transaction");
            commitInTxn(p, c, topic, 7, true);
            same(committed(admin, topic, tp(topic, 0)), 7L, "an offset of a committed transaction");

            // While it is pending nobody who wants what is stable gets an answer.
            p.beginTransaction();
            p.sendOffsetsToTransaction(Map.of(tp(topic, 0), new OffsetAndMetadata(8)), c.groupMetadata());
            same(committed(admin, topic, tp(topic, 0)), 7L, "an offset while another is pending");
            try (KafkaConsumer<String, String> d = consumer(boot, "read_committed",
                    Map.of("group.id", topic, "default.api.timeout.ms", 1500))) {
                d.committed(Set.of(tp(topic, 0)));
                throw new AssertionError("a pending offset was passed over");
            } catch (org.apache.kafka.common.errors.TimeoutException e) {
                // as it should be
            }
            p.commitTransaction();
            same(committed(admin, topic, tp(topic, 0)), 8L, "then");
        }
    }

    private static void commitInTxn(KafkaProducer<String, String> p, KafkaConsumer<String, String> c, String topic,
            long offset, boolean commit) {
        p.beginTransaction();
        send(p, topic, "o" + offset);
        p.sendOffsetsToTransaction(Map.of(tp(topic, 0), new OffsetAndMetadata(offset)), c.groupMetadata());
        if (commit) {
            p.commitTransaction();
        } else {
            p.abortTransaction();
        }
    }

    private static Long committed(Admin admin, String group, TopicPartition tp) throws Exception {
        OffsetAndMetadata found = admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get().get(tp);
        return found == null ? null : found.offset();
    }

    private static void zombies(String boot, String topic) throws Exception {
        Produce.create(boot, topic, 2);
        try (KafkaProducer<String, String> zombie = producer(boot, topic, Map.of());
                KafkaProducer<String, String> next = producer(boot, topic, Map.of())) {
            zombie.initTransactions();
            zombie.beginTransaction();
            send(zombie, topic, "lost");
            zombie.flush();
            next.initTransactions();
            next.beginTransaction();
            send(next, topic, "kept");
            try {
                zombie.send(new ProducerRecord<>(topic, 0, null, "late")).get();
                throw new AssertionError("a zombie writes");
            } catch (ExecutionException e) {
                check(e.getCause() instanceof InvalidProducerEpochException
                        || e.getCause() instanceof ProducerFencedException, "a zombie's send: " + e.getCause());
            }
            try {
                zombie.commitTransaction();
                throw new AssertionError("a zombie commits");
            } catch (KafkaException e) {
                // fenced, or told that its epoch is old
            }
            next.commitTransaction();
            same(read(boot, topic), List.of("kept", "kept"), "after a zombie");
        }
    }

    private static void timeouts(String boot, String topic) throws Exception {
        Produce.create(boot, topic, 2);
        try (KafkaProducer<String, String> p = producer(boot, topic, Map.of("transaction.timeout.ms", 1500));
                KafkaProducer<String, String> other = producer(boot, topic + "-other", Map.of())) {
            p.initTransactions();
            other.initTransactions();
            p.beginTransaction();
            send(p, topic, "too late");
            p.flush();
            other.beginTransaction();
            send(other, topic, "in time");
            other.commitTransaction();
            same(read(boot, topic), List.of(), "before the timeout");
            long deadline = System.currentTimeMillis() + 15_000;
            while (read(boot, topic).isEmpty()) {
                check(System.currentTimeMillis() < deadline, "nothing aborts a transaction that is too old");
                Thread.sleep(100);
            }
            try {
                p.commitTransaction();
                throw new AssertionError("a transaction is committed after its timeout");
            } catch (KafkaException e) {
                // it is over
            }
            same(read(boot, topic), List.of("in time", "in time"), "after the timeout");
        }
    }

    /** Leaves a transaction open, says so, and waits until it is killed. */
    private static void open(String boot, String id, String topic) throws Exception {
        KafkaProducer<String, String> p = producer(boot, id, Map.of());
        p.initTransactions();
        p.beginTransaction();
        send(p, topic, "open");
        p.flush();
        System.out.println("open");
        Thread.sleep(120_000);
    }

    /**
     * Writes every number to two topics in a transaction, aborting some, until its input ends; says what became of
     * each. What it is not sure of it says nothing about.
     */
    private static void pump(String boot, String one, String two) throws Exception {
        Thread watch = new Thread(() -> {
            try {
                while (System.in.read() >= 0) {
                    // until the end
                }
            } catch (java.io.IOException e) {
                // it is the end as well
            }
        });
        watch.setDaemon(true);
        watch.start();
        KafkaProducer<String, String> p = null;
        for (int i = 0; watch.isAlive(); i++) {
            try {
                if (p == null) {
                    p = producer(boot, one + "-pump", Map.of("linger.ms", 0));
                    p.initTransactions();
                }
                p.beginTransaction();
                send(p, one, "n" + i);
                send(p, two, "n" + i);
                if (i % 4 == 3) {
                    // An abort before anything was sent may leave its records in the client, for the next
                    // transaction to send in one batch with its own (3.6.2, one of some thousand times).
                    p.flush();
                    p.abortTransaction();
                    System.out.println("aborted n" + i);
                } else {
                    p.commitTransaction();
                    System.out.println("committed n" + i);
                }
            } catch (KafkaException e) {
                System.err.println("n" + i + ": " + e);
                if (p != null) {
                    p.close(Duration.ZERO);
                }
                p = null;
            }
        }
        if (p != null) {
            p.close(Duration.ofSeconds(5));
        }
    }

    /** Consumes, transforms, produces, exactly once, until {@code count} records were moved. */
    private static void move(String boot, String from, String to, int count) throws Exception {
        while (committedSum(boot, from) < count) {
            try (KafkaProducer<String, String> p = producer(boot, to + "-move", Map.of());
                    KafkaConsumer<String, String> c = consumer(boot, "read_committed",
                            Map.of("group.id", from + "-movers", "max.poll.records", 5, "session.timeout.ms", 6000))) {
                p.initTransactions();
                c.subscribe(Set.of(from));
                moveSome(p, c, to);
            } catch (KafkaException e) {
                System.err.println("move: " + e);
            }
        }
    }

    private static void moveSome(KafkaProducer<String, String> p, KafkaConsumer<String, String> c, String to) {
        for (int idle = 0, rounds = 0; idle < 50 && rounds < 40; ) {
            var records = c.poll(Duration.ofMillis(100));
            if (records.isEmpty()) {
                idle++;
                continue;
            }
            rounds++;
            p.beginTransaction();
            Map<TopicPartition, OffsetAndMetadata> offsets = new HashMap<>();
            for (ConsumerRecord<String, String> r : records) {
                p.send(new ProducerRecord<>(to, r.partition(), null, r.value()));
                offsets.put(tp(r.topic(), r.partition()), new OffsetAndMetadata(r.offset() + 1));
            }
            p.sendOffsetsToTransaction(offsets, c.groupMetadata());
            p.commitTransaction();
            System.out.println("moved " + records.count());
        }
    }

    private static long committedSum(String boot, String from) throws Exception {
        try (Admin admin = Admin.create(Map.<String, Object>of("bootstrap.servers", boot))) {
            var found = admin.listConsumerGroupOffsets(from + "-movers").partitionsToOffsetAndMetadata().get();
            return found.values().stream().filter(o -> o != null).mapToLong(OffsetAndMetadata::offset).sum();
        } catch (ExecutionException e) {
            System.err.println("offsets: " + e.getCause());
            return 0;
        }
    }
}
