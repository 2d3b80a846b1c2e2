import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.HashSet;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/** The Java client's {@code writer.py}, which says what it is told and what it answers. */
public final class Writer {
    private static final Object LOCK = new Object();
    private static final Set<Integer> WAITING = new HashSet<>();
    private static final AtomicInteger LEFT = new AtomicInteger();
    private static long markAt;
    private static String mark = "";
    private static volatile boolean writing;
    private static volatile boolean ended;

    private Writer() {}

    public static void main(String[] args) throws Exception {
        String topic = args[1];
        int partitions = Integer.parseInt(args[2]);
        long pause = Long.parseLong(args[3]);
        Map<String, Object> config = Map.of("bootstrap.servers", args[0], "acks", "all");
        ByteArraySerializer bytes = new ByteArraySerializer();
        KafkaProducer<byte[], byte[]> producer = new KafkaProducer<>(config, bytes, bytes);
        producer.partitionsFor(topic);
        Thread hears = new Thread(() -> hear(producer, topic));
        hears.setDaemon(true);
        hears.start();
        System.out.println("writes");
        for (int number = 0; !ended; number++) {
            if (writing) {
                send(producer, topic, number % partitions);
            }
            Thread.sleep(pause);
        }
        producer.close(java.time.Duration.ofSeconds(60));
        System.out.println("left " + LEFT.get());
    }

    private static void send(KafkaProducer<byte[], byte[]> producer, String topic, int partition) {
        long sent = System.nanoTime();
        LEFT.incrementAndGet();
        ProducerRecord<byte[], byte[]> next = new ProducerRecord<>(topic, partition, null, new byte[16]);
        producer.send(next, (metadata, error) -> {
            if (error != null) {
                System.out.println("failed " + error);
                return;
            }
            LEFT.decrementAndGet();
            synchronized (LOCK) {
                if (sent - markAt >= 0 && WAITING.remove(partition) && WAITING.isEmpty()) {
                    System.out.println("back " + mark);
                }
            }
        });
    }

    private static void hear(KafkaProducer<byte[], byte[]> producer, String topic) {
        try (BufferedReader in = new BufferedReader(new InputStreamReader(System.in))) {
            for (String line = in.readLine(); line != null; line = in.readLine()) {
                String[] words = line.split(" ");
                switch (words[0]) {
                    case "write" -> writing = true;
                    case "rest" -> writing = false;
                    case "mark" -> mark(producer, topic, words);
                    default -> System.out.println("failed unknown word " + words[0]);
                }
            }
        } catch (java.io.IOException e) {
            System.out.println("failed " + e);
        }
        ended = true;
    }

    private static void mark(KafkaProducer<byte[], byte[]> producer, String topic, String[] words) {
        synchronized (LOCK) {
            mark = words[1];
            markAt = System.nanoTime();
            WAITING.clear();
            for (int i = 2; i < words.length; i++) {
                WAITING.add(Integer.parseInt(words[i]));
            }
        }
        for (int i = 2; i < words.length; i++) {
            send(producer, topic, Integer.parseInt(words[i]));
        }
    }
}
