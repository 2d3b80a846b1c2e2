package streamd;

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.Semaphore;
import java.util.stream.Collectors;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.InvalidPidMappingException;
import org.apache.kafka.common.errors.InvalidProducerEpochException;
import org.apache.kafka.common.errors.OutOfOrderSequenceException;
import org.apache.kafka.common.errors.ProducerFencedException;
import org.apache.kafka.common.errors.RetriableException;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * The Java client's part of a history: BOOTSTRAP PREFIX NAME PROTOCOL, or {@code final} for the last. Threads send,
 * poll by assignment, poll as members of a group of that protocol, write transactions, and move records in
 * transactions. {@code drain} on standard input ends the writers, which is said with {@code # quiet}; the end of the
 * input ends the others once they have read everything. Whoever was told {@code last} before waits until its members
 * own everything.
 */
public final class History {
    private static final int PARTITIONS = 3;
    private static final Duration POLL = Duration.ofMillis(100);
    private final String boot;
    private final String prefix;
    private final String name;
    private final String protocol;
    private volatile boolean draining;
    private volatile boolean stopping;
    private volatile boolean last;

    private History(String[] args) {
        boot = args[0];
        prefix = args[1];
        name = args[2];
        protocol = args[3];
    }

    public static void main(String[] args) throws Exception {
        History run = new History(args);
        if (args[3].equals("final")) {
            run.readAll();
            return;
        }
        List<Thread> writers = List.of(start("send", run::send), start("transact", run::transact));
        List<Thread> others = List.of(start("watch", () -> run.watch("plain")), start("watch", () -> run.watch("moved")),
                start("member", run::member), start("move", run::move));
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in));
        for (String line = input.readLine(); line != null; line = input.readLine()) {
            if (line.equals("last")) {
                run.last = true;
                continue;
            }
            run.draining = true;
            for (Thread thread : writers) {
                thread.join();
            }
            say("# quiet");
        }
        run.draining = true;
        run.stopping = true;
        for (Thread thread : others) {
            thread.join();
        }
        System.exit(0);
    }

    private interface Work {
        void run() throws Exception;
    }

    private static Thread start(String what, Work work) {
        Thread thread = new Thread(() -> {
            try {
                work.run();
            } catch (Throwable e) {
                say("# died " + what + " " + e);
            }
        });
        thread.start();
        return thread;
    }

    static long now() {
        return System.nanoTime() / 1000;
    }

    private static void sleep(long millis) {
        try {
            Thread.sleep(millis);
        } catch (InterruptedException e) {
            throw new AssertionError(e);
        }
    }

    static void say(String line) {
        synchronized (History.class) {
            System.out.println(line);
            System.out.flush();
        }
    }

    static void say(String process, long number, String type, String kind, String words) {
        say(now() + " " + process + " " + number + " " + type + " " + kind + " " + words);
    }

    KafkaProducer<String, String> producer(Map<String, Object> more) {
        Map<String, Object> config = new HashMap<>(Map.of("bootstrap.servers", boot, "linger.ms", 2, "acks", "all",
                "enable.idempotence", true, "delivery.timeout.ms", 60_000, "request.timeout.ms", 5_000,
                "max.block.ms", 20_000, "reconnect.backoff.max.ms", 500));
        config.putAll(more);
        return new KafkaProducer<>(config, new StringSerializer(), new StringSerializer());
    }

    private void send() throws Exception {
        String topic = prefix + "plain";
        Random random = new Random();
        for (int life = 0; ; life++) {
            String process = name + "-s" + life;
            boolean[] dead = {false};
            Semaphore room = new Semaphore(200);
            try (KafkaProducer<String, String> producer = producer(Map.of())) {
                for (long number = 1; !draining && !dead[0]; number++) {
                    int part = random.nextInt(PARTITIONS);
                    sendOne(producer, process, number, topic, part, room, dead);
                    if (random.nextInt(5) == 0) {
                        Thread.sleep(30);
                    }
                }
            }
            if (!dead[0]) {
                return;
            }
        }
    }

    private static void sendOne(KafkaProducer<String, String> producer, String process, long number, String topic,
            int part, Semaphore room, boolean[] dead) throws InterruptedException {
        room.acquire();
        String word = "s:" + topic + "/" + part + ":" + process + "." + number;
        say(process, number, "invoke", "send", word);
        producer.send(new ProducerRecord<>(topic, part, null, process + "." + number), (metadata, error) -> {
            room.release();
            if (error == null) {
                say(process, number, "ok", "send", word + "@" + metadata.offset());
                return;
            }
            say(process, number, "info", "send", word);
            if (error instanceof OutOfOrderSequenceException || error instanceof InvalidPidMappingException
                    || error instanceof ProducerFencedException || error instanceof InvalidProducerEpochException) {
                say("# fatal " + process + " " + error);
                dead[0] = true;
            }
        });
    }

    /** A consumer that notes its positions, and knows when it has read all. */
    private final class Reader implements ConsumerRebalanceListener, AutoCloseable {
        private final String process;
        private final KafkaConsumer<String, String> consumer;
        private final TreeSet<String> owned = new TreeSet<>();
        private long number;
        private String words = "";

        Reader(String process, Map<String, Object> more) {
            this.process = process;
            Map<String, Object> config = new HashMap<>(Map.of("bootstrap.servers", boot, "enable.auto.commit", false,
                    "auto.offset.reset", "earliest", "isolation.level", "read_committed", "fetch.max.wait.ms", 100,
                    "reconnect.backoff.max.ms", 500, "request.timeout.ms", 5_000, "default.api.timeout.ms", 10_000));
            config.putAll(more);
            consumer = new KafkaConsumer<>(config, new StringDeserializer(), new StringDeserializer());
        }

        Reader assign(List<String> topics) {
            List<TopicPartition> parts = new ArrayList<>();
            topics.forEach(t -> {
                for (int p = 0; p < PARTITIONS; p++) {
                    parts.add(new TopicPartition(t, p));
                }
            });
            consumer.assign(parts);
            onPartitionsAssigned(parts);
            return this;
        }

        Reader subscribe(String topic, String group) {
            say(process, 0, "ok", "group", group + " " + topic);
            consumer.subscribe(List.of(topic), this);
            return this;
        }

        List<ConsumerRecord<String, String>> poll() {
            List<ConsumerRecord<String, String>> records = new ArrayList<>();
            consumer.poll(POLL).forEach(records::add);
            words = records.stream().map(r -> "r:" + r.topic() + "/" + r.partition() + ":" + r.value() + "@" + r.offset())
                    .collect(Collectors.joining(" "));
            return records;
        }

        boolean pollAndSay() {
            long began = now();
            if (poll().isEmpty()) {
                return false;
            }
            number++;
            say(began + " " + process + " " + number + " invoke poll");
            say(process, number, "ok", "poll", words);
            return true;
        }

        /** Whether it has read all of what it owns. */
        boolean isDone() {
            if (!stopping) {
                return false;
            }
            if (last && owned.size() < PARTITIONS) {
                return false;
            }
            try {
                Map<TopicPartition, Long> ends = consumer.endOffsets(consumer.assignment());
                return ends.entrySet().stream().allMatch(e -> consumer.position(e.getKey()) >= e.getValue());
            } catch (KafkaException | IllegalStateException e) {
                say("# end " + process + " " + e);
                return false;
            }
        }

        /** Says what the group has committed. */
        void sayCommitted(Set<TopicPartition> parts) {
            long began = now();
            try {
                String ends = consumer.committed(parts).entrySet().stream()
                        .map(e -> place(e.getKey()) + "@" + (e.getValue() == null ? 0 : e.getValue().offset()))
                        .collect(Collectors.joining(" "));
                say(process, 0, "ok", "committed", "c:" + began + " " + ends);
            } catch (KafkaException e) {
                say("# committed " + process + " " + e);
            }
        }

        /** Goes back to what is committed, as its positions are ahead of that. */
        void rewind() {
            say(process, 0, "ok", "rewind", "");
            for (long deadline = now() + 45_000_000; now() < deadline; ) {
                try {
                    var committed = consumer.committed(consumer.assignment());
                    for (TopicPartition part : consumer.assignment()) {
                        OffsetAndMetadata at = committed.get(part);
                        consumer.seek(part, at == null ? 0 : at.offset());
                    }
                    return;
                } catch (KafkaException e) {
                    say("# rewind " + process + " " + e);
                    // Rebalances are served by polls; what comes in is read again.
                    poll();
                    say(process, 0, "ok", "rewind", "");
                }
            }
            throw new AssertionError("a mover cannot go back");
        }

        private static String place(TopicPartition part) {
            return part.topic() + "/" + part.partition();
        }

        @Override
        public void onPartitionsAssigned(Collection<TopicPartition> parts) {
            parts.forEach(p -> owned.add(place(p)));
            say(process, 0, "ok", "owns", String.join(" ", owned));
        }

        @Override
        public void onPartitionsRevoked(Collection<TopicPartition> parts) {
            parts.forEach(p -> owned.remove(place(p)));
            say(process, 0, "ok", "owns", String.join(" ", owned));
        }

        @Override
        public void close() {
            consumer.close();
        }
    }

    private Map<String, Object> groupConfig(String group) {
        Map<String, Object> config = new HashMap<>(Map.of("group.id", group, "group.protocol", protocol));
        if (protocol.equals("classic")) {
            config.putAll(Map.of("session.timeout.ms", 6000, "heartbeat.interval.ms", 300,
                    "partition.assignment.strategy", "org.apache.kafka.clients.consumer.CooperativeStickyAssignor"));
        }
        return config;
    }

    private void watch(String topic) {
        try (Reader reader = new Reader(name + "-a-" + topic, Map.of()).assign(List.of(prefix + topic))) {
            while (!reader.isDone()) {
                reader.pollAndSay();
            }
        }
    }

    private void member() {
        String group = prefix + "readers";
        try (Reader reader = new Reader(name + "-g", groupConfig(group)).subscribe(prefix + "plain", group)) {
            while (!reader.isDone()) {
                try {
                    if (reader.pollAndSay()) {
                        reader.consumer.commitSync();
                    }
                } catch (KafkaException e) {
                    say("# commit " + reader.process + " " + e); // whoever owns it next reads it again
                }
            }
        }
    }

    /** A record to be written in a transaction. */
    private record Sent(String topic, int part, String value) {
        String word() {
            return "s:" + topic + "/" + part + ":" + value;
        }
    }

    private interface Extra {
        String run(KafkaProducer<String, String> producer) throws KafkaException;
    }

    /** A transactional producer that is made anew when it is of no more use. */
    private final class Writer {
        private final String process;
        private KafkaProducer<String, String> producer;
        private long number;

        Writer(String process) {
            this.process = process;
        }

        void ready() {
            while (producer == null) {
                KafkaProducer<String, String> next = producer(Map.of("transactional.id", prefix + process,
                        "transaction.timeout.ms", 10_000));
                try {
                    next.initTransactions();
                    producer = next;
                } catch (KafkaException e) {
                    say("# init " + process + " " + e);
                    next.close(Duration.ZERO);
                }
            }
        }

        void close() {
            if (producer != null) {
                producer.close(Duration.ZERO);
            }
            producer = null;
        }

        /** Sends in a transaction with the words of what was read for it; returns ok, fail or info. */
        String run(List<Sent> sends, String read, Extra extra, boolean abort) {
            ready();
            number++;
            Map<Sent, String> words = new ConcurrentHashMap<>();
            sends.forEach(s -> words.put(s, s.word()));
            String[] more = {read, ""};
            say(process, number, "invoke", "txn", line(sends, words, more));
            String fate;
            try {
                fate = attempt(sends, words, extra, abort, more);
            } catch (KafkaException e) {
                fate = giveUp(e);
            }
            say(process, number, fate, "txn", line(sends, words, more));
            return fate;
        }

        private static String line(List<Sent> sends, Map<Sent, String> words, String[] more) {
            return sends.stream().map(words::get).collect(Collectors.joining(" ")) + " " + String.join(" ", more);
        }

        private String attempt(List<Sent> sends, Map<Sent, String> words, Extra extra, boolean abort, String[] more) {
            producer.beginTransaction();
            for (Sent s : sends) {
                producer.send(new ProducerRecord<>(s.topic, s.part, null, s.value), (metadata, error) -> {
                    if (error == null) {
                        words.put(s, s.word() + "@" + metadata.offset());
                    }
                });
            }
            if (extra != null) {
                more[0] += extra.run(producer);
            }
            if (abort) {
                again(producer::abortTransaction);
                return "fail";
            }
            producer.flush();
            more[1] = "c:" + now();
            again(producer::commitTransaction);
            return "ok";
        }

        private static void again(Runnable end) {
            for (long deadline = now() + 30_000_000; ; ) {
                try {
                    end.run();
                    return;
                } catch (RetriableException e) {
                    if (now() > deadline) {
                        throw e;
                    }
                }
            }
        }

        private String giveUp(KafkaException error) {
            say("# txn " + process + " " + number + " " + error);
            if (!(error instanceof ProducerFencedException) && !(error instanceof RetriableException)) {
                try {
                    again(producer::abortTransaction);
                    return "fail";
                } catch (KafkaException e) {
                    say("# abort " + process + " " + number + " " + e);
                }
            }
            close();
            return "info";
        }
    }

    /** Writes to some places at once, and reads meanwhile. */
    private void transact() {
        String process = name + "-t";
        Random random = new Random();
        Writer writer = new Writer(process);
        try (Reader reader = new Reader(process, Map.of()).assign(List.of(prefix + "txns"))) {
            for (int number = 0; !draining; number++) {
                List<Sent> sends = new ArrayList<>();
                for (int i = 0; i <= random.nextInt(4); i++) {
                    sends.add(new Sent(prefix + "txns", random.nextInt(PARTITIONS), process + "." + number + "." + i));
                }
                Extra read = producer -> {
                    reader.poll();
                    return reader.words;
                };
                writer.run(sends, "", random.nextBoolean() ? read : null, random.nextInt(5) == 0);
            }
        }
        if (writer.producer != null) {
            writer.producer.close();
        }
    }

    /** Moves each record once, with the group's offsets in the transaction. */
    private void move() {
        String process = name + "-m";
        String group = prefix + "movers";
        say(process, 0, "ok", "moves", prefix + "txns " + prefix + "moved");
        Random random = new Random();
        Writer writer = new Writer(process);
        Map<String, Object> config = groupConfig(group);
        config.put("max.poll.records", 20);
        config.put("max.poll.interval.ms", 6000);
        try (Reader reader = new Reader(process, config).subscribe(prefix + "txns", group)) {
            for (long attempt = 0; !reader.isDone(); ) {
                List<ConsumerRecord<String, String>> records = reader.poll();
                if (records.isEmpty()) {
                    continue;
                }
                List<Sent> sends = new ArrayList<>();
                Map<TopicPartition, OffsetAndMetadata> ends = new HashMap<>();
                for (ConsumerRecord<String, String> r : records) {
                    sends.add(new Sent(prefix + "moved", r.partition(), r.value() + "~" + process + "." + attempt++));
                    ends.put(new TopicPartition(r.topic(), r.partition()), new OffsetAndMetadata(r.offset() + 1));
                }
                Extra offsets = producer -> {
                    var metadata = reader.consumer.groupMetadata();
                    if (random.nextInt(200) == 0 && !stopping) {
                        sleep(7500); // it has left the group by then, and others have moved these
                    }
                    producer.sendOffsetsToTransaction(ends, metadata);
                    return "";
                };
                if (!writer.run(sends, reader.words, offsets, random.nextInt(10) == 0).equals("ok")) {
                    reader.rewind();
                } else if (random.nextInt(3) == 0) {
                    reader.sayCommitted(ends.keySet());
                }
            }
        }
        if (writer.producer != null) {
            writer.producer.close();
        }
    }

    /** Reads all topics to their ends. */
    private void readAll() {
        stopping = true;
        List<String> topics = List.of(prefix + "plain", prefix + "txns", prefix + "moved");
        try (Reader reader = new Reader("final", Map.of()).assign(topics)) {
            long deadline = now() + 45_000_000;
            while (!reader.isDone()) {
                reader.pollAndSay();
                Lines.check(now() < deadline, "the final reading stands still");
            }
            String ends = reader.consumer.assignment().stream()
                    .map(p -> Reader.place(p) + "@" + reader.consumer.position(p)).collect(Collectors.joining(" "));
            say("final", 0, "ok", "final", ends);
        }
    }
}
